"""Triton kernels of invariant.py: one order of sums for a matrix, whoever takes them.

A matrix is cut into tiles of outputs and its K into segments, both by its own size. A segment's sum is made tile by tile, in
order, by one instruction; then the segments' sums are added, first to last. With few rows each segment is a program, which
leaves its sum in scratch memory for `_join`: weights are read by as many programs as a card has processors. With many rows one
program takes all segments and adds the same numbers in the same order. Which of the two runs, and over how many rows a
program reaches, depends on the rows; no sum does: rows only ever lie side by side in a tile, never in a sum.

That a tile of 128 rows is the instruction of one of 64, twice, holds for what Triton makes of `tl.dot` (wgmma m64, mma
m16, multiply-adds) and is held to by tests on a card; on sm_100 it does not, and there is one tile. How large tiles are is data:
see `Tile`. Open `invariant_linear`, then `_multiply`.

T rows, N outputs, K inputs, R rows and M outputs of a tile, X inputs of a tile, S segments.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from redline.kernels import op
from redline.kernels.op import Device, ceil_div

PROGRAMS = 160
"""Segments are so many that a matrix keeps this many programs busy with a single row of tiles: a card's worth. A number of
its own, not the card's: the same sums on every card of a kind."""

LEAST_SEGMENT = 256
MOST_SCRATCH_TILES = 512  # of at most 64 KiB: what the plan sets aside (plan/determinism.py)
GROUP = tl.constexpr(8)
JOIN_BLOCK = 512


@dataclass(frozen=True)
class Tile:
    """Outputs and inputs of a tile; rows, warps and pipeline depth where rows are few, and where they are many."""

    outputs: int
    inputs: int
    few: tuple[int, int, int]
    many: tuple[int, int, int]


TILES: dict[str, Tile] = {
    "wgmma": Tile(128, 64, (64, 4, 4), (128, 8, 4)),
    "tcgen05": Tile(128, 64, (128, 8, 4), (128, 8, 4)),
    "mma": Tile(64, 64, (16, 4, 4), (64, 4, 3)),
    "": Tile(64, 32, (16, 4, 1), (32, 4, 1)),
}
"""By the kind of matrix instruction; "" also serves float32 everywhere, in which products are exact and slow."""

UNALIGNED = Tile(64, 32, (64, 4, 2), (64, 4, 2))
"""For rows that do not begin at 16 bytes: they are loaded number by number, each with its address."""


def choose_tile(inputs: int, dtype: torch.dtype, device: Device) -> Tile:
    matrix = "" if dtype is torch.float32 else device.target.matrix
    return UNALIGNED if matrix and inputs % 8 else TILES[matrix]


def segment_length(outputs: int, inputs: int, tile: Tile) -> int:
    """Inputs that one sum takes: a multiple of the tile's."""
    wanted = max(1, min(PROGRAMS // ceil_div(outputs, tile.outputs), inputs // LEAST_SEGMENT))
    return ceil_div(ceil_div(inputs, wanted), tile.inputs) * tile.inputs


def is_split(tiles: int, segments: int) -> bool:
    """Whether every segment is a program of its own: where whole sums would leave most processors without one."""
    return segments > 1 and 2 * tiles <= PROGRAMS and tiles * segments <= MOST_SCRATCH_TILES


def invariant_linear(x_TK: Tensor, weight_NK: Tensor, bias_N: Tensor | None = None, dtype: torch.dtype | None = None) -> Tensor:
    """See invariant.invariant_linear. One launch, or two where segments are programs."""
    (rows, inputs), outputs = x_TK.shape, weight_NK.shape[0]
    assert weight_NK.is_contiguous() and weight_NK.dtype is x_TK.dtype
    x_TK = x_TK.contiguous()
    output_TN = torch.empty((rows, outputs), dtype=dtype or x_TK.dtype, device=x_TK.device)
    if not rows:
        return output_TN
    tile = choose_tile(inputs, x_TK.dtype, op.device_of(x_TK.device))
    length = segment_length(outputs, inputs, tile)
    segments = ceil_div(inputs, length)
    tile_rows, warps, stages = tile.few if rows <= tile.few[0] else tile.many
    tiles = ceil_div(rows, tile_rows) * ceil_div(outputs, tile.outputs)
    split = is_split(tiles, segments)
    partial_STN = output_TN
    if split:
        partial_STN = torch.empty((segments, rows, outputs), dtype=torch.float32, device=x_TK.device)
    _multiply[(tiles, segments if split else 1)](
        x_TK,
        weight_NK,
        bias_N if bias_N is not None else x_TK,
        output_TN,
        partial_STN,
        rows,
        N=outputs,
        K=inputs,
        SEGMENT=length,
        SEGMENTS=segments,
        ROWS=tile_rows,
        OUTPUTS=tile.outputs,
        X=tile.inputs,
        SPLIT=split,
        BIAS=bias_N is not None,
        num_warps=warps,
        num_stages=stages,
    )
    if split:
        _join[(rows, ceil_div(outputs, JOIN_BLOCK))](
            partial_STN,
            bias_N if bias_N is not None else x_TK,
            output_TN,
            rows,
            N=outputs,
            SEGMENTS=segments,
            BIAS=bias_N is not None,
            BLOCK=JOIN_BLOCK,
            num_warps=4,
        )
    return output_TN


@triton.jit
def _segment_sum(
    x_R,
    weight_M,
    live_R,
    live_M,
    begin,
    K: tl.constexpr,
    SEGMENT: tl.constexpr,
    ROWS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    X: tl.constexpr,
):
    """[ROWS, OUTPUTS]: products of the inputs [begin, begin + SEGMENT), tile by tile. Past K all are zero."""
    x = tl.arange(0, X)
    sum_RM = tl.zeros([ROWS, OUTPUTS], tl.float32)
    for first in range(begin, tl.minimum(begin + SEGMENT, K), X):
        inside_R = live_R[:, None]
        inside_M = live_M[None, :]
        if K % X != 0:
            inside_R = inside_R & (first + x < K)[None, :]
            inside_M = inside_M & (first + x < K)[:, None]
        x_RX = tl.load(x_R[:, None] + (first + x)[None, :], mask=inside_R, other=0.0)
        w_XM = tl.load(weight_M[None, :] + (first + x)[:, None], mask=inside_M, other=0.0)
        sum_RM = tl.dot(x_RX, w_XM, sum_RM, input_precision="ieee")
    return sum_RM


@triton.jit(do_not_specialize=["rows"])
def _multiply(
    x_TK,
    weight_NK,
    bias_N,
    output_TN,
    partial_STN,
    rows,
    N: tl.constexpr,
    K: tl.constexpr,
    SEGMENT: tl.constexpr,
    SEGMENTS: tl.constexpr,
    ROWS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    X: tl.constexpr,
    SPLIT: tl.constexpr,
    BIAS: tl.constexpr,
):
    # Neighbouring programs share weights, and then inputs, while they lie in the L2 cache.
    row_tiles = tl.cdiv(rows, ROWS)
    output_tiles: tl.constexpr = (N + OUTPUTS - 1) // OUTPUTS
    group = tl.program_id(0) // (GROUP * output_tiles)
    group_rows = tl.minimum(row_tiles - group * GROUP, GROUP)
    place = tl.program_id(0) % (GROUP * output_tiles)
    t = (group * GROUP + place % group_rows) * ROWS + tl.arange(0, ROWS)
    n = place // group_rows * OUTPUTS + tl.arange(0, OUTPUTS)
    live_R = t < rows
    live_M = n < N
    x_R = x_TK + t.to(tl.int64) * K
    weight_M = weight_NK + n.to(tl.int64) * K
    live_RM = live_R[:, None] & live_M[None, :]
    place_RM = t.to(tl.int64)[:, None] * N + n[None, :]
    if SPLIT:
        segment = tl.program_id(1)
        sum_RM = _segment_sum(x_R, weight_M, live_R, live_M, segment * SEGMENT, K, SEGMENT, ROWS, OUTPUTS, X)
        tl.store(partial_STN + segment.to(tl.int64) * rows * N + place_RM, sum_RM, mask=live_RM)
    else:
        sum_RM = _segment_sum(x_R, weight_M, live_R, live_M, 0, K, SEGMENT, ROWS, OUTPUTS, X)
        for segment in range(1, SEGMENTS):
            sum_RM += _segment_sum(x_R, weight_M, live_R, live_M, segment * SEGMENT, K, SEGMENT, ROWS, OUTPUTS, X)
        if BIAS:
            sum_RM += tl.load(bias_N + n, mask=live_M, other=0.0).to(tl.float32)[None, :]
        tl.store(output_TN + place_RM, sum_RM.to(output_TN.dtype.element_ty), mask=live_RM)


@triton.jit(do_not_specialize=["rows"])
def _join(
    partial_STN,
    bias_N,
    output_TN,
    rows,
    N: tl.constexpr,
    SEGMENTS: tl.constexpr,
    BIAS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The segments' sums of one row, added first to last as `_multiply` does."""
    n = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    live = n < N
    at = partial_STN + tl.program_id(0).to(tl.int64) * N + n
    total = tl.load(at, mask=live, other=0.0)
    for segment in range(1, SEGMENTS):
        total += tl.load(at + segment * rows.to(tl.int64) * N, mask=live, other=0.0)
    if BIAS:
        total += tl.load(bias_N + n, mask=live, other=0.0).to(tl.float32)
    tl.store(output_TN + tl.program_id(0).to(tl.int64) * N + n, total.to(output_TN.dtype.element_ty), mask=live)
