"""The decoder: embedding, blocks on a residual stream, final norm, head. Two kinds of block cover the families.

The stream is kept as (hidden, residual) with the sum not yet taken, so that each norm takes it in the same pass over
memory. Knows nothing of families' names. Open `Decoder.forward` first.
Shapes: T packed tokens, R rows whose logits are wanted, D model size, V vocabulary, L positions, H head size.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Protocol

from torch import Tensor

from redline.kernels.skinny import Chosen
from redline.layers.attention import Attention
from redline.layers.batch import Batch, KVCache
from redline.layers.chain import Chain, chain_of
from redline.layers.embed import Embedding, Head
from redline.layers.norm import RMSNorm
from redline.layers.rope import cos_sin_table
from redline.layers.weights import Place, Slots
from redline.shapes import ModelShape


class FeedForward(Protocol):
    """`Mlp` or `Moe`."""

    def __call__(self, x_TD: Tensor) -> Tensor: ...

    @property
    def fuses(self) -> bool: ...

    def decode(self, stream_TD: Tensor, norm: RMSNorm) -> None: ...

    def slots(self, prefix: str) -> Slots: ...


class Block(Protocol):
    """One layer: takes and gives the residual stream as (hidden, residual); their sum is its value.

    With `rows` the result has those rows only: attention is computed whole, the rest for them alone.
    `decode` does the same for a step of one token, to the stream itself, in the fewest kernels; only where `fuses` says so.
    """

    def __call__(
        self,
        hidden_TD: Tensor,
        residual_TD: Tensor | None,
        batch: Batch,
        k_cache: Tensor,
        v_cache: Tensor,
        rows_R: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]: ...

    attention: Attention

    @property
    def fuses(self) -> bool: ...

    def decode(self, stream_TD: Tensor, batch: Batch, k_cache: Tensor, v_cache: Tensor) -> None: ...

    def slots(self, prefix: str) -> Slots: ...


class PreNormBlock:
    """x + attention(norm(x)), then x + feed_forward(norm(x)): Llama and most others."""

    def __init__(self, shape: ModelShape, attention: Attention, feed_forward: FeedForward, place: Place):
        self.attention_norm, self.ffn_norm = _norms(2, shape, place)
        self.attention = attention
        self.feed_forward = feed_forward

    def __call__(
        self,
        hidden_TD: Tensor,
        residual_TD: Tensor | None,
        batch: Batch,
        k_cache: Tensor,
        v_cache: Tensor,
        rows_R: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        x_TD, stream_TD = self.attention_norm.add(hidden_TD, residual_TD)
        x_TD = self.attention(x_TD, batch, k_cache, v_cache, rows_R)
        x_TD, stream_TD = self.ffn_norm.add(x_TD, _rows(stream_TD, rows_R))
        return self.feed_forward(x_TD), stream_TD

    @property
    def fuses(self) -> bool:
        return self.feed_forward.fuses

    def decode(self, stream_TD: Tensor, batch: Batch, k_cache: Tensor, v_cache: Tensor) -> None:
        self.attention.decode(stream_TD, self.attention_norm, batch, k_cache, v_cache)
        self.feed_forward.decode(stream_TD, self.ffn_norm)

    def slots(self, prefix: str) -> Slots:
        yield from self.attention_norm.slots(f"{prefix}.input_layernorm")
        yield from self.attention.slots(f"{prefix}.self_attn")
        yield from self.ffn_norm.slots(f"{prefix}.post_attention_layernorm")
        yield from self.feed_forward.slots(f"{prefix}.mlp")


class SandwichBlock:
    """As PreNormBlock, with the output of each half normalised too before it is added: Gemma 3."""

    def __init__(self, shape: ModelShape, attention: Attention, feed_forward: FeedForward, place: Place):
        self.attention_norm, self.after_attention, self.ffn_norm, self.after_ffn = _norms(4, shape, place)
        self.attention = attention
        self.feed_forward = feed_forward

    def __call__(
        self,
        hidden_TD: Tensor,
        residual_TD: Tensor | None,
        batch: Batch,
        k_cache: Tensor,
        v_cache: Tensor,
        rows_R: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        x_TD, stream_TD = self.attention_norm.add(hidden_TD, residual_TD)
        x_TD = self.after_attention(self.attention(x_TD, batch, k_cache, v_cache, rows_R))
        x_TD, stream_TD = self.ffn_norm.add(x_TD, _rows(stream_TD, rows_R))
        return self.after_ffn(self.feed_forward(x_TD)), stream_TD

    @property
    def fuses(self) -> bool:
        return False

    def decode(self, stream_TD: Tensor, batch: Batch, k_cache: Tensor, v_cache: Tensor) -> None:
        raise NotImplementedError("its outputs are normalised before they are added")

    def slots(self, prefix: str) -> Slots:
        yield from self.attention_norm.slots(f"{prefix}.input_layernorm")
        yield from self.attention.slots(f"{prefix}.self_attn")
        yield from self.after_attention.slots(f"{prefix}.post_attention_layernorm")
        yield from self.ffn_norm.slots(f"{prefix}.pre_feedforward_layernorm")
        yield from self.feed_forward.slots(f"{prefix}.mlp")
        yield from self.after_ffn.slots(f"{prefix}.post_feedforward_layernorm")


def _rows(x_TD: Tensor, rows_R: Tensor | None) -> Tensor:
    return x_TD if rows_R is None else x_TD.index_select(0, rows_R)


def _norms(count: int, shape: ModelShape, place: Place) -> list[RMSNorm]:
    return [RMSNorm(shape.hidden_size, shape.norm_eps, shape.norm_offset, place) for _ in range(count)]


MakeBlock = Callable[[ModelShape, Attention, FeedForward, Place], Block]
MakeFeedForward = Callable[[ModelShape, Place], FeedForward]


class Decoder:
    """A whole decoder on one rank. Parameters are uninitialised until the loader has filled every slot."""

    def __init__(self, shape: ModelShape, block: MakeBlock, feed_forward: MakeFeedForward, max_len: int, place: Place):
        self.shape = shape
        self.embed = Embedding(shape.vocab_size, shape.hidden_size, shape.embed_scale, place)
        table_LH = cos_sin_table(shape.rope, shape.head_size, max_len, place.device)
        local_LH = table_LH
        if shape.rope_local is not None:
            local_LH = cos_sin_table(shape.rope_local, shape.head_size, max_len, place.device)
        self.blocks: Sequence[Block] = [
            block(shape, Attention(shape, i, local_LH if shape.slides(i) else table_LH, place), feed_forward(shape, place), place)
            for i in range(shape.num_layers)
        ]
        self.norm = RMSNorm(shape.hidden_size, shape.norm_eps, shape.norm_offset, place)
        self._fuses = place.ranks.size == 1 and not place.invariant and all(block.fuses for block in self.blocks)
        self.head = Head(shape.vocab_size, shape.hidden_size, place, self.embed if shape.tie_embeddings else None)

    def forward(self, batch: Batch, cache: KVCache) -> Tensor:
        """Final hidden states of the batch's tokens, [T, D], or of `batch.rows_R` alone, [R, D]; writes all tokens' keys and
        values into the cache."""
        if self.runs_fused(batch):
            return _rows(self.decode(batch, cache), batch.rows_R)
        if batch.tokens_T.is_cuda and (chain := self._chain) is not None and chain.takes_tokens(batch):
            return chain.hidden(batch, cache)
        hidden_TD, residual_TD = self.embed(batch.tokens_T), None
        last = self.blocks[-1]
        for block, k_cache, v_cache in zip(self.blocks, cache.k, cache.v, strict=True):
            rows_R = batch.rows_R if block is last else None
            hidden_TD, residual_TD = block(hidden_TD, residual_TD, batch, k_cache, v_cache, rows_R)
        return self.norm.add(hidden_TD, residual_TD)[0]

    def runs_fused(self, batch: Batch) -> bool:
        """Whether `forward` takes the way of few kernels: on a GPU, for one sequence with one new token. With more rows
        cuBLAS is faster than those kernels."""
        return self._fuses and batch.tokens_T.is_cuda and len(batch.tokens_T) == len(batch.ragged.context_B) == 1

    def decode(self, batch: Batch, cache: KVCache) -> Tensor:
        """`forward` for one new token, in the fewest kernels."""
        hidden_TD = self.embed(batch.tokens_T)
        stream_TD = hidden_TD.float()
        for block, k_cache, v_cache in zip(self.blocks, cache.k, cache.v, strict=True):
            block.decode(stream_TD, batch, k_cache, v_cache)
        return self.norm(stream_TD).to(hidden_TD.dtype)

    def logits(self, hidden_RD: Tensor) -> Tensor:
        """float32 [R, V] of chosen rows of `forward`'s result."""
        return self.head(hidden_RD)

    def next_logits(self, batch: Batch, cache: KVCache) -> Tensor:
        """float32 [B, V]: what follows each sequence's one new token, for a batch in which every sequence has exactly one."""
        if (chain := self._chain) is not None and chain.takes(batch, cache.page_size):
            return chain.logits(batch, cache)
        return self.logits(self.forward(batch, cache))

    def next_chosen(self, batch: Batch, cache: KVCache) -> Chosen | None:
        """The most likely tokens where the head itself can choose them, of such a batch; None: they are to be chosen from
        `next_logits`."""
        if (chain := self._chain) is not None and chain.takes(batch, cache.page_size):
            return chain.chosen(batch, cache)
        return None

    def prepare_prompts(self, rows: int) -> None:
        """Do ahead, in this thread, what a whole prompt padded to `rows` would wait for (kernels/attention_plan.py)."""
        self.blocks[0].attention.prepare(rows)
        if self._chain is not None:
            self._chain.prepare(rows)

    @functools.cached_property
    def _chain(self) -> Chain | None:
        blocks = [block for block in self.blocks if isinstance(block, PreNormBlock)]
        return chain_of(self, blocks) if self._fuses and len(blocks) == len(self.blocks) else None

    def slots(self) -> Slots:
        """Every checkpoint tensor the model is made of, by its Hugging Face name."""
        yield from self.embed.slots("model.embed_tokens")
        for i, block in enumerate(self.blocks):
            yield from block.slots(f"model.layers.{i}")
        yield from self.norm.slots("model.norm")
        yield from self.head.slots("lm_head")
