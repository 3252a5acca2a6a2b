"""The chip table is found by the driver's own names, and its figures are possible."""

from __future__ import annotations

import pytest

from redline.hardware.specs import ARCHITECTURES, CHIPS, architecture, chip
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


def test_every_chip_has_an_architecture_that_takes_its_types() -> None:
    for row in CHIPS:
        known = architecture(row.capability)
        assert known is not None and set(row.flops) <= known.native, row.name
        assert all(rate > row.read_bytes_per_s for rate in row.flops.values()), row.name


def test_every_compile_target_has_an_architecture_and_agrees_on_bfloat16() -> None:
    for capability, target in TARGETS.items():
        known = architecture(divmod(capability, 10))
        assert known is not None and known.shared_memory_bytes == target.shared_bytes
        assert ("bf16" in target.dtypes) == ("bfloat16" in known.native)
    assert len({row.capability for row in ARCHITECTURES}) == len(ARCHITECTURES)
    assert architecture((3, 5)) is None
