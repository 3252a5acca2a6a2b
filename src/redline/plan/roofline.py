"""Bytes and FLOPs of one step of a model, and the least time a device needs for them.

The limit is the stage roofline: a step is a chain of dependent stages (the projections, attention, the head ...), and
each stage takes at least the longer of its bytes over the read bandwidth and its FLOPs over the matrix rate; the
limit of the step is their sum. Counted is what no implementation can avoid: every weight that is touched once per
step, the KV of visible tokens once (of those that sequences have in common too), half of the causal square. Not counted: activations, launches, sampling.
Williams, Waterman, Patterson: Roofline, CACM 52(4), 2009.

Knows shapes and numbers, never a model or a device. Open `cost` first, then `limit_s`.
Letters in formulas: D model size, N query heads, K kv heads, H head size, F ffn size, V vocabulary, E experts.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from redline.hardware.ceilings import Ceilings
from redline.ops import visible_keys, visible_pairs
from redline.shapes import ModelShape

_KV_STAGES = frozenset(("kv_write", "attention", "attention_sliding"))
NORM_BYTES = 4  # norm weights are kept in float32 whatever the model's type


@dataclass(frozen=True, slots=True)
class StepWork:
    """What one step is asked to do, summed over its sequences.

    A sequence brings `count` new tokens after `start` tokens whose KV exists. Then context_reads sums start + count
    (KV tokens that must be read) and score_pairs sums, over new tokens, the KV tokens each may see, itself included.
    `window_reads` and `window_pairs` are the same for layers with a sliding window; None: no window cuts anything. Of `context_reads`
    `common_reads` are of tokens that several sequences have in common, beyond the first reading, which serves all.
    """

    tokens: int
    sequences: int
    logit_rows: int
    context_reads: int
    score_pairs: int
    window_reads: int | None = None
    window_pairs: int | None = None
    common_reads: int = 0

    @classmethod
    def of(cls, spans: Iterable[tuple[int, int]], *, logit_rows: int, window: int = 0) -> StepWork:
        """The work of sequences given as (start, count); `window` is the model's sliding window, 0 for none."""
        each = spans if isinstance(spans, list) else list(spans)
        tokens = sum([count for _, count in each])
        reads = tokens + sum([start for start, _ in each])
        pairs = reads if tokens == len(each) else sum([count * start + count * (count + 1) // 2 for start, count in each])
        if not window:
            return cls(tokens, len(each), logit_rows, reads, pairs)
        window_reads = sum([visible_keys(count, start + count, window) for start, count in each])
        window_pairs = sum([visible_pairs(count, start + count, window) for start, count in each])
        return cls(tokens, len(each), logit_rows, reads, pairs, window_reads, window_pairs)


@dataclass(frozen=True, slots=True)
class Stage:
    """A part of the step that must end before the next begins."""

    name: str
    bytes: float
    flops: float


@dataclass(frozen=True, slots=True)
class Cost:
    """Bytes that must move and FLOPs that must be done in one step, in all and by stage."""

    weight_bytes: float
    kv_read_bytes: float
    kv_write_bytes: float
    flops_linear: float
    flops_attention: float
    stages: tuple[Stage, ...]

    @property
    def bytes(self) -> float:
        return self.weight_bytes + self.kv_read_bytes + self.kv_write_bytes

    @property
    def flops(self) -> float:
        return self.flops_linear + self.flops_attention


@dataclass(frozen=True, slots=True)
class _Matrices:
    """Weights of one kind, over all layers. `rows` says which tokens they multiply."""

    name: str
    weights: int  # elements, biases included
    multiplied: int  # elements that a token is multiplied with: no biases, of experts only the chosen ones
    experts: int = 0  # per layer; 0: dense
    chosen: int = 0


def cost(shape: ModelShape, weight_bytes: float, kv_bytes: float, work: StepWork) -> Cost:
    """Bytes and FLOPs of a step. `weight_bytes` and `kv_bytes` are bytes per element as it lies in memory.

    A matrix product of n tokens with a [N, K] weight is 2nNK FLOPs; attention is 4NH FLOPs per visible (query, key)
    pair and layer (scores and weighted sum). Of a sparse layer the weights of E(1 - (1 - k/E)^n) experts are read,
    the expected number of distinct ones if n tokens choose k of E independently and evenly. The head is read only if
    a token samples, the input embedding only where it is looked up. Takes some microseconds, so every step can be counted.
    """
    fixed, flops_linear, weights = _fixed(shape, weight_bytes, work.tokens, work.logit_rows)
    kv_element_bytes = 2 * shape.num_kv_heads * shape.head_size * kv_bytes  # one token's K and V in one layer
    kv_write = work.tokens * shape.num_layers * kv_element_bytes
    attention = _attention(shape, kv_element_bytes, work)
    return Cost(
        weight_bytes=weights,
        kv_read_bytes=sum([stage.bytes for stage in attention]),
        kv_write_bytes=kv_write,
        flops_linear=flops_linear,
        flops_attention=sum([stage.flops for stage in attention]),
        stages=(*fixed, Stage("kv_write", kv_write, 0.0), *attention),
    )


@lru_cache(maxsize=1024)
def _fixed(shape: ModelShape, weight_bytes: float, tokens: int, logit_rows: int) -> tuple[tuple[Stage, ...], float, float]:
    """What does not depend on the context: the stages, their FLOPs and their bytes."""
    stages: list[Stage] = []
    flops_linear = 0.0
    for part in _matrices(shape):
        rows = logit_rows if part.name == "lm_head" else tokens
        if rows == 0:
            continue
        touched = 1 - (1 - part.chosen / part.experts) ** rows if part.experts else 1.0
        flops = 2.0 * rows * part.multiplied
        flops_linear += flops
        stages.append(Stage(part.name, part.weights * touched * weight_bytes, flops))
    stages.append(Stage("norms", norm_weights(shape) * NORM_BYTES, 0.0))
    stages.append(Stage("embedding", tokens * shape.hidden_size * weight_bytes, 0.0))
    return tuple(stages), flops_linear, sum(stage.bytes for stage in stages)


def limit_s(cost: Cost, ceilings: Ceilings, dtype: str) -> float:
    """Least seconds for a step: the sum over stages of max(bytes / bandwidth, FLOPs / rate of `dtype`).

    Where the matrix rate of `dtype` was not measured only the bytes count, which gives a smaller, still true limit.
    """
    weights, kv = limit_parts(cost, ceilings, dtype)
    return weights + kv


def limit_parts(cost: Cost, ceilings: Ceilings, dtype: str) -> tuple[float, float]:
    """`limit_s` in two: the stages that read weights, and those of attention."""
    seconds_per_byte = 1 / ceilings.read_bytes_per_s
    rate = ceilings.matmul_flops.get(dtype)
    seconds_per_flop = 1 / rate if rate else 0.0
    weights = kv = 0.0
    for stage in cost.stages:
        seconds = max(stage.bytes * seconds_per_byte, stage.flops * seconds_per_flop)
        if stage.name in _KV_STAGES:
            kv += seconds
        else:
            weights += seconds
    return weights, kv


def prompt_seconds(shape: ModelShape, flops_per_s: float) -> tuple[float, float]:
    """Seconds that a prompt token takes at a matrix rate, and those of each pair of it and a token that it sees.

    For long chunks, whose weights are read once for thousands of tokens. Layers with a sliding window see few, and the head
    is asked for few tokens: neither counts.
    """
    weights = sum(part.multiplied for part in _matrices(shape) if part.name != "lm_head")
    pair = 4.0 * (shape.num_layers - _sliding_layers(shape)) * shape.num_heads * shape.head_size
    return 2.0 * weights / flops_per_s, pair / flops_per_s


def _attention(shape: ModelShape, kv_element_bytes: float, work: StepWork) -> list[Stage]:
    """One stage for the layers that see all, one for those that slide."""
    sliding = _sliding_layers(shape)
    window_reads = work.context_reads if work.window_reads is None else work.window_reads
    window_pairs = work.score_pairs if work.window_pairs is None else work.window_pairs
    pair_flops = 4.0 * shape.num_heads * shape.head_size
    return [
        Stage(name, layers * reads * kv_element_bytes, layers * pair_flops * pairs)
        for name, layers, reads, pairs in (
            ("attention", shape.num_layers - sliding, work.context_reads - work.common_reads, work.score_pairs),
            ("attention_sliding", sliding, window_reads, window_pairs),
        )
        if layers
    ]


def weight_count(shape: ModelShape) -> int:
    """All parameters, the input embedding and every expert included; a tied head is counted once."""
    embedding = 0 if shape.tie_embeddings else shape.vocab_size * shape.hidden_size
    return linear_weights(shape) + norm_weights(shape) + embedding


def weight_parts(shape: ModelShape) -> tuple[tuple[str, int], ...]:
    """Every parameter by kind: the matrices as `cost` names their stages, values apart from qkv, "embedding" and "norms".

    A tied head is the embedding and is counted once, as "lm_head": steps read it as that.
    """
    value = shape.num_layers * shape.hidden_size * shape.num_kv_heads * shape.head_size
    parts: list[tuple[str, int]] = []
    for matrix in _matrices(shape):
        if matrix.name == "qkv":
            parts += [("qkv", matrix.weights - value), ("value", value)]
        else:
            parts.append((matrix.name, matrix.weights))
    if not shape.tie_embeddings:
        parts.append(("embedding", shape.vocab_size * shape.hidden_size))
    return (*parts, ("norms", norm_weights(shape)))


def linear_weights(shape: ModelShape) -> int:
    """Elements of all matrices that tokens are multiplied with: projections, experts, router, head, and their biases."""
    return sum(part.weights for part in _matrices(shape))


@lru_cache(maxsize=64)
def _matrices(shape: ModelShape) -> tuple[_Matrices, ...]:
    d, layers = shape.hidden_size, shape.num_layers
    query, kv = shape.num_heads * shape.head_size, shape.num_kv_heads * shape.head_size
    qkv, out = layers * d * (query + 2 * kv), layers * d * query
    head = shape.vocab_size * d
    return (
        _Matrices("qkv", qkv + shape.qkv_bias * layers * (query + 2 * kv), qkv),
        _Matrices("o", out + shape.o_bias * layers * d, out),
        *_feed_forward(shape),
        _Matrices("lm_head", head, head),
    )


def _feed_forward(shape: ModelShape) -> tuple[_Matrices, ...]:
    d, layers, moe = shape.hidden_size, shape.num_layers, shape.moe
    if moe is None:
        f = shape.intermediate_size
        up, down = layers * 2 * d * f, layers * d * f
        return (
            _Matrices("gate_up", up + shape.mlp_bias * layers * 2 * f, up),
            _Matrices("down", down + shape.mlp_bias * layers * d, down),
        )
    router = layers * d * moe.num_experts
    one = layers * d * moe.intermediate_size  # one matrix of one expert, all layers
    experts, chosen = moe.num_experts, moe.experts_per_token
    return (
        _Matrices("router", router, router),
        _Matrices("experts_gate_up", 2 * experts * one, 2 * chosen * one, experts, chosen),
        _Matrices("experts_down", experts * one, chosen * one, experts, chosen),
    )


@lru_cache(maxsize=64)
def norm_weights(shape: ModelShape) -> int:
    """Elements of all norms, which lie in memory as float32."""
    per_layer = (4 if shape.family == "gemma3" else 2) * shape.hidden_size  # Gemma 3 norms each block's output as well
    if shape.qk_norm:
        per_layer += 2 * shape.head_size
    return shape.num_layers * per_layer + shape.hidden_size


@lru_cache(maxsize=64)
def _sliding_layers(shape: ModelShape) -> int:
    return sum(shape.slides(layer) for layer in range(shape.num_layers))
