"""Makes small model files for tests: GGUF bytes with every field in the test's hand, sound GGUF files, packed blocks.

`Gguf` writes whatever it is told, lies included; it shares no code with the reader. Open `Gguf` first.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Any

import numpy as np

U8, I8, U32, I32, F32, BOOL, STRING, ARRAY, U64 = 0, 1, 4, 5, 6, 7, 8, 9, 10
_PACK = {U8: "<B", I8: "<b", U32: "<I", I32: "<i", F32: "<f", BOOL: "<B", U64: "<Q"}

# Bytes of a block at which a float16 scale lies: random blocks need finite ones.
SCALES_AT = {
    "q4_0": (0,), "q4_1": (0, 2), "q5_0": (0,), "q5_1": (0, 2), "q8_0": (0,), "q2_k": (80, 82), "q3_k": (108,),
    "q4_k": (0, 2), "q5_k": (0, 2), "q6_k": (208,), "iq4_nl": (0,),
}  # fmt: skip


@dataclass(frozen=True)
class Value:
    """A metadata value with its GGUF type; for ARRAY, `item` is the type of the items."""

    kind: int
    value: Any
    item: int = STRING

    def payload(self) -> bytes:
        if self.kind == ARRAY:
            items = (item if isinstance(item, Value) else Value(self.item, item) for item in self.value)
            return struct.pack("<IQ", self.item, len(self.value)) + b"".join(item.payload() for item in items)
        if self.kind == STRING:
            return string(self.value)
        return struct.pack(_PACK[self.kind], self.value) if self.kind in _PACK else b""


@dataclass(frozen=True)
class Entry:
    """A line of the tensor table as it will be written; `sizes` are in file order, fastest first."""

    name: str
    sizes: tuple[int, ...]
    kind: int = 0
    offset: int = 0


@dataclass
class Gguf:
    """A GGUF file to be written. A count that is None is the true one."""

    keys: list[tuple[str, Value]] = field(default_factory=list)
    entries: list[Entry] = field(default_factory=list)
    data: bytes = b""
    magic: bytes = b"GGUF"
    version: int = 3
    tensor_count: int | None = None
    key_count: int | None = None
    alignment: int = 32

    def to_bytes(self) -> bytes:
        tensors = len(self.entries) if self.tensor_count is None else self.tensor_count
        keys = len(self.keys) if self.key_count is None else self.key_count
        head = self.magic + struct.pack("<IQQ", self.version, tensors, keys)
        for name, value in self.keys:
            head += string(name) + struct.pack("<I", value.kind) + value.payload()
        for entry in self.entries:
            head += string(entry.name) + struct.pack(f"<I{len(entry.sizes)}Q", len(entry.sizes), *entry.sizes)
            head += struct.pack("<IQ", entry.kind, entry.offset)
        return head + bytes(-len(head) % self.alignment) + self.data

    def add(self, name: str, array: np.ndarray, kind: int = 0, sizes: tuple[int, ...] | None = None) -> None:
        """Append a tensor and its data; `sizes` (row major) only where the array holds packed bytes."""
        self.data += bytes(-len(self.data) % self.alignment)
        self.entries.append(Entry(name, (sizes or array.shape)[::-1], kind, len(self.data)))
        self.data += array.tobytes()


def string(text: str | bytes) -> bytes:
    raw = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(raw)) + raw


def packed_rows(rng: np.random.Generator, format: str, rows: int, blocks: int, block_bytes: int) -> np.ndarray:
    """Random rows of a block format, uint8 [rows, blocks * block_bytes], whose scales are finite."""
    raw = rng.integers(0, 256, (rows, blocks, block_bytes), dtype=np.uint8)
    for at in SCALES_AT[format]:
        raw[..., at : at + 2] = rng.normal(0, 1, (rows, blocks, 1)).astype(np.float16).view(np.uint8)
    return raw.reshape(rows, blocks * block_bytes)


LLAMA = {
    "general.architecture": Value(STRING, "llama"),
    "llama.block_count": Value(U32, 1),
    "llama.context_length": Value(U32, 64),
    "llama.embedding_length": Value(U32, 32),
    "llama.feed_forward_length": Value(U32, 64),
    "llama.attention.head_count": Value(U32, 4),
    "llama.attention.head_count_kv": Value(U32, 2),
    "llama.attention.layer_norm_rms_epsilon": Value(F32, 1e-5),
    "tokenizer.ggml.model": Value(STRING, "gpt2"),
    "tokenizer.ggml.tokens": Value(ARRAY, ["<s>", "</s>", "a", "b", "<|im_end|>"]),
    "tokenizer.ggml.token_type": Value(ARRAY, [3, 3, 1, 1, 3], I32),
    "tokenizer.ggml.bos_token_id": Value(U32, 0),
    "tokenizer.ggml.eos_token_id": Value(U32, 1),
    "tokenizer.chat_template": Value(STRING, "{{ messages }}"),
}


def llama_gguf(rng: np.random.Generator, **changes: Value | None) -> Gguf:
    """A sound one-layer llama file with float32 weights, D = 32, 4 query and 2 key heads of 8, F = 64, V = 5.

    `changes` replace or (None) drop keys; their names are written with `__` for a dot.
    """
    keys = dict(LLAMA)
    for name, value in changes.items():
        keys.pop(name.replace("__", "."), None)
        if value is not None:
            keys[name.replace("__", ".")] = value
    file = Gguf(keys=list(keys.items()))
    sizes = {
        "token_embd": (5, 32), "output_norm": (32,), "blk.0.attn_norm": (32,), "blk.0.ffn_norm": (32,),
        "blk.0.attn_q": (32, 32), "blk.0.attn_k": (16, 32), "blk.0.attn_v": (16, 32), "blk.0.attn_output": (32, 32),
        "blk.0.ffn_gate": (64, 32), "blk.0.ffn_up": (64, 32), "blk.0.ffn_down": (32, 64),
    }  # fmt: skip
    for name, size in sizes.items():
        file.add(f"{name}.weight", rng.normal(size=size).astype(np.float32))
    return file
