"""A batch between two files on this machine: lines of one, results in the other, and what is done so far beside it.

Results are appended to OUTPUT.partial and are on the disk before they count; at the end they are put in the order of the
input under their own name. A run that ended in any way is gone on with by the next one of the same input and model.
Knows nothing of who answers. Open `FileBatch`.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import os
from collections import deque
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, NamedTuple

import msgspec

from redline.errors import ConfigError, InvalidRequest, NotFound
from redline.server.batch_lines import Fault, model_of, read_lines
from redline.server.batch_store import Line, Result

FORMAT = 1
COPY_BYTES = 1 << 20
MAX_SHOWN = 5  # faults of an input that are told


class _Head(msgspec.Struct):
    """The first line of a partial file: what its results are of."""

    redline_batch: int
    input_sha256: str
    model: str


class _Response(msgspec.Struct):
    status_code: int


class _Row(msgspec.Struct):
    custom_id: str
    response: _Response | None = None

    @property
    def good(self) -> bool:
        return self.response is not None and self.response.status_code == 200


class Place(NamedTuple):
    start: int
    size: int


_row = msgspec.json.Decoder(_Row)


class Input:
    """A batch file that was read through. Raises NotFound, or InvalidRequest with the first lines that are not valid."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines: list[Line] = []
        self.models: set[str | None] = set()
        faults: list[Fault] = []
        try:
            with path.open("rb") as file:
                for found in read_lines(file, None, most_lines=2**62):
                    if isinstance(found, Fault):
                        faults.append(found)
                    else:
                        self.lines.append(found)
                for line in self.lines if not faults else ():
                    file.seek(line.start)
                    self.models.add(model_of(file.read(line.size)))
                file.seek(0)
                self.sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise NotFound(f"{path} cannot be read: {error.strerror}", param="input") from error
        if faults:
            told = "; ".join(
                f"line {fault.line}: {fault.message}" if fault.line else fault.message for fault in faults[:MAX_SHOWN]
            )
            more = f"; and {len(faults) - MAX_SHOWN} more" if len(faults) > MAX_SHOWN else ""
            raise InvalidRequest(f"{path} is not a batch file: {told}{more}", param="input")


class FileBatch:
    """The lines of `input` that have no result in `output` yet, and a place for their results. Use as a context manager.

    `told` hears how many results are kept, and how many of them are errors, whenever that changes.
    """

    def __init__(
        self, input: Input, output: Path, model: str, told: Callable[[int, int], None] = lambda done, failed: None
    ) -> None:
        """Raises ConfigError where the output is of something else, or another run is at it."""
        self._input = input
        self._output = output
        self._partial = output.with_name(output.name + ".partial")
        self._head = _Head(FORMAT, input.sha256, model)
        self._told = told
        self._places: dict[str, Place] = {}
        self.failed = 0
        self._file: BinaryIO | None = None
        self._lines: BinaryIO | None = None
        self._pending: deque[Line] = deque()

    @property
    def total(self) -> int:
        return len(self._input.lines)

    @property
    def done(self) -> int:
        return len(self._places)

    def __enter__(self) -> FileBatch:
        try:
            self._open()
        except OSError as error:
            self._close()
            raise ConfigError(f"{self._partial} cannot be written: {error.strerror}", param="output") from error
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._close()

    async def take(self, count: int) -> list[Line]:
        return [self._pending.popleft() for _ in range(min(count, len(self._pending)))]

    async def read(self, line: Line) -> bytes:
        assert self._lines is not None
        self._lines.seek(line.start)
        return self._lines.read(line.size)

    async def finish(self, results: list[Result]) -> None:
        """Results are kept once this returns."""
        await asyncio.to_thread(self._append, b"".join(result.text for result in results))
        for result in results:
            self._remember(result.text)
        self._told(self.done, self.failed)

    def complete(self) -> None:
        """Every line has a result: write them in the order of the input, and take the partial file away."""
        assert self._file is not None and self.done == self.total
        whole = self._output.with_name(self._output.name + ".tmp")
        with whole.open("wb") as file:
            for line in self._input.lines:
                place = self._places[line.custom_id]
                self._file.seek(place.start)
                file.write(self._file.read(place.size))
            file.flush()
            os.fsync(file.fileno())
        os.replace(whole, self._output)
        _sync(self._output.parent)
        self._partial.unlink(missing_ok=True)

    def _open(self) -> None:
        self._file = os.fdopen(os.open(self._partial, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644), "rb+")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(f"another run is writing {self._partial}", hint="wait for it", param="output") from error
        known = {line.custom_id for line in self._input.lines}
        first = self._file.readline()
        if first.endswith(b"\n"):
            self._go_on(first, known)
        else:  # new, or its very first write was cut off
            self._file.seek(0)
            self._file.truncate()
            self._append(msgspec.json.encode(self._head) + b"\n")
            _sync(self._partial.parent)
        self._pending.extend(line for line in self._input.lines if line.custom_id not in self._places)
        self._lines = self._input.path.open("rb")

    def _go_on(self, first: bytes, known: set[str]) -> None:
        """Take over what an earlier run has done; a last line that was cut off does not count."""
        assert self._file is not None
        try:
            head = msgspec.json.decode(first, type=_Head)
        except msgspec.MsgspecError:
            head = None
        if head != self._head:
            raise ConfigError(
                f"{self._partial} holds results of another input or another model",
                hint=f"remove it, or name another output than {self._output}",
                param="output",
            )
        at = len(first)
        while text := self._file.readline():
            try:
                row = _row.decode(text) if text.endswith(b"\n") else None
            except msgspec.MsgspecError:
                row = None
            if row is None or row.custom_id not in known:
                break
            self._places[row.custom_id] = Place(at, len(text))
            self.failed += not row.good
            at += len(text)
        self._file.seek(at)
        self._file.truncate()

    def _append(self, data: bytes) -> None:
        assert self._file is not None
        self._file.seek(0, os.SEEK_END)
        self._end = self._file.tell()
        self._file.write(data)
        self._file.flush()
        os.fsync(self._file.fileno())

    def _remember(self, text: bytes) -> None:
        row = _row.decode(text)
        self._places[row.custom_id] = Place(self._end, len(text))
        self.failed += not row.good
        self._end += len(text)

    def _close(self) -> None:
        for file in (self._file, self._lines):
            if file is not None:
                file.close()


def is_done(input: Input, output: Path) -> int | None:
    """How many errors a complete output of `input` has, None where there is no output.

    Raises ConfigError for a file there that is older than the input or of other lines.
    """
    try:
        file = output.open("rb")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError(f"{output} cannot be used: {error.strerror}", param="output") from error
    with file:
        rows: list[_Row] = []
        with contextlib.suppress(msgspec.MsgspecError):
            rows = [_row.decode(text) for text in file]
        if [row.custom_id for row in rows] != [line.custom_id for line in input.lines] or (
            os.fstat(file.fileno()).st_mtime < input.path.stat().st_mtime
        ):
            raise ConfigError(
                f"{output} is there already, and is not the result of {input.path}",
                hint="remove it, or name another output",
                param="output",
            )
        return sum(not row.good for row in rows)


def _sync(folder: Path) -> None:
    file = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
