"""A measurement is kept for one device in one state, and only if it can be true."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest

from redline.errors import ConfigError, InternalError
from redline.hardware import Cpu, Gpu, Machine, Probes, ceilings
from redline.hardware.ceilings import DeviceIdentity, identify
from redline.hardware.specs import chip

GPU = Gpu(0, "GPU-1", "NVIDIA H200", (9, 0), 140 << 30, 139 << 30, "580", 700.0, 700.0, 1980, 3201)
MACHINE = Machine(Cpu("a cpu", 2, ("avx2",)), (GPU,), 16 << 30, 8 << 30)
IDENTITY = identify(MACHINE, "cuda:0")


def probes(read: list[float], **matmul: list[float]) -> Probes:
    return Probes(read=lambda: read, matmul={dtype: (lambda rates=rates: rates) for dtype, rates in matmul.items()})


def test_the_best_sample_is_the_ceiling_and_the_middle_one_gives_the_spread(tmp_path: Path) -> None:
    measured = ceilings.measure(IDENTITY, probes([2e12, 4e12, 4e12], bfloat16=[6e14, 3e14, 2e14]), tmp_path)
    assert measured.read_bytes_per_s == 4e12 and measured.matmul_flops == {"bfloat16": 6e14}
    assert measured.spread == 0.5 and measured.source == "measured" and measured.measured_at


def test_what_was_measured_is_loaded_again(tmp_path: Path) -> None:
    measured = ceilings.measure(IDENTITY, probes([4e12], bfloat16=[6e14]), tmp_path)
    assert ceilings.load(IDENTITY, tmp_path) == measured
    assert [path.suffix for path in tmp_path.iterdir()] == [".json"]  # no half-written file stays behind


def test_a_renumbered_card_keeps_its_measurement(tmp_path: Path) -> None:
    ceilings.measure(IDENTITY, probes([4e12]), tmp_path)
    moved = dataclasses.replace(MACHINE, gpus=(dataclasses.replace(GPU, index=3),))
    loaded = ceilings.load(identify(moved, "cuda:3"), tmp_path)
    assert loaded is not None and loaded.device == "cuda:3"


@pytest.mark.parametrize("change", [{"driver": "590"}, {"power_limit_w": 400.0}, {"max_sm_mhz": 1500}, {"uuid": "GPU-2"}])
def test_a_device_in_another_state_was_never_measured(tmp_path: Path, change: dict[str, object]) -> None:
    ceilings.measure(IDENTITY, probes([4e12]), tmp_path)
    changed = dataclasses.replace(MACHINE, gpus=(dataclasses.replace(GPU, **change),))
    assert ceilings.load(identify(changed, "cuda:0"), tmp_path) is None


def test_free_memory_is_no_part_of_the_identity() -> None:
    busy = dataclasses.replace(MACHINE, gpus=(dataclasses.replace(GPU, free_bytes=1),))
    assert identify(busy, "cuda:0") == IDENTITY


def test_cpu_ceilings_belong_to_the_cores_in_use() -> None:
    more = dataclasses.replace(MACHINE, cpu=dataclasses.replace(MACHINE.cpu, cores=4))
    assert identify(MACHINE, "cpu").key != identify(more, "cpu").key


def test_a_device_that_is_not_here_has_no_identity() -> None:
    with pytest.raises(ConfigError, match="no device cuda:1"):
        identify(MACHINE, "cuda:1")


@pytest.mark.parametrize("samples", [[], [0.0], [-1.0], [math.nan], [math.inf]])
def test_impossible_samples_are_refused(tmp_path: Path, samples: list[float]) -> None:
    with pytest.raises(InternalError, match="probe read"):
        ceilings.measure(IDENTITY, probes(samples), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_sample_beyond_the_data_sheet_is_refused(tmp_path: Path) -> None:
    """9 TB/s from a card of 4.8 TB/s came out of a cache."""
    with pytest.raises(InternalError, match="data sheet"):
        ceilings.measure(IDENTITY, probes([9e12]), tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"ceilings": {"device": 1}}', '{"ceilings": 3}'])
def test_a_broken_cache_file_counts_as_never_measured(tmp_path: Path, text: str) -> None:
    (tmp_path / f"{IDENTITY.key}.json").write_text(text)
    assert ceilings.load(IDENTITY, tmp_path) is None


def test_a_folder_that_cannot_be_written_costs_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    assert ceilings.measure(IDENTITY, probes([4e12]), blocked).read_bytes_per_s == 4e12
    assert "not kept" in caplog.text


def test_the_default_folder_is_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDLINE_CACHE", str(tmp_path))
    identity = DeviceIdentity("cpu", "a cpu", ())
    ceilings.measure(identity, probes([1e10]))
    assert (tmp_path / "ceilings" / f"{identity.key}.json").exists() and ceilings.load(identity) is not None


def test_table_figures_say_that_they_are_a_table() -> None:
    row = chip("NVIDIA H200")
    assert row is not None
    known = ceilings.from_table("cuda:0", row)
    assert (known.source, known.measured_at, known.read_bytes_per_s) == ("table", "", 4.8e12)


def test_a_reckoned_rate_calls_no_measurement_impossible(tmp_path: Path) -> None:
    """GB10's 16-bit rate is derived; its bandwidth is its data sheet's."""
    gpu = dataclasses.replace(GPU, name="NVIDIA GB10", capability=(12, 1))
    identity = identify(dataclasses.replace(MACHINE, gpus=(gpu,)), "cuda:0")
    row = chip("NVIDIA GB10")
    assert row is not None and "bfloat16" in row.derived
    fast = 1.3 * row.flops["bfloat16"]
    assert ceilings.measure(identity, probes([2.5e11], bfloat16=[fast]), tmp_path).matmul_flops["bfloat16"] == fast
    with pytest.raises(InternalError, match="data sheet"):
        ceilings.measure(identity, probes([1.3 * row.read_bytes_per_s], bfloat16=[fast]), tmp_path)
