"""The doctor's findings: each fault is named once, with what to do, and a sound machine has none."""

from __future__ import annotations

import dataclasses
import json

import pytest

from redline.hardware import Ceilings, Cpu, Gpu, Machine
from redline.hardware.complaints import blocked, unfit
from redline.hardware.doctor import examine
from redline.hardware.machine import Disk, Driver, GpuPath, GpuProcess, NumaNode, Pcie, Storage, TorchBuild

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
        (with_gpu(utilization=0.97), "97% of the time"),
        (with_gpu(clock_reasons=0x40, temperature_c=91, sm_mhz=345), "heat, by the hardware at 91 °C, 345 of 1980 MHz"),
        (with_gpu(ecc_errors=3), "3 memory errors could not be corrected"),
        (with_gpu(pcie=Pcie(5, 8, 5, 16)), "8 of 16 lanes"),
        (dataclasses.replace(MACHINE, paths=(GpuPath(0, 1, "system", False),)), "cannot read each other's memory"),
        (dataclasses.replace(MACHINE, storage=Storage("/models", "ext4", "sda", 100 * GIB, GIB)), "/models has 1.0 GiB left"),
        (
            dataclasses.replace(
                with_gpu(numa_node=1), cpu=Cpu("x", 2, ("avx2",), allowed=(0, 1), numa=(NumaNode(1, (2, 3), None),))
            ),
            "numactl --cpunodebind=1",
        ),
    ],
)
def test_a_fault_is_one_warning(machine: Machine, words: str) -> None:
    report = examine(machine, CEILINGS)
    assert not report.healthy
    assert len(report.pairs) == 1
    severity, sentence = report.pairs[0]
    assert severity == "warning" and words in sentence


@pytest.mark.parametrize(
    ("machine", "words"),
    [
        (with_gpu(compute_mode="prohibited"), "forbids CUDA"),
        (with_gpu(compute_mode="exclusive", processes=(GpuProcess(7, GIB, "python"),)), "one is there (python 7 1.0 GiB)"),
        (dataclasses.replace(MACHINE, notes=("no GPU: x",), faults=("no GPU: x",), broken=("no GPU: x",)), "no GPU: x"),
        (dataclasses.replace(MACHINE, torch=TorchBuild("2.13.0+cpu", None)), "build for CPUs"),
        (dataclasses.replace(MACHINE, torch=TorchBuild("2.11", (13, 0)), driver=Driver("550", (12, 4))), "driver 580.65.06"),
    ],
)
def test_what_keeps_a_card_from_use_is_one_error(machine: Machine, words: str) -> None:
    report = examine(machine, CEILINGS)
    assert not report.usable and [severity for severity, _ in report.pairs] == ["error"] and words in report.pairs[0][1]


@pytest.mark.parametrize(
    ("machine", "words"),
    [
        (with_gpu(ecc=False), "ECC is off"),
        (with_gpu(memory_kind="unified", free_bytes=GIB), "share one memory"),
        (with_gpu(clock_reasons=0x2), "clocks were set"),
        (with_gpu(name="NVIDIA L40", capability=(8, 9)), "not in redline's chip table"),
        (with_gpu(name="NVIDIA H200 MIG 1g.18gb", parent="GPU-0"), "a MIG slice of GPU-0"),
        (dataclasses.replace(MACHINE, gpus=(GPU, dataclasses.replace(GPU, index=1, name="NVIDIA L4"))), "CUDA_DEVICE_ORDER"),
        (
            dataclasses.replace(
                MACHINE, storage=Storage("/m", "xfs", "sda", 100 * GIB, 50 * GIB), disks=(Disk("sda", "hdd", 100 * GIB),)
            ),
            "a disk that turns",
        ),
        (dataclasses.replace(MACHINE, storage=Storage("/m", "nfs4", None, 100 * GIB, 50 * GIB)), "over the network"),
    ],
)
def test_what_is_worth_knowing_is_no_fault(machine: Machine, words: str) -> None:
    report = examine(machine, CEILINGS | {"cuda:1": CEILINGS["cuda:0"]})
    assert report.healthy and len(report.pairs) == 1 and words in report.pairs[0][1]


def test_a_card_at_its_own_power_limit_is_at_work_and_not_ill() -> None:
    assert examine(with_gpu(clock_reasons=0x4), CEILINGS).pairs == [] and unfit(with_gpu(clock_reasons=0x4).gpus[0]) is None


def test_the_programs_on_a_busy_card_are_named_largest_first() -> None:
    rows = tuple(
        GpuProcess(pid, size, name) for pid, size, name in ((1, GIB, None), (2, 9 * GIB, "vllm"), (3, None, "Xorg"), (4, 2, "x"))
    )
    (pair,) = examine(with_gpu(free_bytes=40 * GIB, processes=rows), CEILINGS).pairs
    assert "(vllm 2 9.0 GiB, process 1 1.0 GiB, x 4 0.0 GiB and 1 more)" in pair[1]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"utilization": 0.5}, "busy, kernels of other programs run 50%"),
        ({"clock_reasons": 0x28}, "throttled by the hardware (heat or power) and heat"),
        ({"power_limit_w": 300.0}, "capped at 300 W of 700 W"),
    ],
)
def test_a_card_that_would_be_measured_wrong_is_refused_with_the_evidence(change: dict[str, object], words: str) -> None:
    reason = unfit(dataclasses.replace(GPU, **change))
    assert reason is not None and words in reason
    pairs = examine(with_gpu(**change), {"cpu": CEILINGS["cpu"]}, {"cuda:0": reason}).pairs
    assert ("info", f"cuda:0: not measured: {reason}") in pairs


def test_a_sound_card_is_fit_and_a_forbidden_one_is_blocked() -> None:
    assert unfit(GPU) is None and blocked(MACHINE, GPU) is None
    assert "forbids" in str(blocked(MACHINE, dataclasses.replace(GPU, compute_mode="prohibited")))
    assert "CPUs" in str(blocked(dataclasses.replace(MACHINE, torch=TorchBuild("2+cpu", None)), GPU))


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
    machine = dataclasses.replace(
        with_gpu(clock_reasons=0x44, memory_bus_bits=6144, untold=(("ecc", "Not Supported"),)),
        driver=Driver("580", (13, 0)),
        untold=(("product", "hidden"),),
    )
    document = json.loads(json.dumps(examine(machine, CEILINGS).as_dict()))
    assert document["driver"]["cuda"] == [13, 0] and document["torch"] is None and document["untold"] == {"product": "hidden"}
    gpu = document["gpus"][0]
    assert (gpu["architecture"], gpu["capability"], gpu["shared_memory_bytes"]) == ("Hopper", "9.0", 227 * 1024)
    assert document["ceilings"]["cuda:0"]["read_bytes_per_s"] == 4.7e12
    assert gpu["throttled"] == ["sw_power_cap", "hw_thermal"] and gpu["ecc"] is None and gpu["untold"] == {"ecc": "Not Supported"}
    assert "wgmma" in gpu["instructions"] and gpu["chip"] == "H200" and round(gpu["pin_bytes_per_s"] / 1e9) == 4917
