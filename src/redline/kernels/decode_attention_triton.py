"""Triton kernel of decode_attention.py: heads prepared, cache written, keys split over programs, splits joined, in one launch.

A program has one sequence, one kv head with its G query heads, and one share of the keys. It prepares q itself (a few hundred
numbers); the first share's program also prepares k, writes k and v into the cache, and counts the new token, whose key no
other program reads. With several shares each leaves its unnormalised sums in scratch memory and counts itself in; who comes
last joins them all and sets the count back to zero. Rotation pairs the halves of a head, so everything but v is held in
halves. Tiles, splits and the running softmax are attention_triton.py's.

Open `decode_attention`, then `_decode`. Legend as in decode_attention.py; M rows (the G heads, padded), X keys of a tile,
C half of H (padded to a power of two), Z splits.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from redline.kernels import op
from redline.kernels.attention_triton import LOG2_E, choose_splits, choose_tiling
from redline.kernels.heads import HeadPreparation
from redline.kernels.op import next_power_of_two
from redline.kernels.ragged import Ragged

_arrivals: dict[torch.device, Tensor] = {}
"""Counters of finished splits, all zero between launches: kept, because zeroing them would be a launch."""


def decode_attention(
    qkv_BM: Tensor,
    k_cache_PSKH: Tensor,
    v_cache_PSKH: Tensor,
    ragged: Ragged,
    prepare: HeadPreparation,
    scale: float,
    window: int = 0,
) -> Tensor:
    """See decode_attention.decode_attention. One launch, no synchronisation; launches of one device must not overlap."""
    assert qkv_BM.is_contiguous() and k_cache_PSKH.is_contiguous() and v_cache_PSKH.is_contiguous()
    page_size, kv_heads, size = k_cache_PSKH.shape[1:]
    sequences, heads = len(qkv_BM), qkv_BM.shape[1] // size - 2 * kv_heads
    device = op.device_of(qkv_BM.device)
    group = heads // kv_heads
    tiling = choose_tiling(min(16, group), max(16, next_power_of_two(size)), qkv_BM.dtype, device)
    splits = choose_splits(sequences * kv_heads, ragged.max_context, device.processors, tiling.keys)
    output_BNH = torch.empty((sequences, heads, size), dtype=qkv_BM.dtype, device=qkv_BM.device)
    partial_ZBNH, partial_2ZBN = output_BNH, output_BNH
    if splits > 1:
        partial_ZBNH = torch.empty((splits, sequences, heads, size), dtype=torch.float32, device=qkv_BM.device)
        partial_2ZBN = torch.empty((2, splits, sequences, heads), dtype=torch.float32, device=qkv_BM.device)
    normed = prepare.q_norm_H is not None
    _decode[(sequences, kv_heads, splits)](
        qkv_BM,
        prepare.q_norm_H if normed else prepare.cos_sin_LH,
        prepare.k_norm_H if normed else prepare.cos_sin_LH,
        prepare.cos_sin_LH,
        k_cache_PSKH,
        v_cache_PSKH,
        output_BNH,
        partial_ZBNH,
        partial_2ZBN,
        _counters(sequences * kv_heads, qkv_BM.device),
        ragged.context_B,
        ragged.page_table_BP,
        scale * LOG2_E,
        prepare.eps,
        window,
        sequences,
        splits,
        ragged.page_table_BP.stride(0),
        KV_HEADS=kv_heads,
        GROUP=group,
        HALF=size // 2,
        C=max(16, next_power_of_two(size // 2)),
        PADDED_SIZE=max(16, next_power_of_two(size)),
        PAGE_SIZE=page_size,
        ROWS=max(16, next_power_of_two(group)),
        KEYS=tiling.keys,
        WINDOWED=window > 0,
        NORMED=normed,
        SPLIT=splits > 1,
        num_warps=8 if size > 128 else tiling.warps,  # both halves of q and the sums lie in registers
        num_stages=tiling.stages,
        **op.dependent_launch(qkv_BM),
    )
    return output_BNH


def _counters(count: int, device: torch.device) -> Tensor:
    counters = _arrivals.get(device)
    if counters is None or len(counters) < count:
        counters = _arrivals[device] = torch.zeros(max(count, 4096), dtype=torch.int32, device=device)
    return counters


@triton.jit
def _halves(heads_MH, norm_H, cos, sin, live_M1, eps, HALF: tl.constexpr, C: tl.constexpr, NORMED: tl.constexpr):
    """The rows at the pointers `heads_MH` ([M, 1]) as two float32 halves: normalised, rounded as stored, rotated."""
    c = tl.arange(0, C)
    mask_MC = live_M1 & (c < HALF)[None, :]
    a = tl.load(heads_MH + c[None, :], mask=mask_MC, other=0.0).to(tl.float32)
    b = tl.load(heads_MH + HALF + c[None, :], mask=mask_MC, other=0.0).to(tl.float32)
    if NORMED:
        root = tl.math.rsqrt((tl.sum(a * a, 1) + tl.sum(b * b, 1)) / (2 * HALF) + eps)[:, None]
        kind = heads_MH.dtype.element_ty
        a = (a * root * tl.load(norm_H + c, mask=c < HALF, other=0.0)[None, :]).to(kind).to(tl.float32)
        b = (b * root * tl.load(norm_H + HALF + c, mask=c < HALF, other=0.0)[None, :]).to(kind).to(tl.float32)
    return a * cos - b * sin, b * cos + a * sin


@triton.jit
def _walk(
    state,
    qa_MC,
    qb_MC,
    k_head,
    v_head,
    page_row,
    begin,
    end,
    first_key,
    last_key,
    scale_log2,
    PAGE_STRIDE: tl.constexpr,
    SLOT_STRIDE: tl.constexpr,
    HALF: tl.constexpr,
    C: tl.constexpr,
    PADDED_SIZE: tl.constexpr,
    PAGE_SIZE: tl.constexpr,
    KEYS: tl.constexpr,
):
    """Take key tiles [begin, end), keys first_key to last_key of them, into (sums of p * v, best score, sum of p)."""
    sum_pv_MH, best_M, sum_p_M = state
    c = tl.arange(0, C)
    h = tl.arange(0, PADDED_SIZE)
    for tile in range(begin, end):
        key_X = tile * KEYS + tl.arange(0, KEYS)
        # Slots outside these bounds may hold anything, NaN included, and their page entries too.
        inside_X = (key_X >= first_key) & (key_X <= last_key)
        page_X = tl.load(page_row + key_X // PAGE_SIZE, mask=inside_X, other=0)
        offset_X = page_X.to(tl.int64) * PAGE_STRIDE + (key_X % PAGE_SIZE) * SLOT_STRIDE
        half_XC = inside_X[:, None] & (c < HALF)[None, :]
        ka_XC = tl.load(k_head + offset_X[:, None] + c[None, :], mask=half_XC, other=0.0)
        kb_XC = tl.load(k_head + offset_X[:, None] + HALF + c[None, :], mask=half_XC, other=0.0)
        score_MX = tl.dot(qa_MC, tl.trans(ka_XC), input_precision="ieee")
        score_MX = tl.dot(qb_MC, tl.trans(kb_XC), score_MX, input_precision="ieee") * scale_log2
        score_MX = tl.where(inside_X[None, :], score_MX, float("-inf"))
        new_best_M = tl.maximum(best_M, tl.max(score_MX, 1))
        # A row that has seen nothing yet: -inf minus -inf would be NaN.
        shift_M = tl.where(new_best_M == float("-inf"), 0.0, new_best_M)
        p_MX = tl.math.exp2(score_MX - shift_M[:, None])
        decay_M = tl.math.exp2(best_M - shift_M)
        v_mask_XH = inside_X[:, None] & (h < 2 * HALF)[None, :]
        v_XH = tl.load(v_head + offset_X[:, None] + h[None, :], mask=v_mask_XH, other=0.0)
        sum_pv_MH = tl.dot(p_MX.to(v_XH.dtype), v_XH, sum_pv_MH * decay_M[:, None], input_precision="ieee")
        sum_p_M = sum_p_M * decay_M + tl.sum(p_MX, 1)
        best_M = new_best_M
    return sum_pv_MH, best_M, sum_p_M


@triton.jit
def _join(partial_head, best_head, splits, all_rows, head_M, live_M, h, HEAD_SIZE: tl.constexpr, ROWS: tl.constexpr):
    """The outputs [M, H] from all splits' sums. A split without keys has best -inf, and its sums may be unwritten."""
    best_M = tl.full([ROWS], float("-inf"), tl.float32)
    sum_p_M = tl.zeros([ROWS], tl.float32)
    sum_pv_MH = tl.zeros([ROWS, h.shape[0]], tl.float32)
    for split in range(splits):
        place_M = split * all_rows + head_M
        # Past the level-1 cache: other processors wrote these.
        own_M = tl.load(best_head + place_M, mask=live_M, other=float("-inf"), cache_modifier=".cg")
        p_M = tl.load(best_head + splits * all_rows + place_M, mask=live_M, other=0.0, cache_modifier=".cg")
        written_MH = (own_M > float("-inf"))[:, None] & (h < HEAD_SIZE)[None, :]
        pointer_MH = partial_head + place_M[:, None] * HEAD_SIZE + h[None, :]
        pv_MH = tl.load(pointer_MH, mask=written_MH, other=0.0, cache_modifier=".cg")
        new_best_M = tl.maximum(best_M, own_M)
        shift_M = tl.where(new_best_M == float("-inf"), 0.0, new_best_M)
        decay_M, weight_M = tl.math.exp2(best_M - shift_M), tl.math.exp2(own_M - shift_M)
        sum_p_M = sum_p_M * decay_M + p_M * weight_M
        sum_pv_MH = sum_pv_MH * decay_M[:, None] + pv_MH * weight_M[:, None]
        best_M = new_best_M
    return sum_pv_MH / tl.where(sum_p_M > 0.0, sum_p_M, 1.0)[:, None]


@triton.jit(do_not_specialize=["window", "sequences", "splits", "table_stride"])
def _decode(
    qkv_BM,
    q_norm_H,
    k_norm_H,
    cos_sin_LH,
    k_cache_PSKH,
    v_cache_PSKH,
    output_BNH,
    partial_ZBNH,
    partial_2ZBN,
    arrivals,
    context_B,
    page_table_BP,
    scale_log2,
    eps,
    window,
    sequences,
    splits,
    table_stride,
    KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    HALF: tl.constexpr,
    C: tl.constexpr,
    PADDED_SIZE: tl.constexpr,
    PAGE_SIZE: tl.constexpr,
    ROWS: tl.constexpr,
    KEYS: tl.constexpr,
    WINDOWED: tl.constexpr,
    NORMED: tl.constexpr,
    SPLIT: tl.constexpr,
    DEPENDENT: tl.constexpr,
):
    HEAD_SIZE: tl.constexpr = 2 * HALF
    HEADS: tl.constexpr = KV_HEADS * GROUP
    SLOT_STRIDE: tl.constexpr = KV_HEADS * HEAD_SIZE
    PAGE_STRIDE: tl.constexpr = PAGE_SIZE * SLOT_STRIDE
    sequence = tl.program_id(0)
    kv_head = tl.program_id(1)
    split = tl.program_id(2)
    m = tl.arange(0, ROWS)
    h = tl.arange(0, PADDED_SIZE)
    c = tl.arange(0, C)
    live_M = m < GROUP
    head_M = sequence.to(tl.int64) * HEADS + kv_head * GROUP + m
    mask_MH = live_M[:, None] & (h < HEAD_SIZE)[None, :]
    output_MH = output_BNH + head_M[:, None] * HEAD_SIZE + h[None, :]
    context = tl.load(context_B + sequence)
    if DEPENDENT:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()
    position = context - 1
    if context == 0:
        if split == 0:
            tl.store(output_MH, tl.zeros([ROWS, PADDED_SIZE], output_BNH.dtype.element_ty), mask=mask_MH)
        return

    row = cos_sin_LH + position.to(tl.int64) * HEAD_SIZE
    cos = tl.load(row + c, mask=c < HALF, other=0.0)[None, :]
    sin = tl.load(row + HALF + c, mask=c < HALF, other=0.0)[None, :]
    token = qkv_BM + sequence.to(tl.int64) * ((HEADS + 2 * KV_HEADS) * HEAD_SIZE)
    kind = k_cache_PSKH.dtype.element_ty
    q_pointer_M1 = (token + (kv_head * GROUP + m) * HEAD_SIZE)[:, None]
    qa_MC, qb_MC = _halves(q_pointer_M1, q_norm_H, cos, sin, live_M[:, None], eps, HALF, C, NORMED)
    qa_MC, qb_MC = qa_MC.to(kind), qb_MC.to(kind)

    k_head = k_cache_PSKH + kv_head * HEAD_SIZE
    v_head = v_cache_PSKH + kv_head * HEAD_SIZE
    page_row = page_table_BP + sequence.to(tl.int64) * table_stride
    best_M = tl.full([ROWS], float("-inf"), tl.float32)
    sum_p_M = tl.zeros([ROWS], tl.float32)
    sum_pv_MH = tl.zeros([ROWS, PADDED_SIZE], tl.float32)
    if split == 0:
        # The new token: into the cache, and as the first key of this share.
        one = tl.zeros([1, 1], tl.int64)
        k_pointer = token + (HEADS + kv_head) * HEAD_SIZE + one
        ka_1C, kb_1C = _halves(k_pointer, k_norm_H, cos, sin, one == 0, eps, HALF, C, NORMED)
        ka_1C, kb_1C = ka_1C.to(kind), kb_1C.to(kind)
        v_H = tl.load(token + (HEADS + KV_HEADS + kv_head) * HEAD_SIZE + h, mask=h < HEAD_SIZE, other=0.0)
        page = tl.load(page_row + position // PAGE_SIZE).to(tl.int64)
        slot = page * PAGE_STRIDE + (position % PAGE_SIZE) * SLOT_STRIDE
        tl.store(k_head + slot + c[None, :], ka_1C, mask=(c < HALF)[None, :])
        tl.store(k_head + slot + HALF + c[None, :], kb_1C, mask=(c < HALF)[None, :])
        tl.store(v_head + slot + h, v_H, mask=h < HEAD_SIZE)
        score_M = tl.sum(qa_MC.to(tl.float32) * ka_1C.to(tl.float32), 1) + tl.sum(qb_MC.to(tl.float32) * kb_1C.to(tl.float32), 1)
        best_M = score_M * scale_log2
        sum_p_M = tl.full([ROWS], 1.0, tl.float32)
        sum_pv_MH = tl.zeros([ROWS, PADDED_SIZE], tl.float32) + v_H.to(tl.float32)[None, :]

    first_key = 0
    if WINDOWED:
        first_key = tl.maximum(0, position - window + 1)
    begin = first_key // KEYS
    end = tl.maximum(begin, (position + KEYS - 1) // KEYS)
    if SPLIT:
        share = tl.cdiv(end - begin, splits)
        begin += split * share
        end = tl.minimum(end, begin + share)
    sum_pv_MH, best_M, sum_p_M = _walk(
        (sum_pv_MH, best_M, sum_p_M), qa_MC, qb_MC, k_head, v_head, page_row, begin, end, first_key, position - 1, scale_log2,
        PAGE_STRIDE, SLOT_STRIDE, HALF, C, PADDED_SIZE, PAGE_SIZE, KEYS,
    )  # fmt: skip

    if SPLIT:
        all_rows = sequences.to(tl.int64) * HEADS
        place_M = split * all_rows + head_M
        tl.store(partial_2ZBN + place_M, best_M, mask=live_M)
        tl.store(partial_2ZBN + splits * all_rows + place_M, sum_p_M, mask=live_M)
        tl.store(partial_ZBNH + place_M[:, None] * HEAD_SIZE + h[None, :], sum_pv_MH, mask=mask_MH)
        tl.debug_barrier()  # all of this program's stores before its count
        counter = arrivals + sequence * KV_HEADS + kv_head
        if tl.atomic_add(counter, 1, sem="acq_rel") == splits - 1:
            tl.debug_barrier()
            sum_pv_MH = _join(partial_ZBNH, partial_2ZBN, splits, all_rows, head_M, live_M, h, HEAD_SIZE, ROWS)
            tl.store(output_MH, sum_pv_MH.to(output_BNH.dtype.element_ty), mask=mask_MH)
            tl.store(counter, 0)
    else:
        sum_pv_MH = sum_pv_MH / sum_p_M[:, None]
        tl.store(output_MH, sum_pv_MH.to(output_BNH.dtype.element_ty), mask=mask_MH)
