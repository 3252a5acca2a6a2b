"""Triton kernel of rope.py: q and k in one launch, a program per token and block of heads. Open `rotate` first.

T tokens, N query heads, K kv heads, M heads of a program, H head size, L positions of the table.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from redline.kernels.op import ceil_div, next_power_of_two

BLOCK_HEADS = 8


def rotate(q_TNH: Tensor, k_TKH: Tensor, positions_T: Tensor, cos_sin_LH: Tensor) -> None:
    """See rope.rotate."""
    tokens, heads, size = q_TNH.shape
    kv_heads = k_TKH.shape[1]
    assert q_TNH.stride()[1:] == (size, 1) and k_TKH.stride()[1:] == (size, 1) and cos_sin_LH.shape[1] == size
    q_blocks, k_blocks = ceil_div(heads, BLOCK_HEADS), ceil_div(kv_heads, BLOCK_HEADS)
    _rotate[(tokens, q_blocks + k_blocks)](
        q_TNH,
        k_TKH,
        positions_T,
        cos_sin_LH,
        q_TNH.stride(0),
        k_TKH.stride(0),
        HEADS=heads,
        KV_HEADS=kv_heads,
        HALF=size // 2,
        PADDED=next_power_of_two(size // 2),
        Q_BLOCKS=q_blocks,
        BLOCK=BLOCK_HEADS,
        num_warps=1,
    )


@triton.jit
def _turn(heads_MH, block, cos, sin, HEADS: tl.constexpr, HALF: tl.constexpr, PADDED: tl.constexpr, BLOCK: tl.constexpr):
    """Rotate heads [block * BLOCK, (block + 1) * BLOCK) of the token at `heads_MH`."""
    head_M = block * BLOCK + tl.arange(0, BLOCK)
    h = tl.arange(0, PADDED)
    mask = (head_M < HEADS)[:, None] & (h < HALF)[None, :]
    first = heads_MH + head_M[:, None] * (2 * HALF) + h[None, :]
    a = tl.load(first, mask=mask, other=0.0).to(tl.float32)
    b = tl.load(first + HALF, mask=mask, other=0.0).to(tl.float32)
    tl.store(first, (a * cos - b * sin).to(heads_MH.dtype.element_ty), mask=mask)
    tl.store(first + HALF, (b * cos + a * sin).to(heads_MH.dtype.element_ty), mask=mask)


@triton.jit
def _rotate(
    q_TNH,
    k_TKH,
    positions_T,
    cos_sin_LH,
    q_stride,
    k_stride,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    HALF: tl.constexpr,
    PADDED: tl.constexpr,
    Q_BLOCKS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    block = tl.program_id(1)
    h = tl.arange(0, PADDED)
    row = cos_sin_LH + tl.load(positions_T + token) * (2 * HALF)
    cos = tl.load(row + h, mask=h < HALF, other=0.0)[None, :]
    sin = tl.load(row + HALF + h, mask=h < HALF, other=0.0)[None, :]
    if block < Q_BLOCKS:
        _turn(q_TNH + token * q_stride, block, cos, sin, HEADS, HALF, PADDED, BLOCK)
    else:
        _turn(k_TKH + token * k_stride, block - Q_BLOCKS, cos, sin, KV_HEADS, HALF, PADDED, BLOCK)
