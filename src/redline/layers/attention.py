"""Attention over the paged KV cache: project, normalise where the family does, rotate, write, attend, project.

Knows nothing of the residual stream or of which pages belong to whom. Open `Attention.__call__` first.
Shapes: T packed tokens, D model size, N query heads, K key-value heads, H head size, P pages, S page size, L positions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeGuard

import torch
from torch import Tensor

from redline.kernels.attention import paged_attention, plan_prompts, prepare_prompts, prompt_attention
from redline.kernels.attention_plan import DECODE_QUERIES
from redline.kernels.decode_attention import decode_attention
from redline.kernels.gemv import linear_add, norm_linear
from redline.kernels.heads import HeadPreparation
from redline.kernels.invariant_attention import invariant_attention
from redline.kernels.kv_write import write_kv
from redline.kernels.prepare import prepare_heads
from redline.kernels.project_heads import project_heads
from redline.kernels.ragged import Ragged
from redline.kernels.rope import rotate
from redline.layers.batch import Batch
from redline.layers.linear import ColumnLinear, RowLinear, linear
from redline.layers.norm import RMSNorm
from redline.layers.weights import Place, Slots
from redline.shapes import ModelShape

if TYPE_CHECKING:
    from redline.kernels.attention_plan import Split
    from redline.kernels.batch_attention_cuda import Deal

LEAST_TOKENS, TOKENS_A_ROW = 1024, 64
"""Of a step, and for each row that is wanted of it: from so many on, its last layer has queries and attention for those rows alone. An 8B's eight prompts of
4,096 tokens take 763 ms and not 770, one of 2,048 43.5 and not 43.7 (H200); below, the launches cost what they save."""


class Attention:
    """Grouped-query attention of one layer; heads are cut over the ranks, `window` tokens are seen back (0: all)."""

    def __init__(self, shape: ModelShape, layer: int, cos_sin_LH: Tensor, place: Place):
        size = shape.head_size
        self._num_heads = place.ranks.part(shape.num_heads, "attention heads")
        self._num_kv_heads = place.ranks.part(shape.num_kv_heads, "key-value heads")
        self._head_size = size
        self.scale = size**-0.5 if shape.attn_scale is None else shape.attn_scale
        self._window = shape.window(layer)
        self._cos_sin_LH = cos_sin_LH
        self._is_invariant = place.invariant
        kv_width = shape.num_kv_heads * size
        widths = {"q_proj": shape.num_heads * size, "k_proj": kv_width, "v_proj": kv_width}
        self.qkv = ColumnLinear(shape.hidden_size, widths, shape.qkv_bias, place)
        self.out = RowLinear(shape.num_heads * size, shape.hidden_size, shape.o_bias, place)
        self.q_norm = RMSNorm(size, shape.norm_eps, shape.norm_offset, place) if shape.qk_norm else None
        self.k_norm = RMSNorm(size, shape.norm_eps, shape.norm_offset, place) if shape.qk_norm else None

    def __call__(
        self, x_TD: Tensor, batch: Batch, k_cache_PSKH: Tensor, v_cache_PSKH: Tensor, rows_R: Tensor | None = None
    ) -> Tensor:
        """[T, D], or [R, D] where only the rows `rows` are wanted; keys and values of all are written."""
        if self._are_few(rows_R, batch):
            return self.out(self._attend_rows(x_TD, batch, k_cache_PSKH, v_cache_PSKH, rows_R).flatten(1))
        qkv_TM = self.qkv(x_TD)
        if qkv_TM.is_cuda:
            o_TNH = self.attend(qkv_TM, batch, k_cache_PSKH, v_cache_PSKH)
        else:
            o_TNH = self._attend_in_steps(qkv_TM, batch, k_cache_PSKH, v_cache_PSKH)
        return self.out((o_TNH if rows_R is None else o_TNH.index_select(0, rows_R)).flatten(1))

    def prepare(self, rows: int) -> None:
        """Do ahead, in this thread, what a whole prompt padded to `rows` would wait for."""
        if self._is_invariant:
            return
        heads, weight_NK = (self._num_heads, self._num_kv_heads, self._head_size), self.qkv.weight_NK
        prepare_prompts(rows, heads, self.scale, weight_NK.dtype, weight_NK.device)
        if rows >= LEAST_TOKENS:
            # The kernel that prepares keys and values alone is compiled when it has its first token, which is nobody's.
            kv_TM, cache_PSKH = weight_NK.new_zeros(1, 2 * heads[1] * heads[2]), weight_NK.new_zeros(1, 1, *heads[1:])
            position_T = torch.zeros(1, dtype=torch.int64, device=weight_NK.device)
            prepare_heads(kv_TM, position_T, position_T - 1, cache_PSKH, cache_PSKH, self.preparation)

    def attend(self, qkv_TM: Tensor, batch: Batch, k_cache_PSKH: Tensor, v_cache_PSKH: Tensor) -> Tensor:
        """[T, N, H] on a GPU, from heads as projected: one pass over them, then attention by whom each sequence's is fastest."""
        if batch.deal is not None:
            return self._attend_dealt(qkv_TM, batch, batch.deal, k_cache_PSKH, v_cache_PSKH)
        split = self._plan(batch, qkv_TM)
        tail = None if split is None else split.tail
        parts = prepare_heads(qkv_TM, batch.positions_T, batch.slots_T, k_cache_PSKH, v_cache_PSKH, self.preparation, tail)
        return self._attend_prepared(parts, split, batch, k_cache_PSKH, v_cache_PSKH)

    def project_and_attend(
        self, x_TD: Tensor, batch: Batch, k_cache_PSKH: Tensor, v_cache_PSKH: Tensor, rows_R: Tensor | None = None
    ) -> Tensor:
        """`attend` of the layer's input: its projection leaves the heads as they are wanted. [R, N, H] where only the rows `rows` are."""
        if self._are_few(rows_R, batch):
            return self._attend_rows(x_TD, batch, k_cache_PSKH, v_cache_PSKH, rows_R)
        caches = (k_cache_PSKH, v_cache_PSKH)
        if batch.deal is not None:
            o_TNH = self.attend(self.qkv(x_TD), batch, *caches)
        else:
            split = self._plan(batch, x_TD)
            tail, projection = None if split is None else split.tail, (self.qkv.weight_NK, self.qkv.bias_N)
            parts = project_heads(x_TD, projection, batch.positions_T, batch.slots_T, *caches, self.preparation, tail)
            o_TNH = self._attend_prepared(parts, split, batch, *caches)
        return o_TNH if rows_R is None else o_TNH.index_select(0, rows_R)

    def _are_few(self, rows_R: Tensor | None, batch: Batch) -> TypeGuard[Tensor]:
        """Whether so few rows are wanted that they get queries of their own. Products of other numbers of rows are other sums, so not where all are to be
        alike; nor in a captured step, whose padding has no rows at all."""
        if rows_R is None or self._is_invariant or batch.is_captured:
            return False
        return max(LEAST_TOKENS, TOKENS_A_ROW * len(rows_R)) <= len(batch.tokens_T)

    def _attend_rows(self, x_TD: Tensor, batch: Batch, k_cache_PSKH: Tensor, v_cache_PSKH: Tensor, rows_R: Tensor) -> Tensor:
        """[R, N, H] of the rows `rows` through the cache, into which keys and values of all are written."""
        weight_NK, bias_N, begin = self.qkv.weight_NK, self.qkv.bias_N, self._num_heads * self._head_size
        ragged, positions_R, nowhere_R = _of_rows(batch.ragged, rows_R), batch.positions_T[rows_R], torch.full_like(rows_R, -1)
        kv_TM = linear(x_TD, weight_NK[begin:], None if bias_N is None else bias_N[begin:])
        prepare_heads(kv_TM, batch.positions_T, batch.slots_T, k_cache_PSKH, v_cache_PSKH, self.preparation)
        qkv_RM = linear(x_TD[rows_R], weight_NK, bias_N)
        (q_RNH,) = prepare_heads(qkv_RM, positions_R, nowhere_R, k_cache_PSKH, v_cache_PSKH, self.preparation)
        return paged_attention(q_RNH, k_cache_PSKH, v_cache_PSKH, ragged, self.scale, self._window)

    def _plan(self, batch: Batch, x: Tensor) -> Split | None:
        """None: the paged kernel takes all sequences."""
        if self._is_invariant:
            return None
        return plan_prompts(batch.ragged, self._window, (self._num_heads, self._num_kv_heads, self._head_size), x.dtype, x.device)

    def _attend_prepared(
        self, parts: tuple[Tensor, ...], split: Split | None, batch: Batch, k_cache_PSKH: Tensor, v_cache_PSKH: Tensor
    ) -> Tensor:
        """[T, N, H] of queries, and keys and values where there is a `split`."""
        if split is None:
            attend = invariant_attention if self._is_invariant else paged_attention
            return attend(parts[0], k_cache_PSKH, v_cache_PSKH, batch.ragged, self.scale, self._window)
        q_RNH, k_RKH, v_RKH = parts
        return prompt_attention((q_RNH, k_RKH, v_RKH), split, k_cache_PSKH, v_cache_PSKH, batch.ragged, self.scale, self._window)

    def _attend_dealt(self, qkv_BM: Tensor, batch: Batch, deal: Deal, k_cache_PSKH: Tensor, v_cache_PSKH: Tensor) -> Tensor:
        """[B, N, H] of one new token each, heads prepared and cache written in the same kernel."""
        from redline.kernels.batch_attention_cuda import batch_attention

        o_BM = batch_attention(qkv_BM, k_cache_PSKH, v_cache_PSKH, batch.ragged, self.preparation, self.scale, deal)
        return o_BM.view(len(o_BM), self._num_heads, self._head_size)

    def _attend_in_steps(self, qkv_TM: Tensor, batch: Batch, k_cache_PSKH: Tensor, v_cache_PSKH: Tensor) -> Tensor:
        """The same on a CPU."""
        heads = qkv_TM.view(qkv_TM.shape[0], -1, self._head_size)
        q_TNH, k_TKH, v_TKH = heads.split((self._num_heads, self._num_kv_heads, self._num_kv_heads), dim=1)
        if self.q_norm is not None and self.k_norm is not None:
            q_TNH, k_TKH = self.q_norm(q_TNH), self.k_norm(k_TKH)
        rotate(q_TNH, k_TKH, batch.positions_T, self._cos_sin_LH)
        write_kv(k_TKH, v_TKH, k_cache_PSKH, v_cache_PSKH, batch.slots_T)
        return paged_attention(q_TNH, k_cache_PSKH, v_cache_PSKH, batch.ragged, self.scale, self._window)

    def decode(self, stream_TD: Tensor, norm: RMSNorm, batch: Batch, k_cache_PSKH: Tensor, v_cache_PSKH: Tensor) -> None:
        """Add the attention of the normalised stream to it, in three kernels: one row, one rank."""
        qkv_TM = norm_linear(stream_TD, norm.weight_D, norm.eps, self.qkv.weight_NK, self.qkv.bias_N)
        o_TNH = decode_attention(qkv_TM, k_cache_PSKH, v_cache_PSKH, batch.ragged, self.preparation, self.scale, self._window)
        linear_add(o_TNH.flatten(1), self.out.weight_NK, stream_TD, self.out.bias_N)

    @property
    def preparation(self) -> HeadPreparation:
        if self.q_norm is None or self.k_norm is None:
            return HeadPreparation(None, None, 0.0, self._cos_sin_LH)
        return HeadPreparation(self.q_norm.weight_D, self.k_norm.weight_D, self.q_norm.eps, self._cos_sin_LH)

    def slots(self, prefix: str) -> Slots:
        yield from self.qkv.slots(prefix)
        yield from self.out.slots(f"{prefix}.o_proj")
        if self.q_norm is not None and self.k_norm is not None:
            yield from self.q_norm.slots(f"{prefix}.q_norm")
            yield from self.k_norm.slots(f"{prefix}.k_norm")


def _of_rows(ragged: Ragged, rows_R: Tensor) -> Ragged:
    """The layout of the tokens `rows` alone, each a sequence with one query."""
    rows_R = rows_R.to(torch.int32)
    ends_B = ragged.query_start_B1[1:]
    sequence_R = torch.searchsorted(ends_B, rows_R, right=True)
    return Ragged(
        query_start_B1=torch.arange(len(rows_R) + 1, dtype=torch.int32, device=rows_R.device),
        context_B=ragged.context_B[sequence_R] - (ends_B[sequence_R] - 1 - rows_R),
        page_table_BP=ragged.page_table_BP[sequence_R],
        # A bound, from which prompts' kernel takes them: that one has been compiled before, and cuts the keys of few.
        max_query=DECODE_QUERIES + 1,
        max_context=ragged.max_context,
    )
