"""`redline bench decode`: seconds of a decode step in the steady state, by batch.

The same number of prompts is answered twice, with few and with many tokens; the difference of the two host times over the
difference of the steps is the step, free of prefill and of what surrounds a call. Cases take turns, and each figure is the
median over the rounds. The context is the middle one: prompt + (few + many) / 2. The engine's own view of the same steps
(seconds of the device, seconds it waited for the host) stands beside it. Open `measure` first.
"""

from __future__ import annotations

import functools
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from redline.bench import kernel_trace, limits, report
from redline.bench.harness import Bench, Run, minus
from redline.bench.report import Column, Rates, Voice
from redline.errors import InvalidRequest
from redline.hardware.power import LEAST_S
from redline.plan.receipt import Anatomy, Totals, split

SHORT_SHARE = 8  # the short run has one token in so many: 32 of 256
MOST_SPREAD = 0.1  # of the rounds: beyond it something else happened in one of them

COLUMNS = (
    Column("batch", "batch"),
    Column("prompt", "prompt"),
    Column("step_ms", "ms/step", ".3f"),
    Column("spread", "spread", "share"),
    Column("tokens_per_s", "tok/s", ".1f"),
    Column("limit_ms", "limit ms", ".3f"),
    Column("ratio", "ratio", ".3f"),
    Column("device_ms", "device ms", ".3f"),
    Column("idle_share", "idle", "share"),
    Column("joules_per_token", "J/token", ".4f"),
)

PARTS = (
    Column("batch", "batch"),
    Column("ms", "step", ".3f"),
    Column("weights_ms", "weights", ".3f"),
    Column("kv_ms", "kv", ".3f"),
    Column("padding_ms", "padding", ".3f"),
    Column("weights_over_ms", "weights over", ".3f"),
    Column("kv_over_ms", "kv over", ".3f"),
    Column("sampling_ms", "sampling", ".3f"),
    Column("launches_ms", "launches", ".3f"),
    Column("host_ms", "host", ".3f"),
    Column("unattributed_ms", "unattributed", ".3f"),
    Column("unattributed_share", "of step", "share"),
    Column("captured_share", "in graphs", "share"),
    Column("kernels_per_layer", "kernels/layer"),
)


@dataclass(frozen=True)
class Case:
    """`batch` sequences of `prompt` tokens that are answered with `output` tokens."""

    batch: int
    prompt: int
    output: int

    @property
    def few(self) -> int:
        return max(1, self.output // SHORT_SHARE)

    @property
    def context(self) -> int:
        """Tokens that a step of the steady state sees on average, the new one included."""
        return self.prompt + (self.few + self.output) // 2


@dataclass(frozen=True)
class Sample:
    """One round of a case: seconds and joules of a step, and the engine's steps between the short run's end and the long one's."""

    step_s: float
    joules: float | None
    steps: Totals
    long: Run


def cases(batches: str, prompt: int, output: int) -> list[Case]:
    """The cases that `--batch 1@128,8,32` asks for; a size without @ takes `prompt`. Raises InvalidRequest."""
    found = []
    for part in batches.split(","):
        size, _, own = part.strip().partition("@")
        if not (size.isdigit() and int(size)) or (own and not (own.isdigit() and int(own))):
            raise InvalidRequest(f"{part.strip()!r} is no batch", hint="write 1,8,32, or 1@128 for its own prompt", param="batch")
        found.append(Case(int(size), int(own or prompt), output))
    if output < 2:
        raise InvalidRequest("a decode step needs an output of 2 tokens or more", param="output")
    return found


def measure(
    model: str, engine: Mapping[str, Any], asked: Sequence[Case], voice: Voice, *, repeats: int, trace: bool, rates: Rates
) -> report.Document:
    """Measure every case `repeats` times, in turns. `trace`: then watch the kernels of a step, where the device can be watched."""
    with Bench(
        model,
        engine,
        voice,
        rows=max(case.batch for case in asked),
        longest=max(((case.prompt, case.output) for case in asked), key=sum),
        rates=rates,
    ) as bench:
        bench.prepare()
        for case in asked:  # whatever is compiled, captured or allocated for a size happens here
            voice.hint(f"batch {case.batch}: warming up")
            bench.run(case.batch, case.prompt, case.output)
        samples: dict[Case, list[Sample]] = {case: [] for case in asked}
        for number in range(repeats):
            for case in asked:
                sample = _sample(bench, case)
                samples[case].append(sample)
                voice.hint(f"batch {case.batch}, round {number + 1} of {repeats}: {sample.step_s * 1e3:.3f} ms a step")
        rows = [_row(bench, case, samples[case]) for case in asked]
        voice.tell(report.table([{**row, "notes": ()} for row in rows], COLUMNS))
        steady = [_typical(samples[case]).steps for case in asked]
        if trace and bench.llm.info.device != "cpu":
            _watch(bench, asked, rows, steady)
        for row, steps in zip(rows, steady, strict=True):
            row["split"] = split(steps, bench.meter) if "split" not in row else row["split"]
        voice.tell("where a step goes, ms:\n" + report.table([{**row, **row["split"]} for row in rows], PARTS))
        return bench.document("decode", {"repeats": repeats, "output": asked[0].output}, rows)


def _sample(bench: Bench, case: Case) -> Sample:
    few, many = bench.run(case.batch, case.prompt, case.few), bench.run(case.batch, case.prompt, case.output)
    steps = case.output - case.few
    joules = None if few.joules is None or many.joules is None else (many.joules - few.joules) / steps
    return Sample((many.seconds - few.seconds) / steps, joules, minus(many.decode, few.decode), many)


def _row(bench: Bench, case: Case, samples: Sequence[Sample]) -> report.Row:
    step_s = report.middle(sample.step_s for sample in samples)
    assert step_s is not None
    limit = limits.decode_s(bench.meter, bench.shape, case.batch, case.context)
    joules = _joules(case, samples)
    typical = _typical(samples)
    return {
        "batch": case.batch,
        "prompt": case.prompt,
        "output": case.output,
        "context": case.context,
        "step_ms": report.milli(step_s),
        "spread": _spread(samples),
        "tokens_per_s": report.short(case.batch / step_s),
        "limit_ms": report.milli(limit),
        "ratio": report.ratio(limit, step_s),
        **_inside(typical.steps),
        "joules_per_token": report.short(joules / case.batch if joules is not None else None),
        "samples_ms": [report.milli(sample.step_s) for sample in samples],
        "notes": doubts(case, samples),
    }


def _joules(case: Case, samples: Sequence[Sample]) -> float | None:
    """Of a step, over all rounds together: the driver's counter goes on in strides as long as a round of a small model. None where
    even that is too short to tell."""
    known = [sample.joules for sample in samples if sample.joules is not None]
    seconds = sum(sample.step_s for sample in samples) * (case.output - case.few)
    return statistics.fmean(known) if known and seconds >= LEAST_S else None


def doubts(case: Case, samples: Sequence[Sample]) -> list[str]:
    """What speaks against the figures of a case."""
    typical, spread, found = _typical(samples), _spread(samples), []
    if preempted := sum(sample.long.preemptions for sample in samples):
        found.append(f"batch {case.batch}: {preempted} preemptions, so the pages are too few for it")
    if typical.long.prefill.steps > case.few:
        found.append(f"batch {case.batch}: its prompts take more steps than the short answer: ask for a longer --output")
    if spread is not None and spread > MOST_SPREAD:
        found.append(f"batch {case.batch}: its rounds differ by {spread:.0%}: ask for more --repeats, or a longer --output")
    return found


def _spread(samples: Sequence[Sample]) -> float | None:
    return report.spread([sample.step_s for sample in samples])


def _typical(samples: Sequence[Sample]) -> Sample:
    """The sample nearest to the median."""
    middle = report.middle(sample.step_s for sample in samples)
    assert middle is not None
    return min(samples, key=lambda sample: abs(sample.step_s - middle))


def _inside(steps: Totals) -> dict[str, float | None]:
    """What the engine itself saw of the steady steps: the device's time in a step, and the share it waited for the host."""
    if steps.steps <= 0 or steps.wall_s <= 0:
        return {"device_ms": None, "idle_share": None}
    return {"device_ms": report.milli(steps.seconds / steps.steps), "idle_share": report.short(steps.host_s / steps.wall_s)}


def _watch(bench: Bench, asked: Sequence[Case], rows: Sequence[report.Row], steady: Sequence[Totals]) -> None:
    """Add to each row which kernels ran in one of its steps, and with them where the step went.

    Last, because a device that is watched is slower ever after.
    """
    for case, row, steps in zip(asked, rows, steady, strict=True):
        bench.voice.hint(f"batch {case.batch}: watching kernels")
        around = (case.few + case.output) // 2
        if case.output < 2 * kernel_trace.STEPS:
            row["notes"].append(f"batch {case.batch}: kernels were not counted: the output is too short")
            continue
        traced = kernel_trace.trace(functools.partial(bench.run, case.batch, case.prompt), around)
        if isinstance(traced, str):
            row["notes"].append(traced)
            return
        row["kernels_per_step"] = report.short(sum(kernel.per_step for kernel in traced))
        row["kernels_per_layer"] = kernel_trace.per_layer(traced, bench.shape.num_layers)
        row["kernels"] = [
            {"name": kernel.name, "per_step": report.short(kernel.per_step), "us_per_step": report.short(kernel.us_per_step)}
            for kernel in traced
        ]
        if steps.steps > 0:
            seen = {kernel.name: kernel.us_per_step * 1e-6 for kernel in traced}
            computed, kv_bytes = round(steps.rows / steps.steps), steps.kv_bytes / steps.steps
            seconds = steps.seconds / steps.steps
            bench.meter.anatomies[computed] = Anatomy.of(seen, step_s=seconds, rows=computed, kv_bytes=kv_bytes)
            row["split"] = split(steps, bench.meter)
