"""The doctor's findings: each fault is named once, with what to do, and a sound machine has none."""

from __future__ import annotations

import dataclasses
import json

import pytest

from redline.hardware import Ceilings, Cpu, Gpu, Machine
from redline.hardware.doctor import examine

GIB = 1 << 30
GPU = Gpu(0, "GPU-1", "NVIDIA H200", (9, 0), 140 * GIB, 139 * GIB, "580", 700.0, 700.0, 1980, 3201)
MACHINE = Machine(Cpu("a cpu", 8, ("avx2",)), (GPU,), 64 * GIB, 60 * GIB)
CEILINGS = {
    "cpu": Ceilings("cpu", "a cpu", 4e10, {"float32": 2e11}, "2026-01-01T00:00:00+00:00"),
    "cuda:0": Ceilings("cuda:0", "NVIDIA H200", 4.7e12, {"bfloat16": 8e14}, "2026-01-01T00:00:00+00:00"),
}


def with_gpu(**change: object) -> Machine:
    return dataclasses.replace(MACHINE, gpus=(dataclasses.replace(GPU, **change),))


def test_a_sound_measured_machine_has_no_findings() -> None:
    report = examine(MACHINE, CEILINGS)
    assert report.healthy and report.pairs == []


@pytest.mark.parametrize(
    ("machine", "words"),
    [
        (dataclasses.replace(MACHINE, cpu=Cpu("old", 8, ())), "AVX2"),
        (dataclasses.replace(MACHINE, cpu=Cpu("a cpu", 1, ("avx2",))), "one core"),
        (dataclasses.replace(MACHINE, available_bytes=GIB), "1.0 GiB of memory"),
        (dataclasses.replace(MACHINE, notes=("no GPU: mismatch",), faults=("no GPU: mismatch",)), "mismatch"),
        (with_gpu(free_bytes=40 * GIB), "100.0 of 140.0 GiB are taken"),
        (with_gpu(power_limit_w=400.0), "400 W of 700 W"),
        (with_gpu(capability=(15, 0)), "15.0 is not in redline's table"),
    ],
)
def test_a_fault_is_one_warning(machine: Machine, words: str) -> None:
    report = examine(machine, CEILINGS)
    assert not report.healthy
    assert len(report.pairs) == 1
    severity, sentence = report.pairs[0]
    assert severity == "warning" and words in sentence


def test_weak_and_noisy_measurements_are_warned_of() -> None:
    weak = CEILINGS | {"cuda:0": dataclasses.replace(CEILINGS["cuda:0"], read_bytes_per_s=2.4e12, spread=0.4)}
    sentences = [sentence for _, sentence in examine(MACHINE, weak).pairs]
    assert len(sentences) == 2 and "50% of its data sheet" in sentences[0] and "40% apart" in sentences[1]


def test_an_unmeasured_machine_is_told_how_to_measure_and_shows_the_data_sheet() -> None:
    report = examine(MACHINE, {})
    assert report.healthy and all("run redline doctor" in sentence for _, sentence in report.pairs)
    shown = report.as_dict()["ceilings"]
    assert shown["cuda:0"]["source"] == "table" and "cpu" not in shown


def test_a_machine_without_a_gpu_is_healthy() -> None:
    machine = Machine(Cpu("a cpu", 2, ("asimd",)), (), 8 * GIB, 6 * GIB, notes=("no GPU: no NVIDIA driver here",))
    report = examine(machine, {"cpu": CEILINGS["cpu"]})
    assert report.healthy and report.pairs == [("info", "no GPU: no NVIDIA driver here")]


def test_the_report_is_json() -> None:
    document = json.loads(json.dumps(examine(MACHINE, CEILINGS).as_dict()))
    gpu = document["gpus"][0]
    assert (gpu["architecture"], gpu["capability"], gpu["shared_memory_bytes"]) == ("Hopper", "9.0", 227 * 1024)
    assert document["ceilings"]["cuda:0"]["read_bytes_per_s"] == 4.7e12
