"""`doctor` measures once, keeps what it measured, and has a useful page for every machine, whole or broken."""

from __future__ import annotations

import contextlib
import functools
import json
import math

import pytest
from click.testing import CliRunner

from fake_nvml import GIB, Card, FakeNvml
from redline import env
from redline.cli import doctor, doctor_survey
from redline.errors import ConfigError, InternalError
from redline.hardware import ceilings, survey
from redline.hardware.ceilings import Probes
from redline.hardware.detect import detect
from redline.hardware.machine import Cpu, Machine, MigSlice, TorchBuild
from redline.hardware.nvml import NoDriver
from redline.hardware.survey import Probe, Samples
from redline.plan.contract import FIRST
from redline.plan.corrections import Keeper, Subject
from redline.plan.meter import Meter
from redline.plan.roofline import StepWork
from redline.shapes import known

CU130 = TorchBuild("2.11.0+cu130", (13, 0))


@pytest.fixture
def probed(monkeypatch, tmp_path):
    """An empty cache; the list fills with what was probed."""
    calls = []
    monkeypatch.setattr(doctor_survey, "_prepare", lambda machine, stack: None)
    monkeypatch.setattr(doctor_survey, "_survey", lambda machine, device, until: surveyed(machine, device))

    def measure(machine, device):
        calls.append(device)
        gpu = machine.gpu(device)
        read, matmul = (1.2e10, 2e11) if gpu is None else (2.5e11, 2e13) if gpu.memory_kind == "unified" else (4.5e12, 4e13)
        probes = Probes(read=lambda: [read], matmul={"float32": lambda: [matmul]})
        return ceilings.measure(ceilings.identify(machine, device), probes)

    monkeypatch.setattr(doctor, "_measure", measure)
    monkeypatch.setenv("REDLINE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return calls


def surveyed(machine, device, host=5e10):
    """A survey of three figures, one of which is missing."""
    gpu = machine.gpu(device)
    probes = [
        Probe("host to device", "bytes/s", lambda seconds: Samples([host, 0.5 * host], "pinned memory"), limits=(("host", 1.0),)),
        Probe("kernel launch", "s", lambda seconds: Samples([2.5e-6])),
        Probe("graph launch", "s", None, reason="no graphs here"),
    ]
    despite = doctor_survey.disturbed(gpu) or "" if gpu is not None else ""
    sheet = survey.sheet_of(machine, device)
    return survey.take(ceilings.identify(machine, device), probes, math.inf, sheet=sheet, despite=despite)


def words(page):
    """The page with single blanks."""
    return " ".join(page.split())


@pytest.fixture
def measured(monkeypatch, probed):
    """A made-up machine without a GPU."""
    cpu = Cpu("Little CPU", 2, ("avx2",), 1 << 20)
    monkeypatch.setattr(doctor, "detect", lambda **_: Machine(cpu, (), 8 << 30, 6 << 30, ("no GPU: none",)))
    return probed


@pytest.fixture
def with_driver(monkeypatch, probed, tmp_path):
    """`with_driver(nvml)` makes doctor see what that driver says, on a host with AVX2 and 64 GiB."""
    proc, sys = tmp_path / "proc", tmp_path / "sys"
    (proc / "self").mkdir(parents=True)
    (sys / "block").mkdir(parents=True)
    (proc / "cpuinfo").write_text("processor : 0\nmodel name : A CPU\nflags : avx2\n")
    (proc / "meminfo").write_text("MemTotal: 67108864 kB\nMemAvailable: 60000000 kB\n")
    (proc / "self/status").write_text("Cpus_allowed_list:\t0-7\n")

    def install(nvml, torch=CU130, proc=proc, sys=sys):
        def connect():
            if isinstance(nvml, Exception):
                raise nvml
            return nvml

        look = functools.partial(detect, proc=proc, sys=sys, root=tmp_path, nvml=connect, torch=lambda: torch)
        monkeypatch.setattr(doctor, "detect", look)
        return probed

    return install


def run(*arguments):
    return CliRunner().invoke(doctor.command, arguments)


def test_what_steps_of_models_took_is_shown_until_the_machine_is_measured_anew(measured):
    machine, shape = doctor.detect(), known("tiny-llama")
    assert run().exit_code == 0 and "learned" not in run().stdout
    identity = ceilings.identify(machine, "cpu")
    meter = Meter(shape, "float32", 4, 4, ceilings.load(identity), 0)
    keeper = Keeper(Subject(identity, shape, "float32", "float32", ways=(("num_threads", "1"),)), "random:tiny-llama", meter)
    work = StepWork.of([(9, 1)], logit_rows=1)
    for _ in range(10):
        meter.step(meter.due(work), 2 * FIRST["decode"].seconds * meter.limit_s(work), 0.0)
    keeper.close()
    page = run().stdout
    assert "learned     cpu: random:tiny-llama in float32, num-threads 1: steps take 2.00 to 2.00 times the forecast" in page
    assert "corrected by 10 steps measured here on 20" in page
    kept = json.loads(run("--json").stdout)["corrections"]["cpu"]
    assert [(each["model"], each["steps"], each["ways"]) for each in kept] == [("random:tiny-llama", 10, {"num_threads": "1"})]
    (file,) = (env.cache_dir() / "corrections").iterdir()
    file.write_text("{")
    broken = run()
    assert broken.exit_code == 0 and "learned" not in broken.stdout


def test_the_first_run_measures_and_the_second_remembers(measured):
    first, second = run(), run()
    assert first.exit_code == second.exit_code == 0, first.output
    assert measured == ["cpu"]
    assert "measuring cpu done" in first.stderr and second.stderr == ""
    assert "Little CPU, 2 cores, avx2" in second.stdout
    assert "cpu: reads 12.0 GB/s, float32 0.20 TFLOP/s" in second.stdout
    assert "dtype float32: this CPU has no bfloat16 units" in second.stdout
    assert run("--measure").exit_code == 0 and measured == ["cpu", "cpu"]


def test_json_holds_machine_ceilings_choices_and_findings(measured):
    document = json.loads(run("--json").stdout)
    assert document["ceilings"]["cpu"]["read_bytes_per_s"] == 1.2e10
    assert document["choices"]["device"]["value"] == "cpu"
    assert "no GPU: none" in [finding["sentence"] for finding in document["findings"]]


def test_nothing_is_measured_where_it_is_not_wanted(measured):
    assert "not measured yet" in run("--no-measure").stdout
    assert measured == []
    assert run("--measure", "--no-measure").exit_code == 2


def test_two_sound_cards(with_driver):
    probed = with_driver(FakeNvml([Card("GPU-a"), Card("GPU-b", bus_id="0000:86:00.0")]))
    result = run()
    assert result.exit_code == 0, result.output
    assert probed == ["cpu", "cuda:0", "cuda:1"]
    for words in (
        "driver      580.159.04, runs CUDA up to 13.0",
        "torch       2.11.0+cu130, built for CUDA 13.0",
        "NVIDIA H200, Hopper, capability 9.0, 132 multiprocessors, 139.0 of 140.0 GiB free",
        "ECC on, its pins carry 4917 GB/s",
        "76 of 700 W (default 700, 200 to 700 can be set), 345 of 1980 MHz, 31 °C, 0% busy",
        "wgmma",
        "PCIe 5 x16 63 GB/s, 18 NVLinks 4.0 (18 to switch), 450 GB/s each way",
        "0 and 1     read each other's memory, over system",
        "cuda:1: reads 4500.0 GB/s",
    ):
        assert words in result.stdout
    assert "warning" not in result.stdout and "error" not in result.stdout


# (name, what the driver is, torch, exit code, words of the page, devices that are measured)
BUSY = Card("GPU-a", free=20 * GIB, utilization=(0.98, 0.6), processes=((4321, 118 * GIB),))
HOT = Card("GPU-a", reasons=0x60, temperature=92, clocks_now=(345, 3201))
SLICE = MigSlice("MIG-1", "NVIDIA H200 MIG 1g.18gb", 16 * GIB, 15 * GIB, 16)
NO_LIBRARY = NoDriver("no NVIDIA driver here: libnvidia-ml.so.1 was not found")
PAGES = {
    "no GPU": (NO_LIBRARY, CU130, 0, ["no NVIDIA driver here"], ["cpu"]),
    "no card listed": (FakeNvml([]), CU130, 0, ["the driver lists none"], ["cpu"]),
    "driver and library differ": (FakeNvml(broken="version mismatch: reboot"), CU130, 2, ["version mismatch: reboot"], ["cpu"]),
    "driver too old for torch": (
        FakeNvml([Card("GPU-a")], cuda_version=(12, 4), version="550.54.15"),
        CU130,
        2,
        ["driver 550.54.15 runs CUDA 12.4", "install driver 580.65.06", "cuda:0: not measured: driver 550.54.15"],
        ["cpu"],
    ),
    "torch for CPUs": (FakeNvml([Card("GPU-a")]), TorchBuild("2.13.0+cpu", None), 2, ["install torch's CUDA build"], ["cpu"]),
    "card lost": (
        FakeNvml([Card("GPU-a"), Card("GPU-b", lost="GPU is lost")]),
        CU130,
        2,
        ["does not answer: GPU is lost"],
        ["cpu", "cuda:0"],
    ),
    "CUDA forbidden": (FakeNvml([Card("GPU-a", mode=2)]), CU130, 2, ["nvidia-smi -c DEFAULT"], ["cpu"]),
    "busy": (
        FakeNvml([BUSY]),
        CU130,
        0,
        [
            "120.0 of 140.0 GiB are taken by other processes (process 4321 118.0 GiB)",
            "run 98% of the time",
            "not measured: it is busy",
        ],
        ["cpu"],
    ),
    "power-capped": (
        FakeNvml([Card("GPU-a", power=(350.0, 700.0))]),
        CU130,
        0,
        ["power is capped at 350 W of 700 W", "76 of 350 W (default 700", "not measured: its power is capped"],
        ["cpu"],
    ),
    "throttled": (
        FakeNvml([HOT]),
        CU130,
        0,
        ["throttled by heat and heat, by the hardware at 92 °C", "held down by sw_thermal"],
        ["cpu"],
    ),
    "ECC off": (
        FakeNvml([Card("GPU-a", ecc=(False, False))]),
        CU130,
        0,
        ["ECC off", "ECC is off: a flipped bit"],
        ["cpu", "cuda:0"],
    ),
    "MIG slice": (
        FakeNvml([Card("GPU-a", mig=(True, True), slices=(SLICE,))]),
        CU130,
        0,
        ["NVIDIA H200 MIG 1g.18gb, Hopper, capability 9.0, 16 multiprocessors, 15.0 of 16.0 GiB", "a slice of GPU-a"],
        ["cpu", "cuda:0"],
    ),
    "MIG without slices": (FakeNvml([Card("GPU-a", mig=(True, True))]), CU130, 0, ["nvidia-smi mig -cgi"], ["cpu"]),
    "unknown card": (
        FakeNvml([Card("GPU-a", "NVIDIA X", (15, 0), ecc=None, links=None)]),
        CU130,
        0,
        ["15.0 is not in redline's table", "not told  sms: the lanes", "ecc, ecc_pending, nvlinks: Not Supported"],
        ["cpu", "cuda:0"],
    ),
    "GB10": (
        FakeNvml([Card("GPU-a", "NVIDIA GB10", (12, 1), total=None)]),
        CU130,
        0,
        ["57.2 of 64.0 GiB free", "share one memory"],
        ["cpu", "cuda:0"],
    ),
}


@pytest.mark.parametrize("case", PAGES)
def test_a_useful_page_for_every_machine(with_driver, case):
    nvml, torch, code, words, measured = PAGES[case]
    probed = with_driver(nvml, torch)
    page = run()
    assert page.exit_code == code, page.output
    assert probed == measured
    for text in ("A CPU, 8 cores, avx2", "64.0 GiB", "cpu: reads 12.0 GB/s", "would take", *words):
        assert text in page.stdout
    document = run("--json")
    assert document.exit_code == code
    severities = {finding["severity"] for finding in json.loads(document.stdout)["findings"]}
    assert ("error" in severities) == (code == 2)


def test_a_capped_card_is_measured_on_demand(with_driver):
    probed = with_driver(FakeNvml([Card("GPU-a", power=(350.0, 700.0))]))
    assert run("--measure").exit_code == 0 and probed == ["cpu", "cuda:0"]
    assert "cuda:0: reads 4500.0 GB/s" in run().stdout  # and kept, under its power limit


def test_a_card_that_cannot_be_used_is_not_measured_even_on_demand(with_driver):
    probed = with_driver(FakeNvml([Card("GPU-a", mode=2)]))
    assert run("--measure").exit_code == 2 and probed == ["cpu"]


@pytest.mark.parametrize(
    "error", [ConfigError("torch cannot use it"), InternalError("it is too good"), RuntimeError("out of memory\nat 0")]
)
def test_a_measurement_that_fails_spoils_no_page(with_driver, monkeypatch, error):
    with_driver(FakeNvml([Card("GPU-a")]))

    def measure(machine, device):
        raise error

    monkeypatch.setattr(doctor, "_measure", measure)
    page = run()
    assert page.exit_code == 0 and f"cuda:0: not measured: {str(error).partition(chr(10))[0]}" in page.stdout


def test_a_container_that_hides_proc_and_sys(with_driver, tmp_path):
    """Nothing but the system's own calls is left: every missing figure has its reason."""
    with_driver(NO_LIBRARY, proc=tmp_path / "no proc", sys=tmp_path / "no sys")
    page = run()
    assert page.exit_code == 0, page.output
    for words in ("processor", "not told    disks:", "cannot be read", "would take", "no NVIDIA driver here"):
        assert words in page.stdout
    document = json.loads(run("--json").stdout)
    assert document["cpu"]["caches"] == [] and {"caches", "max_mhz", "numa"} <= document["cpu"]["untold"].keys()
    assert document["disks"] == [] and "cannot be read" in document["untold"]["disks"]


def test_more_is_measured_on_demand_kept_and_shown(with_driver):
    probed = with_driver(FakeNvml([Card("GPU-a")]))
    assert "attention and links yet: redline doctor --measure" in run().stdout
    first, second = run("--measure"), run()
    assert first.exit_code == second.exit_code == 0 and probed == ["cpu", "cuda:0"] * 2
    assert "measuring what else cuda:0 does done after" in first.stderr and second.stderr == ""
    for page in (first.stdout, second.stdout):
        assert "measured    cuda:0, in " in page and "attention and links yet" not in page
        assert "host to device 50.00 GB/s 79% pinned memory" in words(page)
        assert "kernel launch 2.50 us" in words(page) and "not measured: graph launch: no graphs here" in page
    surveys = json.loads(run("--json").stdout)["surveys"]
    assert list(surveys) == ["cpu", "cuda:0"]
    copied, _, missing = surveys["cuda:0"]["figures"]
    assert (copied["value"], copied["unit"], copied["share"]) == (5e10, "bytes/s", pytest.approx(5e10 / (16 * 3.938e9)))
    assert missing["value"] is None and missing["reason"] == "no graphs here"


def test_a_busy_card_measured_on_demand_says_that_it_was_busy(with_driver):
    with_driver(FakeNvml([BUSY]))
    page = run("--measure").stdout
    assert "measured    cuda:0" in page and "it is busy, kernels of other programs run 98% of the time" in page


def test_a_slot_that_carries_too_little_is_a_warning(with_driver, monkeypatch):
    with_driver(FakeNvml([Card("GPU-a")]))
    monkeypatch.setattr(doctor_survey, "_survey", lambda machine, device, until: surveyed(machine, device, host=6e9))
    page = run("--measure")
    assert page.exit_code == 0
    assert "warning     cuda:0: host to device copies reach 10% of what the way carries" in page.stdout


def test_several_cards_are_measured_together(with_driver, monkeypatch):
    with_driver(FakeNvml([Card("GPU-a"), Card("GPU-b", bus_id="0000:86:00.0")]))
    given = []

    def together(machine, group, until):
        given.append(group)
        probe = Probe("all-reduce", "bytes/s", lambda seconds: Samples([3.6e11], "nccl"), limits=(("link", 1.0),))
        sheet = survey.sheet_of(machine, survey.GROUP)
        return survey.take(survey.identify_group(machine), [probe], math.inf, sheet=sheet)

    monkeypatch.setattr(doctor_survey, "_prepare", lambda machine, stack: stack.enter_context(contextlib.nullcontext("group")))
    monkeypatch.setattr(doctor_survey, "_survey_group", together)
    page = run("--measure")
    assert page.exit_code == 0 and given == ["group"] and "measuring what GPUs say to each other" in page.stderr
    for told in ("measured all GPUs together, in ", "all-reduce 360.0 GB/s 80% nccl"):
        assert told in words(page.stdout) and told in words(run().stdout)
    assert list(json.loads(run("--json").stdout)["surveys"]) == ["cpu", "cuda:0", "cuda:1", "cuda"]


def test_a_card_that_cannot_be_used_is_not_surveyed(with_driver):
    with_driver(FakeNvml([Card("GPU-a", mode=2)]))
    page = run("--measure", "--json")
    assert page.exit_code == 2 and list(json.loads(page.stdout)["surveys"]) == ["cpu"]


@pytest.mark.parametrize(
    ("left", "usual", "later", "takes"),
    [(20.0, 4.5, 0.0, 20.0), (20.0, 4.5, 8.0, 12.0), (6.0, 3.0, 6.0, 2.0), (0.0, 3.0, 6.0, 0.0), (-5.0, 3.0, 0.0, 0.0)],
)
def test_a_survey_leaves_time_for_those_after_it(left, usual, later, takes):
    assert doctor_survey._end(100.0, 100.0 + left, usual, later) == pytest.approx(100.0 + takes)
