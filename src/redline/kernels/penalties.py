"""Penalties on tokens a sequence already holds, and biases by token: in place on the logits, before the draw.

    repetition r:  logit / r if logit > 0 else logit * r     for each token of prompt or answer      (CTRL, Keskar 2019)
    presence p:    logit - p                                 for each token of the answer
    frequency f:   logit - f * (times it occurs)             for each token of the answer             (OpenAI API)

Only the history's tokens are touched, so the cost goes with its length and not with the vocabulary. Plain torch on every
device, without synchronisation. Knows nothing of requests. Open `apply_penalties` first.

B rows, V vocabulary, L longest history.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from redline.kernels.op import Inputs, OpSpec, random_tensor
from redline.ops import OPS


def apply_penalties(
    logits_BV: Tensor,
    history_BL: Tensor,
    lengths_B: Tensor,
    prompt_lengths_B: Tensor,
    repetition_B: Tensor,
    frequency_B: Tensor,
    presence_B: Tensor,
) -> None:
    """Penalise row b for history[b, :lengths[b]], of which the first prompt_lengths[b] tokens are its prompt. In place.

    `logits` float32; `history` integer token ids, anything behind a row's length; lengths integer; factors float32 (neutral:
    1, 0, 0).
    """
    place_L = torch.arange(history_BL.shape[1], device=history_BL.device)
    held_BL = place_L < lengths_B.unsqueeze(1)
    answer_BL = held_BL & (place_L >= prompt_lengths_B.unsqueeze(1))
    tokens_BL = history_BL.long().masked_fill(~held_BL, 0)
    repetition_B1 = repetition_B.unsqueeze(1)

    old_BL = logits_BV.gather(1, tokens_BL)
    _assign(logits_BV, tokens_BL, held_BL, torch.where(old_BL > 0, old_BL / repetition_B1, old_BL * repetition_B1))
    old_BL = logits_BV.gather(1, tokens_BL)
    _assign(logits_BV, tokens_BL, answer_BL, old_BL - presence_B.unsqueeze(1))
    logits_BV.scatter_add_(1, tokens_BL, torch.where(answer_BL, -frequency_B.unsqueeze(1), 0.0))


def _assign(logits_BV: Tensor, tokens_BL: Tensor, chosen_BL: Tensor, values_BL: Tensor) -> None:
    """logits[b, tokens[b, l]] = values[b, l] where chosen. Equal tokens of a row must have equal values.

    A place that is not chosen repeats the row's first chosen one, so that it writes nothing new; a row without any repeats
    the logit of its token at place 0.
    """
    first_B1 = chosen_BL.int().argmax(1, keepdim=True)
    place_BL = torch.where(chosen_BL, torch.arange(chosen_BL.shape[1], device=chosen_BL.device), first_B1)
    kept_BL = torch.where(chosen_BL.any(1, keepdim=True), values_BL, logits_BV.gather(1, tokens_BL))
    logits_BV.scatter_(1, tokens_BL.gather(1, place_BL), kept_BL.gather(1, place_BL))


def add_bias(logits_BV: Tensor, rows: Tensor, tokens: Tensor, values: Tensor) -> None:
    """logits[rows[i], tokens[i]] += values[i], in place; pairs may repeat. -inf forbids a token."""
    logits_BV.index_put_((rows, tokens), values, accumulate=True)


def reference(
    logits_BV: Tensor,
    history_BL: Tensor,
    lengths_B: Tensor,
    prompt_lengths_B: Tensor,
    repetition_B: Tensor,
    frequency_B: Tensor,
    presence_B: Tensor,
) -> tuple[Tensor]:
    result_BV = logits_BV.clone()
    for b in range(len(logits_BV)):
        history = history_BL[b, : int(lengths_B[b])].tolist()
        answer = history[int(prompt_lengths_B[b]) :]
        for token in set(history):
            logit = float(result_BV[b, token])
            logit = logit / float(repetition_B[b]) if logit > 0 else logit * float(repetition_B[b])
            if token in answer:
                logit -= float(presence_B[b]) + float(frequency_B[b]) * answer.count(token)
            result_BV[b, token] = logit
    return (result_BV,)


def make_inputs(axes: Mapping[str, int], dtype: torch.dtype, device: torch.device, seed: int) -> Inputs:
    """Histories with repeats, of random lengths; the last row has none, the first is all prompt."""
    rows, vocab_size, longest = axes["B"], axes["V"], axes["L"]
    generator = torch.Generator().manual_seed(seed)
    history_BL = torch.randint(max(1, vocab_size // 2), (rows, longest), generator=generator)
    lengths_B = torch.randint(1, longest + 1, (rows,), generator=generator)
    lengths_B[-1] = 0
    prompt_lengths_B = (lengths_B * torch.rand(rows, generator=generator)).long()
    prompt_lengths_B[0] = lengths_B[0]
    history_BL.masked_fill_(torch.arange(longest) >= lengths_B.unsqueeze(1), -1)
    factors = torch.rand((3, rows), generator=generator)
    return {
        "logits_BV": random_tensor((rows, vocab_size), torch.float32, device, seed),
        "history_BL": history_BL.to(device),
        "lengths_B": lengths_B.to(device),
        "prompt_lengths_B": prompt_lengths_B.to(device),
        "repetition_B": (0.5 + factors[0]).to(device),
        "frequency_B": (factors[1] - 0.5).to(device),
        "presence_B": (factors[2] - 0.5).to(device),
    }


SPEC = OpSpec(
    op=OPS["apply_penalties"],
    reference=reference,
    run=apply_penalties,
    make_inputs=make_inputs,
    cases=tuple({"B": b, "V": v, "L": length} for b, v, length in ((1, 1, 1), (3, 17, 40), (5, 1000, 129))),
    tolerance="elementwise",
    mutates=("logits_BV",),
)
