"""Which sequences of a step which attention kernel serves, decided on the host from their lengths. Torch-free.

A prompt that begins at its first token needs no cache: its keys are the new ones, and a vendor's kernel for plain causal
attention can take it (`Whole`). Everything else reads pages (`Run`): sequences of few query tokens apart from the others,
because their keys are split over programs. Knows nothing of tensors or devices. Open `split` first.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

Lengths = Sequence[tuple[int, int]]
"""(query tokens, keys the last of them sees) of each sequence, in the order of the packed tokens."""

DECODE_QUERIES = 16
"""Sequences of at most this many query tokens have their keys split over programs."""

WHOLE_TOKENS = 512
"""Shorter prompts are left to the paged kernel: one launch serves all of them, about as fast."""

COARSE_STEPS, FINE_STEPS = 4, 8
"""How many lengths there are from one power of two to the next: few up to `COARSE_TOKENS`, where attention is a small part of a
prompt; above, padding costs 9 % of attention on average. A plan costs 40 ms, and is kept."""

COARSE_TOKENS = 2048
LEAST_STEP = 64
USUAL_TOKENS = 8192
"""Up to here lengths are planned for ahead: 25 of them."""


@dataclass(frozen=True)
class Run:
    """Sequences [first, last) with tokens [start, stop), served by one launch of the paged kernel."""

    first: int
    last: int
    start: int
    stop: int
    max_query: int
    max_context: int


@dataclass(frozen=True)
class Whole:
    """`count` prompts of `length` tokens each, end to end from token `start`. Computed as if each had `rows` tokens: what is
    behind the last one is seen by no token before it."""

    start: int
    count: int
    length: int
    rows: int

    @property
    def stop(self) -> int:
        return self.start + self.count * self.length


@dataclass(frozen=True)
class Split:
    """All sequences of a step. `tail` rows below the last token must be readable and finite."""

    wholes: tuple[Whole, ...]
    runs: tuple[Run, ...]
    tail: int


def split(lengths: Lengths, window: int) -> Split:
    """Whole prompts, where they are long enough and no window hides a key, and runs of the others."""
    wholes: list[Whole] = []
    runs: list[Run] = []
    total = 0
    for kind, first, last, start in _stretches(lengths, window):
        part = lengths[first:last]
        total = start + sum(queries for queries, _ in part)
        if kind == "whole":
            wholes += _wholes([queries for queries, _ in part], start)
        else:
            runs.append(Run(first, last, start, total, max(q for q, _ in part), max(c for _, c in part)))
    tail = max((whole.start + whole.rows - total for whole in wholes if whole.count == 1), default=0)
    return Split(tuple(wholes), tuple(runs), max(0, tail))


def paged_runs(lengths: Lengths) -> tuple[Run, ...]:
    """All sequences, through the cache."""
    return split(lengths, window=1).runs


def padded(length: int) -> int:
    """The number of rows that a prompt of `length` tokens is computed as: one of few, since a vendor's kernel is planned anew
    for each."""
    ceiling = 1 << (length - 1).bit_length()
    step = max(LEAST_STEP, ceiling // (2 * (COARSE_STEPS if length <= COARSE_TOKENS else FINE_STEPS)))
    return -(-length // step) * step


def usual_rows(most: int) -> list[int]:
    """What prompts of at most `most` tokens are padded to, as far as they are worth a plan ahead, shortest first."""
    found = []
    length = WHOLE_TOKENS
    while length <= min(most, USUAL_TOKENS):
        found.append(padded(length))
        length = found[-1] + 1
    return found


def _stretches(lengths: Lengths, window: int) -> Iterator[tuple[str, int, int, int]]:
    """(kind, first, last, start) of consecutive sequences of one kind."""
    first = start = token = 0
    kind = ""
    for index, (queries, context) in enumerate(lengths):
        own = _kind(queries, context, window)
        if own != kind and index > first:
            yield kind, first, index, start
            first, start = index, token
        kind = own
        token += queries
    if lengths:
        yield kind, first, len(lengths), start


def _kind(queries: int, context: int, window: int) -> str:
    if queries <= DECODE_QUERIES:
        return "decode"
    whole = queries == context and queries >= WHOLE_TOKENS and (window == 0 or queries <= window)
    return "whole" if whole else "prompt"


def _wholes(queries: list[int], start: int) -> Iterator[Whole]:
    """Neighbours of equal length go together where that needs no padding, in powers of two: few different shapes."""
    index = 0
    while index < len(queries):
        length, rows = queries[index], padded(queries[index])
        count = 1
        if rows == length:
            while index + 2 * count <= len(queries) and queries[index : index + 2 * count] == [length] * (2 * count):
                count *= 2
        yield Whole(start, count, length, rows)
        start += count * length
        index += count
