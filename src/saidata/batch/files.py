"""Files that are there whole or not at all, whatever ends the process: `write`."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from pathlib import Path

from saidata.errors import SaidataError

TEMPORARY = ".saidata-"


def write(path: Path, text: str) -> None:
    """`text` in `path`, on the disk when this returns. Written beside it and put in its place in one move.

    Raises SaidataError where the disk is full or the folder cannot be written; `path` is then as it was.
    """
    temporary = ""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(prefix=TEMPORARY, dir=path.parent)
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as file:
            os.fchmod(file.fileno(), 0o644 & ~_umask())
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync(path.parent)
    except BaseException as error:
        if temporary:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
        if isinstance(error, OSError):
            raise SaidataError(f"{path} cannot be written: {error.strerror}", hint=_hint(error)) from error
        raise


def read(path: Path) -> str | None:
    """The text of a file, None where there is none. Raises SaidataError for one that cannot be read."""
    try:
        return path.read_bytes().decode()
    except FileNotFoundError:
        return None
    except UnicodeDecodeError as error:
        raise SaidataError(f"{path} is not UTF-8", hint="move it away") from error
    except OSError as error:
        raise SaidataError(f"{path} cannot be read: {error.strerror}") from error


def sweep(folder: Path) -> int:
    """Take away what killed processes left half-written below `folder`; how many. Only while nobody writes there."""
    swept = 0
    for path in folder.rglob(TEMPORARY + "*"):
        with contextlib.suppress(OSError):
            path.unlink()
            swept += 1
    return swept


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _hint(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "the disk is full: make room, then go on"
    return "is the folder writable?" if error.errno in (errno.EACCES, errno.EROFS) else ""
