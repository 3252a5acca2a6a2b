"""Servers that run on this machine: each writes one file in the run folder of its state folder, and takes it away again.

A file whose process is gone, or whose number belongs to another process by now, is cleared away by whoever looks. Knows
nothing of what a server does. Open `Presence` and `running`.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import msgspec

from redline.engine.message import EngineInfo

PROC = Path("/proc")


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """What a server says of itself. `began` tells its process from a later one of the same number."""

    pid: int
    began: str
    url: str
    model: str
    started: float  # Unix time
    device: str = ""
    dtype: str = ""
    max_model_len: int | None = None  # None: it is not ready


def seen(url: str, model: str, started: float, info: EngineInfo | None) -> Seen:
    """This process as a server at `url`; `info` once it is ready."""
    pid = os.getpid()
    known = Seen(pid=pid, began=began(pid), url=url, model=model, started=started)
    if info is None:
        return known
    return msgspec.structs.replace(known, device=info.device, dtype=info.dtype, max_model_len=info.max_model_len)


class Presence:
    """The file of this process. A folder that cannot be written only means that nobody sees the server."""

    def __init__(self, state_dir: Path) -> None:
        self._file = state_dir / "run" / f"{os.getpid()}.json"

    def tell(self, seen: Seen) -> None:
        """Say it, or say it anew."""
        with contextlib.suppress(OSError):
            self._file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            part = self._file.with_suffix(".part")
            part.write_bytes(msgspec.json.encode(seen))
            os.replace(part, self._file)

    def leave(self) -> None:
        with contextlib.suppress(OSError):
            self._file.unlink(missing_ok=True)


def running(state_dir: Path) -> Iterator[Seen]:
    """The servers of a state folder that are there, the oldest first."""
    found = []
    for file in sorted((state_dir / "run").glob("*.json")):
        try:
            seen = msgspec.json.decode(file.read_bytes(), type=Seen)
        except (OSError, msgspec.MsgspecError):
            seen = None
        if seen is not None and seen.began and began(seen.pid) == seen.began:
            found.append(seen)
        else:
            with contextlib.suppress(OSError):
                file.unlink()
    yield from sorted(found, key=lambda seen: seen.started)


def began(pid: int) -> str:
    """When a process began, in a form that only serves to be compared; "" where there is none (or no /proc to ask)."""
    try:
        fields = (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return "" if PROC.is_dir() or not _is_there(pid) else "there"
    return "" if fields[0] == "Z" else fields[19]


def rss_bytes(pid: int) -> int | None:
    """Resident memory of a process and of all its descendants; None where nobody can tell."""
    try:
        own = int((PROC / str(pid) / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        tasks = [task / "children" for task in (PROC / str(pid) / "task").iterdir()]
        children = [int(child) for file in tasks for child in file.read_text().split()]
    except (OSError, ValueError):
        return None
    return own + sum(rss_bytes(child) or 0 for child in children)


def _is_there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return True
