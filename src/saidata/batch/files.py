"""Files of users, there whole or not at all, whatever ends the process: `write`, `read`, and `sweep` after a killed process."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

from saidata import places
from saidata.errors import Refused, SaidataError
from saidata.places import TEMPORARY


def write(path: Path, text: str) -> None:
    """`text` in `path`, on the disk when this returns. A file that is there keeps its mode; a link to one is replaced, not followed.

    Raises Refused where the disk is full or the folder cannot be written; `path` is then as it was.
    """
    mode = 0o666 & ~_umask()
    with contextlib.suppress(OSError):
        before = path.lstat().st_mode
        if stat.S_ISREG(before):
            mode = stat.S_IMODE(before)
    places.put(path, text.encode(), mode=mode, sync=True)


def read(path: Path) -> str | None:
    """The text of a file, None where there is none. Raises SaidataError for one that cannot be read."""
    try:
        return path.read_bytes().decode()
    except FileNotFoundError:
        return None
    except UnicodeDecodeError as error:
        raise SaidataError(f"{path} is not UTF-8", hint="move it away") from error
    except OSError as error:
        raise Refused(error, f"{path} cannot be read") from error


def sweep(folder: Path) -> int:
    """Take away what killed processes left half-written below `folder`; how many. Only while nobody writes there."""
    swept = 0
    for path in folder.rglob(TEMPORARY + "*"):
        with contextlib.suppress(OSError):
            path.unlink()
            swept += 1
    return swept


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
