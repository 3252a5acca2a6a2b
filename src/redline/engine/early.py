"""What a start does beside the import of torch, as it needs neither torch nor each other, and what it leaves undone: see `Early`."""

from __future__ import annotations

import gc
from pathlib import Path

from redline.checkpoint.readahead import ReadAhead
from redline.hardware.context import EarlyContext
from redline.hardware.host import read_memory


class Early:
    """The device is opened and the model's files come from the disk, until `close`; not for "cpu".

    The files are read ahead where they take at most half of the memory that is free. The garbage collector rests: it would walk
    through torch again and again while that is imported, a seventh of the time. Nothing here fails.
    """

    def __init__(self, model: str, revision: str | None, device: str) -> None:
        self._collects = gc.isenabled()
        gc.disable()
        self._context = EarlyContext(device)
        self._files: ReadAhead | None = None
        if device != "cpu":
            _, available = read_memory(Path("/proc"), Path("/sys"))
            self._files = ReadAhead(model, revision=revision, most_bytes=available // 2)

    def close(self) -> None:
        """Once the engine is built, or will not be."""
        if self._files is not None:
            self._files.close()
        self._context.close()
        if self._collects:
            gc.enable()
