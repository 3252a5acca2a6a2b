"""Triton kernels of gemv.py: a program computes a few outputs of the row, walking its weight rows in wide tiles.

The first weights do not depend on the kernel before: they are requested before the program waits for that kernel (programmatic
dependent launch, sm_90 and later), so the memory does not idle between two projections. Weights are read once and marked to
leave the cache first; the row that they meet is read again by every program, from the cache. Of a normalised input the sum
of squares is taken along the way, and its root applied to the finished sums.

How large the tiles are is data: see `choose_tile`. Open `norm_linear`, then `_gemv`.

K inputs, N outputs, R outputs of a program, X inputs of a tile.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import triton
import triton.language as tl
from torch import Tensor

from redline.kernels import op
from redline.kernels.op import ceil_div, next_power_of_two

Kind = Literal["project", "norm", "gated", "add"]


@dataclass(frozen=True)
class Tile:
    """Outputs of a program, inputs of a tile, warps."""

    outputs: int
    inputs: int
    warps: int


def choose_tile(outputs: int, inputs: int, kind: Kind) -> Tile:
    """As measured on an H200 in a graph: about 64 weights a thread, twice that behind a norm, whose programs should be few as
    each takes the norm again."""
    width = max(64, next_power_of_two(inputs))
    if kind == "gated":
        return Tile(4, min(width, 4096), 8 if width >= 4096 else 4)
    if kind == "norm":
        return Tile(8, min(width, 4096), 8)
    if kind == "project":
        return Tile(2, min(width, 4096), 4)
    return Tile(4 if outputs >= 4096 else 2, min(width, 2048), 4)


def project(x_TK: Tensor, weight_NK: Tensor) -> Tensor:
    """See gemv.project."""
    output_TN = torch.empty((x_TK.shape[0], weight_NK.shape[0]), dtype=torch.float32, device=weight_NK.device)
    _launch("project", x_TK, None, 0.0, weight_NK, None, output_TN)
    return output_TN


def norm_linear(stream_TK: Tensor, norm_K: Tensor, eps: float, weight_NK: Tensor, bias_N: Tensor | None = None) -> Tensor:
    """See gemv.norm_linear."""
    output_TN = torch.empty((stream_TK.shape[0], weight_NK.shape[0]), dtype=weight_NK.dtype, device=weight_NK.device)
    _launch("norm", stream_TK, norm_K, eps, weight_NK, bias_N, output_TN)
    return output_TN


def norm_gated(stream_TK: Tensor, norm_K: Tensor, eps: float, weight_2FK: Tensor, gelu: bool = False) -> Tensor:
    """See gemv.norm_gated."""
    size = weight_2FK.shape[0] // 2
    output_TF = torch.empty((stream_TK.shape[0], size), dtype=weight_2FK.dtype, device=weight_2FK.device)
    _launch("gated", stream_TK, norm_K, eps, weight_2FK, None, output_TF, gelu)
    return output_TF


def linear_add(x_TK: Tensor, weight_NK: Tensor, stream_TN: Tensor, bias_N: Tensor | None = None) -> None:
    """See gemv.linear_add."""
    _launch("add", x_TK, None, 0.0, weight_NK, bias_N, stream_TN)


def _launch(
    kind: Kind,
    x_TK: Tensor,
    norm_K: Tensor | None,
    eps: float,
    weight_NK: Tensor,
    bias_N: Tensor | None,
    output_TN: Tensor,
    gelu: bool = False,
) -> None:
    assert x_TK.is_contiguous() and weight_NK.is_contiguous() and output_TN.is_contiguous()
    (rows, inputs), outputs = x_TK.shape, output_TN.shape[1]
    assert rows == 1, "more rows are a matrix product's work"
    tile = choose_tile(outputs, inputs, kind)
    _gemv[(ceil_div(outputs, tile.outputs),)](
        x_TK,
        norm_K if norm_K is not None else x_TK,
        weight_NK,
        bias_N if bias_N is not None else x_TK,
        output_TN,
        eps,
        outputs,
        K=inputs,
        R=tile.outputs,
        X=tile.inputs,
        NORM=norm_K is not None,
        GATED=kind == "gated",
        GELU=gelu,
        ADD=kind == "add",
        BIAS=bias_N is not None,
        num_warps=tile.warps,
        **op.dependent_launch(x_TK),
    )


@triton.jit
def _weights(rows_R, live_R, begin, K: tl.constexpr, X: tl.constexpr):
    """Tile [R, X] of the weight rows that start at `rows_R`, zero outside."""
    x = begin + tl.arange(0, X)
    inside = live_R[:, None]
    if K % X != 0:
        inside = inside & (x < K)[None, :]
    return tl.load(rows_R[:, None] + x[None, :], mask=inside, other=0.0, eviction_policy="evict_first")


@triton.jit(do_not_specialize=["outputs"])
def _gemv(
    x_TK,
    norm_K,
    weight_NK,
    bias_N,
    output_TN,
    eps,
    outputs,
    K: tl.constexpr,
    R: tl.constexpr,
    X: tl.constexpr,
    NORM: tl.constexpr,
    GATED: tl.constexpr,
    GELU: tl.constexpr,
    ADD: tl.constexpr,
    BIAS: tl.constexpr,
    DEPENDENT: tl.constexpr,
):
    """Products in float32, summed over the tile's threads: nothing but the memory limits it."""
    n = tl.program_id(0) * R + tl.arange(0, R)
    live_R = n < outputs
    rows_R = weight_NK + n.to(tl.int64) * K
    up_R = rows_R + outputs.to(tl.int64) * K
    w_RX = _weights(rows_R, live_R, 0, K, X)
    if GATED:
        u_RX = _weights(up_R, live_R, 0, K, X)
    if DEPENDENT:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()
    sum_R = tl.zeros([R], tl.float32)
    up_sum_R = tl.zeros([R], tl.float32)
    square = 0.0
    for begin in tl.static_range(0, K, X):
        x = begin + tl.arange(0, X)
        x_X = tl.load(x_TK + x, mask=x < K, other=0.0).to(tl.float32)
        if NORM:
            square += tl.sum(x_X * x_X, 0)
            x_X = x_X * tl.load(norm_K + x, mask=x < K, other=0.0)
        sum_R += tl.sum(x_X[None, :] * w_RX.to(tl.float32), 1)
        if GATED:
            up_sum_R += tl.sum(x_X[None, :] * u_RX.to(tl.float32), 1)
        if begin + X < K:
            w_RX = _weights(rows_R, live_R, begin + X, K, X)
            if GATED:
                u_RX = _weights(up_R, live_R, begin + X, K, X)
    if NORM:
        scale = tl.math.rsqrt(square / K + eps)
        sum_R *= scale
        up_sum_R *= scale
    if BIAS:
        sum_R += tl.load(bias_N + n, mask=live_R, other=0.0).to(tl.float32)
    if GATED:
        if GELU:
            # (1 + tanh(x)) / 2 = sigmoid(2 x)
            sum_R *= tl.sigmoid(1.5957691216057308 * (sum_R + 0.044715 * sum_R * sum_R * sum_R)) * up_sum_R
        else:
            sum_R *= tl.sigmoid(sum_R) * up_sum_R
    if ADD:
        sum_R += tl.load(output_TN + n, mask=live_R, other=0.0)
    tl.store(output_TN + n, sum_R.to(output_TN.dtype.element_ty), mask=live_R)
