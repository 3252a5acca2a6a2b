"""How far below the roofline a step runs: curves of measured steps, as data with their sources.

A step of n rows takes, stage by stage, its roofline time over the share that such a stage reaches, plus a time per layer for
what no stage counts: the ends of kernels, norms, activations, copies. Curves are straight over the logarithm of n and flat
outside their points. `bench/prediction.py fit` makes such a record from measured steps. Knows nothing of models or
machines. Open `Efficiency` first, then `HOPPER`.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

Points = tuple[tuple[float, float], ...]


@functools.lru_cache(maxsize=4096)
def at(points: Points, x: float) -> float:
    """The curve's value at x, by straight lines over log x; the nearest point's outside of them."""
    if x <= points[0][0]:
        return points[0][1]
    for (x0, y0), (x1, y1) in zip(points, points[1:], strict=False):
        if x <= x1:
            return y0 + (y1 - y0) * math.log(x / x0) / math.log(x1 / x0)
    return points[-1][1]


@dataclass(frozen=True)
class Efficiency:
    """What one kind of machine reaches. Shares are of the ceilings that were measured on it, 1 being the ceiling.

    `linear` by rows of the step; `layer_s` seconds per layer, by rows; `decode_attention` and `prompt_attention` by head size,
    shares of the stage's roofline time; `logit_passes` how often float32 logits cross memory; `prompt_s` seconds once per
    step with prompt tokens, `step_s` once per step. `num_points` steps made the curves; of steps left out of a fit nine of ten
    lie off by at most `error`, as a share. `watts` by rows is what a step takes at the highest clock, as a share of the power
    limit: above 1 the limit holds the clock down. None: not measured. `burst` by rows is what a step takes on a machine that was
    idle, over one of many like it in a row, for which the limit leaves less.
    """

    name: str
    linear: Points
    layer_s: Points
    decode_attention: Points
    prompt_attention: Points
    logit_passes: float
    step_s: float
    prompt_s: float
    error: float
    num_points: int
    source: str
    watts: Points | None = None
    burst: Points = ((1, 1.0),)


HOPPER = Efficiency(
    name="decode steps as graphs on Hopper",
    linear=((1, 0.94), (8, 0.949), (32, 0.891), (64, 0.821), (128, 0.689), (256, 0.698), (512, 1.0), (4096, 0.895)),
    layer_s=(
        (1, 9.0e-6),
        (8, 11.7e-6),
        (32, 10.9e-6),
        (64, 13.0e-6),
        (128, 15.0e-6),
        (256, 28.6e-6),
        (512, 32.8e-6),
        (4096, 83.1e-6),
    ),
    decode_attention=((64, 0.82), (128, 0.939)),
    prompt_attention=((64, 0.578), (128, 0.747)),
    logit_passes=4.0,
    step_s=0.0,
    prompt_s=0.98e-3,
    error=0.12,
    num_points=65,
    source=(
        "65 steps and prompts of random:llama-3.1-8b, random:qwen3-8b and random:llama-3.2-1b on four H200s, one at a time: "
        "bench/results/2026-11-22-h200-night-points.jsonl"
    ),
    # Steps of 8B and 1B models in graphs, and joules per token times tokens over milliseconds, of 700 W: 665 to 711 W at one row,
    # 549 to 631 at 8. From 32 rows on the limit holds the clock at 1,905, 1,815 and 1,620 of 1,980 MHz (32, 64, 128 rows), from
    # which `power_cap.demand_w` has what they would take. Prompts, also at the limit, are taken to be as 128 rows.
    watts=((1, 0.96), (8, 0.87), (32, 1.09), (64, 1.21), (128, 1.58)),
    burst=((64, 0.985), (128, 0.963), (256, 0.835), (512, 0.98), (4096, 0.947)),
)
"""Curves of an H200 (`bench/prediction.py fit`): nine of ten of its points lie within 6.5 % of them, of those left out of the fit before `burst` 9.4 %;
`error` is more, for cards differ by up to 8 % where their power is the limit. `burst` and the last of `linear` are of all prompts of
bench/results/2026-11-22.jsonl and -23.jsonl too. How they did on points of other sizes: docs/forecasts.md."""

CPU = Efficiency(
    name="plain torch on a CPU",
    linear=((1, 0.99), (2, 0.44), (4, 0.405), (8, 0.35), (16, 0.354), (64, 0.69), (256, 0.87), (512, 0.865)),
    layer_s=((1, 0.29e-3), (8, 0.55e-3), (16, 0.53e-3), (64, 1.07e-3), (256, 2.28e-3), (512, 4.03e-3)),
    decode_attention=((64, 0.117), (128, 0.138)),
    prompt_attention=((64, 0.238), (128, 0.277)),
    logit_passes=4.0,
    step_s=0.0,
    prompt_s=0.0,
    error=0.20,
    num_points=21,
    source=(
        "21 quiet rows of smollm2-135m, random:smollm2-360m and random:qwen2.5-0.5b in bfloat16 on two cores of an AMD EPYC, "
        "bench/results/2026-11-21-prediction.jsonl (docs/log.md, Forecasts)"
    ),
)
"""Plain torch, two cores, rows up to 512. Rows whose samples lay more than 30 % apart were left out, more than half of them: others
were using the machine. `error` is above what `bench/prediction.py fit` finds for points left out of a fit (0.140)."""


def curves(*, on_cpu: bool) -> Efficiency:
    """The curves that a forecast stands on."""
    return CPU if on_cpu else HOPPER
