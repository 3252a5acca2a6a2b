"""The header of a GGUF file (versions 2 and 3): metadata and tensor table, every number checked before it is used.

The file may lie. Counts and lengths are compared with the bytes that are left, nesting and totals are bounded, and sizes
are Python integers, so that nothing overflows and nothing large is allocated for a small file. Any fault raises
CheckpointError with the key or tensor and the numbers. Knows nothing of what keys or tensors mean to a model.

Layout: "GGUF", u32 version, u64 tensors, u64 keys; keys as (string name, u32 type, value); tensors as (string name,
u32 axes, u64 sizes with the fastest first, u32 format, u64 offset); padding to `general.alignment`; data. A string is a u64
length and UTF-8; an array is a u32 type, a u64 count and its items. Little endian. Open `read_header` first.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np

from redline.checkpoint.packed import Buffer, Span, check_spans, count
from redline.errors import CheckpointError, UnsupportedModel
from redline.formats import BY_GGUF_ID, Format

MAGIC = b"GGUF"
VERSIONS = (2, 3)
DEFAULT_ALIGNMENT = 32

MOST_KEYS = 1 << 16
MOST_TENSORS = 1 << 17
MOST_ITEMS = 1 << 22  # of all arrays together; the largest vocabularies need about 2**20
MOST_DEPTH = 3  # arrays within arrays
MOST_NAME_BYTES = 1 << 10
MOST_STRING_BYTES = 1 << 24
MOST_AXES = 4
MOST_ALIGNMENT = 1 << 20

_BOOL, _STRING, _ARRAY = 7, 8, 9
_NUMBERS = {0: "<u1", 1: "<i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", _BOOL: "<u1", 10: "<u8", 11: "<i8", 12: "<f8"}
_DTYPES = {kind: np.dtype(code) for kind, code in _NUMBERS.items()}

_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")

_FOREIGN_FORMATS = {
    9: "Q8_1", 15: "Q8_K", 16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S", 21: "IQ3_S", 22: "IQ2_S", 23: "IQ4_XS",
    24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64", 29: "IQ1_M", 34: "TQ1_0", 35: "TQ2_0", 39: "MXFP4", 40: "NVFP4", 41: "Q1_0",
}  # fmt: skip


@dataclass(frozen=True)
class TensorEntry:
    """A line of the tensor table. `shape` is row major (the file's order reversed); `offset` counts from the file's start."""

    name: str
    format: Format
    shape: tuple[int, ...]
    offset: int

    @property
    def nbytes(self) -> int:
        return self.format.nbytes(count(self.shape))


@dataclass(frozen=True)
class Header:
    """All of the file but its weights. Metadata values are int, float, bool, str or lists of them."""

    version: int
    metadata: dict[str, Any]
    tensors: tuple[TensorEntry, ...]  # in the order of their offsets


def read_header(buffer: Buffer, label: str) -> Header:
    """Parse and check the header of the GGUF file whose bytes are `buffer`; `label` names it in errors.

    Raises CheckpointError for a file that is not sound, UnsupportedModel for a version or tensor format that redline lacks.
    """
    cursor = _Cursor(buffer, label)
    version = _version(cursor)
    tensor_count, key_count = cursor.u64("the tensor count"), cursor.u64("the key count")
    if tensor_count > MOST_TENSORS:
        raise cursor.fault(f"{tensor_count} tensors are claimed, at most {MOST_TENSORS} are allowed")
    if key_count > MOST_KEYS:
        raise cursor.fault(f"{key_count} keys are claimed, at most {MOST_KEYS} are allowed")
    metadata = _metadata(cursor, key_count)
    alignment = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
    if type(alignment) is not int or alignment % 8 or not 8 <= alignment <= MOST_ALIGNMENT:
        raise cursor.fault(f"general.alignment must be a multiple of 8 up to {MOST_ALIGNMENT}, not {alignment!r}")
    entries = [_tensor(cursor) for _ in range(tensor_count)]
    data_start = -(-cursor.position // alignment) * alignment
    return Header(version, metadata, _placed(cursor, entries, data_start, alignment))


def _version(cursor: _Cursor) -> int:
    magic = cursor.take(4, "the magic number")
    if magic != MAGIC:
        raise cursor.fault(f"not a GGUF file, it begins with {magic!r}")
    version = cursor.u32("the version")
    if version not in VERSIONS:
        if version and version & 0xFFFF == 0:
            raise UnsupportedModel(f"{cursor.label} is big endian, redline reads little-endian GGUF")
        raise UnsupportedModel(f"{cursor.label} is GGUF version {version}, redline reads versions 2 and 3")
    return version


def _metadata(cursor: _Cursor, key_count: int) -> dict[str, Any]:
    metadata: dict[str, Any] = {}
    for index in range(key_count):
        key = cursor.name(f"the name of key {index}")
        if key in metadata:
            raise cursor.fault(f"the key {key} appears twice")
        metadata[key] = cursor.value(key, cursor.u32(f"the type of {key}"))
    return metadata


def _tensor(cursor: _Cursor) -> TensorEntry:
    """One line of the tensor table; its offset still counts from the data section."""
    name = cursor.name("a tensor's name")
    axes = cursor.u32(f"the number of axes of {name}")
    if not 1 <= axes <= MOST_AXES:
        raise cursor.fault(f"tensor {name} has {axes} axes, 1 to {MOST_AXES} are allowed")
    shape = tuple(cursor.u64(f"a size of {name}") for _ in range(axes))[::-1]
    if 0 in shape:
        raise cursor.fault(f"tensor {name} of shape {shape} is empty")
    kind = cursor.u32(f"the format of {name}")
    format = BY_GGUF_ID.get(kind)
    if format is None:
        known = _FOREIGN_FORMATS.get(kind, "unknown to redline")
        raise UnsupportedModel(f"{cursor.label}: tensor {name} has format {kind} ({known}), which redline cannot unpack")
    if shape[-1] % format.block:
        raise cursor.fault(f"tensor {name}: rows of {shape[-1]} are not whole {format.name} blocks of {format.block}")
    return TensorEntry(name, format, shape, cursor.u64(f"the offset of {name}"))


def _placed(cursor: _Cursor, entries: list[TensorEntry], data_start: int, alignment: int) -> tuple[TensorEntry, ...]:
    """The entries with offsets from the file's start, in file order, after a check that they lie within it and apart."""
    spans: dict[str, Span] = {}
    for entry in entries:
        if entry.name in spans:
            raise cursor.fault(f"the tensor {entry.name} appears twice")
        if entry.offset % alignment:
            raise cursor.fault(f"tensor {entry.name}: offset {entry.offset} is not a multiple of the alignment {alignment}")
        spans[entry.name] = Span(entry.offset, entry.offset + entry.nbytes, entry.name)
    check_spans(cursor.label, list(spans.values()), max(0, cursor.end - data_start), gaps=True)
    placed = (TensorEntry(e.name, e.format, e.shape, data_start + e.offset) for e in entries)
    return tuple(sorted(placed, key=lambda entry: entry.offset))


class _Cursor:
    """A place in the header. Every read says what it reads, and fails by name where the file ends first."""

    def __init__(self, buffer: Buffer, label: str):
        self.buffer = buffer
        self.label = label
        self.position = 0
        self.end = len(buffer)
        self.items_left = MOST_ITEMS

    def fault(self, what: str) -> CheckpointError:
        return CheckpointError(f"{self.label}: {what}", hint="the file is truncated or corrupt: pull or copy it again")

    def need(self, size: int, what: str) -> None:
        if size > self.end - self.position:
            left = self.end - self.position
            raise self.fault(f"{what} needs {size} bytes at byte {self.position}, and {left} are left")

    def take(self, size: int, what: str) -> bytes:
        self.need(size, what)
        self.position += size
        return self.buffer[self.position - size : self.position]

    def u32(self, what: str) -> int:
        number: int = _U32.unpack(self.take(4, what))[0]
        return number

    def u64(self, what: str) -> int:
        number: int = _U64.unpack(self.take(8, what))[0]
        return number

    def string(self, what: str, most: int = MOST_STRING_BYTES) -> str:
        size = self.u64(f"the length of {what}")
        if size > most:
            raise self.fault(f"{what} claims {size} bytes, at most {most} are allowed")
        try:
            return self.take(size, what).decode()
        except UnicodeDecodeError as error:
            raise self.fault(f"{what} is not UTF-8 ({error.reason})") from None

    def name(self, what: str) -> str:
        """A name that may be shown: a hostile one could hold control codes of the terminal."""
        name = self.string(what, MOST_NAME_BYTES)
        if not name.isprintable():
            raise self.fault(f"{what} is not printable: {name!r}")
        return name

    def value(self, key: str, kind: int, depth: int = 0) -> Any:
        """The value of `key`, of GGUF type `kind`."""
        if kind == _STRING:
            return self.string(key)
        if kind == _ARRAY:
            return self.array(key, depth)
        return self.numbers(key, kind, 1)[0]

    def array(self, key: str, depth: int) -> list[Any]:
        if depth == MOST_DEPTH:
            raise self.fault(f"{key} nests arrays more than {MOST_DEPTH} deep")
        kind, size = self.u32(f"the item type of {key}"), self.u64(f"the length of {key}")
        if size > self.items_left:
            raise self.fault(f"{key} claims {size} items, at most {MOST_ITEMS} are allowed in all arrays together")
        self.items_left -= size
        if kind == _STRING:
            return self.strings(key, size)
        if kind == _ARRAY:
            return [self.array(key, depth + 1) for _ in range(size)]
        return self.numbers(key, kind, size)

    def numbers(self, key: str, kind: int, size: int) -> list[Any]:
        dtype = _DTYPES.get(kind)
        if dtype is None:
            raise self.fault(f"{key} has the unknown type {kind}")
        values = np.frombuffer(self.take(size * dtype.itemsize, key), dtype)
        if kind == _BOOL:
            if size and values.max() > 1:
                raise self.fault(f"{key} is a truth value of {values.max()}")
            values = values.astype(np.bool_)
        return values.tolist()  # type: ignore[no-any-return]

    def strings(self, key: str, size: int) -> list[str]:
        """`size` strings. The loop is bare: a vocabulary and its merges are 300,000 of them."""
        buffer, position, end, unpack = self.buffer, self.position, self.end, _U64.unpack_from
        texts: list[str] = []
        for index in range(size):
            start = position + 8
            if start > end:
                raise self.fault(f"the file ends at byte {end}, at item {index} of {size} in {key}")
            length = unpack(buffer, position)[0]
            position = start + length
            if position > end or length > MOST_STRING_BYTES:
                left = end - start
                raise self.fault(f"item {index} of {size} in {key} claims {length} bytes at byte {start}, and {left} are left")
            try:
                texts.append(buffer[start:position].decode())
            except UnicodeDecodeError as error:
                raise self.fault(f"item {index} of {key} is not UTF-8 ({error.reason})") from None
        self.position = position
        return texts
