"""The computer around processor and GPUs: its product name and kernel, the NVIDIA cards on its bus, its disks, the models' folder.

All from /proc and /sys, whose paths are arguments; what cannot be read is not told. Knows nothing of NVML: what the bus shows
here is how a driver that is missing, or not passed into a container, is told from a machine without a card. Open
`read_disks`, `read_storage` and `cards_on_bus`.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from redline.hardware.machine import Disk, Storage

_NVIDIA, _DISPLAY = "0x10de", "0x03"  # PCI vendor; first byte of the class of display controllers
_SECTOR = 512  # /sys/block counts sectors of 512 bytes, whatever the disk's own are
_NO_DISKS = ("loop", "ram", "zram", "dm-", "md", "sr", "fd", "nbd")
_TEGRA = ("nvidia,tegra",)


@dataclass(frozen=True)
class BusCard:
    """An NVIDIA display controller on the PCI bus, and the kernel module bound to it."""

    bus_id: str
    module: str | None


def read_text(path: Path) -> str | None:
    """A file of /proc or /sys without the zero bytes and blanks at its end; None where it cannot be read."""
    try:
        return path.read_text(errors="replace").strip("\0 \n\t")
    except OSError:
        return None


def product(sys: Path, proc: Path) -> str | None:
    """What its maker calls the computer: from the device tree (Jetson) or the firmware's tables."""
    tree = read_text(proc / "device-tree" / "model") or read_text(sys / "firmware/devicetree/base/model")
    names = (read_text(sys / "class/dmi/id" / name) for name in ("sys_vendor", "product_name"))
    return tree or " ".join(name for name in names if name) or None


def kernel(proc: Path) -> str | None:
    return read_text(proc / "sys/kernel/osrelease")


def in_container(root: Path, proc: Path) -> bool:
    """Whether a container runtime left its mark. `root` is the folder that holds `.dockerenv`."""
    if (root / ".dockerenv").exists() or (root / "run/.containerenv").exists():
        return True
    groups = read_text(proc / "1" / "cgroup") or ""
    return re.search(r"docker|containerd|kubepods|libpod|lxc", groups) is not None


def cards_on_bus(sys: Path) -> tuple[BusCard, ...] | None:
    """NVIDIA's display controllers on the PCI bus; None where the bus cannot be seen."""
    folder = sys / "bus/pci/devices"
    if not folder.is_dir():
        return None
    found = []
    for place in sorted(folder.iterdir()):
        if read_text(place / "vendor") == _NVIDIA and (read_text(place / "class") or "").startswith(_DISPLAY):
            link = place / "driver"
            found.append(BusCard(place.name, os.path.basename(os.path.realpath(link)) if link.exists() else None))
    return tuple(found)


def is_tegra(proc: Path, sys: Path) -> bool:
    """Whether this is a Jetson, whose GPU is on no bus."""
    names = read_text(proc / "device-tree/compatible") or read_text(sys / "firmware/devicetree/base/compatible") or ""
    return any(mark in names for mark in _TEGRA)


def kernel_module(proc: Path) -> str | None:
    """Version of the loaded NVIDIA kernel module, or None."""
    text = read_text(proc / "driver/nvidia/version") or ""
    match = re.search(r"\s(\d+\.\d+(?:\.\d+)?)\s", text)
    return match.group(1) if match else None


def numa_node(sys: Path, bus_id: str) -> int | None:
    """The memory node that a card's slot belongs to; None where the machine has one alone or does not tell."""
    text = read_text(sys / "bus/pci/devices" / bus_id / "numa_node")
    return int(text) if text and int(text) >= 0 else None


def process_name(proc: Path, pid: int) -> str | None:
    return read_text(proc / str(pid) / "comm")


def read_disks(sys: Path) -> tuple[Disk, ...] | None:
    """Whole disks, or None where they cannot be seen."""
    folder = sys / "block"
    if not folder.is_dir():
        return None
    found = []
    for place in sorted(folder.iterdir()):
        if place.name.startswith(_NO_DISKS):
            continue
        sectors = read_text(place / "size")
        size = int(sectors) * _SECTOR if sectors and sectors.isdigit() else None
        if size:
            found.append(Disk(place.name, _kind(place), size, read_text(place / "device/model") or None))
    return tuple(found)


def _kind(place: Path) -> str:
    """A virtual disk says "rotational" or not as its host pleases, so it is only called virtual."""
    if place.name.startswith("nvme"):
        return "nvme"
    if place.name.startswith(("vd", "xvd")):
        return "virtual"
    return "hdd" if read_text(place / "queue/rotational") == "1" else "ssd"


def read_storage(folder: Path, proc: Path, sys: Path) -> Storage | None:
    """Where `folder` lies, or would lie if it were made; None where no part of its path can be read."""
    place = next((step for step in (folder, *folder.parents) if step.exists()), None)
    if place is None:
        return None
    try:
        space, device = os.statvfs(place), place.stat().st_dev
    except OSError:
        return None
    return Storage(
        folder=str(folder),
        file_system=_file_system(proc, f"{os.major(device)}:{os.minor(device)}"),
        disk=_disk(sys, f"{os.major(device)}:{os.minor(device)}"),
        size_bytes=space.f_blocks * space.f_frsize,
        free_bytes=space.f_bavail * space.f_frsize,
    )


def _file_system(proc: Path, device: str) -> str | None:
    """The type in /proc/self/mountinfo: after the dash that ends the optional fields."""
    for line in (read_text(proc / "self/mountinfo") or "").splitlines():
        fields = line.split()
        if len(fields) > 6 and fields[2] == device and "-" in fields:
            return fields[fields.index("-") + 1]
    return None


def _disk(sys: Path, device: str) -> str | None:
    """The whole disk of a device number: a partition's folder lies in its disk's."""
    link = sys / "dev/block" / device
    if not link.exists():
        return None
    place = Path(os.path.realpath(link))
    return place.parent.name if (place / "partition").exists() else place.name
