"""Triton kernels of attention.py: one paged kernel for prompts, chunks and decode, and a reduction behind split decode.

A program handles a block of query tokens of one sequence times the G query heads of one kv head, packed into the M rows of
one matrix, and walks the keys that any of them sees in tiles, with a running softmax in base 2 (FlashAttention-2, Dao
2023). With few query tokens the keys are also split over programs, each writing an unnormalised partial result
(flash-decoding). Tiles before a sliding window are never visited; tiles that every row sees whole need no mask. Keys are
found through the page table, tile by tile where pages hold whole tiles and one by one elsewhere; cache offsets are 64-bit.

How big the tiles are is data, by head size and chip: see `Tiling`. Open `attend_run` first, then
`_attend`. Legend as in attention.py; M rows, X keys of a tile, Z splits, H padded to a power of two inside the kernels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from redline.kernels import op
from redline.kernels.attention_plan import DECODE_QUERIES, Run
from redline.kernels.op import Device, ceil_div, next_power_of_two
from redline.kernels.ragged import Ragged

LOG2_E = 1.4426950408889634

TOKENS_PER_SPLIT = 128
"""Fewer keys than this per split cost more in the reduction than they save."""

MAX_SPLITS = 128
PROGRAMS_PER_PROCESSOR = 2
REDUCE_AT_ONCE = tl.constexpr(16)


@dataclass(frozen=True)
class Tiling:
    """Rows and keys of a tile, warps of a program, and Triton's pipeline depth. Loading through the page table takes two of
    its stages, so that `stages - 3` tiles of K and V are on their way while one is worked on. `tma`: where pages hold whole
    tiles, the tensor memory accelerator (sm_90 on) fetches them."""

    rows: int
    keys: int
    warps: int
    stages: int
    tma: bool = False

    def shared_bytes(self, head_size: int, element_bytes: int) -> int:
        """What the kernel asks for, about; the compile matrix holds the chip's limit against the truth."""
        return (2 * max(1, self.stages - 3) * self.keys + self.rows) * head_size * element_bytes


# By padded head size, best first. Decode: the first of which two programs fit one processor's shared memory.
DECODE_TILINGS: dict[int, tuple[Tiling, ...]] = {
    64: (Tiling(16, 128, 4, 5), Tiling(16, 64, 4, 5)),
    128: (Tiling(16, 64, 4, 5), Tiling(16, 32, 4, 5)),
    256: (Tiling(16, 32, 4, 5), Tiling(16, 16, 4, 5)),
}
# By the kind of matrix instruction; "" also serves float32 everywhere, in which products are exact and slow.
PREFILL_TILINGS: dict[str, dict[int, Tiling]] = {
    "wgmma": {64: Tiling(128, 64, 4, 4), 128: Tiling(128, 64, 8, 4), 256: Tiling(64, 32, 8, 4)},
    "tcgen05": {64: Tiling(128, 64, 8, 4), 128: Tiling(128, 64, 8, 4), 256: Tiling(64, 32, 8, 4)},
    "mma": {64: Tiling(128, 64, 8, 4), 128: Tiling(64, 32, 4, 4), 256: Tiling(64, 32, 8, 4)},
    "": {64: Tiling(32, 32, 4, 1), 128: Tiling(32, 16, 8, 1), 256: Tiling(16, 16, 8, 1)},
}
PLAIN_DECODE_TILINGS: dict[int, Tiling] = {64: Tiling(16, 32, 4, 1), 128: Tiling(16, 32, 8, 1), 256: Tiling(16, 16, 4, 1)}


def choose_tiling(rows: int, padded_size: int, dtype: torch.dtype, device: Device) -> Tiling:
    """The best tiling for sequences of `rows` query rows (tokens times G) on this chip."""
    matrix = "" if dtype is torch.float32 else device.target.matrix
    padded_size = max(64, padded_size)
    if rows > 16:
        return PREFILL_TILINGS[matrix][padded_size]
    if not matrix:
        return PLAIN_DECODE_TILINGS[padded_size]
    candidates = DECODE_TILINGS[padded_size]
    room = device.target.shared_bytes // 2
    return next((tiling for tiling in candidates if tiling.shared_bytes(padded_size, 2) <= room), candidates[-1])


def choose_splits(programs: int, max_context: int, processors: int, tokens_per_split: int = TOKENS_PER_SPLIT) -> int:
    """Over how many programs to split each sequence's keys, when `programs` run without splitting."""
    wanted = ceil_div(PROGRAMS_PER_PROCESSOR * processors, max(1, programs))
    return max(1, min(wanted, ceil_div(max_context, tokens_per_split), MAX_SPLITS))


@dataclass(frozen=True)
class _Grid:
    """How a run is spread over programs: `programs` of `rows` rows per kv head and split; where `decode`, `blocks` of them per
    sequence, elsewhere as many as its tokens need."""

    tiling: Tiling
    rows: int
    decode: bool
    blocks: int
    programs: int
    splits: int

    @classmethod
    def of(cls, run: Run, kv_heads: int, group: int, padded_size: int, dtype: torch.dtype, device: Device) -> _Grid:
        tiling = choose_tiling(run.max_query * group, padded_size, dtype, device)
        rows = max(tiling.rows, next_power_of_two(group))
        sequences, decode = run.last - run.first, run.max_query <= DECODE_QUERIES
        blocks = ceil_div(run.max_query, rows // group) if decode else 0
        programs = sequences * blocks if decode else (run.stop - run.start) // (rows // group) + sequences
        splits = choose_splits(programs * kv_heads, run.max_context, device.processors) if decode else 1
        return cls(tiling, rows, decode, blocks, programs, splits)


def attend_run(
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
    group, padded_size = heads // kv_heads, max(16, next_power_of_two(size))
    grid = _Grid.of(run, kv_heads, group, padded_size, q_TNH.dtype, op.device_of(q_TNH.device))
    whole_tiles = page_size % grid.tiling.keys == 0
    tma = grid.tiling.tma and whole_tiles and size == padded_size
    partial_ZTNH, partial_2ZTN = output_TNH, output_TNH
    if grid.splits > 1:
        partial_ZTNH = torch.empty((grid.splits, tokens, heads, size), dtype=torch.float32, device=q_TNH.device)
        partial_2ZTN = torch.empty((2, grid.splits, tokens, heads), dtype=torch.float32, device=q_TNH.device)
    _attend[(grid.programs, kv_heads, grid.splits)](
        q_TNH,
        _tiles(k_cache_PSKH, grid.tiling.keys) if tma else k_cache_PSKH,
        _tiles(v_cache_PSKH, grid.tiling.keys) if tma else v_cache_PSKH,
        output_TNH,
        partial_ZTNH,
        partial_2ZTN,
        ragged.query_start_B1,
        ragged.context_B,
        ragged.page_table_BP,
        scale * LOG2_E,
        window,
        tokens,
        run.first,
        run.start,
        run.last - run.first,
        grid.blocks,
        grid.splits,
        q_TNH.stride(0),
        ragged.page_table_BP.stride(0),
        KV_HEADS=kv_heads,
        GROUP=group,
        HEAD_SIZE=size,
        PADDED_SIZE=padded_size,
        PAGE_SIZE=page_size,
        ROWS=grid.rows,
        KEYS=grid.tiling.keys,
        WINDOWED=window > 0,
        DECODE=grid.decode,
        SPLIT=grid.splits > 1,
        WHOLE_TILES=whole_tiles,
        TMA=tma,
        num_warps=grid.tiling.warps,
        num_stages=grid.tiling.stages,
    )
    if grid.splits > 1:
        _join(partial_ZTNH, partial_2ZTN, output_TNH, padded_size)


def _tiles(cache_PSKH: Tensor, keys: int) -> TensorDescriptor:
    """The cache as a matrix of slots by heads, for fetching `keys` slots of one head."""
    pages, page_size, kv_heads, size = cache_PSKH.shape
    return TensorDescriptor(cache_PSKH, [pages * page_size, kv_heads * size], [kv_heads * size, 1], [keys, size])


def _join(partial_ZTNH: Tensor, partial_2ZTN: Tensor, output_TNH: Tensor, padded_size: int) -> None:
    """Launch the reduction of the splits."""
    splits, tokens, heads, size = partial_ZTNH.shape
    _reduce[(tokens, heads)](
        partial_ZTNH,
        partial_2ZTN,
        output_TNH,
        tokens,
        splits,
        HEADS=heads,
        HEAD_SIZE=size,
        PADDED_SIZE=padded_size,
        num_warps=4,
    )


@triton.jit
def _find_sequence(query_start_B1, block, sequences, base, BLOCK_TOKENS: tl.constexpr):
    """The sequence that owns block `block` when sequence b's blocks start at (query_start[b] - base) // BLOCK_TOKENS + b."""
    low = 0
    high = sequences
    while low < high:
        middle = (low + high) // 2
        if (tl.load(query_start_B1 + middle) - base) // BLOCK_TOKENS + middle <= block:
            low = middle + 1
        else:
            high = middle
    return low - 1


@triton.jit
def _walk(
    state,
    q_MH,
    k_head,
    v_head,
    column,
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
    KEYS: tl.constexpr,
    WINDOWED: tl.constexpr,
    WHOLE_TILES: tl.constexpr,
    TMA: tl.constexpr,
    MASKED: tl.constexpr,
):
    """Take key tiles [begin, end) into the running softmax `state` = (sums of p * v, best score, sum of p).

    Without MASKED every row sees every key of these tiles. With WHOLE_TILES a tile lies in one page; with TMA `k_head` and
    `v_head` are descriptors, in which the head begins at `column`.
    """
    sum_pv_MH, best_M, sum_p_M = state
    h = tl.arange(0, PADDED_SIZE)
    key_in_tile = tl.arange(0, KEYS)
    in_head = h[None, :] < HEAD_SIZE
    for tile in range(begin, end):
        key_X = tile * KEYS + key_in_tile
        loaded_XH = in_head
        if MASKED:
            # Slots outside these bounds may hold anything, NaN included, and their page entries too.
            inside_X = (key_X >= first_key) & (key_X <= last_key)
            loaded_XH = inside_X[:, None] & in_head
        if TMA:
            page = tl.load(page_row + tile * KEYS // PAGE_SIZE)
            slot = page * PAGE_SIZE + tile * KEYS % PAGE_SIZE
            k_XH = k_head.load([slot, column])
        elif WHOLE_TILES:
            # A tile that is visited holds a visible key, so its page exists.
            page = tl.load(page_row + tile * KEYS // PAGE_SIZE)
            base = page.to(tl.int64) * PAGE_STRIDE + tile * KEYS % PAGE_SIZE * SLOT_STRIDE
            v_tile = v_head + base
            offset_XH = key_in_tile[:, None] * SLOT_STRIDE + h[None, :]
            k_XH = tl.load(k_head + base + offset_XH, mask=loaded_XH, other=0.0)
        else:
            if MASKED:
                page_X = tl.load(page_row + key_X // PAGE_SIZE, mask=inside_X, other=0)
            else:
                page_X = tl.load(page_row + key_X // PAGE_SIZE)
            v_tile = v_head
            offset_X = page_X.to(tl.int64) * PAGE_STRIDE + (key_X % PAGE_SIZE) * SLOT_STRIDE
            offset_XH = offset_X[:, None] + h[None, :]
            k_XH = tl.load(k_head + offset_XH, mask=loaded_XH, other=0.0)
        score_MX = tl.dot(q_MH, tl.trans(k_XH), input_precision="ieee")
        if MASKED:
            seen_MX = key_X[None, :] <= position_M[:, None]
            if WINDOWED:
                seen_MX &= key_X[None, :] > position_M[:, None] - window
            score_MX = tl.where(seen_MX, score_MX, float("-inf"))
        # The scale is positive: scaling the best alone leaves one multiply-add per score, in the exponent.
        new_best_M = tl.maximum(best_M, tl.max(score_MX, 1) * scale_log2)
        # A row that has seen nothing yet: -inf minus -inf would be NaN.
        shift_M = tl.where(new_best_M == float("-inf"), 0.0, new_best_M)
        p_MX = tl.math.exp2(score_MX * scale_log2 - shift_M[:, None])
        decay_M = tl.math.exp2(best_M - shift_M)
        if TMA:
            v_XH = v_head.load([slot, column])
            if MASKED:
                v_XH = tl.where(inside_X[:, None], v_XH, 0.0)  # a weight of 0 does not hide a NaN
        else:
            v_XH = tl.load(v_tile + offset_XH, mask=loaded_XH, other=0.0)
        sum_pv_MH = tl.dot(p_MX.to(v_XH.dtype), v_XH, sum_pv_MH * decay_M[:, None], input_precision="ieee")
        sum_p_M = sum_p_M * decay_M + tl.sum(p_MX, 1)
        best_M = new_best_M
    return sum_pv_MH, best_M, sum_p_M


@triton.jit(
    do_not_specialize=["window", "tokens", "first_sequence", "base", "sequences", "blocks", "splits", "table_stride"],
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
    sequences,
    blocks,
    splits,
    q_stride,
    table_stride,
    KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    HEAD_SIZE: tl.constexpr,
    PADDED_SIZE: tl.constexpr,
    PAGE_SIZE: tl.constexpr,
    ROWS: tl.constexpr,
    KEYS: tl.constexpr,
    WINDOWED: tl.constexpr,
    DECODE: tl.constexpr,
    SPLIT: tl.constexpr,
    WHOLE_TILES: tl.constexpr,
    TMA: tl.constexpr,
):
    """Sequences from `first_sequence` on; q, the outputs and the scratch memory begin with token `base`."""
    BLOCK_TOKENS: tl.constexpr = ROWS // GROUP
    SLOT_STRIDE: tl.constexpr = KV_HEADS * HEAD_SIZE
    PAGE_STRIDE: tl.constexpr = PAGE_SIZE * SLOT_STRIDE
    kv_head = tl.program_id(1)
    split = tl.program_id(2)
    query_start_B1 += first_sequence
    if DECODE:
        sequence = tl.program_id(0) // blocks
        block = tl.program_id(0) % blocks
    else:
        # The last blocks of a long prompt see the most keys: start them first.
        turn = tl.num_programs(0) - 1 - tl.program_id(0)
        sequence = _find_sequence(query_start_B1, turn, sequences, base, BLOCK_TOKENS)
        block = turn - (tl.load(query_start_B1 + sequence) - base) // BLOCK_TOKENS - sequence
    start = tl.load(query_start_B1 + sequence) - base
    queries = tl.load(query_start_B1 + sequence + 1) - base - start
    sequence += first_sequence
    first_query = block * BLOCK_TOKENS
    if first_query >= queries:
        return
    context = tl.load(context_B + sequence)
    last_query = tl.minimum(first_query + BLOCK_TOKENS, queries) - 1
    first_position = context - queries + first_query

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

    last_key = context - queries + last_query
    first_key = 0
    if WINDOWED:
        first_key = tl.maximum(0, first_position - window + 1)
    begin = first_key // KEYS
    end = tl.maximum(begin, (last_key + KEYS) // KEYS)
    if SPLIT:
        share = tl.cdiv(end - begin, splits)
        begin += split * share
        end = tl.minimum(end, begin + share)

    column = kv_head * HEAD_SIZE
    k_head = k_cache_PSKH
    v_head = v_cache_PSKH
    if not TMA:
        k_head += column
        v_head += column
    page_row = page_table_BP + sequence.to(tl.int64) * table_stride
    state = (
        tl.zeros([ROWS, PADDED_SIZE], tl.float32),
        tl.full([ROWS], float("-inf"), tl.float32),
        tl.zeros([ROWS], tl.float32),
    )
    masked_from = begin
    if not WINDOWED:
        masked_from = tl.maximum(begin, tl.minimum(end, (first_position + 1) // KEYS))
        state = _walk(
            state, q_MH, k_head, v_head, column, page_row, position_M, begin, masked_from, first_key, last_key, window, scale_log2,
            PAGE_STRIDE, SLOT_STRIDE, HEAD_SIZE, PADDED_SIZE, PAGE_SIZE, KEYS, WINDOWED, WHOLE_TILES, TMA, False,
        )  # fmt: skip
    state = _walk(
        state, q_MH, k_head, v_head, column, page_row, position_M, masked_from, end, first_key, last_key, window, scale_log2,
        PAGE_STRIDE, SLOT_STRIDE, HEAD_SIZE, PADDED_SIZE, PAGE_SIZE, KEYS, WINDOWED, WHOLE_TILES, TMA, True,
    )  # fmt: skip
    sum_pv_MH, best_M, sum_p_M = state

    row_M = token_M * (KV_HEADS * GROUP) + head_M
    if SPLIT:
        all_rows = tokens.to(tl.int64) * (KV_HEADS * GROUP)
        place_M = split * all_rows + row_M
        tl.store(partial_2ZTN + place_M, best_M, mask=valid_M)
        tl.store(partial_2ZTN + splits * all_rows + place_M, sum_p_M, mask=valid_M)
        if begin < end:
            tl.store(partial_ZTNH + place_M[:, None] * HEAD_SIZE + h[None, :], sum_pv_MH, mask=element_MH)
    else:
        output_MH = sum_pv_MH / tl.where(sum_p_M > 0.0, sum_p_M, 1.0)[:, None]
        pointer_MH = output_TNH + row_M[:, None] * HEAD_SIZE + h[None, :]
        tl.store(pointer_MH, output_MH.to(output_TNH.dtype.element_ty), mask=element_MH)


@triton.jit(do_not_specialize=["tokens", "splits"])
def _reduce(
    partial_ZTNH,
    partial_2ZTN,
    output_TNH,
    tokens,
    splits,
    HEADS: tl.constexpr,
    HEAD_SIZE: tl.constexpr,
    PADDED_SIZE: tl.constexpr,
):
    """Join the splits of one token and head. A split without keys has best -inf, and its sums may be unwritten."""
    row = tl.program_id(0).to(tl.int64) * HEADS + tl.program_id(1)
    all_rows = tokens.to(tl.int64) * HEADS
    z = tl.arange(0, REDUCE_AT_ONCE)
    h = tl.arange(0, PADDED_SIZE)
    best = float("-inf")
    sum_p = 0.0
    sum_pv_H = tl.zeros([PADDED_SIZE], tl.float32)
    for first in range(0, splits, REDUCE_AT_ONCE):
        split_Z = first + z
        place_Z = split_Z * all_rows + row
        exists_Z = split_Z < splits
        best_Z = tl.load(partial_2ZTN + place_Z, mask=exists_Z, other=float("-inf"))
        sum_p_Z = tl.load(partial_2ZTN + splits * all_rows + place_Z, mask=exists_Z, other=0.0)
        pointer_ZH = partial_ZTNH + place_Z[:, None] * HEAD_SIZE + h[None, :]
        written_ZH = (best_Z > float("-inf"))[:, None] & (h[None, :] < HEAD_SIZE)
        sum_pv_ZH = tl.load(pointer_ZH, mask=written_ZH, other=0.0)
        new_best = tl.maximum(best, tl.max(best_Z, 0))
        shift = tl.where(new_best == float("-inf"), 0.0, new_best)
        decay = tl.math.exp2(best - shift)
        weight_Z = tl.math.exp2(best_Z - shift)
        sum_p = sum_p * decay + tl.sum(sum_p_Z * weight_Z, 0)
        sum_pv_H = sum_pv_H * decay + tl.sum(sum_pv_ZH * weight_Z[:, None], 0)
        best = new_best
    output_H = sum_pv_H / tl.where(sum_p > 0.0, sum_p, 1.0)
    tl.store(output_TNH + row * HEAD_SIZE + h, output_H.to(output_TNH.dtype.element_ty), mask=h < HEAD_SIZE)
