"""The safetensors reader: equal to the safetensors package on sound files, one clear error on every lie, nothing else under fuzzing."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from redline.checkpoint.safetensors import read_file, read_header
from redline.errors import CheckpointError, UnsupportedModel

FUZZ_ROUNDS = 3000


def written(header: Any, data: bytes = b"", size: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if size is None else size) + text + data


def line(begin: int, end: int, dtype: Any = "F32", shape: Any = None) -> dict[str, Any]:
    return {"dtype": dtype, "shape": [(end - begin) // 4] if shape is None else shape, "data_offsets": [begin, end]}


def test_reads_what_the_safetensors_package_writes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = {
        "a": rng.normal(size=(3, 5)).astype(np.float32),
        "b": rng.normal(size=(7,)).astype(np.float16),
        "scalar": np.array(2.5, np.float32),
        "none": np.empty((0, 4), np.float32),
    }
    safetensors.numpy.save_file(arrays, tmp_path / "m.safetensors", metadata={"format": "pt"})
    found = {packed.name: packed for packed in read_file(tmp_path / "m.safetensors").arrays()}
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        assert found[name].shape == array.shape and found[name].nbytes == array.nbytes
        np.testing.assert_array_equal(found[name].data, array)
        assert not found[name].data.flags.writeable


def test_bfloat16_comes_as_its_bits(tmp_path: Path) -> None:
    bits = np.arange(6, dtype=np.uint16)
    (tmp_path / "m.safetensors").write_bytes(written({"w": line(0, 12, "BF16", [2, 3])}, bits.tobytes()))
    packed = next(read_file(tmp_path / "m.safetensors").arrays())
    assert packed.format == "bf16" and packed.data.dtype == np.uint16
    np.testing.assert_array_equal(packed.data, bits.reshape(2, 3))


LIES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "too short"),
    "seven bytes": (b"\0" * 7, "too short"),
    "header past the end": (written({}, size=100), "claims a header"),
    "header of 2**64 - 1": (written({}, size=2**64 - 1), "claims a header"),
    "not JSON": (written(b"{nonsense"), "not valid JSON"),
    "not UTF-8": (written(b'{"\xff": 1}'), "not valid JSON"),
    "a list": (written([]), "must hold a JSON object"),
    "nesting": (written(b"[" * 100_000), "nests too deeply"),
    "a long number": (written(b'{"a": ' + b"9" * 5000 + b"}"), "not valid JSON"),
    "twice": (written(b'{"a": 1, "a": 2}'), "'a' appears twice"),
    "NaN": (written(b'{"a": NaN}'), "not valid JSON"),
    "a number for a line": (written({"a": 1}), "must have dtype"),
    "a key too many": (written({"a": {**line(0, 4), "x": 1}}, b"0000"), "must have dtype"),
    "unprintable name": (written({"a\x1b[2J": line(0, 4)}, b"0000"), "not printable"),
    "lone surrogate": (written(b'{"\\ud800": {}}'), "not printable"),
    "negative size": (written({"a": line(0, 4, shape=[-1])}, b"0000"), "must have a shape"),
    "truth as a size": (written({"a": line(0, 4, shape=[True])}, b"0000"), "must have a shape"),
    "nine axes": (written({"a": line(0, 4, shape=[1] * 9)}, b"0000"), "must have a shape"),
    "fraction": (written({"a": line(0, 4, shape=[1.0])}, b"0000"), "must have a shape"),
    "backwards": (written({"a": line(4, 0, shape=[1])}, b"0000"), "must have data_offsets"),
    "three offsets": (written({"a": {**line(0, 4), "data_offsets": [0, 2, 4]}}, b"0000"), "must have data_offsets"),
    "overflow": (written({"a": line(0, 4, shape=[2**62, 4])}, b"0000"), "takes 73786976294838206464 bytes"),
    "size and shape": (written({"a": line(0, 8, shape=[1])}, b"00000000"), "takes 4 bytes, its offsets hold 8"),
    "past the end": (written({"a": line(0, 8)}, b"0000"), "ends at byte 8 of a data section of 4"),
    "overlap": (written({"a": line(0, 8), "b": line(4, 12)}, b"0" * 12), "a and b overlap at byte 4"),
    "gap": (written({"a": line(0, 4), "b": line(8, 12)}, b"0" * 12), "bytes 4 to 8"),
    "bytes at the end": (written({"a": line(0, 4)}, b"0" * 5), "the last 1 bytes"),
}


@pytest.mark.parametrize("lie", LIES)
def test_refuses_a_lie_by_name(lie: str) -> None:
    raw, says = LIES[lie]
    with pytest.raises(CheckpointError, match="m.safetensors") as caught:
        read_header(raw, "m.safetensors")
    assert says in str(caught.value)


@pytest.mark.parametrize("dtype", ["I2", None, ["F32"], {}], ids=str)
def test_refuses_dtypes_it_does_not_know(dtype: Any) -> None:
    with pytest.raises(UnsupportedModel, match="tensor a has the unknown dtype"):
        read_header(written({"a": line(0, 4, dtype)}, b"0000"), "m")


def test_known_dtypes_that_are_no_weights_are_refused_when_asked_for(tmp_path: Path) -> None:
    """A file may carry an index buffer beside its weights; only loading it is an error."""
    (tmp_path / "m.safetensors").write_bytes(written({"a": line(0, 8, "I64", [1])}, b"0" * 8))
    file = read_file(tmp_path / "m.safetensors")
    with pytest.raises(UnsupportedModel, match="tensor a has dtype I64"):
        list(file.arrays())


@pytest.mark.soak
def test_any_mutation_reads_or_raises_a_checkpoint_error(effort: int) -> None:
    """No other exception, and no array outside the file."""
    rng = np.random.default_rng(1)
    header = {f"t{n}": line(16 * n, 16 * n + 16, shape=[2, 2]) for n in range(6)} | {"__metadata__": {"format": "pt"}}
    sound = written(header, bytes(96))
    tokens = [
        b"0",
        b"9" * 30,
        b"-1",
        b'"',
        b"{",
        b"}",
        b"[",
        b"]",
        b",",
        b"null",
        b"1e999",
        b"\\ud800",
        b"\xff",
        b"true",
        b"F16",
        b" ",
    ]
    read = 0
    for _ in range(FUZZ_ROUNDS * effort):
        raw = bytearray(sound)
        for _ in range(rng.integers(1, 4)):
            at = int(rng.integers(0, len(raw) - 90))
            raw[at : at + int(rng.integers(0, 4))] = tokens[rng.integers(len(tokens))]
        if rng.random() < 0.7:
            raw[:8] = struct.pack("<Q", max(0, len(raw) - 96 - 8))
        try:
            entries = read_header(bytes(raw), "fuzz")
        except CheckpointError:
            continue
        assert all(entry.offset + entry.nbytes <= len(raw) for entry in entries.values())
        read += 1
    assert read
