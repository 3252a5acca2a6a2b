"""On a real card: the driver is read, the probes are quick, and what they find is possible and not far from the table."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from redline import env
from redline.cli import doctor
from redline.hardware import ceilings, identify, survey
from redline.hardware.detect import detect
from redline.hardware.specs import chip
from redline.kernels import probes as probes_module
from redline.kernels.probes import probes
from redline.parallel import probes as links
from redline.plan.resolve import choose_dtype

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")]


def test_detection_agrees_with_torch() -> None:
    gpu = detect().gpus[0]
    seen = torch.cuda.get_device_properties(0)
    assert gpu.name == seen.name and gpu.capability == (seen.major, seen.minor)
    assert gpu.memory_bytes == pytest.approx(seen.total_memory, rel=0.05)
    assert 0 < gpu.free_bytes <= gpu.memory_bytes and gpu.driver


def test_measured_ceilings_lie_close_under_the_data_sheet(tmp_path: Path) -> None:
    """A card that reads under 80 % of its data sheet is throttled or shared, or the probe is wrong."""
    identity = identify(detect(), "cuda:0")
    torch.zeros(1, device="cuda:0")  # the context is not part of the measurement
    made = probes(torch.device("cuda:0"), (torch.float32, torch.float16))
    began = time.perf_counter()
    measured = ceilings.measure(identity, made, tmp_path)
    assert time.perf_counter() - began < 5
    row = chip(identity.name)
    if row is not None:
        assert 0.8 < measured.read_bytes_per_s / row.read_bytes_per_s <= 1.0
        assert 0.4 < measured.matmul_flops["float16"] / row.flops["float16"] <= 1.05
    assert ceilings.load(identity, tmp_path) == measured


@pytest.fixture(scope="module")
def surveyed(tmp_path_factory: pytest.TempPathFactory) -> survey.Survey:
    """The whole survey of the first card, kernels compiled anew, within the time that a machine with two has."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REDLINE_CACHE", str(tmp_path_factory.mktemp("cache")))
        machine = detect(models=env.cache_dir())
        dtype, _ = choose_dtype(machine, machine.gpu("cuda:0"))
        began = time.monotonic()
        taken = probes_module.survey(machine, "cuda:0", dtype, began + survey.BUDGET_S)
        assert time.monotonic() - began < survey.BUDGET_S
        assert survey.load(identify(machine, "cuda:0")) == taken
        return taken


def test_everything_is_measured_on_a_card(surveyed: survey.Survey) -> None:
    missing = {figure.name: figure.reason for figure in surveyed.figures if figure.value is None}
    assert not missing
    assert {"copy", "host to device", "device to host", "kernel launch", "graph launch", "graph node"} <= {
        figure.name for figure in surveyed.figures
    }
    for figure in surveyed.figures:
        print(figure)


def test_surveyed_figures_can_be_true(surveyed: survey.Survey) -> None:
    """Bounds wide enough for every card: a figure outside of them is a probe that measures something else."""
    times = {name: surveyed.value(name) or 0.0 for name in ("kernel launch", "graph launch", "graph node")}
    assert 5e-7 < times["kernel launch"] < 5e-5 and 5e-7 < times["graph launch"] < 2e-4 and 1e-7 < times["graph node"] < 1e-5
    shares = {figure.name: figure.share for figure in surveyed.figures if figure.share is not None}
    least = {"copy": 0.7, "decode attention": 0.3, "prefill attention": 0.1, "host to device": 0.2, "device to host": 0.2}
    for name, share in least.items():
        assert shares.get(name, 1.0) > share, (name, shares[name])
    rows = [surveyed.value(f"matmul float16 {count} rows") or 0.0 for count in (16, 64, 256, 1024)]
    assert rows == sorted(rows)  # more rows of the same weights: a larger part of the rate


def test_on_hopper_the_engines_own_kernels_are_measured(surveyed: survey.Survey) -> None:
    if torch.cuda.get_device_capability(0) != (9, 0):
        pytest.skip("needs a Hopper card")
    how = {figure.name: figure.how for figure in surveyed.figures}
    assert "redline's CUDA kernel for one row, in a graph" in how["gemv bfloat16"]
    assert "redline's CUDA kernel, in a graph" in how["decode attention"] and "cuDNN" in how["prefill attention"]
    shares = {figure.name: figure.share or 0.0 for figure in surveyed.figures}
    assert shares["gemv bfloat16"] > 0.8 and shares["decode attention"] > 0.6 and shares["prefill attention"] > 0.4


def test_doctor_measures_everything_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch's own start does not count: here it has begun already."""
    monkeypatch.setenv("REDLINE_CACHE", str(tmp_path))
    result = CliRunner().invoke(doctor.command, ["--measure"])
    assert result.exit_code == 0, result.output
    print(result.output)
    seconds = [float(found) for found in re.findall(r"^measuring .* done after ([\d.]+) s$", result.stderr, re.MULTILINE)]
    count = torch.cuda.device_count()
    assert len(seconds) == 2 * (1 + count) + (count > 1)
    assert sum(seconds) < survey.BUDGET_S + survey.FURTHER_GPU_S * max(0, count - 2) + 1
    assert "measured    cuda:0, in " in result.stdout


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_gpus_send_and_sum(tmp_path: Path) -> None:
    machine = detect()
    with links.Group(len(machine.gpus)) as group:
        group.wait()
        made = list(links.probes(group))
        sheet = survey.sheet_of(machine, survey.GROUP)
        taken = survey.take(survey.identify_group(machine), made, time.monotonic() + 30, sheet=sheet, folder=tmp_path)
    for figure in taken.figures:
        print(figure)
    assert all(figure.value is not None for figure in taken.figures)
    assert [figure.name for figure in taken.figures][:3] == ["all-reduce", "all-reduce, small", "send cuda:0 to cuda:1"]
    assert 1e-6 < (taken.value("all-reduce, small") or 0.0) < 1e-3
    assert "in a graph" in taken.figures[1].how
