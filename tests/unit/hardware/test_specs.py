"""The chip table is found by the driver's own names, its figures are possible, and nothing follows from a later number."""

from __future__ import annotations

import dataclasses

import pytest

from redline.hardware.specs import ALIASES, ARCHITECTURES, CHIPS, INSTRUCTIONS, Board, Chip, architecture, chip, named
from redline.ops import TARGETS


@pytest.mark.parametrize(
    ("driver_name", "name"),
    [("Tesla T4", "T4"), ("NVIDIA H200", "H200"), ("NVIDIA H100 80GB HBM3", "H100 SXM"), ("NVIDIA GeForce RTX 4090", "RTX 4090")],
)
def test_known_names(driver_name: str, name: str) -> None:
    row = chip(driver_name)
    assert row is not None and row.name == name


@pytest.mark.parametrize("driver_name", ["NVIDIA GeForce RTX 4090 Laptop GPU", "NVIDIA L40", "NVIDIA H200 MIG 1g.18gb", ""])
def test_a_relative_of_a_known_chip_is_unknown(driver_name: str) -> None:
    assert chip(driver_name) is None


@pytest.mark.parametrize("row", CHIPS, ids=lambda row: row.name)
def test_every_chip_takes_its_types_and_can_be_true(row: Chip) -> None:
    assert row.source and row.name and set(row.flops) <= row.native and row.derived <= set(row.flops)
    assert row.unverified <= {*row.flops, *(field.name for kind in (Chip, Board) for field in dataclasses.fields(kind))}
    assert all(rate > row.read_bytes_per_s for rate in row.flops.values())
    # A narrower type is never slower, which catches a figure with sparsity or of another type; integers stand apart.
    order = [row.flops[kind] for kind in ("float32", "tf32", "float16", "fp8", "nvfp4") if kind in row.flops]
    assert order == sorted(order) and "float16" in row.flops
    assert ("bfloat16" in row.flops) == ("bfloat16" in row.native)
    assert 0 < row.memory_bytes <= (row.driver_memory_bytes or row.memory_bytes) * 1.05
    assert (row.capability is None) == row.announced


def test_names_are_those_of_one_row() -> None:
    names = [name for row in CHIPS for name in (row.name, *row.driver_names)]
    assert len(names) == len(set(names))
    for text, name in ALIASES.items():
        row = named(text)
        assert row is not None and row.name == name, text


@pytest.mark.parametrize(
    ("text", "name"), [("h100", "H100 SXM"), ("RTX-4090", "RTX 4090"), ("nvidia h200", "H200"), ("a100-40gb", "A100 40GB SXM")]
)
def test_people_may_spell_as_they_like(text: str, name: str) -> None:
    row = named(text)
    assert row is not None and row.name == name
    assert named("h1000") is None and named("") is None


@pytest.mark.parametrize(
    "text",
    "t4 v100 a10 a100 l4 l40s 3090 4090 5090 rtxpro6000 h100 h200 gh200 b200 b300 gb200 gb10 orin thor r100".split(),
)
def test_the_chips_that_planning_is_for_are_there(text: str) -> None:
    assert named(text) is not None


def test_what_a_chip_can_do_follows_from_its_own_row() -> None:
    """The usual mistakes of "capability >= X": each line is one."""
    has = {row.name: row.instructions for row in CHIPS}
    assert "wgmma" in has["H100 SXM"] and "wgmma" not in has["B200"] and "wgmma" not in has["RTX 5090"]
    assert "tcgen05" in has["B200"] and "tcgen05" in has["Jetson AGX Thor"] and "tcgen05" not in has["GB10"]
    assert "mma.block_scale" in has["GB10"] and "tma.multicast" not in has["GB10"] and "tma.multicast" in has["H200"]
    assert "ldmatrix" not in has["V100 32GB SXM2"] and "cp.async" not in has["T4"] and has["Rubin R100"] == frozenset()
    takes = {row.name: row.native for row in CHIPS}
    assert "int4" in takes["A100 80GB SXM"] and "int4" not in takes["H100 SXM"]
    assert "int8" in takes["B200"] and "int8" not in takes["B300"] and "int8" not in takes["V100 32GB SXM2"]
    assert "fp8" in takes["L4"] and "fp8" not in takes["A100 80GB SXM"] and "nvfp4" not in takes["H200"]
    assert "bfloat16" not in takes["T4"]


def test_host_links_and_unified_memory() -> None:
    rates = {row.name: row.host_bytes_per_s for row in CHIPS}
    assert rates["GB10"] is None and rates["Jetson AGX Orin 64GB"] is None  # nothing to copy
    assert rates["GH200 96GB"] == 450e9 and rates["H200"] == pytest.approx(63e9, rel=0.01)
    assert rates["T4"] == pytest.approx(15.8e9, rel=0.01)
    h200 = named("h200")
    assert h200 is not None and h200.board.link_bytes_per_s == 450e9 and h200.driver_memory_bytes == 143771 << 20


def test_every_compile_target_has_an_architecture_and_agrees_with_it() -> None:
    for capability, target in TARGETS.items():
        known = architecture(divmod(capability, 10))
        assert known is not None and known.shared_memory_bytes == target.shared_bytes
        assert ("bf16" in target.dtypes) == ("bfloat16" in known.native)
        assert target.matrix in ("", "mma") or target.matrix in known.instructions
    assert len({row.capability for row in ARCHITECTURES}) == len(ARCHITECTURES)
    assert architecture((3, 5)) is None and architecture(None) is None
    assert set().union(*(row.instructions for row in ARCHITECTURES)) == set(INSTRUCTIONS)
