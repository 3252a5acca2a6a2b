"""Sampling: the kept set against transformers' warpers, the frequencies against exact probabilities, and the rules of ties."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from redline.kernels import sample
from redline.kernels.sample import SampleBatch

DRAWS = 20_000


def batch_of(rows: int, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0, min_p: float = 0.0) -> SampleBatch:
    return SampleBatch(
        temperature_B=torch.full((rows,), temperature),
        top_k_B=torch.full((rows,), top_k, dtype=torch.int32),
        top_p_B=torch.full((rows,), top_p),
        min_p_B=torch.full((rows,), min_p),
        seed_B=torch.arange(rows) * 7919 - 5,
        position_B=torch.arange(rows) % 13,
        all_greedy=temperature == 0.0,
        any_top_k=top_k > 0,
        any_top_p=top_p < 1.0,
        any_min_p=min_p > 0.0,
    )


def warped(logits_BV: torch.Tensor, temperature: float, top_k: int, top_p: float, min_p: float) -> torch.Tensor:
    """Probabilities after transformers' warpers, in the order its `generate` applies them."""
    from transformers import MinPLogitsWarper, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    scores = TemperatureLogitsWarper(temperature)(None, logits_BV.double())
    if top_k:
        scores = TopKLogitsWarper(top_k)(None, scores)
    if top_p < 1.0:
        scores = TopPLogitsWarper(top_p)(None, scores)
    if min_p:
        scores = MinPLogitsWarper(min_p)(None, scores)
    return torch.softmax(scores, -1)


SETTINGS = [(1.0, 0, 1.0, 0.0), (0.7, 4, 1.0, 0.0), (1.3, 0, 0.8, 0.0), (0.9, 0, 1.0, 0.1), (1.1, 7, 0.85, 0.08)]


@pytest.mark.parametrize(("temperature", "top_k", "top_p", "min_p"), SETTINGS)
def test_frequencies_are_the_exact_probabilities(temperature: float, top_k: int, top_p: float, min_p: float) -> None:
    """Chi-square over 20,000 draws with distinct seeds; nothing outside the kept set is ever drawn."""
    logits_V = torch.tensor([1.0, 0.4, -0.3, 2.0, 0.9, -1.0, 0.0, 1.6, -2.0, 0.7])
    expected_V = warped(logits_V.unsqueeze(0), temperature, top_k, top_p, min_p)[0] * DRAWS
    tokens = sample.sample(logits_V.expand(DRAWS, -1).contiguous(), batch_of(DRAWS, temperature, top_k, top_p, min_p))
    counts_V = torch.bincount(tokens, minlength=len(logits_V))
    kept_V = expected_V > 0
    assert not counts_V[~kept_V].any()
    chi_square = ((counts_V - expected_V) ** 2 / expected_V)[kept_V].sum()
    degrees = int(kept_V.sum()) - 1
    assert chi_square < degrees + 3.3 * (2 * degrees) ** 0.5 + 8  # beyond the 99.95 % point for up to 9 degrees


@pytest.mark.parametrize("vocab_size", [50, 3000])
@pytest.mark.parametrize(("temperature", "top_k", "top_p", "min_p"), SETTINGS[1:] + [(3.0, 0, 0.99, 0.0)])
def test_kept_set_is_transformers(temperature: float, top_k: int, top_p: float, min_p: float, vocab_size: int) -> None:
    """Also where top_p needs more tokens than the first look takes."""
    logits_BV = 2 * torch.randn((6, vocab_size), generator=torch.Generator().manual_seed(vocab_size))
    expected_BV = warped(logits_BV, temperature, top_k, top_p, min_p) > 0
    batch = batch_of(6, temperature, top_k, top_p, min_p)
    kept_BV = logits_BV >= sample._threshold(logits_BV, logits_BV.amax(-1), batch).unsqueeze(1)
    assert torch.equal(kept_BV, expected_BV)
    for row_V, expected_V in zip(logits_BV.double(), expected_BV, strict=True):
        assert torch.equal(sample.reference_kept(row_V, temperature, top_k, top_p, min_p), expected_V)


def test_mixed_limits_in_one_batch() -> None:
    """A row's limits do not leak into its neighbours."""
    logits_BV = torch.randn((4, 2000), generator=torch.Generator().manual_seed(4))
    rows = [(1.0, 3, 1.0, 0.0), (1.0, 0, 0.5, 0.0), (2.0, 0, 1.0, 0.3), (1.0, 0, 1.0, 0.0)]
    temperature, top_k, top_p, min_p = (torch.tensor(column) for column in zip(*rows, strict=True))
    batch = dataclasses.replace(
        batch_of(4, 1.0, 1, 0.5, 0.5), temperature_B=temperature, top_k_B=top_k.int(), top_p_B=top_p, min_p_B=min_p
    )
    kept_BV = logits_BV >= sample._threshold(logits_BV, logits_BV.amax(-1), batch).unsqueeze(1)
    for row, limits in enumerate(rows):
        assert torch.equal(kept_BV[row], warped(logits_BV[row : row + 1], *limits)[0] > 0)


def test_pruning_by_the_bound_on_noise_changes_no_token() -> None:
    """Noise for tokens that can win alone, and noise for all: the same draws."""
    logits_BV = 12 * torch.randn((40, 700), generator=torch.Generator().manual_seed(5))
    batch = batch_of(40)
    pruned = sample.sample(logits_BV, batch)
    noise_BV = sample.gumbel(sample.philox.uniform_rows(batch.seed_B, batch.position_B, 700))
    assert torch.equal(pruned, (logits_BV + noise_BV).argmax(-1))


def test_equal_logits_are_kept_or_dropped_together() -> None:
    logits_BV = torch.tensor([[2.0, 1.0, 1.0, 1.0, 0.0]])
    for limits in ({"top_k": 2}, {"top_p": 0.5}):
        threshold = sample._threshold(logits_BV, logits_BV.amax(-1), batch_of(1, **limits))
        assert (logits_BV[0] >= threshold).tolist() == [True, True, True, True, False]


def test_top_k_1_and_tiny_top_p_are_greedy() -> None:
    logits_BV = torch.randn((200, 64), generator=torch.Generator().manual_seed(6))
    for limits in ({"top_k": 1}, {"top_p": 1e-9}, {"min_p": 1.0}):
        assert torch.equal(sample.sample(logits_BV, batch_of(200, **limits)), logits_BV.argmax(-1))


def test_greedy_rows_among_others_and_the_lowest_of_equals() -> None:
    logits_BV = torch.tensor([[1.0, 5.0, 5.0], [0.0, 0.0, 9.0], [5.0, 5.0, 5.0]])
    batch = dataclasses.replace(batch_of(3), temperature_B=torch.tensor([0.0, 1e-3, 0.0]))
    assert sample.sample(logits_BV, batch).tolist() == [1, 2, 0]
    assert sample.sample(logits_BV, batch_of(3, 0.0)).tolist() == [1, 2, 0]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_values_that_are_no_numbers(temperature: float) -> None:
    """NaN and -inf are never drawn while anything else is there, +inf always is; a hopeless row gives token 0."""
    nan, inf = torch.nan, torch.inf
    logits_BV = torch.tensor([[nan, -inf, 1.0], [nan, 3.0, inf], [-inf, -inf, -inf], [nan, nan, nan]])
    assert sample.sample(logits_BV, batch_of(4, temperature)).tolist() == [2, 2, 0, 0]
    assert sample.sample(logits_BV, batch_of(4, temperature, 2, 0.9, 0.1)).tolist() == [2, 2, 0, 0]


def test_a_draw_depends_on_seed_and_position_alone() -> None:
    """The same row alone, elsewhere in a batch, or beside greedy rows gives the same token."""
    logits_BV = torch.randn((16, 500), generator=torch.Generator().manual_seed(7))
    batch = batch_of(16, 1.2)
    together = sample.sample(logits_BV, batch)
    order = torch.randperm(16, generator=torch.Generator().manual_seed(8))
    assert torch.equal(sample.sample(logits_BV[order], batch.rows(order)), together[order])
    for row in range(16):
        index = torch.tensor([row])
        assert sample.sample(logits_BV[index], batch.rows(index)) == together[row]
