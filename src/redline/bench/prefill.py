"""`redline bench prefill`: prompts to first tokens, a batch of long ones and single ones on an idle engine.

Each call asks for one token of each prompt and is timed on the host, so a single prompt's figure is its time to the first
token through the offline door; `beside_ms` of it the device did not compute, as in `redline bench serve` of its door. No
prompt comes twice. Single prompts are timed before any batch, each after a pause (`load.IDLE_S`): a card that comes from its
power limit is slower for a while, and is not idle. Open `measure` first.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping, Sequence
from typing import Any

from redline.bench import limits, report
from redline.bench.harness import Bench, Run
from redline.bench.load import IDLE_S
from redline.bench.report import Column, Rates, Voice
from redline.hardware.power import LEAST_S

WARM_RUNS = 2

COLUMNS = (
    Column("batch", "batch"),
    Column("prompt", "prompt"),
    Column("ms", "ms", ".2f"),
    Column("spread", "spread", "share"),
    Column("tokens_per_s", "tok/s", ".0f"),
    Column("limit_ms", "limit ms", ".2f"),
    Column("ratio", "ratio", ".3f"),
    Column("device_ms", "device ms", ".2f"),
    Column("beside_ms", "beside ms", ".2f"),
    Column("idle_share", "idle", "share"),
    Column("joules_per_token", "J/token", ".5f"),
)


def measure(
    model: str,
    engine: Mapping[str, Any],
    sizes: Sequence[tuple[int, int]],
    voice: Voice,
    *,
    repeats: int,
    rates: Rates,
) -> report.Document:
    """Time each of `sizes` = (prompts together, tokens of each) `repeats` times; those of one prompt in turns, then the others."""
    with Bench(
        model, engine, voice, rows=max(batch for batch, _ in sizes), longest=(max(prompt for _, prompt in sizes), 1), rates=rates
    ) as bench:
        bench.prepare()
        runs: dict[tuple[int, int], list[Run]] = {size: [] for size in sizes}
        for together in ([size for size in sizes if size[0] == 1], [size for size in sizes if size[0] > 1]):
            for batch, prompt in together:  # whatever is compiled, captured or planned for a size happens here
                voice.hint(f"{batch} x {prompt}: warming up")
                for _ in range(WARM_RUNS):
                    bench.run(batch, prompt, 1)
            for number, (batch, prompt) in itertools.product(range(repeats), together):
                if batch == 1:
                    time.sleep(IDLE_S)
                runs[batch, prompt].append(bench.run(batch, prompt, 1))
                seconds = runs[batch, prompt][-1].seconds
                voice.hint(f"{batch} x {prompt}, round {number + 1} of {repeats}: {seconds * 1e3:.2f} ms")
        rows = [_row(bench, size, runs[size]) for size in runs]
        voice.tell(report.table(rows, COLUMNS))
        return bench.document("prefill", {"repeats": repeats}, rows)


def _row(bench: Bench, size: tuple[int, int], runs: Sequence[Run]) -> report.Row:
    batch, prompt = size
    seconds = report.middle(run.seconds for run in runs)
    assert seconds is not None
    limit = limits.prefill_s(bench.meter, bench.shape, batch, prompt)
    typical = min(runs, key=lambda run: abs(run.seconds - seconds))
    device = _device_s(typical)
    host = typical.prefill.host_s + typical.decode.host_s
    joules = report.middle(run.joules for run in runs) if seconds >= LEAST_S else None  # its counter goes on in strides
    return {
        "batch": batch,
        "prompt": prompt,
        "ms": report.milli(seconds),
        "spread": report.spread([run.seconds for run in runs]),
        "tokens_per_s": report.short(batch * prompt / seconds),
        "limit_ms": report.milli(limit),
        "ratio": report.ratio(limit, seconds),
        "device_ms": report.milli(device),
        "beside_ms": report.milli(report.middle(run.seconds - _device_s(run) for run in runs)),
        "idle_share": report.short(host / (device + host) if device + host > 0 else None),
        "steps": typical.prefill.steps + typical.decode.steps,
        "joules_per_token": report.short(joules / (batch * prompt) if joules is not None else None),
        "rest": typical.rest,
        "samples_ms": [report.milli(run.seconds) for run in runs],
    }


def _device_s(run: Run) -> float:
    return run.prefill.seconds + run.decode.seconds  # a prompt of one token is a decode step
