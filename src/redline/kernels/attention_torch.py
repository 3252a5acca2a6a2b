"""Paged attention on a CPU: plain torch, few calls, nothing repeated per layer that a step could decide once.

What depends only on the batch's layout (which keys, which pages, which mask) is planned at a step's first layer and kept
with its `Ragged`. Sequences with one query token are gathered and run together, in buckets of similar length so that
padding costs at most a factor of two; the others run one by one. Knows nothing of GPUs. Open `paged_attention` first.

Legend as in attention.py; R sequences of one bucket, C keys of its longest.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from redline.kernels.op import ceil_div, next_power_of_two
from redline.kernels.ragged import Ragged


@dataclass(frozen=True)
class _Keys:
    """Where one sequence's visible keys lie: keys [skip, skip + count) of the `pages`, laid end to end."""

    pages: list[int]
    skip: int
    count: int

    @property
    def consecutive(self) -> bool:
        """Whether the pages follow each other in the cache, so that the keys are one view of it."""
        return self.pages == list(range(self.pages[0], self.pages[0] + len(self.pages)))


@dataclass(frozen=True)
class _Chunk:
    """The query tokens [start, stop) of one sequence, and its keys [skip, skip + count) of the pages `pages_P`, or of the
    cache itself where that is None. `mask_QC` is None where every token sees every key, or where plain causality says all
    (`causal`)."""

    start: int
    stop: int
    pages_P: Tensor | None
    skip: int
    count: int
    causal: bool
    mask_QC: Tensor | None

    def read(self, cache_PSKH: Tensor) -> Tensor:
        """The keys or values of the sequence, [1, K, C, H]."""
        if self.pages_P is not None:
            cache_PSKH = cache_PSKH.index_select(0, self.pages_P)
        return cache_PSKH.flatten(0, 1)[self.skip : self.skip + self.count].transpose(0, 1).unsqueeze(0)


@dataclass(frozen=True)
class _Bucket:
    """Sequences of one query token each: row r is token tokens[r]. Their keys are gathered head by head, so that each
    head's lie end to end. A shorter sequence repeats its last key behind a mask: a slot of nobody may hold a NaN, which no
    mask would hide."""

    tokens_R: Tensor
    rows: Tensor  # R * K * C rows of H in the cache
    mask_R11C: Tensor
    k_RKCH: Tensor  # written by each layer in turn: fresh memory would cost more than the copy
    v_RKCH: Tensor


@dataclass(frozen=True)
class _Plan:
    chunks: list[_Chunk]
    buckets: list[_Bucket]
    covers: bool  # every row of q belongs to a chunk or a bucket


def paged_attention(
    q_TNH: Tensor, k_cache_PSKH: Tensor, v_cache_PSKH: Tensor, ragged: Ragged, scale: float, window: int = 0
) -> Tensor:
    """See attention.paged_attention."""
    key = (window, k_cache_PSKH.shape[1:], k_cache_PSKH.dtype)
    plan = ragged.plans.get(key)
    if plan is None:
        plan = ragged.plans[key] = _plan(ragged, q_TNH.shape[0], k_cache_PSKH, window)
    output_TNH = torch.empty(q_TNH.shape, dtype=q_TNH.dtype) if plan.covers else torch.zeros(q_TNH.shape, dtype=q_TNH.dtype)
    for chunk in plan.chunks:
        rows = slice(chunk.start, chunk.stop)
        output_TNH[rows] = _attend_chunk(q_TNH[rows], k_cache_PSKH, v_cache_PSKH, chunk, scale)
    for bucket in plan.buckets:
        q_RNH = q_TNH.index_select(0, bucket.tokens_R)
        output_TNH.index_copy_(0, bucket.tokens_R, _attend_bucket(q_RNH, k_cache_PSKH, v_cache_PSKH, bucket, scale))
    return output_TNH


def _attend_chunk(q_QNH: Tensor, k_cache_PSKH: Tensor, v_cache_PSKH: Tensor, chunk: _Chunk, scale: float) -> Tensor:
    k_1KCH, v_1KCH = chunk.read(k_cache_PSKH), chunk.read(v_cache_PSKH)
    num_tokens, heads, size = q_QNH.shape
    if num_tokens == 1:  # the heads of a group are rows of one matrix
        q_1KGH = q_QNH.reshape(1, k_1KCH.shape[1], -1, size)
        return F.scaled_dot_product_attention(q_1KGH, k_1KCH, v_1KCH, scale=scale).reshape(1, heads, size)
    q_1NQH = q_QNH.transpose(0, 1).unsqueeze(0)
    output_1NQH = F.scaled_dot_product_attention(
        q_1NQH, k_1KCH, v_1KCH, attn_mask=chunk.mask_QC, is_causal=chunk.causal, scale=scale, enable_gqa=True
    )
    return output_1NQH.squeeze(0).transpose(0, 1)


def _attend_bucket(q_RNH: Tensor, k_cache_PSKH: Tensor, v_cache_PSKH: Tensor, bucket: _Bucket, scale: float) -> Tensor:
    rows, heads, size = q_RNH.shape
    torch.index_select(k_cache_PSKH.view(-1, size), 0, bucket.rows, out=bucket.k_RKCH.view(-1, size))
    torch.index_select(v_cache_PSKH.view(-1, size), 0, bucket.rows, out=bucket.v_RKCH.view(-1, size))
    q_RKGH = q_RNH.view(rows, k_cache_PSKH.shape[2], -1, size)
    output_RKGH = F.scaled_dot_product_attention(q_RKGH, bucket.k_RKCH, bucket.v_RKCH, attn_mask=bucket.mask_R11C, scale=scale)
    return output_RKGH.reshape(rows, heads, size)


def _plan(ragged: Ragged, num_tokens: int, cache_PSKH: Tensor, window: int) -> _Plan:
    starts, contexts = ragged.query_start_B1.tolist(), ragged.context_B.tolist()
    table = ragged.page_table_BP.tolist()
    chunks: list[_Chunk] = []
    singles: list[tuple[int, _Keys]] = []
    covered = 0
    for b, context in enumerate(contexts):
        start, stop = starts[b], starts[b + 1]
        if start == stop or context == 0:
            continue
        covered += stop - start
        keys = _visible(table[b], stop - start, context, cache_PSKH.shape[1], window)
        if stop - start == 1:
            singles.append((start, keys))
        else:
            chunks.append(_chunk(start, stop, keys, cache_PSKH, window))
    if len(singles) == 1 and singles[0][1].consecutive:
        token, keys = singles.pop()
        chunks.append(_chunk(token, token + 1, keys, cache_PSKH, window))
    return _Plan(chunks, _buckets(singles, cache_PSKH), covered == num_tokens)


def _visible(row: list[int], queries: int, context: int, page_size: int, window: int) -> _Keys:
    first = max(0, context - queries - window + 1) if window else 0
    first_page = first // page_size
    return _Keys(row[first_page : ceil_div(context, page_size)], first - first_page * page_size, context - first)


def _chunk(start: int, stop: int, keys: _Keys, cache_PSKH: Tensor, window: int) -> _Chunk:
    pages_P = None if keys.consecutive else torch.tensor(keys.pages)
    skip = keys.skip if pages_P is not None else keys.pages[0] * cache_PSKH.shape[1] + keys.skip
    queries = stop - start
    causal = queries > 1 and keys.count == queries and (window == 0 or queries <= window)
    mask_QC = None if causal or queries == 1 else _mask(queries, keys.count, window, cache_PSKH.dtype)
    return _Chunk(start, stop, pages_P, skip, keys.count, causal, mask_QC)


def _mask(queries: int, count: int, window: int, dtype: torch.dtype) -> Tensor:
    """0 where the query sees the key, else -inf, [Q, C]; the last query is at the last key."""
    behind_QC = torch.arange(count - queries, count).unsqueeze(1) - torch.arange(count)
    hidden_QC = behind_QC < 0
    if window:
        hidden_QC |= behind_QC >= window
    return torch.zeros(hidden_QC.shape, dtype=dtype).masked_fill_(hidden_QC, -torch.inf)


def _buckets(singles: list[tuple[int, _Keys]], cache_PSKH: Tensor) -> list[_Bucket]:
    groups: dict[int, list[tuple[int, _Keys]]] = {}
    for token, keys in singles:
        groups.setdefault(next_power_of_two(len(keys.pages)), []).append((token, keys))
    return [_bucket(group, cache_PSKH) for group in groups.values()]


def _bucket(group: list[tuple[int, _Keys]], cache_PSKH: Tensor) -> _Bucket:
    _, page_size, kv_heads, size = cache_PSKH.shape
    width = max(len(keys.pages) for _, keys in group)
    pages_RP = torch.tensor([keys.pages + [0] * (width - len(keys.pages)) for _, keys in group])
    skip_R1 = torch.tensor([[keys.skip] for _, keys in group])
    count_R1 = torch.tensor([[keys.count] for _, keys in group])
    index_C = torch.arange(max(keys.count for _, keys in group))
    place_RC = torch.minimum(index_C, count_R1 - 1) + skip_R1
    slots_RC = pages_RP.gather(1, place_RC // page_size) * page_size + place_RC % page_size
    rows_RKC = slots_RC.unsqueeze(1) * kv_heads + torch.arange(kv_heads).unsqueeze(1)
    mask_RC = torch.zeros(slots_RC.shape, dtype=cache_PSKH.dtype).masked_fill_(index_C >= count_R1, -torch.inf)
    k_RKCH, v_RKCH = torch.empty((2, *rows_RKC.shape, size), dtype=cache_PSKH.dtype)
    tokens_R = torch.tensor([token for token, _ in group])
    return _Bucket(tokens_R, rows_RKC.flatten(), mask_RC[:, None, None], k_RKCH, v_RKCH)
