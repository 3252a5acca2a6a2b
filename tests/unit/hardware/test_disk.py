"""A disk is read for real, past the cache where that can be had, and nothing is left behind."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from redline.errors import ConfigError
from redline.hardware import disk
from redline.hardware.machine import Storage


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of some MiB."""
    monkeypatch.setattr(disk, "_BLOCK", 1 << 20)
    monkeypatch.setattr(disk, "_LEAST_BYTES", 4 << 20)
    monkeypatch.setattr(disk, "_FILE_BYTES", 4 << 20)
    monkeypatch.setattr(disk, "_SAMPLE_BYTES", 4 << 20)


def storage(folder: Path, file_system: str = "ext4") -> Storage:
    return Storage(str(folder), file_system, None, 1 << 40, 1 << 40)


def test_a_file_is_written_read_and_removed(tmp_path: Path) -> None:
    probe = disk.read_probe(storage(tmp_path / "models"))  # a folder that is not there yet
    assert probe.run is not None
    samples = probe.run(0.05)
    assert samples.values and all(value > 1e5 for value in samples.values)
    assert "a file written for it" in samples.how
    assert any(way in samples.how for way in (disk.DIRECT, disk.FORGOTTEN, disk.MAYBE_CACHED))
    assert list((tmp_path / "models").iterdir()) == []


def test_a_model_that_is_there_is_read_and_left(tmp_path: Path) -> None:
    folder = tmp_path / "models" / "one"
    folder.mkdir(parents=True)
    (folder / "small").write_bytes(b"x" * 100)
    model = folder / "model.gguf"
    model.write_bytes(os.urandom((5 << 20) + 123))
    (folder / "link").symlink_to(model)
    os.truncate(os.open(folder / "hole", os.O_CREAT | os.O_RDWR), 64 << 20)
    assert disk._largest(tmp_path) == model
    assert "the largest file there" in disk.read(tmp_path, 0.02).how and model.stat().st_size == (5 << 20) + 123


def test_every_block_is_read_once_in_a_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.write_bytes(os.urandom(5 << 20))
    offsets: list[int] = []
    real = os.preadv

    def preadv(handle: int, buffers: list[memoryview], offset: int) -> int:
        offsets.append(offset)
        return real(handle, buffers, offset)

    monkeypatch.setattr(os, "preadv", preadv)
    handle = os.open(path, os.O_RDONLY)
    try:
        disk._sample(handle, 5 << 20, 2 << 20, float("inf"))
    finally:
        os.close(handle)
    assert sorted(offsets) == [0, *(number << 20 for number in (2, 3, 4))]  # four blocks from the third on, around the end


def test_where_direct_reads_are_refused_the_kernel_is_asked_to_forget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, forgotten = os.open, []

    def refuse(path: object, flags: int, *rest: int) -> int:
        if flags & getattr(os, "O_DIRECT", 0):
            raise OSError(22, "Invalid argument")
        return real(path, flags, *rest)  # type: ignore[call-overload,no-any-return]

    monkeypatch.setattr(os, "open", refuse)
    monkeypatch.setattr(os, "posix_fadvise", lambda *call: forgotten.append(call))
    samples = disk.read(tmp_path, 0.02)
    assert disk.FORGOTTEN in samples.how and len(forgotten) == len(samples.values)


def test_memory_is_no_disk_and_an_unknown_folder_is_none(tmp_path: Path) -> None:
    for probe, words in ((disk.read_probe(storage(tmp_path, "tmpfs")), "memory"), (disk.read_probe(None), "not known")):
        assert probe.run is None and words in probe.reason


def test_a_folder_that_takes_no_file_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="none can be written"):
        disk.read(tmp_path / "file" / "below", 0.02)
