"""Weights from files to a GPU at the speed of the disk or of PCIe, whichever is slower.

The files are cut into reads of at most `BLOCK_BYTES` in the order of their offsets. A few lanes (threads) take one after the
other: each reads into one of its two page-locked blocks while the device still copies the other, on a stream of its own.
Bytes of the model's own type go straight into its parameters; a cast, a decoding or a cut of columns is done on the device.
Nothing is read twice, and what another rank holds is not read where its rows lie together. Knows nothing of names. Open
`fill` first. On a CPU there is nothing to overlap: `load.py` fills its models without this file, which only the tests run there.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from redline import log
from redline.errors import CheckpointError
from redline.formats import FORMATS, Format
from redline.quant import decode, plain_dtype

if TYPE_CHECKING:
    from redline.checkpoint.packed import Packed, Source
    from redline.layers.weights import Slot

BLOCK_BYTES = 16 << 20  # of one read: long enough for a disk and for PCIe, short enough that the first copy begins at once
LANES = 8  # a thread copies 6 to 10 GB/s out of the page cache, PCIe 5.0 x16 takes about 55
_BLOCKS = 2  # per lane: one is read into while the other is copied
_DECODED = 1 << 23  # weights that a lane decodes at once: its float32 temporaries take a few times 32 MiB
_GAP_BYTES = 1 << 16  # what is read in vain, between tensors, rather than in two reads

Job = tuple[int, Callable[[], None]]
"""Something else that fills weights: how many, and how. A lane does it on its own stream."""


@dataclass(frozen=True, slots=True)
class Part:
    """Rows `begin` to `end` of a slot's target, `nbytes` bytes that begin at `offset` of their file."""

    slot: Slot
    format: Format
    begin: int
    end: int
    offset: int
    nbytes: int

    @property
    def weights(self) -> int:
        return self.slot.target[self.begin : self.end].numel()


@dataclass(slots=True)
class Read:
    """One stretch of a file, no longer than a block, and the parts that lie in it."""

    path: Path
    offset: int
    end: int
    parts: list[Part] = field(default_factory=list)


def can_stream(slot: Slot, packed: Packed) -> bool:
    """Whether `fill` takes the tensor: a vector or a matrix whose bytes lie in a file row after row."""
    if packed.source is None or not 1 <= len(slot.shape) <= 2 or 0 in slot.shape or packed.shape != slot.shape:
        return False
    format = FORMATS[packed.format]
    per_row = slot.shape[1] if len(slot.shape) == 2 else 1
    return per_row % format.block == 0 and format.nbytes(per_row) <= BLOCK_BYTES


def fill(tensors: Sequence[tuple[Slot, Packed]], jobs: Sequence[Job], device: torch.device, told: Callable[[int], None]) -> None:
    """Fill every slot from its tensor's file, and do `jobs` besides; `told` hears, here, how many weights came again.

    Everything has arrived when this returns. Raises CheckpointError for a file that has shrunk or cannot be read, and what
    the device raises; nothing runs on afterwards.
    """
    sources = [(slot, packed, packed.source) for slot, packed in tensors if packed.source is not None]
    assert len(sources) == len(tensors), "a tensor without a file cannot be streamed"
    reads = plan(sources)
    todo: queue.SimpleQueue[Read | Job] = queue.SimpleQueue()
    tasks: list[Read | Job] = [*reads, *jobs]
    for task in tasks:
        todo.put(task)
    with _opened({read.path for read in reads}) as files:
        _run(_Crew(device, files, todo), min(LANES, _cores(), todo.qsize()), told)


def plan(sources: Iterable[tuple[Slot, Packed, Source]]) -> list[Read]:
    """The reads that bring every tensor once, by file and offset; neighbours share a read."""
    parts = [
        (source.path, part) for slot, packed, source in sources for part in _parts(slot, FORMATS[packed.format], source.offset)
    ]
    reads: list[Read] = []
    for path, part in sorted(parts, key=lambda item: (str(item[0]), item[1].offset)):
        end = part.offset + part.nbytes
        last = reads[-1] if reads else None
        if last and last.path == path and part.offset - last.end <= _GAP_BYTES and end - last.offset <= BLOCK_BYTES:
            last.parts.append(part)
            last.end = end
        else:
            reads.append(Read(path, part.offset, end, [part]))
    return reads


def _parts(slot: Slot, format: Format, offset: int) -> Iterator[Part]:
    """The tensor at `offset` in pieces of whole rows, each of a size that a lane can hold."""
    columns = slot.shape[1] if len(slot.shape) == 2 else 1
    row_bytes = format.nbytes(columns)
    rows = slot.target.shape[0]
    first = slot.start if slot.cut == 0 and rows != slot.shape[0] else 0
    most = max(1, BLOCK_BYTES // row_bytes)
    if plain_dtype(format) != slot.target.dtype:
        most = max(1, min(most, _DECODED // columns))
    for begin in range(0, rows, most):
        end = min(begin + most, rows)
        yield Part(slot, format, begin, end, offset + (first + begin) * row_bytes, (end - begin) * row_bytes)


@contextlib.contextmanager
def _opened(paths: set[Path]) -> Iterator[dict[Path, int]]:
    """File descriptors of `paths`, closed at the end."""
    files: dict[Path, int] = {}
    try:
        for path in paths:
            try:
                files[path] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except OSError as error:
                raise CheckpointError(f"cannot read {path}: {error.strerror}") from error
        yield files
    finally:
        for number in files.values():
            os.close(number)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(eq=False)
class _Crew:
    """What the lanes of one load share."""

    device: torch.device
    files: dict[Path, int]
    todo: queue.SimpleQueue[Read | Job]
    stop: threading.Event = field(default_factory=threading.Event)
    said: queue.SimpleQueue[int | BaseException | None] = field(default_factory=queue.SimpleQueue)
    """Weights that came; an error; None from every lane that ends."""

    def tasks(self) -> Iterator[Read | Job]:
        while not self.stop.is_set():
            try:
                yield self.todo.get_nowait()
            except queue.Empty:
                return


def _run(crew: _Crew, lanes: int, told: Callable[[int], None]) -> None:
    """Let `lanes` threads do the crew's work; what one of them raises ends the others and is raised here."""
    begun = None
    if crew.device.type == "cuda":  # the parameters' memory may still be in use by what this stream was given before
        begun = torch.cuda.Event()
        begun.record(torch.cuda.current_stream(crew.device))
    threads = [threading.Thread(target=_work, args=(crew, begun), name=f"redline-load-{lane}") for lane in range(lanes)]
    error: BaseException | None = None
    try:
        for thread in threads:
            thread.start()
        ended = 0
        while ended < lanes:
            said = crew.said.get()
            if said is None:
                ended += 1
            elif isinstance(said, int):
                told(said)
            else:
                error = error or said
                crew.stop.set()
    finally:
        crew.stop.set()
        for thread in threads:
            if thread.ident is not None:
                thread.join()
    if error is not None:
        raise error


def _work(crew: _Crew, begun: torch.cuda.Event | None) -> None:
    """A lane's life, in its thread."""
    try:
        with torch.no_grad(), contextlib.ExitStack() as stack:
            stream = None
            if begun is not None:
                stream = torch.cuda.Stream(crew.device)
                stack.enter_context(torch.cuda.stream(stream))
                stream.wait_event(begun)
            lane = stack.enter_context(contextlib.closing(_Lane(crew.device, stream)))
            for task in crew.tasks():
                if isinstance(task, Read):
                    lane.bring(crew.files[task.path], task)
                    crew.said.put(sum(part.weights for part in task.parts))
                else:
                    weights, do = task
                    do()
                    crew.said.put(weights)
            if stream is not None:
                stream.synchronize()
    except BaseException as error:
        crew.said.put(error)
    finally:
        crew.said.put(None)


class _Lane:
    """Two blocks of host memory and, where bytes must be decoded, one of the device's."""

    def __init__(self, device: torch.device, stream: torch.cuda.Stream | None):
        self._device, self._stream = device, stream
        self._blocks: list[_Block] = []
        self._next = -1  # the block that was used longest ago comes after it
        self._scratch: Tensor | None = None

    def bring(self, file: int, read: Read) -> None:
        """Read and hand to the device; returns when the bytes are read, while they may still be copied."""
        block = self._block()
        block.read(file, read)
        for part in read.parts:
            begin = part.offset - read.offset
            self._place(block.tensor[begin : begin + part.nbytes], part)
        block.release(self._stream)

    def close(self) -> None:
        for block in self._blocks:
            block.close()

    def _block(self) -> _Block:
        """A block that nobody reads any more; the second is made when it is needed."""
        if len(self._blocks) < _BLOCKS:
            self._blocks.append(_Block(pinned=self._stream is not None))
            return self._blocks[-1]
        self._next = (self._next + 1) % _BLOCKS
        block = self._blocks[self._next]
        block.wait()
        return block

    @torch.inference_mode()  # of this thread: the tensors may have been made under it
    def _place(self, host: Tensor, part: Part) -> None:
        """Put a part's bytes where they belong."""
        slot = part.slot
        out = slot.target[part.begin : part.end]
        columns_cut = len(slot.shape) == 2 and slot.target.shape[1] != slot.shape[1]
        if plain_dtype(part.format) == out.dtype and out.is_contiguous() and not columns_cut:
            out.view(-1).view(torch.uint8).copy_(host, non_blocking=True)
        else:
            raw = self._raw(len(host))
            raw.copy_(host, non_blocking=True)
            if out.is_contiguous() and not columns_cut:
                decode(raw, part.format, out.view(-1))
            else:
                whole = torch.empty((part.end - part.begin, *slot.shape[1:]), dtype=out.dtype, device=out.device)
                decode(raw, part.format, whole.view(-1))
                out.copy_(whole.narrow(slot.cut, slot.start, out.shape[slot.cut]) if columns_cut else whole)
        if slot.offset:
            out.add_(slot.offset)

    def _raw(self, nbytes: int) -> Tensor:
        """Memory of the device for the bytes of one part; the stream's order keeps one part from the next."""
        if self._scratch is None:
            self._scratch = torch.empty(BLOCK_BYTES, dtype=torch.uint8, device=self._device)
        return self._scratch[:nbytes]


class _Block:
    """`BLOCK_BYTES` of host memory, page-locked where the device copies from it on its own."""

    def __init__(self, *, pinned: bool):
        self._memory = mmap.mmap(-1, BLOCK_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        if hasattr(mmap, "MADV_HUGEPAGE"):
            with contextlib.suppress(OSError):  # a kernel without huge pages: locking takes a little longer
                self._memory.madvise(mmap.MADV_HUGEPAGE)
        self._bytes = memoryview(self._memory)
        self.tensor = torch.frombuffer(self._memory, dtype=torch.uint8)
        self._copied = torch.cuda.Event(blocking=True) if pinned else None
        self._pinned = pinned and _pin(self.tensor)

    def read(self, file: int, read: Read) -> None:
        """The stretch's bytes into the block. Raises CheckpointError where the file ends too early or cannot be read."""
        size, done = read.end - read.offset, 0
        try:
            if hasattr(os, "posix_fadvise"):  # all of it is asked of the disk at once, not a readahead window at a time
                os.posix_fadvise(file, read.offset, size, os.POSIX_FADV_WILLNEED)
            while done < size:
                got = os.preadv(file, [self._bytes[done:size]], read.offset + done)
                if got == 0:
                    raise CheckpointError(f"{read.path} became shorter while it was read", hint="pull or copy the file again")
                done += got
        except OSError as error:
            raise CheckpointError(f"cannot read {read.path}: {error.strerror}") from error

    def wait(self) -> None:
        """Until the device has copied what `release` left it."""
        if self._copied is not None:
            self._copied.synchronize()

    def release(self, stream: torch.cuda.Stream | None) -> None:
        """The device may still be reading; `wait` tells."""
        if self._copied is not None:
            self._copied.record(stream)

    def close(self) -> None:
        self.wait()
        if self._pinned:
            torch.cuda.cudart().cudaHostUnregister(self.tensor.data_ptr())


def _pin(host: Tensor) -> bool:
    """Lock the pages of `host` for the device. Where that is refused copies are slower, and still right."""
    runtime = torch.cuda.cudart()
    if runtime.cudaHostRegister(host.data_ptr(), host.nbytes, 0) == runtime.cudaError.success:
        return True
    _forget_error()
    log.fallback("loading", "the system locks no host memory, so weights are copied more slowly")
    return False


def _forget_error() -> None:
    """Take back the runtime's note of a refused call, which torch would else report of its next kernel."""
    with contextlib.suppress(RuntimeError):
        torch.zeros(1, device="cuda")
