"""Number formats as data: how many weights a block holds and how many bytes it takes.

`FORMATS` is the one table of the formats that a checkpoint may store. It says how big things are; what the bytes mean is
`quant.blocks`'s business, and which file holds them is the checkpoint readers'. Block layouts are those of GGUF
(little endian, along the last axis). Open `Format` first.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Format:
    """One way to store numbers: `block` weights that are neighbours in a row take `block_bytes` bytes."""

    name: str
    block: int
    block_bytes: int
    gguf_id: int | None = None

    @property
    def bits(self) -> float:
        """Bits per weight, scales included."""
        return self.block_bytes * 8 / self.block

    @property
    def plain(self) -> bool:
        """True where every element stands alone, without a shared scale."""
        return self.block == 1

    def nbytes(self, elements: int) -> int:
        """Bytes of `elements` weights; `elements` must be whole blocks."""
        assert elements % self.block == 0, f"{elements} elements are not whole {self.name} blocks of {self.block}"
        return elements // self.block * self.block_bytes


FORMATS: dict[str, Format] = {
    entry.name: entry
    for entry in (
        Format("f32", 1, 4, 0),
        Format("f16", 1, 2, 1),
        Format("bf16", 1, 2, 30),
        Format("q4_0", 32, 18, 2),
        Format("q4_1", 32, 20, 3),
        Format("q5_0", 32, 22, 6),
        Format("q5_1", 32, 24, 7),
        Format("q8_0", 32, 34, 8),
        Format("q2_k", 256, 84, 10),
        Format("q3_k", 256, 110, 11),
        Format("q4_k", 256, 144, 12),
        Format("q5_k", 256, 176, 13),
        Format("q6_k", 256, 210, 14),
        Format("iq4_nl", 32, 18, 20),
        Format("random", 1, 0),  # no bytes at all: made on the device from the tensor's name
    )
}

BY_GGUF_ID: dict[int, Format] = {entry.gguf_id: entry for entry in FORMATS.values() if entry.gguf_id is not None}
