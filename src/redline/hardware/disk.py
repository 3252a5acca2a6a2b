"""How fast files are read where models lie, past the kernel's page cache where the file system lets that be had.

Blocks are read by a few threads at once, as fast disks need it. The largest file of the folder serves, or one that is written
for it and removed. Knows nothing of models. Open `read_probe`.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from redline.errors import ConfigError
from redline.hardware.machine import Storage
from redline.hardware.survey import Probe, Samples

_BLOCK = 4 << 20
_THREADS = 4
_SAMPLE_BYTES = 64 << 20
_FILE_BYTES = 256 << 20  # of a file that is written
_LEAST_BYTES = 16 << 20
_LOOKED_AT = 20_000  # files of the folder
_IN_MEMORY = ("tmpfs", "ramfs")
_SECONDS = 1.5

DIRECT = "past the page cache (O_DIRECT)"
FORGOTTEN = "the kernel was asked to forget the file first (posix_fadvise DONTNEED)"
MAYBE_CACHED = "perhaps from the page cache, which this system does not let be passed"


def read_probe(storage: Storage | None) -> Probe:
    """The probe of the disk below `storage`."""
    name = "disk read"
    if storage is None:
        return Probe(name, "bytes/s", None, reason="it is not known where models lie")
    if storage.file_system in _IN_MEMORY:
        return Probe(name, "bytes/s", None, reason=f"models lie on {storage.file_system}, which is memory: no disk is read")
    folder = Path(storage.folder)
    return Probe(name, "bytes/s", lambda seconds: read(folder, seconds), _SECONDS)


def read(folder: Path, seconds: float) -> Samples:
    """bytes/s of files of `folder`. Raises ConfigError where no file is there and none can be written."""
    until = time.monotonic() + seconds
    with contextlib.suppress(OSError):  # nothing was kept there yet
        folder.mkdir(parents=True, exist_ok=True)
    with _file(folder, until) as path:
        handle, how = _opened(path)
        try:
            size = os.fstat(handle).st_size // _BLOCK * _BLOCK
            values: list[float] = []
            offset = 0
            while not values or time.monotonic() < until:
                if how is FORGOTTEN:
                    os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
                values.append(_sample(handle, size, offset, until + seconds))
                offset = (offset + _SAMPLE_BYTES) % size
        finally:
            os.close(handle)
        whose = "a file written for it" if path.name.startswith(_MARK) else "the largest file there"
        return Samples(values, f"{whose} in {folder}, {_THREADS} threads, {how}")


_MARK = ".redline-disk-"


@contextlib.contextmanager
def _file(folder: Path, until: float) -> Iterator[Path]:
    """A file large enough: one of the folder, else one written there until half of the time is used."""
    found = _largest(folder)
    if found is not None:
        yield found
        return
    half = time.monotonic() + (until - time.monotonic()) / 2
    try:
        handle, name = tempfile.mkstemp(prefix=_MARK, dir=folder)
    except OSError as error:
        raise ConfigError(f"{folder} holds no large file, and none can be written: {error.strerror}") from error
    path = Path(name)
    try:
        try:
            _write(handle, half)
        except OSError as error:
            raise ConfigError(f"{folder} holds no large file, and none can be written: {error.strerror}") from error
        finally:
            os.close(handle)
        yield path
    finally:
        path.unlink(missing_ok=True)


def _largest(folder: Path) -> Path | None:
    """The largest file below `folder`, if it is large enough; links are not followed."""
    best, size, looked = None, _FILE_BYTES - 1, 0
    for place, _, names in os.walk(folder):
        for name in names:
            path, looked = Path(place, name), looked + 1
            with contextlib.suppress(OSError):
                stat = path.lstat()
                # Holes of a sparse file are read from nowhere.
                if (
                    not path.is_symlink()
                    and stat.st_size > size
                    and stat.st_blocks * 512 >= stat.st_size
                    and os.access(path, os.R_OK)
                ):
                    best, size = path, stat.st_size
        if looked > _LOOKED_AT:
            break
    return best


def _write(handle: int, until: float) -> None:
    """Random bytes, on the disk when this returns."""
    written = 0
    while written < _LEAST_BYTES or (written < _FILE_BYTES and time.monotonic() < until):
        for _ in range(_LEAST_BYTES // _BLOCK):
            block = os.urandom(_BLOCK)
            while block:
                block = block[os.write(handle, block) :]
        os.fdatasync(handle)
        written += _LEAST_BYTES


def _opened(path: Path) -> tuple[int, str]:
    """The open file, and how it is kept from being read out of memory."""
    direct = getattr(os, "O_DIRECT", None)
    if direct is not None:
        with contextlib.suppress(OSError):  # opened or read: file systems refuse at the one or the other
            handle = os.open(path, os.O_RDONLY | direct)
            try:
                with mmap.mmap(-1, _BLOCK) as buffer:
                    os.preadv(handle, [buffer], 0)
                return handle, DIRECT
            except BaseException:
                os.close(handle)
                raise
    return os.open(path, os.O_RDONLY), FORGOTTEN if hasattr(os, "posix_fadvise") else MAYBE_CACHED


def _sample(handle: int, size: int, offset: int, until: float) -> float:
    """bytes/s of the blocks from `offset` on, around the end of the file; those that would come too late are left out."""
    blocks = min(_SAMPLE_BYTES, size) // _BLOCK

    def some(first: int) -> int:
        done = 0
        with mmap.mmap(-1, _BLOCK) as buffer:  # at the beginning of a page, as O_DIRECT needs it
            for block in range(first, blocks, _THREADS):
                if done and time.monotonic() > until:
                    break
                done += os.preadv(handle, [buffer], (offset + block * _BLOCK) % size)
        return done

    began = time.monotonic()
    with ThreadPoolExecutor(_THREADS) as pool:
        total = sum(pool.map(some, range(_THREADS)))
    return total / (time.monotonic() - began)
