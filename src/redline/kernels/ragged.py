"""The layout of one step's packed tokens: `Ragged`. Data only; attention reads it, the engine and the layers carry it.

B sequences, P pages of a sequence in the page table, S tokens per page.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Ragged:
    """Which query tokens and which pages belong to which sequence, for one step and all its layers.

    Sequence b owns tokens query_start[b] to query_start[b + 1]. `context[b]` counts the keys its LAST token sees, itself
    included, so token i of n sits at position context - n + i. Its key j lies in page page_table[b, j // S]; entries that
    hold no visible key are never read. `max_query` and `max_context` bound the values on the host, for launching.
    """

    query_start_B1: Tensor  # int32 [B + 1]
    context_B: Tensor  # int32
    page_table_BP: Tensor  # int32
    max_query: int
    max_context: int
    lengths: tuple[tuple[int, int], ...] | None = None
    """(query tokens, keys the last one sees) of every sequence, where the host knows them and they will not change: then each
    kind of sequence gets the kernel made for it. None: one launch serves all alike, as a captured step needs it."""
    plans: dict[Any, Any] = field(default_factory=dict, init=False, repr=False, compare=False)
    """What the CPU path derived from the layout, kept so that one step's layers share it."""
