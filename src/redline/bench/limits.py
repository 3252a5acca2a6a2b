"""The limits that measurements are held against: the stage roofline with exactly the terms that peers are compared by.

A stage takes the longer of its bytes over the read bandwidth and its FLOPs over the matrix rate; the limit is the sum.
Counted are weights, the KV that attention reads, half of the causal square, the head on last tokens. A receipt counts the norms'
weights, the embedding's rows and the KV writes as well (`plan.roofline.cost`), which no step can avoid either and which
make its limit up to 0.2 % larger; leaving them out here keeps a ratio comparable with published ones, and never flatters.

Knows nothing of how a step is run. Open `step_s` first.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from redline.plan.receipt import Meter
from redline.plan.roofline import StepWork, limit_s
from redline.shapes import ModelShape

UNCOUNTED = frozenset(("norms", "embedding", "kv_write"))


def step_s(meter: Meter, shape: ModelShape, spans: Sequence[tuple[int, int]]) -> float | None:
    """Least seconds of a step over sequences given as (tokens before, new tokens), each of which samples; None: not measured."""
    if meter.ceilings is None:
        return None
    due = meter.cost(StepWork.of(spans, logit_rows=len(spans), window=shape.sliding_window))
    counted = dataclasses.replace(due, stages=tuple(stage for stage in due.stages if stage.name not in UNCOUNTED))
    return limit_s(counted, meter.ceilings, meter.dtype)


def decode_s(meter: Meter, shape: ModelShape, batch: int, context: int) -> float | None:
    """Least seconds of one decode step of `batch` sequences that each see `context` tokens, the new one included."""
    return step_s(meter, shape, [(context - 1, 1)] * batch)


def prefill_s(meter: Meter, shape: ModelShape, batch: int, prompt: int) -> float | None:
    """Least seconds from `batch` whole prompts of `prompt` tokens to the first token of each."""
    return step_s(meter, shape, [(0, prompt)] * batch)


def batch_s(meter: Meter, shape: ModelShape, requests: int, prompt: int, output: int) -> float | None:
    """Least seconds for `requests` answers of `output` tokens, all of them in flight from the first to the last step."""
    first = prefill_s(meter, shape, requests, prompt)
    steps = [decode_s(meter, shape, requests, prompt + i) for i in range(1, output)]
    known = [seconds for seconds in (first, *steps) if seconds is not None]
    return sum(known) if len(known) == output else None
