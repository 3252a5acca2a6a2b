"""Triton kernel of mask.py: one part of one row in a program, which writes only where a token is forbidden. Open `apply_mask`.

R rows of logits, V vocabulary, B rows that are masked, W words of a mask.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from redline.kernels.op import ceil_div

BLOCK = 2048


def apply_mask(logits_RV: Tensor, index_B: Tensor, bits_BW: Tensor) -> None:
    """See mask.apply_mask."""
    vocab_size = logits_RV.shape[1]
    assert logits_RV.stride(1) == 1 and bits_BW.stride(1) == 1 and bits_BW.shape[1] * 32 >= vocab_size
    if len(index_B):
        _mask[(len(index_B), ceil_div(vocab_size, BLOCK))](
            logits_RV, index_B, bits_BW, vocab_size, logits_RV.stride(0), bits_BW.stride(0), BLOCK=BLOCK, num_warps=4
        )


@triton.jit(do_not_specialize=["vocab_size"])
def _mask(logits_RV, index_B, bits_BW, vocab_size, row_stride, bits_stride, BLOCK: tl.constexpr):
    b = tl.program_id(0).to(tl.int64)
    row = tl.load(index_B + b)
    v = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = v < vocab_size
    words = tl.load(bits_BW + b * bits_stride + v // 32, mask=inside, other=-1)
    forbidden = ((words >> (v % 32)) & 1) == 0
    tl.store(logits_RV + row * row_stride + v, float("-inf"), mask=inside & forbidden)
