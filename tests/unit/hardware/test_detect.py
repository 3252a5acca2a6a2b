"""Detection never fails for want of hardware: what is missing becomes a note with its reason."""

from __future__ import annotations

from pathlib import Path

from fake_nvml import Card, FakeNvml
from redline.hardware import detect
from redline.hardware.nvml import NoDriver, Nvml


def test_gpus_of_a_working_driver(tmp_path: Path) -> None:
    machine = detect(proc=tmp_path, sys=tmp_path, nvml=lambda: FakeNvml([Card("a"), Card("b")]), visible="1")
    assert [gpu.uuid for gpu in machine.gpus] == ["b"]
    assert machine.gpu("cuda:0") is machine.gpus[0] and machine.gpu("cuda:1") is None and machine.gpu("cpu") is None
    assert machine.notes == ()


def test_no_driver_is_a_note_and_no_fault(tmp_path: Path) -> None:
    def connect() -> Nvml:
        raise NoDriver("no NVIDIA driver here")

    machine = detect(proc=tmp_path, sys=tmp_path, nvml=connect)
    assert (machine.gpus, machine.notes, machine.faults) == ((), ("no GPU: no NVIDIA driver here",), ())


def test_a_broken_driver_is_a_fault(tmp_path: Path) -> None:
    machine = detect(proc=tmp_path, sys=tmp_path, nvml=lambda: FakeNvml(broken="Driver/library version mismatch"))
    assert machine.gpus == () and machine.faults == machine.notes == ("no GPU: Driver/library version mismatch",)


def test_hidden_gpus_are_named_as_the_reason(tmp_path: Path) -> None:
    machine = detect(proc=tmp_path, sys=tmp_path, nvml=lambda: FakeNvml([Card("a")]), visible="")
    assert machine.gpus == () and "CUDA_VISIBLE_DEVICES" in machine.notes[0]


def test_this_very_machine() -> None:
    machine = detect()
    assert machine.cpu.cores >= 1 and 0 < machine.available_bytes <= machine.memory_bytes
