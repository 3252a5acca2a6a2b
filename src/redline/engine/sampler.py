"""From logits to tokens and log-probabilities, all on the device.

Order: raw logits are kept for log-probabilities; then penalties, then biases (logit_bias, forbidden end tokens), then what
a grammar forbids, then temperature, top-k, top-p, min-p and the draw (kernels/sample.py). Nothing here waits for the device.
Open `sample_step` first. Shapes: R rows that sample, V vocabulary, K alternatives.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from redline.engine.batch import Penalties, SampleInputs
from redline.kernels.mask import apply_mask
from redline.kernels.penalties import add_bias, apply_penalties
from redline.kernels.sample import sample


@dataclass(frozen=True, slots=True)
class Mask:
    """What grammars allow in B of the R rows, on the device: bit v of a row is token v."""

    index_B: torch.Tensor
    bits_BW: torch.Tensor


@dataclass(frozen=True, slots=True)
class Scores:
    """Natural-log probabilities under the raw distribution, on the device: the token's own and the K best."""

    chosen_R: torch.Tensor
    best_RK: torch.Tensor
    best_tokens_RK: torch.Tensor


def sample_step(
    logits_RV: torch.Tensor, inputs: SampleInputs, table: torch.Tensor, mask: Mask | None = None
) -> tuple[torch.Tensor, Scores | None]:
    """Tokens (int64, R) of one step and, if asked for, their scores. `logits_RV` is consumed.

    `table` is the token table; the sampled tokens are written into it, so that the next step can read them there.
    """
    changed = inputs.penalties or inputs.bias or mask
    raw = logits_RV.clone() if inputs.num_logprobs is not None and changed else logits_RV
    if inputs.penalties is not None:
        _penalise(logits_RV, inputs.penalties, table)
    if inputs.bias is not None:
        add_bias(logits_RV, inputs.bias.rows, inputs.bias.tokens, inputs.bias.values)
    if mask is not None:
        apply_mask(logits_RV, mask.index_B, mask.bits_BW)
    tokens_R = sample(logits_RV, inputs.choice)
    table[inputs.table_rows_R, inputs.columns_R] = tokens_R.to(table.dtype)
    if inputs.num_logprobs is None:
        return tokens_R, None
    return tokens_R, score(raw, tokens_R, inputs.num_logprobs)


def score(logits_RV: torch.Tensor, tokens_R: torch.Tensor, num_best: int) -> Scores:
    """Log-probabilities of `tokens_R` and of the `num_best` best tokens of each row: none for 0, at most the vocabulary."""
    logprobs_RV = torch.log_softmax(logits_RV.float(), dim=-1)
    best = torch.topk(logprobs_RV, min(num_best, logprobs_RV.shape[1]), dim=-1)
    return Scores(logprobs_RV.gather(1, tokens_R[:, None]).squeeze(1), best.values, best.indices)


def _penalise(logits_RV: torch.Tensor, penalties: Penalties, table: torch.Tensor) -> None:
    rows_NV = logits_RV.index_select(0, penalties.index_N)
    apply_penalties(
        rows_NV,
        table[penalties.table_rows_N, : penalties.max_length],
        penalties.lengths_N,
        penalties.prompt_lengths_N,
        penalties.repetition_N,
        penalties.frequency_N,
        penalties.presence_N,
    )
    logits_RV.index_copy_(0, penalties.index_N, rows_NV)
