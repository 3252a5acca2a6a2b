"""The GGUF header reader: equal to the gguf package on sound files, one clear error on every lie, nothing else under fuzzing."""

from __future__ import annotations

import struct
import tracemalloc
from collections.abc import Callable

import gguf
import numpy as np
import pytest

from model_files import ARRAY, BOOL, F32, I8, I32, STRING, U8, U32, U64, Entry, Gguf, Value, llama_gguf
from redline.checkpoint import gguf_header
from redline.checkpoint.gguf_header import read_header
from redline.checkpoint.packed import map_file, view
from redline.errors import CheckpointError, UnsupportedModel
from redline.formats import FORMATS

FUZZ_ROUNDS = 2000
EXTREMES = (0, 1, 3, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**62, 2**63 - 1, 2**63, 2**64 - 1)


def small() -> Gguf:
    return llama_gguf(np.random.default_rng(0))


def fails(file: Gguf | bytes, error: type[Exception] = CheckpointError) -> str:
    """The sentence with which the reader refuses the file."""
    with pytest.raises(error) as caught:
        read_header(file if isinstance(file, bytes) else file.to_bytes(), "m.gguf")
    assert str(caught.value).startswith("m.gguf")
    return str(caught.value)


def test_reads_what_the_gguf_package_writes(tmp_path) -> None:
    """Every metadata type, strings beyond ASCII, and every plain and block format."""
    path = tmp_path / "all.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_uint8("u8", 255)
    writer.add_int8("i8", -128)
    writer.add_uint16("u16", 65535)
    writer.add_int16("i16", -32768)
    writer.add_uint32("u32", 2**32 - 1)
    writer.add_int32("i32", -(2**31))
    writer.add_uint64("u64", 2**64 - 1)
    writer.add_int64("i64", -(2**63))
    writer.add_float32("f32", 0.5)
    writer.add_float64("f64", 0.1)
    writer.add_bool("yes", True)
    writer.add_string("text", "naïve 漢字 🙂")
    writer.add_array("words", ["a", "", "é"])
    writer.add_array("numbers", [1, -2, 3])
    rng = np.random.default_rng(1)
    for name, form in FORMATS.items():
        if form.gguf_id is not None and not form.plain:
            writer.add_tensor(
                name, rng.integers(0, 256, (3, 2 * form.block_bytes), np.uint8), raw_dtype=gguf.GGMLQuantizationType(form.gguf_id)
            )
    writer.add_tensor("f32", rng.normal(size=(2, 3, 5)).astype(np.float32))
    writer.add_tensor("f16", rng.normal(size=(7,)).astype(np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    buffer = map_file(path)
    header = read_header(buffer, path.name)
    reference = gguf.GGUFReader(path)
    for key, field in reference.fields.items():
        if not key.startswith("GGUF."):
            assert header.metadata[key] == field.contents(), key
    assert len(header.metadata) == len(reference.fields) - 3
    assert {entry.name for entry in header.tensors} == {tensor.name for tensor in reference.tensors}
    for tensor in reference.tensors:
        entry = next(entry for entry in header.tensors if entry.name == tensor.name)
        assert (entry.offset, entry.nbytes, entry.shape) == (
            tensor.data_offset,
            tensor.n_bytes,
            tuple(tensor.shape.tolist())[::-1],
        )
        np.testing.assert_array_equal(view(buffer, entry.offset, entry.format, entry.shape), tensor.data)


def test_versions_2_and_3_read_alike() -> None:
    assert (
        read_header(Gguf(version=2, keys=small().keys, entries=small().entries, data=small().data).to_bytes(), "v2").version == 2
    )


@pytest.mark.parametrize(
    ("version", "says"), [(1, "version 1"), (4, "version 4"), (0, "version 0"), (3 << 24, "big endian")], ids=str
)
def test_refuses_other_versions(version: int, says: str) -> None:
    assert says in fails(Gguf(version=version), UnsupportedModel)


@pytest.mark.parametrize("cut", [0, 3, 4, 7, 12, 23, 24, 40, 200, 500])
def test_names_what_a_truncated_header_lacks(cut: int) -> None:
    assert "left" in fails(small().to_bytes()[:cut])


def test_refuses_a_file_whose_data_is_cut() -> None:
    assert "data section" in fails(small().to_bytes()[:-1])


LIES: dict[str, tuple[Callable[[Gguf], object], str]] = {
    "magic": (lambda f: setattr(f, "magic", b"GGML"), "not a GGUF file"),
    "tensor count": (lambda f: setattr(f, "tensor_count", 2**63), "tensors are claimed"),
    "one tensor more": (lambda f: setattr(f, "tensor_count", len(f.entries) + 1), ""),
    "key count": (lambda f: setattr(f, "key_count", 2**64 - 1), "keys are claimed"),
    "duplicate key": (lambda f: f.keys.append(f.keys[0]), "appears twice"),
    "unknown type": (lambda f: f.keys.append(("k", Value(13, None))), "unknown type 13"),
    "truth of 2": (lambda f: f.keys.append(("k", Value(BOOL, 2))), "truth value of 2"),
    "not UTF-8": (lambda f: f.keys.append(("k", Value(STRING, b"\xff"))), "not UTF-8"),
    "list not UTF-8": (lambda f: f.keys.append(("k", Value(ARRAY, ["a", b"\xff"]))), "item 1 of k is not UTF-8"),
    "alignment 0": (lambda f: f.keys.append(("general.alignment", Value(U32, 0))), "general.alignment"),
    "alignment 12": (lambda f: f.keys.append(("general.alignment", Value(U32, 12))), "general.alignment"),
    "alignment text": (lambda f: f.keys.append(("general.alignment", Value(STRING, "32"))), "general.alignment"),
    "alignment 2**31": (lambda f: f.keys.append(("general.alignment", Value(U32, 2**31))), "general.alignment"),
    "no axes": (lambda f: f.entries.append(Entry("x", ())), "0 axes"),
    "five axes": (lambda f: f.entries.append(Entry("x", (1,) * 5)), "5 axes"),
    "empty": (lambda f: f.entries.append(Entry("x", (4, 0))), "is empty"),
    "overflow": (lambda f: f.entries.append(Entry("x", (2**62, 2**62, 2**62, 4))), "ends at byte"),
    "half a block": (lambda f: f.entries.append(Entry("x", (33,), 2)), "not whole q4_0 blocks"),
    "misaligned": (lambda f: f.entries.append(Entry("x", (1,), 0, 4)), "not a multiple of the alignment"),
    "past the end": (lambda f: f.entries.append(Entry("x", (1,), 0, 2**40)), "ends at byte"),
    "offset 2**64": (lambda f: f.entries.append(Entry("x", (1,), 0, 2**64 - 32)), "ends at byte"),
    "overlap": (lambda f: f.entries.append(Entry("x", (1,), 0, 0)), "overlap"),
    "duplicate tensor": (lambda f: f.entries.append(f.entries[0]), "appears twice"),
    "long name": (lambda f: f.entries.append(Entry("x" * 2000, (1,))), "at most 1024"),
}


@pytest.mark.parametrize("lie", LIES)
def test_refuses_a_lie_by_name(lie: str) -> None:
    file = small()
    tell, says = LIES[lie]
    tell(file)
    assert says in fails(file)


def test_refuses_formats_it_cannot_unpack_by_name() -> None:
    file = small()
    file.entries.append(Entry("blk.0.x.weight", (256,), 16))
    assert "blk.0.x.weight has format 16 (IQ2_XXS)" in fails(file, UnsupportedModel)
    file.entries[-1] = Entry("blk.0.x.weight", (256,), 4_000_000_000)
    assert "unknown to redline" in fails(file, UnsupportedModel)


def test_bounds_nesting_and_lengths_without_allocating() -> None:
    nested = Value(ARRAY, [Value(ARRAY, [Value(ARRAY, [Value(ARRAY, [1], U8)], ARRAY)], ARRAY)], ARRAY)
    assert "nests" in fails(Gguf(keys=[("k", nested)]))
    for size in EXTREMES[4:]:
        for item in (U8, U64, STRING, ARRAY):
            lie = b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 1) + b"k" + struct.pack("<IIQ", ARRAY, item, size)
            assert "k claims" in fails(lie)
    lie = b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 1) + b"k" + struct.pack("<IQ", STRING, 2**63)
    assert "at most" in fails(lie)


def test_items_of_all_arrays_together_are_bounded(monkeypatch) -> None:
    monkeypatch.setattr(gguf_header, "MOST_ITEMS", 10)
    keys = [(f"k{n}", Value(ARRAY, [1, 2, 3, 4], U8)) for n in range(3)]
    assert "k2 claims 4 items" in fails(Gguf(keys=keys))


def test_refuses_names_with_control_codes_and_escapes_them() -> None:
    file = small()
    file.entries.append(Entry("\x1b[2Jx", (1,)))
    assert "not printable: '\\x1b[2Jx'" in fails(file)


def test_numbers_keep_their_types() -> None:
    keys = [
        ("a", Value(I8, -1)),
        ("b", Value(F32, 0.25)),
        ("c", Value(BOOL, 1)),
        ("d", Value(ARRAY, [1, 0], BOOL)),
        ("e", Value(ARRAY, [], I32)),
    ]
    assert read_header(Gguf(keys=keys).to_bytes(), "m").metadata == {"a": -1, "b": 0.25, "c": True, "d": [True, False], "e": []}
    assert type(read_header(Gguf(keys=keys).to_bytes(), "m").metadata["c"]) is bool


def mutated(rng: np.random.Generator, sound: bytes, header_bytes: int) -> bytes:
    """`sound` after one to three random changes, most of them in its header."""
    raw = bytearray(sound)
    for _ in range(rng.integers(1, 4)):
        at = int(rng.integers(0, max(1, min(header_bytes, len(raw)))))
        match int(rng.integers(0, 6)):
            case 0:
                raw[at : at + 1] = bytes([rng.integers(0, 256)])
            case 1:
                raw[at : at + 8] = struct.pack("<Q", EXTREMES[rng.integers(len(EXTREMES))])
            case 2:
                raw[at : at + 4] = struct.pack("<I", EXTREMES[rng.integers(len(EXTREMES))] & 0xFFFFFFFF)
            case 3:
                del raw[at : at + int(rng.integers(1, 20))]
            case 4:
                raw[at:at] = rng.bytes(int(rng.integers(1, 20)))
            case _:
                other = int(rng.integers(0, header_bytes))
                raw[at : at + 16] = raw[other : other + 16]
    return bytes(raw) if rng.random() < 0.9 else bytes(raw[: rng.integers(0, len(raw) + 1)])


@pytest.mark.soak
def test_any_mutation_reads_or_raises_a_checkpoint_error(effort: int) -> None:
    """No other exception, no read outside the file, no allocation beyond a small multiple of the file."""
    rng = np.random.default_rng(2)
    sound = small().to_bytes()
    header_bytes = len(sound) - len(small().data)
    tracemalloc.start()
    read = refused = 0
    for _ in range(FUZZ_ROUNDS * effort):
        raw = mutated(rng, sound, header_bytes)
        try:
            header = read_header(raw, "fuzz")
        except CheckpointError as error:
            assert error.message.isprintable()
            refused += 1
            continue
        for entry in header.tensors:
            view(raw, entry.offset, entry.format, entry.shape)
        read += 1
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert read and refused
    assert peak < 16 << 20
