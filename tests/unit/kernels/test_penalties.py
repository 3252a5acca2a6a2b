"""Penalties against transformers' processor where it has one, and against the API's definition where it has none."""

from __future__ import annotations

import math

import torch

from redline.kernels import penalties


def _apply(logits_BV: torch.Tensor, history: list[list[int]], prompts: list[int], **factors: float) -> None:
    longest = max(len(row) for row in history)
    rows = len(history)
    penalties.apply_penalties(
        logits_BV,
        torch.tensor([row + [-7] * (longest - len(row)) for row in history]),
        torch.tensor([len(row) for row in history]),
        torch.tensor(prompts),
        torch.full((rows,), factors.get("repetition", 1.0)),
        torch.full((rows,), factors.get("frequency", 0.0)),
        torch.full((rows,), factors.get("presence", 0.0)),
    )


def test_repetition_is_what_transformers_does() -> None:
    from transformers import RepetitionPenaltyLogitsProcessor

    logits_BV = torch.randn(3, 50, generator=torch.Generator().manual_seed(0))
    history = torch.randint(50, (3, 30), generator=torch.Generator().manual_seed(1))
    expected = RepetitionPenaltyLogitsProcessor(1.3)(history, logits_BV.clone())
    _apply(logits_BV, history.tolist(), [30, 4, 0], repetition=1.3)
    assert torch.equal(logits_BV, expected)


def test_frequency_counts_and_presence_does_not_and_both_leave_the_prompt_alone() -> None:
    logits_BV = torch.zeros(1, 6)
    _apply(logits_BV, [[1, 1, 2, 3, 3, 3]], [2], frequency=0.5, presence=0.25)
    assert logits_BV.tolist() == [[0.0, 0.0, -0.75, -1.75, 0.0, 0.0]]


def test_neutral_factors_and_empty_rows_change_nothing() -> None:
    logits_BV = torch.randn(2, 9, generator=torch.Generator().manual_seed(2))
    before = logits_BV.clone()
    _apply(logits_BV, [[1, 2, 2], []], [1, 0])
    assert torch.equal(logits_BV, before)
    _apply(logits_BV, [[], [0]], [0, 1], repetition=2.0, frequency=1.0)
    assert torch.equal(logits_BV[0], before[0])


def test_bias_adds_up_and_forbids() -> None:
    logits_BV = torch.zeros(2, 3)
    rows, tokens = torch.tensor([0, 0, 1]), torch.tensor([1, 1, 2])
    penalties.add_bias(logits_BV, rows, tokens, torch.tensor([1.0, 2.0, -math.inf]))
    assert logits_BV.tolist() == [[0.0, 3.0, 0.0], [0.0, 0.0, -math.inf]]
