"""A survey keeps what can be true, says why the rest is missing, ends in time, and belongs to one device in one state."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import pytest

from redline.errors import ConfigError
from redline.hardware import Cpu, Gpu, Machine, identify, survey
from redline.hardware.machine import GpuPath, NvLinks, Pcie
from redline.hardware.specs import chip
from redline.hardware.survey import Probe, Samples, Survey, Unit, identify_group, load, sheet_of, take

GPU = Gpu(0, "GPU-1", "NVIDIA H200", (9, 0), 140 << 30, 139 << 30, "580", 700.0, 700.0, 1980, 3201)
MACHINE = Machine(Cpu("a cpu", 2, ("avx2",)), (GPU,), 16 << 30, 8 << 30)
IDENTITY = identify(MACHINE, "cuda:0")
SHEET = sheet_of(MACHINE, "cuda:0")


class Clock:
    """Time that passes only where a probe says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def probe(name: str, values: list[float], unit: Unit = "bytes/s", **more: object) -> Probe:
    return Probe(name, unit, lambda seconds: Samples(values, "somehow"), **more)  # type: ignore[arg-type]


def taken(tmp_path: Path, *probes: Probe, **more: object) -> Survey:
    return take(IDENTITY, probes, math.inf, sheet=SHEET, folder=tmp_path, **more)  # type: ignore[arg-type]


def test_the_best_sample_is_the_largest_rate_and_the_shortest_time(tmp_path: Path) -> None:
    found = taken(tmp_path, probe("copy", [2e12, 4e12, 3e12]), probe("launch", [4e-6, 2e-6, 4e-6], "s"))
    assert (found.value("copy"), found.value("launch")) == (4e12, 2e-6)
    assert [figure.spread for figure in found.figures] == [0.25, 0.5]
    assert [(figure.samples, figure.how) for figure in found.figures] == [(3, "somehow")] * 2
    assert found.value("nothing of the kind") is None


@pytest.mark.parametrize("values", [[], [0.0], [-1.0], [math.nan], [math.inf, 1.0]])
def test_samples_that_cannot_be_true_are_null_with_a_reason(tmp_path: Path, values: list[float]) -> None:
    (figure,) = taken(tmp_path, probe("copy", values)).figures
    assert figure.value is None and figure.share is None and "returned" in str(figure.reason)


def test_what_beats_the_data_sheet_is_no_measurement(tmp_path: Path) -> None:
    """Few rows are bound by the weights' bytes: 40 FLOPs a byte at 4.8 TB/s is all that memory allows."""
    limits = (("matmul bfloat16", 1.0), ("read", 40.0))
    found = taken(
        tmp_path,
        probe("sound", [150e12], "FLOP/s", limits=limits),
        probe("cached", [300e12], "FLOP/s", limits=limits),
        probe("of nothing known", [300e12], "FLOP/s", limits=(("link", 1.0),)),
    )
    sound, cached, unknown = found.figures
    assert sound.limit == 40 * 4.8e12 and sound.share == pytest.approx(150 / 192)
    assert cached.value is None and "data sheet allows" in str(cached.reason)
    assert unknown.value == 300e12 and unknown.limit is unknown.share is None


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ConfigError("no graphs here", hint="another driver"), "no graphs here (another driver)"),
        (RuntimeError("CUDA error\nat line 3"), "RuntimeError: CUDA error"),
        (ZeroDivisionError(), "ZeroDivisionError"),
    ],
)
def test_a_probe_that_fails_spoils_no_other(tmp_path: Path, error: Exception, words: str) -> None:
    def fail(seconds: float) -> Samples:
        raise error

    found = taken(tmp_path, Probe("graph launch", "s", fail), probe("copy", [1e12]))
    assert [figure.value for figure in found.figures] == [None, 1e12] and found.figures[0].reason == words


def test_what_a_device_does_not_have_is_null_with_its_reason(tmp_path: Path) -> None:
    (figure,) = taken(tmp_path, Probe("graph launch", "s", None, reason="there is no GPU")).figures
    assert figure.value is None and figure.reason == "there is no GPU"


def test_nothing_begins_that_would_not_end_in_time(tmp_path: Path) -> None:
    clock, ran = Clock(), []

    def run(name: str, takes: float) -> Probe:
        def measure(seconds: float) -> Samples:
            ran.append((name, seconds))
            clock.now += takes
            return Samples([1.0])

        return Probe(name, "s", measure, takes, most_s=5.0 if name == "ends by itself" else 0.0)

    probes = [run("first", 2.0), run("too long", 4.0), run("ends by itself", 1.0), run("last", 1.5)]
    found = take(IDENTITY, probes, clock() + 5.0, sheet={}, folder=tmp_path, clock=clock)
    assert ran == [("first", 2.0), ("ends by itself", 3.0), ("last", 1.5)]
    assert "it takes 4.0 s, and 3.0 s are left" in str(found.figures[1].reason) and found.seconds == 4.5


def test_a_machine_of_many_gpus_gets_more_time() -> None:
    budgets = [survey.budget_s(dataclasses.replace(MACHINE, gpus=(GPU,) * count)) for count in (0, 1, 2, 8)]
    assert budgets == [20, 20, 20, 44]


def test_what_disturbed_it_is_said(tmp_path: Path) -> None:
    holding = iter([(), ("hw_thermal",), ("hw_thermal",)])
    found = taken(
        tmp_path, probe("a", [1.0]), probe("b", [1.0]), probe("c", [1.0]), despite="it is busy", held=lambda: next(holding)
    )
    assert found.despite == "it is busy; throttled by hw_thermal while b was measured"
    assert taken(tmp_path, probe("a", [1.0])).despite == ""


def test_what_was_measured_is_loaded_again_beside_the_ceilings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDLINE_CACHE", str(tmp_path))
    found = take(IDENTITY, [probe("copy", [1e12]), probe("none", [])], math.inf, sheet=SHEET)
    assert load(IDENTITY) == found
    assert [path.name for path in (tmp_path / "ceilings").iterdir()] == [f"{IDENTITY.key}.survey.json"]
    moved = dataclasses.replace(MACHINE, gpus=(dataclasses.replace(GPU, index=3),))
    assert load(identify(moved, "cuda:3")) == dataclasses.replace(found, device="cuda:3")


@pytest.mark.parametrize("change", [{"driver": "590"}, {"power_limit_w": 400.0}, {"max_sm_mhz": 1500}, {"uuid": "GPU-2"}])
def test_a_device_in_another_state_was_never_measured(tmp_path: Path, change: dict[str, object]) -> None:
    taken(tmp_path, probe("copy", [1e12]))
    changed = dataclasses.replace(MACHINE, gpus=(dataclasses.replace(GPU, **change),))  # type: ignore[arg-type]
    assert load(identify(changed, "cuda:0"), tmp_path) is None


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 1, "survey": {"figures": [1]}}', '{"format": 1, "survey": 3}'])
def test_a_broken_file_counts_as_never_measured(tmp_path: Path, text: str) -> None:
    (tmp_path / f"{IDENTITY.key}.survey.json").write_text(text)
    assert load(IDENTITY, tmp_path) is None


@pytest.mark.parametrize(("field", "value"), [("value", 0.0), ("value", None), ("value", -3.0), ("format", 0)])
def test_a_file_that_cannot_be_true_counts_as_never_measured(tmp_path: Path, field: str, value: object) -> None:
    taken(tmp_path, probe("copy", [1e12]))
    path = tmp_path / f"{IDENTITY.key}.survey.json"
    record = json.loads(path.read_text())
    (record if field == "format" else record["survey"]["figures"][0])[field] = value
    path.write_text(json.dumps(record))
    assert load(IDENTITY, tmp_path) is None


def test_a_folder_that_cannot_be_written_costs_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    assert taken(blocked, probe("copy", [1e12])).value("copy") == 1e12
    assert "not kept" in caplog.text


def test_json_has_the_share_and_nothing_that_json_lacks(tmp_path: Path) -> None:
    told = taken(tmp_path, probe("copy", [2.4e12], limits=(("read", 1.0),)), probe("none", [math.nan])).as_dict()
    assert [figure["share"] for figure in told["figures"]] == [0.5, None]
    json.dumps(told, allow_nan=False)


def test_data_sheets_of_a_card_its_slot_and_its_links() -> None:
    row = chip(GPU.name)
    assert row is not None
    assert SHEET["read"] == row.read_bytes_per_s and SHEET["matmul bfloat16"] == row.flops["bfloat16"]
    assert SHEET["host"] == row.host_bytes_per_s
    half = dataclasses.replace(GPU, pcie=Pcie(1, 8, 5, 16))
    assert sheet_of(dataclasses.replace(MACHINE, gpus=(half,)), "cuda:0")["host"] == 8 * 3.938e9
    assert sheet_of(MACHINE, "cpu") == {}
    stranger = dataclasses.replace(GPU, name="NVIDIA Unheard Of")
    assert sheet_of(dataclasses.replace(MACHINE, gpus=(stranger,)), "cuda:0") == {}


def test_a_group_is_as_fast_as_its_slowest_link() -> None:
    linked = dataclasses.replace(GPU, nvlinks=NvLinks(18, "4.0", 450e9))
    slot = dataclasses.replace(GPU, index=1, nvlinks=NvLinks(0, None, None), pcie=Pcie(4, 16, 4, 16))
    assert sheet_of(dataclasses.replace(MACHINE, gpus=(linked, linked)), survey.GROUP) == {"link": 450e9}
    assert sheet_of(dataclasses.replace(MACHINE, gpus=(linked, slot)), survey.GROUP) == {"link": 16 * 1.969e9}
    stranger = dataclasses.replace(slot, name="NVIDIA Unheard Of", pcie=None)
    assert sheet_of(dataclasses.replace(MACHINE, gpus=(linked, stranger)), survey.GROUP) == {}


def test_a_groups_identity_is_its_cards_and_the_ways_between_them() -> None:
    two = dataclasses.replace(MACHINE, gpus=(GPU, dataclasses.replace(GPU, index=1, uuid="GPU-2")))
    first = identify_group(two)
    assert first.device == survey.GROUP and first.name == "2 x NVIDIA H200" and first.key == identify_group(two).key
    linked = dataclasses.replace(two, paths=(GpuPath(0, 1, "switch", True, 18),))
    other = dataclasses.replace(two, gpus=(GPU, dataclasses.replace(GPU, index=1, uuid="GPU-3")))
    assert len({first.key, identify_group(linked).key, identify_group(other).key}) == 3
