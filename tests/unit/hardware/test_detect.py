"""Detection never fails for want of hardware: what is missing becomes a note with its reason."""

from __future__ import annotations

from pathlib import Path

import pytest

from fake_nvml import GIB, Card, FakeNvml
from redline.hardware.detect import detect
from redline.hardware.machine import Driver
from redline.hardware.nvml import NoDriver, Nvml


def test_gpus_of_a_working_driver(tmp_path: Path) -> None:
    machine = detect(proc=tmp_path, sys=tmp_path, nvml=lambda: FakeNvml([Card("a"), Card("b")]), visible="1")
    assert [gpu.uuid for gpu in machine.gpus] == ["b"]
    assert machine.gpu("cuda:0") is machine.gpus[0] and machine.gpu("cuda:1") is None and machine.gpu("cpu") is None
    assert machine.notes == () and machine.driver == Driver("580.159.04", (13, 0))


def no_library() -> Nvml:
    raise NoDriver("no NVIDIA driver here: libnvidia-ml.so.1 was not found")


def test_no_driver_is_a_note_and_no_fault(tmp_path: Path) -> None:
    machine = detect(proc=tmp_path, sys=tmp_path / "sys", nvml=no_library)
    note = "no GPU: no NVIDIA driver here: libnvidia-ml.so.1 was not found"
    assert (machine.gpus, machine.notes[0], machine.broken) == ((), note, ())
    assert machine.faults == (f"memory is unknown: {tmp_path / 'meminfo'} cannot be read",) or machine.memory_bytes > 0
    assert {"disks", "product"} <= dict(machine.untold).keys()


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_a_card_on_the_bus_without_a_driver_is_told(tmp_path: Path) -> None:
    """What the bus shows: a card bound to nouveau, and a network controller of the same maker."""
    devices = tmp_path / "sys/bus/pci/devices"
    for place, kind in {"0000:3b:00.0": "0x030200", "0000:5e:00.0": "0x020000"}.items():
        write(devices / place / "vendor", "0x10de\n")
        write(devices / place / "class", kind + "\n")
    (tmp_path / "sys/bus/pci/drivers/nouveau").mkdir(parents=True)
    (devices / "0000:3b:00.0/driver").symlink_to(tmp_path / "sys/bus/pci/drivers/nouveau")
    machine = detect(proc=tmp_path / "proc", sys=tmp_path / "sys", nvml=no_library)
    (broken,) = machine.broken
    assert "0000:3b:00.0 (bound to nouveau)" in broken and "5e" not in broken and "install one" in broken


def test_a_container_without_the_drivers_library_is_told(tmp_path: Path) -> None:
    version = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.159.04  Release Build\nGCC version: 12\n"
    write(tmp_path / "proc/driver/nvidia/version", version)
    machine = detect(proc=tmp_path / "proc", sys=tmp_path / "sys", nvml=no_library)
    assert "kernel module 580.159.04 is loaded" in machine.broken[0] and "--gpus all" in machine.broken[0]


def test_a_jetson_without_its_libraries_is_told(tmp_path: Path) -> None:
    write(tmp_path / "proc/device-tree/compatible", "nvidia,p3737-0000+p3701-0005\0nvidia,tegra234\0")
    write(tmp_path / "proc/device-tree/model", "NVIDIA Jetson AGX Orin Developer Kit\0")
    machine = detect(proc=tmp_path / "proc", sys=tmp_path / "sys", nvml=no_library)
    assert "JetPack" in machine.broken[0] and machine.product == "NVIDIA Jetson AGX Orin Developer Kit"


def test_a_broken_driver_is_a_fault(tmp_path: Path) -> None:
    machine = detect(proc=tmp_path, sys=tmp_path, nvml=lambda: FakeNvml(broken="Driver/library version mismatch"))
    assert machine.gpus == () and machine.broken == machine.notes[-1:] == ("no GPU: Driver/library version mismatch",)
    assert machine.driver is None


def test_hidden_gpus_are_named_as_the_reason(tmp_path: Path) -> None:
    machine = detect(proc=tmp_path, sys=tmp_path, nvml=lambda: FakeNvml([Card("a")]), visible="")
    assert machine.gpus == () and "CUDA_VISIBLE_DEVICES" in machine.notes[0]


def test_this_very_machine() -> None:
    machine = detect()
    assert machine.cpu.cores >= 1 and 0 < machine.available_bytes <= machine.memory_bytes


def test_a_lost_card_is_a_fault_and_the_others_stay(tmp_path: Path) -> None:
    machine = detect(proc=tmp_path, sys=tmp_path, nvml=lambda: FakeNvml([Card("a"), Card("b", lost="GPU is lost")]))
    assert [gpu.uuid for gpu in machine.gpus] == ["a"] and machine.broken == ("GPU 1 of the driver does not answer: GPU is lost",)


def test_mig_mode_without_a_slice_is_the_reason(tmp_path: Path) -> None:
    machine = detect(proc=tmp_path, sys=tmp_path, nvml=lambda: FakeNvml([Card("a", mig=(True, True))]))
    assert machine.gpus == () and "nvidia-smi mig" in machine.notes[0]


def test_a_driver_that_does_not_tell_its_cuda_version(tmp_path: Path) -> None:
    machine = detect(proc=tmp_path, sys=tmp_path, nvml=lambda: FakeNvml([Card("a")], cuda_version=None))
    assert machine.driver == Driver("580.159.04", None) and dict(machine.untold)["driver.cuda"] == "Not Supported"


def test_memory_node_and_names_of_the_programs_on_a_card(tmp_path: Path) -> None:
    card = Card("a", processes=((4321, 20 * GIB), (77, None)))
    write(tmp_path / "sys/bus/pci/devices/0000:3b:00.0/numa_node", "1\n")
    write(tmp_path / "proc/4321/comm", "python\n")

    def look(root: Path) -> list[str | None]:
        machine = detect(proc=tmp_path / "proc", sys=tmp_path / "sys", root=root, nvml=lambda: FakeNvml([card]))
        assert machine.gpus[0].numa_node == 1 and machine.gpus[0].processes is not None
        return [process.name for process in machine.gpus[0].processes]

    assert look(tmp_path) == ["python", None]
    write(tmp_path / ".dockerenv", "")
    assert look(tmp_path) == [None, None]  # a container's /proc would name another program


def test_a_unified_gpu_takes_the_hosts_memory(tmp_path: Path) -> None:
    write(tmp_path / "proc/meminfo", "MemTotal: 125829120 kB\nMemAvailable: 104857600 kB\n")
    card = Card("a", "NVIDIA GB10", (12, 1), total=None)
    machine = detect(proc=tmp_path / "proc", sys=tmp_path / "sys", nvml=lambda: FakeNvml([card]))
    gpu = machine.gpus[0]
    assert (gpu.memory_bytes, gpu.free_bytes, gpu.memory_kind) == (120 * GIB, 100 * GIB, "unified")


@pytest.mark.parametrize("mark", [".dockerenv", "run/.containerenv"])
def test_containers_are_known_by_their_marks(tmp_path: Path, mark: str) -> None:
    assert not detect(proc=tmp_path, sys=tmp_path, root=tmp_path, nvml=no_library).container
    write(tmp_path / mark, "")
    assert detect(proc=tmp_path, sys=tmp_path, root=tmp_path, nvml=no_library).container
