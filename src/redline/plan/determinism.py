"""Batch invariance in the plan: where it can be had, the memory it takes, and its price.

The price is quoted from decode steps that were measured with and without it (`MEASURED`); what was not measured is said not
to be. Knows nothing of how it is done (kernels/invariant.py). Open `notes` first.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from redline.config import BATCH_INVARIANT
from redline.errors import ConfigError
from redline.hardware.machine import Gpu
from redline.hardware.specs import chip
from redline.plan.roofline import weight_count
from redline.shapes import ModelShape, known

SCRATCH_BYTES = 2 * 96 << 20
"""Sums of segments before they are joined: at most 64 MiB in attention and 32 MiB in a product, in graphs' memory and beside it."""

NEAR = 2.0  # a model of more than so many times the weights of a measured one, or fewer, is not spoken of


@dataclass(frozen=True)
class Curve:
    """Decode steps of a `random:` model on a chip as `hardware.specs` names it, at 512 tokens of context (one sequence: 128), captured in graphs:
    (batch, milliseconds as they come, milliseconds batch invariant), smallest batch first."""

    chip: str
    model: str
    dtype: str
    steps: tuple[tuple[int, float, float], ...]

    def sentence(self) -> str:
        factors = ", ".join(f"{invariant / default:.2f} at batch {batch}" for batch, default, invariant in self.steps)
        return f"on the {self.chip} a decode step of {self.model} in {self.dtype} takes so many times as long: {factors}"


MEASURED: tuple[Curve, ...] = (
    Curve("H200", "qwen3-8b", "bfloat16", ((1, 3.832, 4.907), (32, 4.92, 6.149), (256, 13.59, 18.73))),
)


def check(mode: str, shape: ModelShape, *, on_cpu: bool) -> None:
    """Raise ConfigError where `mode` cannot be kept."""
    if mode != BATCH_INVARIANT:
        return
    if shape.moe is not None:
        raise ConfigError(
            f"determinism {mode} is not to be had for {shape.family}: the sums of sparse layers depend on the tokens of a step",
            hint="leave --determinism out, or take a dense model",
            param="determinism",
        )
    if on_cpu:
        raise ConfigError(
            f"determinism {mode} needs a GPU: on a CPU the products are torch's, whose sums depend on the number of rows",
            hint="leave --determinism out, or run on a GPU",
            param="determinism",
        )


def scratch_bytes(mode: str) -> int:
    """Device memory that `mode` takes beside a step's usual workspace."""
    return SCRATCH_BYTES if mode == BATCH_INVARIANT else 0


def notes(mode: str, shape: ModelShape, gpu: Gpu | None, dtype: str) -> tuple[str, ...]:
    """What `mode` costs, where it costs anything: one sentence."""
    if mode != BATCH_INVARIANT or gpu is None:
        return ()
    curve = _nearest(shape, gpu, dtype)
    if curve is not None:
        return (f"batch invariance has its price: {curve.sentence()}",)
    return (
        f"batch invariance has its price, which was not measured for such a model in {dtype} on {gpu.name}: "
        "`redline bench decode` with and without --determinism batch_invariant tells",
    )


def _nearest(shape: ModelShape, gpu: Gpu, dtype: str) -> Curve | None:
    """The curve of the model whose size is nearest, on such a chip and in such a type."""
    row = chip(gpu.name)
    curves = [curve for curve in MEASURED if row is not None and curve.chip == row.name and curve.dtype == dtype]

    def distance(curve: Curve) -> float:
        return abs(math.log(weight_count(known(curve.model)) / weight_count(shape)))

    best = min(curves, key=distance, default=None)
    return best if best is not None and distance(best) <= math.log(NEAR) else None
