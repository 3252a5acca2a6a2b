"""`redline bench decode --requests N`: all of a set of requests through the offline door, from the first to the last token.

The limit has every request in flight from the first step to the last, each step reading the KV that is there by then; an
engine whose memory holds fewer sequences cannot reach it. Open `measure` first.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from redline.bench import limits, report
from redline.bench.harness import Bench
from redline.bench.report import Column, Rates, Voice
from redline.plan.receipt import split

WARM_OUTPUT = 16  # tokens of the run before the first that counts

COLUMNS = (
    Column("requests", "requests"),
    Column("prompt", "prompt"),
    Column("output", "output"),
    Column("seconds", "seconds", ".2f"),
    Column("spread", "spread", "share"),
    Column("output_tokens_per_s", "out tok/s", ".0f"),
    Column("total_tokens_per_s", "in+out tok/s", ".0f"),
    Column("limit_tokens_per_s", "limit tok/s", ".0f"),
    Column("ratio", "ratio", ".3f"),
    Column("mean_batch", "mean batch", ".1f"),
    Column("idle_share", "idle", "share"),
    Column("preemptions", "preempted"),
    Column("joules_per_token", "J/token", ".4f"),
)


def measure(
    model: str, engine: Mapping[str, Any], size: tuple[int, int, int], voice: Voice, *, repeats: int, rates: Rates
) -> report.Document:
    """Time `size` = (requests, prompt tokens, output tokens) `repeats` times."""
    requests, prompt, output = size
    with Bench(model, engine, voice, rows=requests, longest=(prompt, output), rates=rates) as bench:
        bench.prepare()
        voice.hint("warming up")
        bench.run(requests, prompt, min(output, WARM_OUTPUT))
        runs = []
        for number in range(repeats):
            runs.append(bench.run(requests, prompt, output))
            rate = requests * output / runs[-1].seconds
            voice.hint(f"round {number + 1} of {repeats}: {runs[-1].seconds:.2f} s, {rate:.0f} output tokens/s")
        seconds = report.middle(run.seconds for run in runs)
        assert seconds is not None
        typical = min(runs, key=lambda run: abs(run.seconds - seconds))
        limit = limits.batch_s(bench.meter, bench.shape, requests, prompt, output)
        joules = report.middle(run.joules for run in runs)
        wall = typical.prefill.wall_s + typical.decode.wall_s
        row: report.Row = {
            "requests": requests,
            "prompt": prompt,
            "output": output,
            "seconds": report.short(seconds),
            "spread": report.spread([run.seconds for run in runs]),
            "output_tokens_per_s": report.short(requests * output / seconds),
            "total_tokens_per_s": report.short(requests * (prompt + output) / seconds),
            "limit_tokens_per_s": report.short(requests * output / limit if limit else None),
            "ratio": report.ratio(limit, seconds),
            "mean_batch": report.short(typical.decode.tokens / typical.decode.steps if typical.decode.steps else None),
            "prefill_share": report.short(typical.prefill.wall_s / wall if wall else None),
            "idle_share": report.short((typical.prefill.host_s + typical.decode.host_s) / wall if wall else None),
            "preemptions": typical.preemptions,
            "joules_per_token": report.short(joules / (requests * output) if joules is not None else None),
            "steps": {"prefill": typical.prefill.steps, "decode": typical.decode.steps},
            "rest": typical.rest,
            "split": split(typical.decode, bench.meter),
            "samples_s": [report.short(run.seconds) for run in runs],
        }
        voice.tell(report.table([row], COLUMNS))
        return bench.document("throughput", {"repeats": repeats}, [row])
