"""Triton kernel of prepare.py: a program takes a block of one token's heads, all of one kind. Open `prepare_heads` first.

A head is held as its two halves, which is what rope turns; with a power of two as head size, both are loaded in 16 bytes.
T tokens, R rows written, N query heads, K kv heads, M heads of a program, H head size, C half of it, P pages, S tokens per
page, L positions of the table.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from redline.kernels.heads import HeadPreparation
from redline.kernels.op import ceil_div, next_power_of_two

ELEMENTS = 2048  # of a program: 16 a thread
MOST_HEADS = 32


def prepare_heads(
    qkv_TM: Tensor,
    positions_T: Tensor,
    slots_T: Tensor,
    k_cache_PSKH: Tensor,
    v_cache_PSKH: Tensor,
    prepare: HeadPreparation,
    tail: int | None = None,
) -> tuple[Tensor, ...]:
    """See prepare.prepare_heads. One launch."""
    tokens = qkv_TM.shape[0]
    kv_heads, size = k_cache_PSKH.shape[2:]
    heads = qkv_TM.shape[1] // size - 2 * kv_heads
    assert qkv_TM.is_contiguous() and k_cache_PSKH.is_contiguous() and v_cache_PSKH.is_contiguous()
    rows = tokens + (tail or 0)
    q_RNH = torch.empty((rows, heads, size), dtype=qkv_TM.dtype, device=qkv_TM.device)
    k_RKH = v_RKH = q_RNH
    if tail is not None:
        k_RKH, v_RKH = (torch.empty((rows, kv_heads, size), dtype=qkv_TM.dtype, device=qkv_TM.device) for _ in range(2))
    padded = next_power_of_two(size)
    block = min(max(1, ELEMENTS // padded), MOST_HEADS)
    q_block, kv_block = min(block, next_power_of_two(heads)), min(block, next_power_of_two(kv_heads))
    q_blocks, kv_blocks = ceil_div(heads, q_block), ceil_div(kv_heads, kv_block)
    normed = prepare.q_norm_H is not None and prepare.k_norm_H is not None
    if rows:
        _prepare[(rows, q_blocks + 2 * kv_blocks)](
            qkv_TM,
            positions_T,
            slots_T,
            prepare.q_norm_H if normed else prepare.cos_sin_LH,
            prepare.k_norm_H if normed else prepare.cos_sin_LH,
            prepare.cos_sin_LH,
            q_RNH,
            k_RKH,
            v_RKH,
            k_cache_PSKH,
            v_cache_PSKH,
            tokens,
            prepare.eps,
            HEADS=heads,
            KV_HEADS=kv_heads,
            HALF=size // 2,
            C=next_power_of_two(size // 2),
            Q_BLOCK=q_block,
            KV_BLOCK=kv_block,
            Q_BLOCKS=q_blocks,
            KV_BLOCKS=kv_blocks,
            NORMED=normed,
            KEPT=tail is not None,
            num_warps=max(1, q_block * padded // 512),
        )
    return (q_RNH,) if tail is None else (q_RNH, k_RKH, v_RKH)


@triton.jit
def _turned(a_MC, b_MC, cos_C, sin_C, norm_H, c, eps, HALF: tl.constexpr, NORMED: tl.constexpr):
    """The halves of heads normalised, rounded as a norm's result is stored, and rotated; in the type of `a`."""
    kind = a_MC.dtype
    a_MC = a_MC.to(tl.float32)
    b_MC = b_MC.to(tl.float32)
    if NORMED:
        square_M = tl.sum(a_MC * a_MC, 1) + tl.sum(b_MC * b_MC, 1)
        inverse_M1 = (1.0 / tl.sqrt(square_M / (2 * HALF) + eps))[:, None]
        a_MC = (a_MC * inverse_M1 * tl.load(norm_H + c, mask=c < HALF, other=0.0)[None, :]).to(kind).to(tl.float32)
        b_MC = (b_MC * inverse_M1 * tl.load(norm_H + HALF + c, mask=c < HALF, other=0.0)[None, :]).to(kind).to(tl.float32)
    return (a_MC * cos_C[None, :] - b_MC * sin_C[None, :]).to(kind), (b_MC * cos_C[None, :] + a_MC * sin_C[None, :]).to(kind)


@triton.jit
def _cos_sin(table, c, HALF: tl.constexpr):
    return tl.load(table + c, mask=c < HALF, other=0.0), tl.load(table + HALF + c, mask=c < HALF, other=0.0)


@triton.jit
def _queries(
    source,
    table,
    norm_H,
    target,
    block,
    real,
    eps,
    HEADS: tl.constexpr,
    HALF: tl.constexpr,
    C: tl.constexpr,
    BLOCK: tl.constexpr,
    NORMED: tl.constexpr,
):
    """One block of a token's query heads, from `source` to `target`; zeroes where the token is not `real`."""
    c = tl.arange(0, C)
    head_M = block * BLOCK + tl.arange(0, BLOCK)
    place_MC = head_M[:, None] * (2 * HALF) + c[None, :]
    inside_MC = (head_M < HEADS)[:, None] & (c < HALF)[None, :]
    a_MC = tl.load(source + place_MC, mask=inside_MC & real, other=0.0)
    b_MC = tl.load(source + HALF + place_MC, mask=inside_MC & real, other=0.0)
    cos_C, sin_C = _cos_sin(table, c, HALF)
    a_MC, b_MC = _turned(a_MC, b_MC, cos_C, sin_C, norm_H, c, eps, HALF, NORMED)
    tl.store(target + place_MC, a_MC, mask=inside_MC)
    tl.store(target + HALF + place_MC, b_MC, mask=inside_MC)


@triton.jit
def _keys(
    source,
    table,
    norm_H,
    kept,
    cache,
    block,
    real,
    cached,
    eps,
    HEADS: tl.constexpr,
    HALF: tl.constexpr,
    C: tl.constexpr,
    BLOCK: tl.constexpr,
    NORMED: tl.constexpr,
    TURNED: tl.constexpr,
    KEPT: tl.constexpr,
):
    """One block of a token's key heads (or, not `TURNED`, value heads), to the cache if `cached` and to `kept` if KEPT."""
    c = tl.arange(0, C)
    head_M = block * BLOCK + tl.arange(0, BLOCK)
    place_MC = head_M[:, None] * (2 * HALF) + c[None, :]
    inside_MC = (head_M < HEADS)[:, None] & (c < HALF)[None, :]
    a_MC = tl.load(source + place_MC, mask=inside_MC & real, other=0.0)
    b_MC = tl.load(source + HALF + place_MC, mask=inside_MC & real, other=0.0)
    if TURNED:
        cos_C, sin_C = _cos_sin(table, c, HALF)
        a_MC, b_MC = _turned(a_MC, b_MC, cos_C, sin_C, norm_H, c, eps, HALF, NORMED)
    if KEPT:
        tl.store(kept + place_MC, a_MC, mask=inside_MC)
        tl.store(kept + HALF + place_MC, b_MC, mask=inside_MC)
    tl.store(cache + place_MC, a_MC, mask=inside_MC & cached)
    tl.store(cache + HALF + place_MC, b_MC, mask=inside_MC & cached)


@triton.jit(do_not_specialize=["tokens"])
def _prepare(
    qkv_TM,
    positions_T,
    slots_T,
    q_norm_H,
    k_norm_H,
    cos_sin_LH,
    q_RNH,
    k_RKH,
    v_RKH,
    k_cache_PSKH,
    v_cache_PSKH,
    tokens,
    eps,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    HALF: tl.constexpr,
    C: tl.constexpr,
    Q_BLOCK: tl.constexpr,
    KV_BLOCK: tl.constexpr,
    Q_BLOCKS: tl.constexpr,
    KV_BLOCKS: tl.constexpr,
    NORMED: tl.constexpr,
    KEPT: tl.constexpr,
):
    SIZE: tl.constexpr = 2 * HALF
    row = tl.program_id(0).to(tl.int64)
    block = tl.program_id(1)
    real = row < tokens
    source = qkv_TM + row * ((HEADS + 2 * KV_HEADS) * SIZE)
    table = cos_sin_LH + tl.load(positions_T + row, mask=real, other=0) * SIZE
    if block < Q_BLOCKS:
        _queries(source, table, q_norm_H, q_RNH + row * (HEADS * SIZE), block, real, eps, HEADS, HALF, C, Q_BLOCK, NORMED)
    else:
        slot = tl.load(slots_T + row, mask=real, other=-1)
        at = slot * (KV_HEADS * SIZE)
        kept = row * (KV_HEADS * SIZE)
        kv_block = (block - Q_BLOCKS) % KV_BLOCKS
        source += HEADS * SIZE
        if block < Q_BLOCKS + KV_BLOCKS:
            _keys(
                source, table, k_norm_H, k_RKH + kept, k_cache_PSKH + at, kv_block, real, slot >= 0, eps,
                KV_HEADS, HALF, C, KV_BLOCK, NORMED, True, KEPT,
            )  # fmt: skip
        else:
            _keys(
                source + KV_HEADS * SIZE, table, k_norm_H, v_RKH + kept, v_cache_PSKH + at, kv_block, real, slot >= 0, eps,
                KV_HEADS, HALF, C, KV_BLOCK, NORMED, False, KEPT,
            )  # fmt: skip
