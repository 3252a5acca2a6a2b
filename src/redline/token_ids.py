"""Token ids as one block of 32-bit integers: a prompt of thousands is checked and moved so in a quarter of the time that a list of
Python's own integers takes, and somebody waits for its first token. Open `packed`.

Shapes: T tokens.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

BYTES = 4  # of an id


class TokenIds(list[int]):
    """A prompt's ids with their block, which whoever checks, sends or uploads them needs: made once. Nobody changes one."""

    __slots__ = ("block",)

    def __init__(self, tokens: Sequence[int], block: bytes | None = None) -> None:
        """Raises struct.error for what is no integer of 32 bits. `block`: what `to_bytes` says of `tokens`, where that is known."""
        super().__init__(tokens)
        self.block = _pack(tokens) if block is None else block


def to_bytes(tokens: Sequence[int]) -> bytes:
    """Four bytes each, in this machine's order. Raises struct.error for what is no integer of 32 bits."""
    return tokens.block if isinstance(tokens, TokenIds) else _pack(tokens)


def of_bytes(data: bytes) -> TokenIds:
    """The ids that `to_bytes` was given."""
    return TokenIds(np.frombuffer(data, np.int32).tolist(), data)


def packed(tokens: Sequence[int]) -> NDArray[np.int32]:
    """[T], read-only. Raises struct.error for what is no integer of 32 bits. `np.array` takes four times as long."""
    return np.frombuffer(to_bytes(tokens), np.int32)


def of_values(values: Sequence[object]) -> TokenIds | None:
    """The values as ids; None where there are none or one is no integer of 32 bits."""
    try:
        return TokenIds(values) if len(values) else None  # type: ignore[arg-type]
    except struct.error:
        return None


def are_within(tokens: Sequence[int], vocab_size: int) -> bool:
    """Whether there are any and each is of a vocabulary of this size."""
    try:
        ids_T = packed(tokens)
    except struct.error:
        return False
    return len(ids_T) > 0 and 0 <= int(ids_T.min()) and int(ids_T.max()) < vocab_size


def _pack(tokens: Sequence[int]) -> bytes:
    return struct.pack(f"{len(tokens)}i", *tokens)
