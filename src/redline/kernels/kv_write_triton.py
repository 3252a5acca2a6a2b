"""Triton kernel of kv_write.py: k and v of a token in one program. Open `write_kv` first.

T tokens, P pages, S tokens per page, K kv heads, H head size.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from redline.kernels.op import ceil_div, next_power_of_two

MAX_BLOCK = 1024


def write_kv(k_TKH: Tensor, v_TKH: Tensor, k_cache_PSKH: Tensor, v_cache_PSKH: Tensor, slots_T: Tensor) -> None:
    """See kv_write.write_kv."""
    tokens, heads, head_size = k_TKH.shape
    assert k_TKH.stride()[1:] == (head_size, 1) and v_TKH.stride()[1:] == (head_size, 1)
    assert k_cache_PSKH.is_contiguous() and v_cache_PSKH.is_contiguous()
    size = heads * head_size
    block = min(MAX_BLOCK, next_power_of_two(size))
    _write_kv[(tokens, ceil_div(size, block))](
        k_TKH,
        v_TKH,
        k_cache_PSKH,
        v_cache_PSKH,
        slots_T,
        k_TKH.stride(0),
        v_TKH.stride(0),
        SIZE=size,
        BLOCK=block,
        num_warps=max(1, block // 256),
    )


@triton.jit
def _write_kv(
    k_TKH,
    v_TKH,
    k_cache_PSKH,
    v_cache_PSKH,
    slots_T,
    k_stride,
    v_stride,
    SIZE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    slot = tl.load(slots_T + token)
    if slot < 0:
        return
    i = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = i < SIZE
    k = tl.load(k_TKH + token * k_stride + i, mask=mask)
    v = tl.load(v_TKH + token * v_stride + i, mask=mask)
    tl.store(k_cache_PSKH + slot * SIZE + i, k, mask=mask)
    tl.store(v_cache_PSKH + slot * SIZE + i, v, mask=mask)
