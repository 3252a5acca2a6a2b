"""Comparing the greedy answers of two runs in float32: equal up to the first near tie, where rounding may decide."""

from __future__ import annotations

from redline import SamplingParams
from redline.llm import Choice, Completion

MARGIN = 1e-3
"""Between the two best logits, or log-probabilities, which differ by the same."""
GREEDY = SamplingParams(temperature=0.0, max_tokens=24, ignore_eos=True, logprobs=2)


def sure(choice: Choice) -> int:
    """How many tokens of a greedy answer with two logprobs come before the first near tie."""
    assert choice.logprobs is not None
    for i, scored in enumerate(choice.logprobs):
        if scored.top[0][1] - scored.top[1][1] < MARGIN:
            return i
    return len(choice.tokens)


def same(one: list[Completion], other: list[Completion]) -> None:
    """Both gave the same tokens, and near ties did not make the comparison empty."""
    compared = 0
    for a, b in zip(one, other, strict=True):
        for x, y in zip(a.choices, b.choices, strict=True):
            length = sure(x)
            assert x.tokens[:length] == y.tokens[:length]
            compared += length
    assert compared > 8 * len(one)
