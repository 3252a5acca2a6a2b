"""Who works on a job: a lock file that one process holds for as long as it lives, and that its death releases at once.

No clock is asked, so a server that was killed can be followed by the next one without waiting, and one that was only
stopped for a while keeps what is its own. All on one machine. Open `Lease`.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
import uuid
from pathlib import Path

YOUNG_S = 600.0


class Lease:
    """Held from the moment it is made until `release`, or until the process ends in any way."""

    def __init__(self, folder: Path | None) -> None:
        """A new lease among those of `folder`; None where no other process can see the jobs."""
        self.id = uuid.uuid4().hex
        self._folder = folder
        self._file: int | None = None
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._file = os.open(self._path(self.id), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._file, fcntl.LOCK_EX)

    def is_held(self, id: str) -> bool:
        """Whether somebody still holds lease `id`; one that nobody holds is cleared away, and never comes back."""
        if id == self.id:
            return self._folder is None or self._file is not None
        if self._folder is None:
            return False
        try:
            file = os.open(self._path(id), os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        else:
            self._path(id).unlink(missing_ok=True)
            return False
        finally:
            os.close(file)

    def sweep(self) -> None:
        """Clear away leases that nobody holds. Young ones are left alone: theirs may be about to be taken."""
        if self._folder is not None:
            for file in self._folder.glob("*.lock"):
                with contextlib.suppress(FileNotFoundError):
                    if time.time() - file.stat().st_mtime > YOUNG_S:
                        self.is_held(file.stem)

    def release(self) -> None:
        """Give it up. Safe to repeat."""
        if self._file is not None:
            self._path(self.id).unlink(missing_ok=True)
            os.close(self._file)
            self._file = None

    def _path(self, id: str) -> Path:
        assert self._folder is not None
        return self._folder / f"{id}.lock"
