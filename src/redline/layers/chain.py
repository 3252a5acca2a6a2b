"""A plain pre-norm decoder in five kernels a layer: `Chain`, for Hopper cards.

norm and qkv; heads, cache and attention; projection and sum; norm and gated projection; projection and sum. The kernels
overlap: each requests its weights before the one before it has ended (kernels/cuda/skinny.cu, one_row.cu, many_rows.cu). A decode step's
attention is of three kinds, by the number of sequences and the longest context (kernels/step_attention.py). Other
steps take the same products with the usual attention between them (`Chain.hidden`), unless they have a number of tokens for which
cuBLAS is faster; those, and every other card, take `Decoder.forward` as it is. Knows nothing of steps or graphs. Open `chain_of` first, then
`Chain.logits`.

B sequences with one new token each, T packed tokens, R of them wanted, D model size, V vocabulary.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from redline import log
from redline.kernels import project_heads, skinny, step_attention
from redline.kernels.norm import rms_norm
from redline.kernels.op import HOPPER, device_of
from redline.kernels.trust import wrong_attention, wrong_result
from redline.layers.batch import Batch, KVCache
from redline.layers.mlp import Mlp

if TYPE_CHECKING:
    from redline.kernels.begin_cuda import Begun, Order
    from redline.layers.attention import Attention
    from redline.layers.decoder import Decoder, PreNormBlock

MOST_LAUNCHED_TOKENS = 64
"""For products of few rows that the host launches one by one, which is not measured beyond. As a graph 30 tokens take an 8B 4.46 ms and not 5.17,
128 tokens 5.00 and not 5.13 (a 1B 1.16 and not 1.29)."""

MOST_CHAINED_TOKENS, LEAST_EFFICIENCY = 1024, 0.72
"""For products of many rows. As a graph 512 tokens take an 8B 11.95 ms and not 12.40, 1,024 tokens 23.25 and not 23.65. With more, power is the
limit and cuBLAS needs less of it; where tiles leave processors idle (640 tokens: 16.5 ms and not 15.5), it cuts the inputs instead. The efficiency is that of
all but the first product, by `many_rows_cuda.efficiency`."""

LEAST_STREAMED_TOKENS = 4096
"""From so many on, cuBLAS adds to the stream itself and a norm only reads it: products behind attention and in feed-forward layers take 15 us less of a layer of an 8B (4,096
tokens; 52 of 8,192), those of a 1B no more and no less. Whole steps at full power showed no difference (docs/log.md)."""


Attend = Callable[["Attention", int, Tensor], Tensor]
"""[T, heads * size] of a layer's attention, its number and its projected heads."""


def chain_of(decoder: Decoder, blocks: Sequence[PreNormBlock]) -> Chain | None:
    """The fast step of `decoder`, whose blocks these are, or None with one logged reason."""
    device = decoder.embed.weight_VD.device
    if device.type != "cuda":
        return None
    shape = decoder.shape
    reason = (
        _reason_against(decoder, blocks, device)
        or trusted(device)
        or trusted_attention(shape.num_heads, shape.num_kv_heads, shape.head_size, shape.qk_norm, device)
    )
    if reason is not None:
        log.fallback("chain", reason)
        return None
    return Chain(decoder, blocks)


def _reason_against(decoder: Decoder, blocks: Sequence[PreNormBlock], device: torch.device) -> str | None:
    shape, weight_VD = decoder.shape, decoder.embed.weight_VD
    if device_of(device).target.capability != HOPPER:
        return "the card has no warpgroup products: portable kernels decode"
    if weight_VD.dtype is not torch.bfloat16:
        return "the model is not in bfloat16: portable kernels decode"
    if any(shape.window(layer) for layer in range(shape.num_layers)):
        return "the model has sliding windows: portable kernels decode"
    if not step_attention.has_heads(shape.num_heads, shape.num_kv_heads, shape.head_size):
        return "the model's heads have a size that the fast attention lacks: portable kernels decode"
    if shape.hidden_size % 8 or shape.intermediate_size % 8:
        return "the model's rows are no whole groups of 16 bytes: portable kernels decode"
    if not all(isinstance(block.feed_forward, Mlp) and block.feed_forward.gate_up.bias_N is None for block in blocks):
        return "the model's feed-forward layers are not plain: portable kernels decode"
    return None


@functools.cache
def trusted(device: torch.device) -> str | None:
    """None if the kernels' results are right on this device, tried once on small inputs; otherwise what is wrong."""
    products = (skinny.LINEAR, skinny.GATED, skinny.PROJECT, skinny.CHOOSE, skinny.ADD)
    few = [(spec, case) for spec in products for case in spec.cases[1:3]]  # one row, and several
    wide = [(skinny.GATED, case) for case in skinny.GATED.cases if case["T"] == 1 and case["K"] > 2048]  # weights behind inputs
    many = [(spec, spec.cases[-1]) for spec in (skinny.LINEAR, skinny.GATED, skinny.ADD, project_heads.SPEC)]
    reason = wrong_result(few + wide + many, device)
    return None if reason is None else f"{reason}: portable kernels decode"


@functools.cache
def trusted_attention(heads: int, kv_heads: int, size: int, normed: bool, device: torch.device) -> str | None:
    """The same for the attention of decode steps."""
    reason = wrong_attention(heads, kv_heads, size, normed, device)
    return None if reason is None else f"{reason}: portable kernels decode"


class Chain:
    """The `logits` of a decode step or its greedy tokens, and the `hidden` states of any step that `takes_tokens`, with the weights of a decoder's layers."""

    def __init__(self, decoder: Decoder, blocks: Sequence[PreNormBlock]) -> None:
        self._decoder, self._blocks = decoder, blocks
        self._norms = [norm for block in blocks for norm in (block.attention_norm, block.ffn_norm)] + [decoder.norm]

    def takes(self, batch: Batch, page_size: int) -> bool:
        """Whether the step is one of these: one new token a sequence, and either few of them or heads whose keys can be dealt."""
        rows = len(batch.tokens_T)
        return (
            rows == len(batch.ragged.context_B)
            and page_size % 16 == 0
            and (rows <= skinny.FEW_ROWS or self._deals(batch, page_size))
        )

    def _deals(self, batch: Batch, page_size: int) -> bool:
        rows, shape = len(batch.tokens_T), self._decoder.shape
        heads = (shape.num_heads, shape.num_kv_heads, shape.head_size)
        return step_attention.is_dealt(rows, batch.ragged.max_context, *heads, page_size)

    def takes_tokens(self, batch: Batch) -> bool:
        """Whether the step has a number of tokens for `hidden`."""
        tokens = len(batch.tokens_T)
        if tokens <= skinny.FEW_ROWS:
            return batch.deal is None and (batch.is_captured or tokens <= MOST_LAUNCHED_TOKENS)
        return self._pays(tokens) or self._streams(tokens)

    def _streams(self, tokens: int) -> bool:
        """Whether cuBLAS's products are to be added to the stream in place."""
        biased = any(block.attention.out.bias_N is not None for block in self._blocks)
        return tokens >= LEAST_STREAMED_TOKENS and not biased

    def _pays(self, tokens: int) -> bool:
        """Whether products of so many rows are faster than cuBLAS with what surrounds them."""
        from redline.kernels import many_rows_cuda
        from redline.kernels.product import GATED, STORE

        shape = self._decoder.shape
        sizes = (shape.hidden_size, shape.intermediate_size, shape.head_size)
        if tokens > MOST_CHAINED_TOKENS or any(size % 16 for size in sizes):
            return False
        processors, heads = device_of(self._decoder.embed.weight_VD.device).processors, shape.num_heads * shape.head_size
        products = (
            (STORE, shape.hidden_size, heads),
            (STORE, shape.hidden_size, shape.intermediate_size),
            (GATED, shape.intermediate_size, shape.hidden_size),
        )
        return all(many_rows_cuda.efficiency(*product, tokens, processors) >= LEAST_EFFICIENCY for product in products)

    def prepare(self, rows: int) -> None:
        """Compile ahead the kernels of all steps of up to `rows` tokens: they are others for other numbers of tokens."""
        from redline.kernels.cuda.compiler import compile_ahead
        from redline.kernels.many_rows_cuda import head_definitions, wanted
        from redline.kernels.product import ADD, GATED, STORE

        attention, mlp, shape = self._blocks[0].attention, self._blocks[0].feed_forward, self._decoder.shape
        assert isinstance(mlp, Mlp)
        products = ((STORE, attention.qkv), (ADD, attention.out), (GATED, mlp.gate_up), (ADD, mlp.down))
        found = []
        for tokens in range(2 * skinny.FEW_ROWS, rows + 1, skinny.FEW_ROWS):
            if self._pays(tokens):
                for kind, layer in products:
                    traits = {"scaled": kind != ADD, "biased": layer.bias_N is not None, "gelu": kind == GATED and mlp.is_gelu}
                    found.append(wanted(kind, layer.weight_NK, tokens, **traits))
            elif mlp.takes(tokens):
                found.append(wanted(GATED, mlp.gate_up.weight_NK, tokens, scaled=False, biased=False, gelu=mlp.is_gelu))
        if self._streams(rows) and shape.head_size in project_heads.SIZES:
            found.append(head_definitions(shape.head_size, shape.qk_norm, attention.qkv.bias_N is not None))
        compile_ahead("many_rows.cu", found)

    def hidden(self, batch: Batch, cache: KVCache) -> Tensor:
        """As `Decoder.forward`."""

        def attend(attention: Attention, layer: int, qkv_TM: Tensor) -> Tensor:
            return attention.attend(qkv_TM, batch, cache.k[layer], cache.v[layer]).flatten(1)

        tokens = len(batch.tokens_T)
        if tokens > skinny.FEW_ROWS and not self._pays(tokens):
            return self._streamed(batch, cache)
        gained = self._layers(self._embedded(batch), attend, batch.rows_R)
        return (gained.gained_TK * gained.root_T1).to(gained.gained_TK.dtype)

    def _embedded(self, batch: Batch) -> Begun:
        """The embedded tokens as stream and as the first layer's input."""
        from redline.kernels import begin_cuda

        embed, norm = self._decoder.embed, self._norms[0]
        begun = begin_cuda.Begun.empty(len(batch.tokens_T), self._decoder.shape.hidden_size, norm.eps, embed.weight_VD.device)
        begin_cuda.embed(batch.tokens_T, embed.weight_VD, embed.scale, norm.weight_D, begun)
        return begun

    def _streamed(self, batch: Batch, cache: KVCache) -> Tensor:
        """As `Decoder.forward`: projections to the stream by cuBLAS, in place."""
        dtype, rows_R = self._decoder.embed.weight_VD.dtype, batch.rows_R
        stream_TD = self._embedded(batch).stream_TD
        for layer, block in enumerate(self._blocks):
            attention, mlp = block.attention, block.feed_forward
            assert isinstance(mlp, Mlp)
            x_TD = rms_norm(stream_TD, block.attention_norm.weight_D, block.attention_norm.eps, dtype)
            wanted_R = rows_R if layer == len(self._blocks) - 1 else None
            heads_TNH = attention.project_and_attend(x_TD, batch, cache.k[layer], cache.v[layer], wanted_R)
            if wanted_R is not None:
                stream_TD = stream_TD.index_select(0, wanted_R)
            _add(stream_TD, heads_TNH.flatten(1), attention.out.weight_NK)
            inner_TF = mlp.inner(rms_norm(stream_TD, block.ffn_norm.weight_D, block.ffn_norm.eps, dtype))
            _add(stream_TD, inner_TF, mlp.down.weight_NK)
        return rms_norm(stream_TD, self._decoder.norm.weight_D, self._decoder.norm.eps, dtype)

    def logits(self, batch: Batch, cache: KVCache) -> Tensor:
        """float32 [B, V]; writes the new tokens' keys and values into the cache."""
        batch = self._dealt(batch, cache.page_size)
        if len(batch.tokens_T) > skinny.FEW_ROWS:
            return self._decoder.logits(self._decoder.forward(batch, cache))
        return skinny.project(self._last(batch, cache), self._decoder.head.weight_VD)

    def chosen(self, batch: Batch, cache: KVCache) -> skinny.Chosen | None:
        """The most likely tokens [B], chosen by the head; None where that is not faster than `logits`."""
        if len(batch.tokens_T) > skinny.FEW_ROWS:
            return None
        return skinny.choose(self._last(self._dealt(batch, cache.page_size), cache), self._decoder.head.weight_VD)

    def _dealt(self, batch: Batch, page_size: int) -> Batch:
        """With the keys dealt to the processors, where attention takes them so."""
        from redline.kernels import batch_attention_cuda

        if not self._deals(batch, page_size):
            return batch
        shape = self._decoder.shape
        deal = batch_attention_cuda.deal(batch.ragged, shape.num_heads, shape.num_kv_heads, shape.head_size, page_size)
        return dataclasses.replace(batch, deal=deal)

    def _last(self, batch: Batch, cache: KVCache) -> skinny.Gained:
        """What the head reads."""
        from redline.kernels import begin_cuda

        if batch.deal is not None:
            return self._layers(self._embedded(batch), _Attend(batch, cache, None))
        norm, embed, tokens_T = self._norms[0], self._decoder.embed, batch.tokens_T
        begun = begin_cuda.Begun.empty(len(tokens_T), self._decoder.shape.hidden_size, norm.eps, tokens_T.device)
        embedding = (tokens_T, embed.weight_VD, embed.scale, norm.weight_D)
        order = begin_cuda.begin(*embedding, batch.ragged.context_B, self._decoder.shape.num_kv_heads, begun)
        return self._layers(begun, _Attend(batch, cache, order))

    def _layers(self, begun: Begun, attend: Attend, rows_R: Tensor | None = None) -> skinny.Gained:
        """All layers. Behind the last attention only the rows `rows` are computed."""
        stream_TD, gained = begun.stream_TD, begun.gained
        for layer, block in enumerate(self._blocks):
            attention, mlp = block.attention, block.feed_forward
            assert isinstance(mlp, Mlp)
            qkv_TM = skinny.linear(gained, attention.qkv.weight_NK, attention.qkv.bias_N, first=layer == 0)
            heads_TM = attend(attention, layer, qkv_TM)
            after = self._norms[2 * layer + 1]
            if rows_R is not None and layer == len(self._blocks) - 1:
                heads_TM, stream_TD = heads_TM.index_select(0, rows_R), stream_TD.index_select(0, rows_R)
            gained = skinny.add(heads_TM, attention.out.weight_NK, stream_TD, after.weight_D, after.eps, attention.out.bias_N)
            inner_TF = skinny.gated(gained, mlp.gate_up.weight_NK, mlp.is_gelu)
            after = self._norms[2 * layer + 2]
            gained = skinny.add(inner_TF, mlp.down.weight_NK, stream_TD, after.weight_D, after.eps, mlp.down.bias_N)
        return gained


def _add(stream_TN: Tensor, x_TK: Tensor, weight_NK: Tensor) -> None:
    """stream += x W^T in float32."""
    torch.addmm(stream_TN, x_TK, weight_NK.t(), out_dtype=torch.float32, out=stream_TN)


@dataclass(frozen=True)
class _Attend:
    """What attention needs to know of the step, the same for all layers: the order of its keys, unless they are dealt."""

    batch: Batch
    cache: KVCache
    order: Order | None

    def __call__(self, attention: Attention, layer: int, qkv_BM: Tensor) -> Tensor:
        caches, shared = (self.cache.k[layer], self.cache.v[layer]), step_attention.Shared(self.order, self.batch.deal)
        return step_attention.attend(qkv_BM, *caches, self.batch.ragged, attention.preparation, attention.scale, shared)
