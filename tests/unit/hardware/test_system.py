"""Disks and the models' folder are told from /sys and /proc, and what is hidden is not told."""

from __future__ import annotations

import os
from pathlib import Path

from redline.hardware.machine import Disk
from redline.hardware.system import read_disks, read_storage


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_whole_disks_of_every_kind(tmp_path: Path) -> None:
    for name, rotational in {"nvme0n1": "0", "sda": "1", "sdb": "0", "vda": "1", "loop0": "0", "zram0": "0"}.items():
        write(tmp_path / "block" / name / "size", "2048\n")
        write(tmp_path / "block" / name / "queue/rotational", rotational + "\n")
    write(tmp_path / "block/nvme0n1/device/model", "Samsung 990      \n")
    write(tmp_path / "block/sr0/size", "2048\n")
    write(tmp_path / "block/sdc/size", "0\n")  # a card reader without a card
    disks = read_disks(tmp_path)
    assert disks is not None and disks[0] == Disk("nvme0n1", "nvme", 1 << 20, "Samsung 990")
    assert {disk.name: disk.kind for disk in disks} == {"nvme0n1": "nvme", "sda": "hdd", "sdb": "ssd", "vda": "virtual"}
    assert read_disks(tmp_path / "nothing") is None


def test_the_models_folder_lies_on_the_disk_of_its_partition(tmp_path: Path) -> None:
    device = os.stat(tmp_path).st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    partition = tmp_path / "sys/devices/pci/nvme0n1/nvme0n1p2"
    write(partition / "partition", "2\n")
    (tmp_path / "sys/dev/block").mkdir(parents=True)
    (tmp_path / "sys/dev/block" / number).symlink_to(partition)
    write(
        tmp_path / "proc/self/mountinfo", f"22 1 0:21 / /proc rw - proc proc rw\n30 1 {number} / / rw shared:1 - xfs /dev/x rw\n"
    )
    storage = read_storage(tmp_path / "not/yet/made", tmp_path / "proc", tmp_path / "sys")
    assert storage is not None and (storage.disk, storage.file_system) == ("nvme0n1", "xfs")
    assert 0 < storage.free_bytes <= storage.size_bytes and storage.folder.endswith("made")
    hidden = read_storage(tmp_path, tmp_path / "no proc", tmp_path / "no sys")
    assert hidden is not None and (hidden.disk, hidden.file_system) == (None, None)
