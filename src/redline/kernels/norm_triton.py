"""Triton kernels of norm.py: a program normalises one row, or several where rows are short. Open `rms_norm` first.

T tokens, N heads of a token (1 for plain rows), D row size, R rows of a program.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from redline.kernels.op import ceil_div, next_power_of_two

ELEMENTS_PER_PROGRAM = 4096
ELEMENTS_PER_WARP = 1024


def rms_norm(x_TD: Tensor, weight_D: Tensor, eps: float, dtype: torch.dtype | None = None) -> Tensor:
    """See norm.rms_norm."""
    heads, size = (x_TD.shape[1] if x_TD.ndim == 3 else 1), x_TD.shape[-1]
    assert x_TD.stride(-1) == 1 and (x_TD.ndim == 2 or x_TD.stride(1) == size)
    output_TD = torch.empty(x_TD.shape, dtype=dtype or x_TD.dtype, device=x_TD.device)
    rows = x_TD.shape[0] * heads
    padded = next_power_of_two(size)
    block_rows = min(max(1, ELEMENTS_PER_PROGRAM // padded), next_power_of_two(heads))
    _rms_norm[(ceil_div(rows, block_rows),)](
        x_TD,
        weight_D,
        output_TD,
        rows,
        x_TD.stride(0),
        eps,
        HEADS=heads,
        SIZE=size,
        BLOCK_ROWS=block_rows,
        PADDED=padded,
        num_warps=_warps(block_rows * padded),
    )
    return output_TD


def add_rms_norm(x_TD: Tensor, residual_TD: Tensor, weight_D: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """See norm.add_rms_norm."""
    tokens, size = x_TD.shape
    assert x_TD.stride(1) == 1 and residual_TD.stride(1) == 1
    output_TD = torch.empty(x_TD.shape, dtype=x_TD.dtype, device=x_TD.device)
    total_TD = torch.empty(x_TD.shape, dtype=residual_TD.dtype, device=x_TD.device)
    padded = next_power_of_two(size)
    _add_rms_norm[(tokens,)](
        x_TD,
        residual_TD,
        weight_D,
        output_TD,
        total_TD,
        x_TD.stride(0),
        residual_TD.stride(0),
        eps,
        SIZE=size,
        PADDED=padded,
        num_warps=_warps(padded),
    )
    return output_TD, total_TD


def _warps(elements: int) -> int:
    return min(16, max(1, elements // ELEMENTS_PER_WARP))


@triton.jit(do_not_specialize=["rows"])
def _rms_norm(
    x_TND,
    weight_D,
    output_TND,
    rows,
    stride,
    eps,
    HEADS: tl.constexpr,
    SIZE: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    PADDED: tl.constexpr,
):
    row_R = (tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)).to(tl.int64)
    d = tl.arange(0, PADDED)
    mask_RD = (row_R < rows)[:, None] & (d < SIZE)[None, :]
    offset_R = row_R // HEADS * stride + row_R % HEADS * SIZE
    x_RD = tl.load(x_TND + offset_R[:, None] + d[None, :], mask=mask_RD, other=0.0).to(tl.float32)
    inverse_R = 1.0 / tl.sqrt(tl.sum(x_RD * x_RD, 1) / SIZE + eps)
    scale_D = tl.load(weight_D + d, mask=d < SIZE, other=0.0)
    y_RD = x_RD * inverse_R[:, None] * scale_D[None, :]
    tl.store(output_TND + row_R[:, None] * SIZE + d[None, :], y_RD.to(output_TND.dtype.element_ty), mask=mask_RD)


@triton.jit
def _add_rms_norm(
    x_TD,
    residual_TD,
    weight_D,
    output_TD,
    total_TD,
    x_stride,
    residual_stride,
    eps,
    SIZE: tl.constexpr,
    PADDED: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    d = tl.arange(0, PADDED)
    mask_D = d < SIZE
    x_D = tl.load(x_TD + row * x_stride + d, mask=mask_D, other=0.0).to(tl.float32)
    residual_D = tl.load(residual_TD + row * residual_stride + d, mask=mask_D, other=0.0).to(tl.float32)
    total_D = (x_D + residual_D).to(total_TD.dtype.element_ty)
    tl.store(total_TD + row * SIZE + d, total_D, mask=mask_D)
    total_D = total_D.to(tl.float32)
    inverse = 1.0 / tl.sqrt(tl.sum(total_D * total_D, 0) / SIZE + eps)
    scale_D = tl.load(weight_D + d, mask=mask_D, other=0.0)
    y_D = total_D * inverse * scale_D
    tl.store(output_TD + row * SIZE + d, y_D.to(output_TD.dtype.element_ty), mask=mask_D)
