"""One safetensors file: its header checked by redline itself, its tensors mapped and never copied.

Layout: u64 header size (little endian), a JSON object of name to {dtype, shape, data_offsets}, then the data, which the
tensors fill without gap or overlap; the key `__metadata__` is a free map of strings. Knows nothing of models: the names are
passed on as they are. Open `read_file` first; source of the rules: the format's own README and reference implementation.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from redline.checkpoint.json_file import MOST_BYTES, parse_object
from redline.checkpoint.packed import Buffer, Packed, Source, Span, check_spans, count, map_file, view
from redline.errors import CheckpointError, UnsupportedModel
from redline.formats import FORMATS, Format

MOST_AXES = 8
MOST_NAME = 1 << 10

_FORMATS = {"F32": "f32", "F16": "f16", "BF16": "bf16"}
_ELEMENT_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "U16": 2, "I16": 2, "F16": 2, "BF16": 2,
    "U32": 4, "I32": 4, "F32": 4, "U64": 8, "I64": 8, "F64": 8, "C64": 8,
}  # fmt: skip


@dataclass(frozen=True)
class TensorEntry:
    """A line of the header. `offset` counts from the file's start; `dtype` is the file's own name."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int

    @property
    def format(self) -> Format | None:
        """The format, or None for a dtype that redline does not load."""
        return FORMATS.get(_FORMATS.get(self.dtype, ""))


@dataclass(frozen=True, eq=False)
class SafetensorsFile:
    """An opened file: `entries` by name, in the order of their offsets."""

    path: Path
    buffer: Buffer
    entries: dict[str, TensorEntry]

    def arrays(self) -> Iterator[Packed]:
        for name in self.entries:
            yield self.packed(name)

    def packed(self, name: str) -> Packed:
        """One tensor. Raises UnsupportedModel for a dtype that redline does not load."""
        entry = self.entries[name]
        if entry.format is None:
            raise UnsupportedModel(
                f"{self.path.name}: tensor {name} has dtype {entry.dtype}", hint=f"redline loads {', '.join(_FORMATS)}"
            )
        data = view(self.buffer, entry.offset, entry.format, entry.shape)
        return Packed(name, entry.format.name, entry.shape, data, Source(self.path, entry.offset))


def read_file(path: Path) -> SafetensorsFile:
    """Map `path` and check its header. Raises CheckpointError for a file that is truncated, corrupt or lying."""
    buffer = map_file(path)
    return SafetensorsFile(path, buffer, read_header(buffer, path.name))


def read_header(buffer: Buffer, label: str) -> dict[str, TensorEntry]:
    """Parse and check the header of the file whose bytes are `buffer`; `label` names it in errors."""
    if len(buffer) < 8:
        raise CheckpointError(f"{label} has {len(buffer)} bytes: too short for a safetensors file")
    header_bytes = int.from_bytes(buffer[:8], "little")
    left = len(buffer) - 8
    if header_bytes > min(left, MOST_BYTES):
        raise CheckpointError(
            f"{label} claims a header of {header_bytes} bytes, {left} are left and {MOST_BYTES} allowed",
            hint="the file is truncated or not a safetensors file",
        )
    header = parse_object(buffer[8 : 8 + header_bytes], f"the header of {label}")
    header.pop("__metadata__", None)
    start = 8 + header_bytes
    entries, spans = [], []
    for name, line in header.items():
        entry, span = _entry(label, name, line, start)
        entries.append(entry)
        spans.append(span)
    check_spans(label, spans, len(buffer) - start, gaps=False)
    return {entry.name: entry for entry in sorted(entries, key=lambda entry: entry.offset)}


def _entry(label: str, name: str, line: Any, start: int) -> tuple[TensorEntry, Span]:
    """The header's line for `name`, checked by itself, and the bytes it claims in the data section."""
    if len(name) > MOST_NAME or not name.isprintable():
        raise CheckpointError(f"{label}: a tensor's name is longer than {MOST_NAME} or not printable")
    if not isinstance(line, dict) or set(line) != {"dtype", "shape", "data_offsets"}:
        raise CheckpointError(f"{label}: tensor {name} must have dtype, shape and data_offsets, and nothing else")
    dtype, shape, offsets = line["dtype"], line["shape"], line["data_offsets"]
    if not _sizes(shape) or len(shape) > MOST_AXES:
        raise CheckpointError(f"{label}: tensor {name} must have a shape of at most {MOST_AXES} sizes")
    if not _sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise CheckpointError(f"{label}: tensor {name} must have data_offsets [begin, end]")
    element_bytes = _ELEMENT_BYTES.get(dtype) if isinstance(dtype, str) else None
    if element_bytes is None:
        raise UnsupportedModel(f"{label}: tensor {name} has the unknown dtype {dtype!r}")
    needed = count(tuple(shape)) * element_bytes
    if needed != offsets[1] - offsets[0]:
        raise CheckpointError(
            f"{label}: tensor {name} of {dtype} {shape} takes {needed} bytes, its offsets hold {offsets[1] - offsets[0]}"
        )
    return TensorEntry(name, dtype, tuple(shape), start + offsets[0], needed), Span(offsets[0], offsets[1], name)


def _sizes(value: Any) -> bool:
    """True for a list of whole numbers that a 64-bit file could hold."""
    return isinstance(value, list) and all(type(item) is int and 0 <= item < 1 << 63 for item in value)
