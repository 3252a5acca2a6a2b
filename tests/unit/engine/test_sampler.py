"""From logits to tokens and scores, against transformers' processors and float64 arithmetic."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers

from redline.engine.batch import Bias, Penalties, SampleInputs
from redline.engine.sampler import sample_step, score
from redline.kernels.sample import SampleBatch

V = 40


def inputs(rows: int, **changes: Any) -> SampleInputs:
    """Greedy rows 0, 1, ... of the token table that write their column 6."""
    fields: dict[str, Any] = {
        "logit_rows_R": torch.arange(rows),
        "table_rows_R": torch.arange(rows),
        "columns_R": torch.full((rows,), 6),
        "choice": choice(rows, temperature=0.0),
        "penalties": None,
        "bias": None,
        "num_logprobs": None,
    }
    return SampleInputs(**{**fields, **changes})


def choice(rows: int, *, temperature: float, top_k: int = 0, top_p: float = 1.0, min_p: float = 0.0) -> SampleBatch:
    return SampleBatch(
        temperature_B=torch.full((rows,), temperature),
        top_k_B=torch.full((rows,), top_k, dtype=torch.int32),
        top_p_B=torch.full((rows,), top_p),
        min_p_B=torch.full((rows,), min_p),
        seed_B=torch.arange(rows) - 2**62,
        position_B=torch.arange(rows),
        all_greedy=temperature == 0,
        any_top_k=top_k > 0,
        any_top_p=top_p < 1,
        any_min_p=min_p > 0,
    )


def logits(rows: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, V, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def table() -> torch.Tensor:
    return torch.randint(V, (4, 9), generator=torch.Generator().manual_seed(3), dtype=torch.int32)


def test_tokens_go_to_their_places_in_the_table(table: torch.Tensor) -> None:
    before, wanted = table.clone(), logits(2)
    tokens, scores = sample_step(wanted.clone(), inputs(2, table_rows_R=torch.tensor([3, 1])), table)
    assert tokens.tolist() == wanted.argmax(-1).tolist() and scores is None
    before[3, 6], before[1, 6] = tokens.tolist()
    assert torch.equal(table, before)


def test_penalties_and_biases_are_transformers_and_touch_their_rows_alone(table: torch.Tensor) -> None:
    """Rows 0 and 2 of three are penalised; biases add up, and apply after the penalties."""
    plain = logits(3)
    expected = plain.clone()
    for row, factor in ((0, 1.7), (2, 0.6)):
        history = table[row : row + 1, :6].long()
        expected[row] = transformers.RepetitionPenaltyLogitsProcessor(factor)(history, expected[row : row + 1])[0]
        counts = history[0, 2:].bincount(minlength=V)
        expected[row] -= 0.5 * counts + 0.25 * (counts > 0)
    bias = transformers.SequenceBiasLogitsProcessor({(5,): 3.0, (11,): -2.5})
    expected[1:2] = bias(torch.zeros(1, 1, dtype=torch.long), expected[1:2])
    asked = inputs(
        3,
        penalties=Penalties(
            index_N=torch.tensor([0, 2]),
            table_rows_N=torch.tensor([0, 2]),
            lengths_N=torch.tensor([6, 6]),
            prompt_lengths_N=torch.tensor([2, 2]),
            repetition_N=torch.tensor([1.7, 0.6]),
            frequency_N=torch.tensor([0.5, 0.5]),
            presence_N=torch.tensor([0.25, 0.25]),
            max_length=6,
        ),
        bias=Bias(torch.tensor([1, 1, 1]), torch.tensor([5, 11, 5]), torch.tensor([1.0, -2.5, 2.0])),
        num_logprobs=3,
    )
    changed = plain.clone()
    tokens, scores = sample_step(changed, asked, table)
    torch.testing.assert_close(changed, expected, rtol=1e-6, atol=1e-6)
    assert tokens.tolist() == expected.argmax(-1).tolist()
    assert scores is not None
    raw = torch.log_softmax(plain.double(), -1)
    torch.testing.assert_close(scores.chosen_R.double(), raw.gather(1, tokens[:, None])[:, 0], rtol=0, atol=1e-6)
    assert torch.equal(scores.best_tokens_RK, raw.topk(3).indices), "scores are of the raw distribution"


@pytest.mark.parametrize(("asked", "given"), [(0, 0), (20, 20), (V, V), (V + 5, V)])
def test_alternatives_are_at_most_the_vocabulary(asked: int, given: int) -> None:
    found = score(logits(2), torch.tensor([1, 2]), asked)
    assert found.best_RK.shape == found.best_tokens_RK.shape == (2, given)


@pytest.mark.parametrize(
    "limits",
    [
        {"temperature": 1e-6},
        {"temperature": 1e-5},
        {"temperature": 1e-6, "top_k": 3, "top_p": 0.5, "min_p": 0.2},
        {"temperature": 100.0, "top_k": 1},
        {"temperature": 100.0, "top_p": 1e-9},
        {"temperature": 100.0, "min_p": 1.0},
    ],
)
def test_the_edges_of_the_ranges_are_greedy(limits: dict[str, Any], table: torch.Tensor) -> None:
    wanted = logits(4)
    tokens, _ = sample_step(wanted.clone(), inputs(4, choice=choice(4, **limits)), table)
    assert torch.equal(tokens, wanted.argmax(-1))


@pytest.mark.parametrize("limits", [{}, {"top_k": 2**31 - 1}, {"top_k": V}, {"top_p": 0.9, "min_p": 0.1}])
def test_rows_of_infinities_give_a_token(limits: dict[str, Any], table: torch.Tensor) -> None:
    """A hopeless row gives token 0, a row with one way open takes it, and neither disturbs the row beside it."""
    wanted = logits(3)
    alone, _ = sample_step(wanted.clone(), inputs(3, choice=choice(3, temperature=1.0, **limits)), table)
    wanted[0], wanted[1] = -torch.inf, -torch.inf
    wanted[1, 17] = -3.0
    tokens, _ = sample_step(wanted.clone(), inputs(3, choice=choice(3, temperature=1.0, **limits)), table)
    assert tokens.tolist() == [0, 17, int(alone[2])]
