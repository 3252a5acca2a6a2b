"""`Packed`: one tensor of a checkpoint as it lies in the file. `map_file` and `view` make it without a copy.

Knows formats and bytes, not models: which tensors a model wants is the loader's business, what the bytes of a block mean
is `quant.blocks`'s. Open `Packed` first.
"""

from __future__ import annotations

import mmap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from redline.errors import CheckpointError
from redline.formats import FORMATS, Format

Array = npt.NDArray[Any]
Buffer = bytes | mmap.mmap

_ELEMENT: dict[str, np.dtype[Any]] = {"f32": np.dtype("<f4"), "f16": np.dtype("<f2"), "bf16": np.dtype("<u2")}


@dataclass(frozen=True, slots=True)
class Source:
    """Where the bytes of a tensor lie, in row-major order without a gap: from byte `offset` of the file `path`."""

    path: Path
    offset: int


@dataclass(frozen=True, eq=False)
class Packed:
    """One named tensor, not unpacked.

    `name` is the Hugging Face name. `format` is a key of `FORMATS`. `shape` is the logical shape, row major: (N, K) for a
    linear layer's weight. `data` is a read-only view of the file: float32, float16, or uint16 for bf16, with one item an
    element; uint8 [..., K // block * block_bytes] for block formats; empty for "random". The leading axes of `data` may
    split those of `shape` more finely, (heads, 2, H / 2) for N = heads * H where rows are taken in another order than the file's;
    in row-major order the rows are the same. `source` is for those who would rather read the file than its map; None where
    the rows lie in another order or there is no file.
    """

    name: str
    format: str
    shape: tuple[int, ...]
    data: Array
    source: Source | None = None

    @property
    def elements(self) -> int:
        return count(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes in the file."""
        return FORMATS[self.format].nbytes(self.elements)


def count(shape: tuple[int, ...]) -> int:
    """Elements of a tensor of `shape`, as an exact integer."""
    total = 1
    for size in shape:
        total *= size
    return total


def map_file(path: Path) -> mmap.mmap:
    """The bytes of `path`, mapped read-only. Raises CheckpointError where it cannot be read or is empty."""
    try:
        with open(path, "rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except ValueError:
        raise CheckpointError(f"{path} is empty", hint="pull or copy the file again") from None
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from error


def view(buffer: Buffer, offset: int, format: Format, shape: tuple[int, ...]) -> Array:
    """The tensor at `offset` of `buffer` as `Packed.data`. The caller has checked that it lies within the buffer."""
    element = _ELEMENT.get(format.name)
    elements = count(shape)
    if element is not None:
        return np.frombuffer(buffer, element, elements, offset).reshape(shape)
    row_bytes = format.nbytes(shape[-1])
    return np.frombuffer(buffer, np.uint8, format.nbytes(elements), offset).reshape(*shape[:-1], row_bytes)


@dataclass(frozen=True)
class Span:
    """Bytes `start` to `end` of a file's data section, and the tensor that claims them."""

    start: int
    end: int
    name: str


def check_spans(label: str, spans: list[Span], size: int, *, gaps: bool) -> None:
    """Raise CheckpointError where a tensor ends past `size`, two overlap, or bytes belong to none and `gaps` is False."""
    previous = Span(0, 0, "the start of the data")
    for span in sorted(spans, key=lambda span: (span.start, span.end)):
        if span.end > size:
            raise CheckpointError(
                f"{label}: tensor {span.name} ends at byte {span.end} of a data section of {size}",
                hint="the file is truncated or corrupt: pull it again",
            )
        if span.start < previous.end:
            raise CheckpointError(
                f"{label}: tensors {previous.name} and {span.name} overlap at byte {span.start} of the data section"
            )
        if not gaps and span.start > previous.end:
            raise CheckpointError(f"{label}: bytes {previous.end} to {span.start} of the data section belong to no tensor")
        previous = span
    if not gaps and previous.end != size:
        raise CheckpointError(f"{label}: the last {size - previous.end} bytes belong to no tensor")
