"""How a captured step must choose: what single rows want, and what covers all rows of a step."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from redline.engine.draft import Entry
from redline.engine.graphs import COVERS, Kind
from redline.engine.request import Sequence
from redline.engine.rows import RowState
from redline.types import Request, SamplingParams

PROMPT = 5
WANTED: dict[Kind, list[SamplingParams]] = {
    "greedy": [SamplingParams(temperature=0.0), SamplingParams(temperature=0.0, top_k=3, top_p=0.5)],
    "random": [SamplingParams(temperature=0.7)],
    "truncated": [SamplingParams(top_k=3), SamplingParams(top_p=0.9), SamplingParams(min_p=0.1)],
    "logits": [SamplingParams(logprobs=1), SamplingParams(frequency_penalty=1.0), SamplingParams(logit_bias={3: 1.0})],
}


def row_of(state: RowState, row: int, sampling: SamplingParams) -> None:
    sequence = Sequence(Request(id=str(row), prompt=[1] * PROMPT, sampling=sampling), 0, (0, 0.0, 0), 99, frozenset(), None)
    state.update(Entry(sequence, 0, PROMPT, True, row, True, [row], 0))


@pytest.mark.parametrize(("kind", "sampling"), [(kind, each) for kind, wanted in WANTED.items() for each in wanted])
def test_one_row(kind: Kind, sampling: SamplingParams) -> None:
    state = RowState(3, 4)
    row_of(state, 2, SamplingParams(top_k=9))  # of a row's former owner nothing is left
    row_of(state, 2, sampling)
    assert state.kind_of(2, PROMPT + 1) == state.kind(np.array([2]), np.array([PROMPT + 1])) == kind


def test_a_row_with_least_tokens_wants_logits_until_it_has_them() -> None:
    state = RowState(1, 4)
    row_of(state, 0, SamplingParams(temperature=0.0, min_tokens=4))
    assert [state.kind_of(0, PROMPT + told) for told in range(6)] == ["logits"] * 4 + ["greedy"] * 2


def test_rows_together() -> None:
    """The least that every row of the step is chosen rightly by."""
    order: tuple[Kind, ...] = ("greedy", "random", "truncated", "logits")
    for kinds in itertools.product(order, repeat=3):
        state = RowState(4, 4)
        for row, kind in enumerate(kinds):
            row_of(state, row, WANTED[kind][0])
        together = state.kind(np.arange(3), np.full(3, PROMPT + 1))
        assert together == max(kinds, key=order.index)
        assert together == "logits" or all(together in COVERS[kind] for kind in kinds)
