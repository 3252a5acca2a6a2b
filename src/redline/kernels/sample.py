"""Choosing the next token of each row, on the device, without a host round trip.

    token = argmax_v  logits[v] / T + gumbel(seed, position, v)     over the kept tokens       (Gumbel-max; Maddison 2014)
    gumbel = -log(-log(1 - u))                                      u = philox.uniform(seed, position, v)
    T < 1e-5: argmax_v logits[v]

A token is kept if its logit reaches the row's threshold, the highest of three, applied in this order: the k-th best logit
(top_k); within those, the logit at which the probabilities, summed from the best down, first reach top_p of their sum
(top_p); best + T * log(min_p) (min_p). Being thresholds, they keep all of several equal logits or none, so no order of
sorting shows. Equal scores: the lowest token wins. A NaN counts as -inf and +inf as the largest float; a row without
anything above -inf gives token 0. Knows nothing of requests. Open `SampleBatch` first, then `sample`.

B rows, V vocabulary, R rows that are not greedy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from redline.kernels import philox
from redline.kernels.op import Inputs, OpSpec, random_tensor, use_triton
from redline.ops import OPS

GREEDY_BELOW = 1e-5
"""Temperatures below this are greedy: dividing by them would round noise and ties away anyhow."""

REACH = 26.0
"""How far below the best a scaled logit can lie and still win. u lies in [2^-33, 1 - 2^-24], so gumbel lies in
[-log(24 log 2), 33 log 2] = [-2.82, 22.88]: the best token scores at least best - 2.82, another at most its own scaled
logit + 22.88, hence one more than 25.7 below never wins; the rest is room for rounding."""

FIRST_LOOK = 1024
"""Best logits looked at for top_p before more are."""


@dataclass(frozen=True)
class SampleBatch:
    """How each of B rows is sampled. The flags say on the host what the tensors say on the device."""

    temperature_B: Tensor  # float32; 0 is greedy
    top_k_B: Tensor  # int32; 0 is off
    top_p_B: Tensor  # float32; 1 is off
    min_p_B: Tensor  # float32; 0 is off
    seed_B: Tensor  # int64
    position_B: Tensor  # int64
    all_greedy: bool
    any_top_k: bool
    any_top_p: bool
    any_min_p: bool

    @property
    def truncates(self) -> bool:
        return self.any_top_k or self.any_top_p or self.any_min_p

    def rows(self, index_R: Tensor) -> SampleBatch:
        """The batch of some rows."""
        names = ("temperature_B", "top_k_B", "top_p_B", "min_p_B", "seed_B", "position_B")
        return replace(self, **{name: getattr(self, name)[index_R] for name in names})


def sample(logits_BV: Tensor, batch: SampleBatch) -> Tensor:
    """One token per row, int64 [B]. `logits` is float32, rows contiguous. No synchronisation on a GPU."""
    if use_triton(logits_BV):
        from redline.kernels import sample_triton

        return sample_triton.sample(logits_BV, batch)
    best_B, tokens_B = logits_BV.max(-1)
    if not bool(best_B.isfinite().all()):  # max hands a NaN on
        logits_BV = finite_or_minus_inf(logits_BV)
        tokens_B = logits_BV.argmax(-1)
    if batch.all_greedy:
        return tokens_B
    random_R = (batch.temperature_B >= GREEDY_BELOW).nonzero().squeeze(1)
    if len(random_R) == len(tokens_B):
        return _draw(logits_BV, batch)
    return tokens_B.index_copy_(0, random_R, _draw(logits_BV[random_R], batch.rows(random_R)))


def finite_or_minus_inf(logits_BV: Tensor) -> Tensor:
    """NaN to -inf, +inf to the largest float32."""
    return logits_BV.nan_to_num(nan=-torch.inf, posinf=torch.finfo(torch.float32).max, neginf=-torch.inf)


def gumbel(uniform: Tensor) -> Tensor:
    """Standard Gumbel noise of a uniform number; fine where it is large, since the uniform number is fine near 0."""
    return torch.log1p(-uniform).neg_().log_().neg_()


def _draw(logits_RV: Tensor, batch: SampleBatch) -> Tensor:
    """Gumbel-max on a CPU. Noise costs more than all else here, so it is drawn only for tokens that can win."""
    best_R = logits_RV.amax(-1)
    floor_R = best_R - batch.temperature_B * REACH
    if batch.truncates:
        floor_R = torch.maximum(floor_R, _threshold(logits_RV, best_R, batch))
    kept_RV = logits_RV >= floor_R.unsqueeze(1)
    inverse_R = batch.temperature_B.reciprocal()
    if int(kept_RV.sum()) > kept_RV.shape[0] * philox.num_blocks(kept_RV.shape[1]):  # the cost of whole rows
        noise_RV = gumbel(philox.uniform_rows(batch.seed_B, batch.position_B, logits_RV.shape[1]))
        scores_RV = torch.addcmul(noise_RV, logits_RV, inverse_R.unsqueeze(1)).masked_fill_(~kept_RV, -torch.inf)
    else:
        row, token = kept_RV.nonzero(as_tuple=True)
        noise = gumbel(philox.uniform(batch.seed_B[row], batch.position_B[row], token))
        scores_RV = torch.full_like(logits_RV, -torch.inf)
        scores_RV[row, token] = torch.addcmul(noise, logits_RV[row, token], inverse_R[row])
    return scores_RV.argmax(-1)


def _threshold(logits_RV: Tensor, best_R: Tensor, batch: SampleBatch) -> Tensor:
    """The lowest logit that top_k, top_p and min_p keep, [R]."""
    threshold_R = torch.full_like(best_R, -torch.inf)
    if batch.any_top_k or batch.any_top_p:
        threshold_R = _top_threshold(logits_RV, best_R, batch)
    if batch.any_min_p:
        lowest_R = best_R + batch.temperature_B * batch.min_p_B.log()  # log(0) is -inf: off
        threshold_R = torch.maximum(threshold_R, lowest_R)
    return threshold_R


def _top_threshold(logits_RV: Tensor, best_R: Tensor, batch: SampleBatch) -> Tensor:
    vocab_size = logits_RV.shape[1]
    k_R = torch.where((batch.top_k_B > 0) & (batch.top_k_B < vocab_size), batch.top_k_B, vocab_size).long().unsqueeze(1)
    limited_R = k_R.squeeze(1) < vocab_size
    nucleus_R = batch.top_p_B < 1.0
    width = int(k_R[limited_R].max()) if bool(limited_R.any()) else 1
    if bool((nucleus_R & ~limited_R).any()):
        width = max(width, FIRST_LOOK)
    width = min(width, vocab_size)
    sorted_RW = logits_RV.topk(width).values
    kth_R = sorted_RW.gather(1, (k_R - 1).clamp(max=width - 1)).squeeze(1).masked_fill(~limited_R, -torch.inf)
    if not bool(nucleus_R.any()):
        return kth_R
    scaled_RV = (logits_RV - best_R.unsqueeze(1)) / batch.temperature_B.unsqueeze(1)
    mass_R = scaled_RV.exp_().masked_fill_(logits_RV < kth_R.unsqueeze(1), 0.0).sum(-1)
    wanted_R = torch.where(nucleus_R, batch.top_p_B * mass_R, 0.0)
    edge_R = _nucleus_edge(logits_RV, sorted_RW, best_R, batch.temperature_B, wanted_R)
    return torch.maximum(kth_R, edge_R.masked_fill_(~nucleus_R, -torch.inf))


def _nucleus_edge(logits_RV: Tensor, sorted_RW: Tensor, best_R: Tensor, temperature_R: Tensor, wanted_R: Tensor) -> Tensor:
    """The logit at which probability (up to a factor), summed from the best down, first reaches `wanted`. `sorted` holds the
    W best logits of each row; where they do not suffice, eight times as many are taken."""
    width = sorted_RW.shape[1]
    summed_RW = ((sorted_RW - best_R.unsqueeze(1)) / temperature_R.unsqueeze(1)).exp_().cumsum(-1)
    last_R1 = (summed_RW < wanted_R.unsqueeze(1)).sum(-1, keepdim=True).clamp_(max=width - 1)
    edge_R = sorted_RW.gather(1, last_R1).squeeze(1)
    short_R = summed_RW[:, -1] < wanted_R
    if width < logits_RV.shape[1] and bool(short_R.any()):
        rest_RV = logits_RV[short_R]
        wider_RW = rest_RV.topk(min(8 * width, logits_RV.shape[1])).values
        edge_R[short_R] = _nucleus_edge(rest_RV, wider_RW, best_R[short_R], temperature_R[short_R], wanted_R[short_R])
    return edge_R


def reference(logits_BV: Tensor, batch: SampleBatch) -> tuple[Tensor]:
    """The formula, row by row and token by token, in float64."""
    tokens = []
    for b, row_V in enumerate(finite_or_minus_inf(logits_BV.float()).double().cpu()):
        temperature = float(batch.temperature_B[b])
        if temperature < GREEDY_BELOW or not bool((row_V > -torch.inf).any()):
            tokens.append(int(row_V.argmax()))
            continue
        kept_V = reference_kept(row_V, temperature, int(batch.top_k_B[b]), float(batch.top_p_B[b]), float(batch.min_p_B[b]))
        token_V = torch.arange(len(row_V))
        uniform_V = philox.uniform(batch.seed_B[b].cpu(), batch.position_B[b].cpu(), token_V).double()
        scores_V = row_V / temperature - torch.log(-torch.log1p(-uniform_V))
        tokens.append(int(scores_V.masked_fill(~kept_V, -torch.inf).argmax()))
    return (torch.tensor(tokens, device=logits_BV.device),)


def reference_kept(logits_V: Tensor, temperature: float, top_k: int, top_p: float, min_p: float) -> Tensor:
    """Which tokens of one row may be drawn, bool [V]."""
    kept_V = torch.ones(len(logits_V), dtype=torch.bool)
    if 0 < top_k < len(logits_V):
        kept_V &= logits_V >= logits_V.sort(descending=True).values[top_k - 1]
    if top_p < 1.0:
        mass_V = torch.softmax((logits_V / temperature).masked_fill(~kept_V, -torch.inf), 0)
        order_V = mass_V.argsort(descending=True)
        needed = int((mass_V[order_V].cumsum(0) < top_p).sum())
        kept_V &= logits_V >= logits_V[order_V[min(needed, len(logits_V) - 1)]]
    if min_p > 0.0:
        probabilities_V = torch.softmax(logits_V / temperature, 0)
        kept_V &= probabilities_V >= min_p * probabilities_V.max()
    return kept_V


def make_inputs(axes: Mapping[str, int], dtype: torch.dtype, device: torch.device, seed: int) -> Inputs:
    """Rows of every kind in turn: greedy, plain, and truncated in all ways; some logits -inf, one NaN."""
    rows, vocab_size = axes["B"], axes["V"]
    logits_BV = 3 * random_tensor((rows, vocab_size), torch.float32, device, seed)
    logits_BV[:, seed % vocab_size :: 7] = -torch.inf
    logits_BV[0, vocab_size // 2] = torch.nan
    kind_B = (torch.arange(rows) + seed) % 4
    generator = torch.Generator().manual_seed(seed)
    batch = SampleBatch(
        temperature_B=torch.where(kind_B == 0, 0.0, 0.3 + torch.rand(rows, generator=generator)).to(device),
        top_k_B=torch.where(kind_B % 2 == 0, 0, 1 + vocab_size // 3).to(device, torch.int32),
        top_p_B=torch.where(kind_B >= 2, 0.8, 1.0).to(device),
        min_p_B=torch.where(kind_B == 3, 0.05, 0.0).to(device),
        seed_B=torch.randint(-(2**63), 2**63 - 1, (rows,), generator=generator).to(device),
        position_B=torch.randint(0, 2**40, (rows,), generator=generator).to(device),
        all_greedy=False,
        any_top_k=True,
        any_top_p=True,
        any_min_p=True,
    )
    return {"logits_BV": logits_BV, "batch": batch}


SPEC = OpSpec(
    op=OPS["sample"],
    reference=reference,
    run=sample,
    make_inputs=make_inputs,
    cases=tuple({"B": b, "V": v} for b, v in ((1, 1), (4, 31), (5, 257), (3, 4097))),
    tolerance="exact",
    triton="redline.kernels.sample_triton:sample",
    batch_invariant=True,
)
