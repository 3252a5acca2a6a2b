"""Forbidding tokens: the logits of chosen rows become -inf wherever a packed bitmask has a 0. In place, before the draw.

    logits[index[b], v] = -inf   unless bit v % 32 of word v // 32 of bits[b] is set          (as llguidance packs its masks)

On a CPU a table turns each byte of the mask into eight flags. Knows nothing of grammars. Open `apply_mask` first.

R rows of logits, V vocabulary, B rows that are masked, W = ceil(V / 32) words.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from redline.kernels.op import Inputs, OpSpec, ceil_div, random_tensor, use_triton
from redline.ops import OPS

_FORBIDDEN = ((torch.arange(256).unsqueeze(1) >> torch.arange(8)) & 1) == 0
"""By byte: which of its eight tokens are forbidden."""


def apply_mask(logits_RV: Tensor, index_B: Tensor, bits_BW: Tensor) -> None:
    """Forbid in row `index[b]` what `bits[b]` leaves out. Logits float32, rows contiguous; index int64, all different; bits int32."""
    if use_triton(logits_RV):
        from redline.kernels import mask_triton

        return mask_triton.apply_mask(logits_RV, index_B, bits_BW)
    bytes_BX = bits_BW.contiguous().view(torch.uint8).long()
    for row, bytes_X in zip(index_B.tolist(), bytes_BX, strict=True):
        logits_V = logits_RV[row]
        logits_V.masked_fill_(_FORBIDDEN[bytes_X].flatten()[: len(logits_V)], -torch.inf)


def reference(logits_RV: Tensor, index_B: Tensor, bits_BW: Tensor) -> tuple[Tensor]:
    result_RV = logits_RV.clone()
    for row, words in zip(index_B.tolist(), bits_BW.tolist(), strict=True):
        for token in range(result_RV.shape[1]):
            if not words[token // 32] >> (token % 32) & 1:
                result_RV[row, token] = -torch.inf
    return (result_RV,)


def make_inputs(axes: Mapping[str, int], dtype: torch.dtype, device: torch.device, seed: int) -> Inputs:
    """Random masks, one of them with nothing forbidden and one with a single token left; rows in no order."""
    rows, masked, vocab_size = axes["R"], axes["B"], axes["V"]
    generator = torch.Generator().manual_seed(seed)
    bits_BW = torch.randint(-(2**31), 2**31, (masked, ceil_div(vocab_size, 32)), generator=generator).to(torch.int32)
    bits_BW[0] = -1
    bits_BW[-1] = 0
    bits_BW[-1, (vocab_size - 1) // 32] = 1 << min(30, (vocab_size - 1) % 32)
    return {
        "logits_RV": random_tensor((rows, vocab_size), torch.float32, device, seed),
        "index_B": torch.randperm(rows, generator=generator)[:masked].to(device),
        "bits_BW": bits_BW.to(device),
    }


SPEC = OpSpec(
    op=OPS["apply_mask"],
    reference=reference,
    run=apply_mask,
    make_inputs=make_inputs,
    cases=tuple({"R": r, "B": b, "V": v} for r, b, v in ((1, 1, 1), (5, 3, 61), (7, 7, 64), (4, 2, 3001))),
    tolerance="exact",
    triton="redline.kernels.mask_triton:apply_mask",
    mutates=("logits_RV",),
)
