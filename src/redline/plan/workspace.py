"""Device memory beside weights and KV pages: what a step's tensors take, tables, captured steps, and the driver's own.

What steps need is set aside when the engine starts (engine/build.py), so that later no other process can take it and the
plan is what the device really gives. The sums follow the tensors that live at once where a step holds most; constants were
read off an H200 (docs/log.md, "Memory"). Torch-free. Open `workspace` first.
"""

from __future__ import annotations

from dataclasses import dataclass

from redline.plan.roofline import linear_weights
from redline.shapes import ModelShape

_MEBI = 1 << 20
PROMPT_SCORE_ROWS = 64  # prompt tokens whose logits exist at one time where prompt_logprobs are asked for
MOST_GRAPHS = 128  # steps that may be captured
PROMPT_TOKENS = (1024, 4096)  # of one sequence in a captured step: always, and where models are small

_STREAM_BYTES = 8  # the residual stream in float32, before a layer and behind it
_TABLE_BYTES = 4  # cosines, sines, tokens and pages
_LOGIT_BYTES = 24  # a step's float32 logits, those without penalties, log-probabilities, and the rows that have penalties
_GRAPH_LOGIT_BYTES = 4  # of a captured step, whose tokens are chosen where the logits lie
_HANDED_OUT_BYTES = 4  # the logits of captured steps for whatever is done op by op: masks, penalties, log-probabilities
_FITS = 1.4  # what an allocator needs for tensors of changing sizes, over what they take: it cuts its memory and cannot move them
_LEAST_STEP = 224 * _MEBI  # attention by a vendor's library is held against float32 once
_CUBLAS_BYTES = 32 * _MEBI  # of each stream that multiplies
_LIBRARY_BYTES = 160 * _MEBI  # code of torch's, cuBLAS's and cuDNN's kernels, loaded when they first run
_KERNEL_BYTES = 72 * _MEBI  # our own that captured steps use
_USUAL_GRAPHS = 64
_HOST_BOUND = (
    1.3e11  # times an H200 multiplies a token by a weight in 0.44 ms, which its host takes to launch a layer of a prompt
)
_GRAPH_BYTES, _NODE_BYTES = _MEBI // 4, 4 * 1024  # that the driver keeps of a graph, and of each kernel in it
_NODES_PER_LAYER = 5


@dataclass(frozen=True)
class Workspace:
    """Bytes. `step` is for the tensors of steps, `graphs` for those of captured ones, `kept` for tables and what products use,
    `driver` for what the driver and its libraries take beyond a context.
    """

    step: int
    graphs: int
    kept: int
    driver: int

    @property
    def total(self) -> int:
        return self.step + self.graphs + self.kept + self.driver


def workspace(
    shape: ModelShape,
    dtype_bytes: int,
    *,
    rows: int,
    tokens: int,
    max_len: int,
    page_size: int,
    gpu: bool,
    graph_rows: int,
) -> Workspace:
    """The workspace of steps of at most `rows` sequences and `tokens` tokens, with contexts of at most `max_len` tokens.

    `gpu`: the device has a driver and libraries of its own. Steps of up to `graph_rows` sequences are captured; 0: none.
    """
    per_token, logits = _token_bytes(shape, dtype_bytes), shape.vocab_size
    sampled = 4 * tokens * shape.hidden_size + max(rows, PROMPT_SCORE_ROWS) * logits * _LOGIT_BYTES
    step = int(_FITS * max(tokens * per_token, sampled))
    kept = _tables(shape, max(rows, graph_rows), max_len, page_size)
    if not gpu:
        return Workspace(step, 0, kept, 0)
    step = max(step, _LEAST_STEP)
    kept += _CUBLAS_BYTES
    if not graph_rows:
        return Workspace(step, 0, kept, _LIBRARY_BYTES)
    prompt = min(prompt_tokens(shape), max_len) * per_token
    captured = int(_FITS * max(prompt, graph_rows * (per_token + logits * _GRAPH_LOGIT_BYTES)))
    kept += _CUBLAS_BYTES
    step += graph_rows * logits * _HANDED_OUT_BYTES
    nodes = _NODES_PER_LAYER * (shape.num_layers + 1)
    driver = _LIBRARY_BYTES + _KERNEL_BYTES + _USUAL_GRAPHS * (_GRAPH_BYTES + nodes * _NODE_BYTES)
    return Workspace(step, captured, kept, driver)


def prompt_tokens(shape: ModelShape) -> int:
    """Most new tokens of one sequence in a captured step: as many thousands as a device computes before the host has launched them op by op."""
    least, most = PROMPT_TOKENS
    weights = linear_weights(shape) - shape.vocab_size * shape.hidden_size  # the head is for one token
    return max(least, min(most, int(_HOST_BOUND * shape.num_layers / weights) // least * least))


def _token_bytes(shape: ModelShape, dtype_bytes: int) -> int:
    """What the widest layer's tensors take for each token of a step: the stream, a normalised copy of it, the block's output, and
    what attention or the feed-forward layer has between its products."""
    query, kv = shape.num_heads * shape.head_size, shape.num_kv_heads * shape.head_size
    around = shape.hidden_size * (_STREAM_BYTES + 2 * dtype_bytes)
    attention = 3 * query + 4 * kv  # as projected, as rotated, and the output
    inner = 3 * shape.intermediate_size  # gate, up and their product
    if shape.moe is not None:
        inner = shape.moe.experts_per_token * (3 * shape.moe.intermediate_size + 2 * shape.hidden_size)
    return around + max(attention, inner) * dtype_bytes


def _tables(shape: ModelShape, rows: int, max_len: int, page_size: int) -> int:
    """Cosines and sines by position, every sequence's tokens, and its pages."""
    rotary = (1 if shape.rope_local is None else 2) * max_len * shape.head_size
    return _TABLE_BYTES * (rotary + (rows + 1) * (max_len + 1 + -(-max_len // page_size)))
