"""Has the system bring a model's files from the disk into its page cache, in a thread, before anybody reads them.

A process spends seconds on imports before it can read weights; the disk need not wait for that. Files that are in the cache
already cost a fraction of a second of one core. Nothing here fails: whoever opens the model finds out what is wrong with it.
Open `ReadAhead` first.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path

from redline.checkpoint import random, store
from redline.checkpoint.folder import weight_files
from redline.errors import RedlineError

STEP_BYTES = 64 << 20  # asked of the disk at once; `close` waits for no more


class ReadAhead:
    """Reads ahead the files of the model that `name` means, if they are here and no more than `most_bytes` together."""

    def __init__(self, name: str, *, revision: str | None = None, most_bytes: int) -> None:
        self._name, self._revision, self._most = name, revision, most_bytes
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None
        if hasattr(os, "posix_fadvise") and not name.startswith(random.PREFIX):
            self._thread = threading.Thread(target=self._read, name="redline-readahead", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Ask for nothing more; what was asked for still comes."""
        self._closed.set()
        if self._thread is not None:
            self._thread.join()

    def _read(self) -> None:
        try:
            path = store.resolve(self._name, revision=self._revision)
            files = weight_files(path) if path.is_dir() else [path]
            sizes = [file.stat().st_size for file in files]
            if sum(sizes) > self._most:  # it would push out what it has just brought
                return
            for file, size in zip(files, sizes, strict=True):
                self._ask(file, size)
        except (RedlineError, OSError):
            return

    def _ask(self, file: Path, size: int) -> None:
        number = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
        try:
            for begin in range(0, size, STEP_BYTES):
                if self._closed.is_set():
                    return
                os.posix_fadvise(number, begin, STEP_BYTES, os.POSIX_FADV_WILLNEED)
        finally:
            os.close(number)
