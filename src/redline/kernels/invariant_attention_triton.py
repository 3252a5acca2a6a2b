"""Triton kernels of invariant_attention.py: attention_triton.py's walk with a fixed tile and a fixed order of sums.

Keys of a sequence fall into segments of `SEGMENT_KEYS`, and those into tiles, from its first token on, whatever is asked. Within a
segment a program keeps a running softmax, tile by tile; then the segments' results are joined, first to last. Where a
step has few queries each segment is a program and leaves its result in scratch memory for `_reduce`; elsewhere one program takes
all that its queries see, and joins by the same operations as it goes.

What other rows of a tile see changes nothing for a row: a tile or a segment of which it sees no key leaves its numbers as they
are, exactly (a weight of 0, a decay of 1). So that this holds to the bit there is one tile for prompts and decode,
every tile goes through the same masked code, and multiply-adds are not fused where a compiler may choose
(`enable_fp_fusion`). Open `invariant_attention`, then `_attend`. Legend as in attention_triton.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from redline.kernels import op
from redline.kernels.attention_plan import DECODE_QUERIES, Run
from redline.kernels.attention_triton import LOG2_E
from redline.kernels.op import Device, ceil_div, next_power_of_two
from redline.kernels.paged_runs import runs_of
from redline.kernels.ragged import Ragged

SEGMENT_KEYS = 512
"""A multiple of every tile's keys. Longer segments leave a card idle over one long context, shorter ones cost scratch memory."""

MOST_SCRATCH_BYTES = 64 << 20
"""The plan sets this much aside (plan/determinism.py)."""


@dataclass(frozen=True)
class Tiling:
    """Rows and keys of a tile, warps of a program, pipeline depth."""

    rows: int
    keys: int
    warps: int
    stages: int


TILINGS: dict[str, dict[int, Tiling]] = {
    "wgmma": {64: Tiling(64, 64, 4, 4), 128: Tiling(64, 32, 4, 4), 256: Tiling(16, 32, 8, 2)},
    "tcgen05": {64: Tiling(128, 64, 8, 4), 128: Tiling(128, 32, 8, 4), 256: Tiling(16, 32, 8, 4)},
    "mma": {64: Tiling(64, 32, 4, 3), 128: Tiling(64, 32, 8, 3), 256: Tiling(32, 32, 8, 2)},
    "": {64: Tiling(16, 16, 4, 1), 128: Tiling(16, 16, 8, 1), 256: Tiling(16, 32, 8, 1)},
}
"""By the kind of matrix instruction and padded head size; "" also serves float32 everywhere. Heads of 256 leave no room
for the sums of two segments of more rows."""


def choose_tiling(padded_size: int, dtype: torch.dtype, device: Device) -> Tiling:
    return TILINGS["" if dtype is torch.float32 else device.target.matrix][max(64, padded_size)]


def is_split(programs: int, row_bytes: int, run: Run, processors: int) -> bool:
    """Whether every segment is a program of its own, when `programs` run without. `row_bytes`: scratch memory of all
    tokens for one segment."""
    if run.max_query > DECODE_QUERIES or run.max_context <= SEGMENT_KEYS or programs >= processors:
        return False
    return ceil_div(run.max_context, SEGMENT_KEYS) * row_bytes <= MOST_SCRATCH_BYTES


def invariant_attention(
    q_TNH: Tensor, k_cache_PSKH: Tensor, v_cache_PSKH: Tensor, ragged: Ragged, scale: float, window: int = 0
) -> Tensor:
    """See invariant_attention.invariant_attention. Launches one kernel, or two, for each kind of sequence that the host knows
    of; no synchronisation."""
    output_TNH = torch.empty(q_TNH.shape, dtype=q_TNH.dtype, device=q_TNH.device)
    for run in runs_of(ragged, q_TNH.shape[0]):
        _attend_run(run, q_TNH, k_cache_PSKH, v_cache_PSKH, ragged, scale, window, output_TNH)
    return output_TNH


@dataclass(frozen=True)
class _Grid:
    """How a run is spread over programs: at most `blocks` of `rows` rows per sequence and kv head, over `segments` where `split`."""

    tiling: Tiling
    rows: int
    blocks: int
    split: bool
    segments: int

    @classmethod
    def of(cls, run: Run, q_TNH: Tensor, kv_heads: int, padded_size: int) -> _Grid:
        device = op.device_of(q_TNH.device)
        tiling = choose_tiling(padded_size, q_TNH.dtype, device)
        group = q_TNH.shape[1] // kv_heads
        rows = max(tiling.rows, next_power_of_two(group))
        blocks = ceil_div(run.max_query, rows // group)
        split = is_split((run.last - run.first) * blocks * kv_heads, 4 * q_TNH.numel(), run, device.processors)
        return cls(tiling, rows, blocks, split, ceil_div(run.max_context, SEGMENT_KEYS) if split else 1)


def _attend_run(
    run: Run,
    q_TNH: Tensor,
    k_cache_PSKH: Tensor,
    v_cache_PSKH: Tensor,
    ragged: Ragged,
    scale: float,
    window: int,
    output_TNH: Tensor,
) -> None:
    """Attention of some of the sequences, into their rows of `output`."""
    q_TNH, output_TNH = q_TNH[run.start : run.stop], output_TNH[run.start : run.stop]
    tokens, heads, size = q_TNH.shape
    page_size, kv_heads = k_cache_PSKH.shape[1:3]
    assert q_TNH.stride()[1:] == (size, 1) and k_cache_PSKH.is_contiguous() and v_cache_PSKH.is_contiguous()
    padded_size = max(16, next_power_of_two(size))
    grid = _Grid.of(run, q_TNH, kv_heads, padded_size)
    sequences, tiling = run.last - run.first, grid.tiling
    partial_ZTNH, partial_2ZTN = output_TNH, output_TNH
    if grid.split:
        partial_ZTNH = torch.empty((grid.segments, tokens, heads, size), dtype=torch.float32, device=q_TNH.device)
        partial_2ZTN = torch.empty((2, grid.segments, tokens, heads), dtype=torch.float32, device=q_TNH.device)
    place = (ragged.query_start_B1, ragged.context_B)
    common = (window, tokens, run.first, run.start)
    sizes: dict[str, Any] = {"KV_HEADS": kv_heads, "GROUP": heads // kv_heads, "HEAD_SIZE": size, "PADDED_SIZE": padded_size}
    sizes |= {"SEGMENT": SEGMENT_KEYS, "WINDOWED": window > 0, "enable_fp_fusion": False}
    _attend[(sequences * grid.blocks, kv_heads, grid.segments)](
        *(q_TNH, k_cache_PSKH, v_cache_PSKH, output_TNH, partial_ZTNH, partial_2ZTN),
        *place,
        ragged.page_table_BP,
        scale * LOG2_E,
        *common,
        grid.blocks,
        grid.segments,
        q_TNH.stride(0),
        ragged.page_table_BP.stride(0),
        PAGE_SIZE=page_size,
        ROWS=grid.rows,
        KEYS=tiling.keys,
        SPLIT=grid.split,
        WHOLE_TILES=page_size % tiling.keys == 0,
        num_warps=tiling.warps,
        num_stages=tiling.stages,
        **sizes,
    )
    if grid.split:
        partials = (partial_ZTNH, partial_2ZTN, output_TNH)
        _reduce[(sequences * run.max_query, heads)](
            *partials, *place, *common, run.max_query, grid.segments, num_warps=4, **sizes
        )


@triton.jit
def _joined(total, part):
    """Two running softmaxes over different keys as one: (sums of p * v, best score, sum of p), of any shapes that fit."""
    sum_pv, best, sum_p = total
    part_pv, part_best, part_p = part
    new_best = tl.maximum(best, part_best)
    # A row that has seen nothing yet: -inf minus -inf would be NaN.
    shift = tl.where(new_best == float("-inf"), 0.0, new_best)
    decay = tl.math.exp2(best - shift)
    weight = tl.math.exp2(part_best - shift)
    return sum_pv * decay[:, None] + part_pv * weight[:, None], new_best, sum_p * decay + part_p * weight


@triton.jit
def _nothing(ROWS: tl.constexpr, PADDED_SIZE: tl.constexpr):
    return (
        tl.zeros([ROWS, PADDED_SIZE], tl.float32),
        tl.full([ROWS], float("-inf"), tl.float32),
        tl.zeros([ROWS], tl.float32),
    )


@triton.jit
def _walk(
    q_MH,
    k_head,
    v_head,
    page_row,
    position_M,
    begin,
    end,
    first_key,
    last_key,
    window,
    scale_log2,
    PAGE_STRIDE: tl.constexpr,
    SLOT_STRIDE: tl.constexpr,
    HEAD_SIZE: tl.constexpr,
    PADDED_SIZE: tl.constexpr,
    PAGE_SIZE: tl.constexpr,
    ROWS: tl.constexpr,
    KEYS: tl.constexpr,
    WINDOWED: tl.constexpr,
    WHOLE_TILES: tl.constexpr,
):
    """The running softmax over key tiles [begin, end), of which keys `first_key` to `last_key` exist. With WHOLE_TILES a tile
    lies in one page."""
    sum_pv_MH, best_M, sum_p_M = _nothing(ROWS, PADDED_SIZE)
    h = tl.arange(0, PADDED_SIZE)
    key_in_tile = tl.arange(0, KEYS)
    for tile in range(begin, end):
        key_X = tile * KEYS + key_in_tile
        # Slots outside these bounds may hold anything, NaN included, and their page entries too.
        inside_X = (key_X >= first_key) & (key_X <= last_key)
        loaded_XH = inside_X[:, None] & (h[None, :] < HEAD_SIZE)
        if WHOLE_TILES:
            # A tile that is visited holds a visible key, so its page exists.
            page = tl.load(page_row + tile * KEYS // PAGE_SIZE)
            base = page.to(tl.int64) * PAGE_STRIDE + tile * KEYS % PAGE_SIZE * SLOT_STRIDE
            offset_XH = base + key_in_tile[:, None] * SLOT_STRIDE + h[None, :]
        else:
            page_X = tl.load(page_row + key_X // PAGE_SIZE, mask=inside_X, other=0)
            offset_X = page_X.to(tl.int64) * PAGE_STRIDE + (key_X % PAGE_SIZE) * SLOT_STRIDE
            offset_XH = offset_X[:, None] + h[None, :]
        k_XH = tl.load(k_head + offset_XH, mask=loaded_XH, other=0.0)
        score_MX = tl.dot(q_MH, tl.trans(k_XH), input_precision="ieee") * scale_log2
        seen_MX = key_X[None, :] <= position_M[:, None]
        if WINDOWED:
            seen_MX &= key_X[None, :] > position_M[:, None] - window
        score_MX = tl.where(seen_MX, score_MX, float("-inf"))
        new_best_M = tl.maximum(best_M, tl.max(score_MX, 1))
        shift_M = tl.where(new_best_M == float("-inf"), 0.0, new_best_M)
        p_MX = tl.math.exp2(score_MX - shift_M[:, None])
        decay_M = tl.math.exp2(best_M - shift_M)
        v_XH = tl.load(v_head + offset_XH, mask=loaded_XH, other=0.0)
        sum_pv_MH = tl.dot(p_MX.to(v_XH.dtype), v_XH, sum_pv_MH * decay_M[:, None], input_precision="ieee")
        sum_p_M = sum_p_M * decay_M + tl.sum(p_MX, 1)
        best_M = new_best_M
    return sum_pv_MH, best_M, sum_p_M


@triton.jit(
    do_not_specialize=["window", "tokens", "first_sequence", "base", "blocks", "segments", "table_stride"],
)
def _attend(
    q_TNH,
    k_cache_PSKH,
    v_cache_PSKH,
    output_TNH,
    partial_ZTNH,
    partial_2ZTN,
    query_start_B1,
    context_B,
    page_table_BP,
    scale_log2,
    window,
    tokens,
    first_sequence,
    base,
    blocks,
    segments,
    q_stride,
    table_stride,
    KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    HEAD_SIZE: tl.constexpr,
    PADDED_SIZE: tl.constexpr,
    PAGE_SIZE: tl.constexpr,
    ROWS: tl.constexpr,
    KEYS: tl.constexpr,
    SEGMENT: tl.constexpr,
    WINDOWED: tl.constexpr,
    SPLIT: tl.constexpr,
    WHOLE_TILES: tl.constexpr,
):
    """Sequences from `first_sequence` on; q, the outputs and the scratch memory begin with token `base`."""
    BLOCK_TOKENS: tl.constexpr = ROWS // GROUP
    SLOT_STRIDE: tl.constexpr = KV_HEADS * HEAD_SIZE
    PAGE_STRIDE: tl.constexpr = PAGE_SIZE * SLOT_STRIDE
    TILES: tl.constexpr = SEGMENT // KEYS
    kv_head = tl.program_id(1)
    sequence = first_sequence + tl.program_id(0) // blocks
    # The last blocks of a long prompt see the most keys: start them first.
    block = blocks - 1 - tl.program_id(0) % blocks
    start = tl.load(query_start_B1 + sequence) - base
    queries = tl.load(query_start_B1 + sequence + 1) - base - start
    first_query = block * BLOCK_TOKENS
    if first_query >= queries:
        return
    context = tl.load(context_B + sequence)

    m = tl.arange(0, ROWS)
    h = tl.arange(0, PADDED_SIZE)
    query_M = first_query + m // GROUP
    head_M = kv_head * GROUP + m % GROUP
    valid_M = (m < BLOCK_TOKENS * GROUP) & (query_M < queries)
    token_M = (start + query_M).to(tl.int64)
    position_M = context - queries + query_M
    element_MH = valid_M[:, None] & (h[None, :] < HEAD_SIZE)
    q_offset_MH = token_M[:, None] * q_stride + head_M[:, None] * HEAD_SIZE + h[None, :]
    q_MH = tl.load(q_TNH + q_offset_MH, mask=element_MH, other=0.0)

    last_key = context - queries + tl.minimum(first_query + BLOCK_TOKENS, queries) - 1
    first_key = 0
    if WINDOWED:
        first_key = tl.maximum(0, context - queries + first_query - window + 1)
    begin = first_key // KEYS
    end = tl.maximum(begin, (last_key + KEYS) // KEYS)
    k_head = k_cache_PSKH + kv_head * HEAD_SIZE
    v_head = v_cache_PSKH + kv_head * HEAD_SIZE
    page_row = page_table_BP + sequence.to(tl.int64) * table_stride
    row_M = token_M * (KV_HEADS * GROUP) + head_M
    if SPLIT:
        segment = tl.program_id(2)
        begin = tl.maximum(begin, segment * TILES)
        end = tl.minimum(end, segment * TILES + TILES)
        if begin >= end:
            return
        sum_pv_MH, best_M, sum_p_M = _walk(
            q_MH, k_head, v_head, page_row, position_M, begin, end, first_key, last_key, window, scale_log2,
            PAGE_STRIDE, SLOT_STRIDE, HEAD_SIZE, PADDED_SIZE, PAGE_SIZE, ROWS, KEYS, WINDOWED, WHOLE_TILES,
        )  # fmt: skip
        all_rows = tokens.to(tl.int64) * (KV_HEADS * GROUP)
        place_M = segment * all_rows + row_M
        tl.store(partial_2ZTN + place_M, best_M, mask=valid_M)
        tl.store(partial_2ZTN + segments * all_rows + place_M, sum_p_M, mask=valid_M)
        tl.store(partial_ZTNH + place_M[:, None] * HEAD_SIZE + h[None, :], sum_pv_MH, mask=element_MH)
    else:
        total = _nothing(ROWS, PADDED_SIZE)
        for segment in range(begin // TILES, tl.cdiv(end, TILES)):
            part = _walk(
                q_MH, k_head, v_head, page_row, position_M, tl.maximum(begin, segment * TILES),
                tl.minimum(end, segment * TILES + TILES), first_key, last_key, window, scale_log2,
                PAGE_STRIDE, SLOT_STRIDE, HEAD_SIZE, PADDED_SIZE, PAGE_SIZE, ROWS, KEYS, WINDOWED, WHOLE_TILES,
            )  # fmt: skip
            total = _joined(total, part)
        sum_pv_MH, best_M, sum_p_M = total
        output_MH = sum_pv_MH / tl.where(sum_p_M > 0.0, sum_p_M, 1.0)[:, None]
        pointer_MH = output_TNH + row_M[:, None] * HEAD_SIZE + h[None, :]
        tl.store(pointer_MH, output_MH.to(output_TNH.dtype.element_ty), mask=element_MH)


@triton.jit(do_not_specialize=["window", "tokens", "first_sequence", "base", "max_query", "segments"])
def _reduce(
    partial_ZTNH,
    partial_2ZTN,
    output_TNH,
    query_start_B1,
    context_B,
    window,
    tokens,
    first_sequence,
    base,
    max_query,
    segments,
    KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    HEAD_SIZE: tl.constexpr,
    PADDED_SIZE: tl.constexpr,
    SEGMENT: tl.constexpr,
    WINDOWED: tl.constexpr,
):
    """The segments that one token's head sees, joined as `_attend` does it. Others were never written."""
    sequence = first_sequence + tl.program_id(0) // max_query
    query = tl.program_id(0) % max_query
    start = tl.load(query_start_B1 + sequence) - base
    queries = tl.load(query_start_B1 + sequence + 1) - base - start
    if query >= queries:
        return
    position = tl.load(context_B + sequence) - queries + query
    first = 0
    if WINDOWED:
        first = tl.maximum(0, position - window + 1) // SEGMENT
    row = (start + query).to(tl.int64) * (KV_HEADS * GROUP) + tl.program_id(1)
    all_rows = tokens.to(tl.int64) * (KV_HEADS * GROUP)
    one = tl.arange(0, 1)
    h = tl.arange(0, PADDED_SIZE)
    total = _nothing(1, PADDED_SIZE)
    for segment in range(first, (position + SEGMENT) // SEGMENT):
        place = segment * all_rows + row + one
        best = tl.load(partial_2ZTN + place)
        sum_p = tl.load(partial_2ZTN + segments * all_rows + place)
        sum_pv = tl.load(partial_ZTNH + place[:, None] * HEAD_SIZE + h[None, :], mask=h[None, :] < HEAD_SIZE, other=0.0)
        total = _joined(total, (sum_pv, best, sum_p))
    sum_pv, best, sum_p = total
    output = sum_pv / tl.where(sum_p > 0.0, sum_p, 1.0)[:, None]
    tl.store(
        output_TNH + row * HEAD_SIZE + one[:, None] * HEAD_SIZE + h[None, :],
        output.to(output_TNH.dtype.element_ty),
        mask=h[None, :] < HEAD_SIZE,
    )
