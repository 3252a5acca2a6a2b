"""A model over several chips: tensor and pipeline parallel layouts, and what they say to each other.

Tensor parallel cuts heads, feed-forward width and vocabulary, and sums activations twice a layer; pipeline parallel cuts the
layers, and the batch into as many parts as there are stages, all of which work at once. Open `Layout`, then `rank_shape`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass

from redline.shapes import ModelShape

ALL_REDUCE_S = 7.4e-6
"""Latency of a small sum over two NVLinked H200s: vLLM 0.26 takes 3.750 ms for a step of Qwen3-8B (batch 1) on two and 5.116 on
one, and Llama-3.2-1B 1.224 on one. The two models give its share of the read rate (0.872) and its time a kernel outside of it (7.2 us
x 184 kernels, which two cards do not share); what is left of the step on two cards, over 72 sums, is this."""

ACTIVATION_BYTES = 2  # of an element that is summed over chips
LOGIT_BYTES = 4


@dataclass(frozen=True)
class Layout:
    """`tensor` chips share each layer, `pipeline` such groups share the layers."""

    tensor: int = 1
    pipeline: int = 1

    @property
    def chips(self) -> int:
        return self.tensor * self.pipeline

    def __str__(self) -> str:
        parts = [f"{name} parallel {size}" for name, size in (("tensor", self.tensor), ("pipeline", self.pipeline)) if size > 1]
        return ", ".join(parts) or "one chip"


def layouts(shape: ModelShape, chips: int) -> Iterator[Layout]:
    """Every way to use exactly `chips` chips: query heads must divide, and each stage needs a layer."""
    for tensor in range(1, chips + 1):
        pipeline, rest = divmod(chips, tensor)
        if rest == 0 and shape.num_heads % tensor == 0 and pipeline <= shape.num_layers:
            yield Layout(tensor, pipeline)


def rank_shape(shape: ModelShape, layout: Layout) -> ModelShape:
    """What the fullest chip holds, as a shape: its share of heads, width, vocabulary and layers, rounded up.

    KV heads that do not divide are repeated. Norms and the router are on every chip of a group.
    """
    tensor = layout.tensor
    layers = -(-shape.num_layers // layout.pipeline)
    moe = shape.moe
    if moe is not None:
        moe = dataclasses.replace(moe, intermediate_size=-(-moe.intermediate_size // tensor))
    return dataclasses.replace(
        shape,
        num_layers=layers,
        num_heads=shape.num_heads // tensor,
        num_kv_heads=-(-shape.num_kv_heads // tensor),
        intermediate_size=-(-shape.intermediate_size // tensor),
        vocab_size=-(-shape.vocab_size // tensor),
        sliding_layers=shape.sliding_layers[:layers],
        moe=moe,
    )


def collective_bytes(shape: ModelShape, layout: Layout, tokens: int, logit_rows: int) -> float:
    """Bytes that one chip of a group sends in a step of the whole model, as a ring does: 2 (n - 1) / n of what is summed."""
    n = layout.tensor
    sums = 2 * shape.num_layers * tokens * shape.hidden_size * ACTIVATION_BYTES
    gathered = logit_rows * shape.vocab_size * LOGIT_BYTES
    return (2 * sums + gathered) * (n - 1) / n


def latency_s(shape: ModelShape, layout: Layout, round_s: float = ALL_REDUCE_S) -> float:
    """Seconds that the sums of a step wait whatever their size, growing with the logarithm of the group; `round_s` over two chips."""
    rounds = math.log2(layout.tensor) if layout.tensor > 1 else 0.0
    return 2 * shape.num_layers * round_s * rounds


def stage_bytes(shape: ModelShape, layout: Layout, tokens: int) -> float:
    """Bytes that a step hands from stage to stage."""
    return (layout.pipeline - 1) * tokens * shape.hidden_size * ACTIVATION_BYTES
