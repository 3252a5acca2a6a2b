"""`random:NAME`: a checkpoint without a file, for a shape of `shapes.KNOWN`. Every benchmark can be repeated with it.

It lists exactly the tensors that a Hugging Face file of the shape has; their values are made on the device from the
tensor's name and a seed (`quant.unpack`), scaled so that activations stay finite. Open `tensors` first.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from redline import shapes
from redline.checkpoint.base import GenerationDefaults
from redline.checkpoint.embedding import EmbeddingDefaults
from redline.checkpoint.packed import Packed
from redline.shapes import ModelShape

if TYPE_CHECKING:
    from redline.tokenizer import Tokenizer

PREFIX = "random:"

TEMPLATE = "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}\n{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}"

Entry = tuple[str, tuple[int, ...]]


class RandomCheckpoint:
    """Random weights of the known shape `name` (without the prefix). Raises UnsupportedModel for an unknown one.

    Norm weights are made around 1 as they are used, so the shape's `norm_offset` is 0.
    """

    generation = GenerationDefaults()
    embedding = EmbeddingDefaults()
    chat_template: str | None = TEMPLATE
    stored_dtype = "random"
    file_bytes = 0

    def __init__(self, name: str):
        self.name = PREFIX + name
        self.shape = dataclasses.replace(shapes.known(name), norm_offset=0.0)
        self.template_tokens: dict[str, str] = {}

    def arrays(self) -> Iterator[Packed]:
        nothing = np.empty(0, np.uint8)
        for name, shape in tensors(self.shape):
            yield Packed(name, "random", shape, nothing)

    def tokenizer(self) -> Tokenizer:
        from redline.tokenizer import Tokenizer

        return Tokenizer.bytes(self.shape.vocab_size)


def tensors(shape: ModelShape) -> Iterator[Entry]:
    """Name and shape of every tensor of a Hugging Face file of `shape`."""
    yield "model.embed_tokens.weight", (shape.vocab_size, shape.hidden_size)
    for layer in range(shape.num_layers):
        for name, size in (*_norms(shape), *_attention(shape), *_feed_forward(shape)):
            yield f"model.layers.{layer}.{name}", size
    yield "model.norm.weight", (shape.hidden_size,)
    if not shape.tie_embeddings:
        yield "lm_head.weight", (shape.vocab_size, shape.hidden_size)


def _norms(shape: ModelShape) -> Iterator[Entry]:
    names = ["input_layernorm", "post_attention_layernorm"]
    if shape.family == "gemma3":
        names += ["pre_feedforward_layernorm", "post_feedforward_layernorm"]
    for name in names:
        yield f"{name}.weight", (shape.hidden_size,)
    if shape.qk_norm:
        yield "self_attn.q_norm.weight", (shape.head_size,)
        yield "self_attn.k_norm.weight", (shape.head_size,)


def _attention(shape: ModelShape) -> Iterator[Entry]:
    query, key = shape.num_heads * shape.head_size, shape.num_kv_heads * shape.head_size
    for name, rows in (("q_proj", query), ("k_proj", key), ("v_proj", key)):
        yield from _linear(f"self_attn.{name}", rows, shape.hidden_size, shape.qkv_bias)
    yield from _linear("self_attn.o_proj", shape.hidden_size, query, shape.o_bias)


def _feed_forward(shape: ModelShape) -> Iterator[Entry]:
    hidden, moe = shape.hidden_size, shape.moe
    if moe is None:
        yield from _linear("mlp.gate_proj", shape.intermediate_size, hidden, shape.mlp_bias)
        yield from _linear("mlp.up_proj", shape.intermediate_size, hidden, shape.mlp_bias)
        yield from _linear("mlp.down_proj", hidden, shape.intermediate_size, shape.mlp_bias)
        return
    room, gate, up, down = ("mlp", "gate_proj", "up_proj", "down_proj")
    if shape.family == "mixtral":
        room, gate, up, down = ("block_sparse_moe", "w1", "w3", "w2")
    yield f"{room}.gate.weight", (moe.num_experts, hidden)
    for expert in range(moe.num_experts):
        yield f"{room}.experts.{expert}.{gate}.weight", (moe.intermediate_size, hidden)
        yield f"{room}.experts.{expert}.{up}.weight", (moe.intermediate_size, hidden)
        yield f"{room}.experts.{expert}.{down}.weight", (hidden, moe.intermediate_size)


def _linear(name: str, rows: int, columns: int, bias: bool) -> Iterator[Entry]:
    yield f"{name}.weight", (rows, columns)
    if bias:
        yield f"{name}.bias", (rows,)
