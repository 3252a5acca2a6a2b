"""`redline bench serve`: a real server under an open load, over real HTTP, and first tokens on an idle one.

Requests arrive as a Poisson process whatever the server does, and every time counts from the moment a request was due. A row
is one rate: the time to the first token, the time between tokens (gaps between events as the client sees them, and each
request's mean), and the goodput: answers a second that kept both goals (Zhong et al., DistServe, 2024). Failures are counted,
never left out of the rate. Open `measure` first.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import time
import urllib.request
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any
from urllib.parse import quote

import numpy as np

from redline import checkpoint as checkpoints
from redline import env
from redline.bench import report
from redline.bench.load import IDLE_S, Mix, Planned, Seen, Target, arrivals, offer, one_by_one
from redline.bench.report import Column, Rates, Voice
from redline.bench.served import served
from redline.config import AUTO
from redline.errors import ConfigError
from redline.hardware import Ceilings, ceilings, identify
from redline.hardware.detect import detect
from redline.plan.resolve import choose_device, choose_dtype

ANSWER_S = 10.0
WARM = 4  # requests together before anything counts
WARM_OUTPUT = 8
LATE_S = 0.05  # a generator that sends so much too late measures itself

FIRST = (
    Column("prompt", "prompt"),
    Column("first_ms", "first token ms", ".2f"),
    Column("spread", "spread", "share"),
    Column("device_ms", "device ms", ".2f"),
    Column("beside_ms", "beside ms", ".2f"),
)
COLUMNS = (
    Column("rate", "offered/s"),
    Column("requests", "requests"),
    Column("failed", "failed"),
    Column("output_tokens_per_s", "out tok/s", ".0f"),
    Column("ttft_p50", "ttft p50", ".1f"),
    Column("ttft_p99", "p99 ms", ".1f"),
    Column("itl_p50", "itl p50", ".2f"),
    Column("itl_p99", "p99 ms", ".2f"),
    Column("goodput_per_s", "goodput/s", ".2f"),
    Column("good_share", "good", "share"),
)


SETTLE_S = 120.0
"""Longest wait for a server of our own to be prepared; then it is measured as it is, and that is said."""


@dataclass(frozen=True)
class Asked:
    """Rates in requests a second, each for `seconds`; single prompts to time; goals in seconds."""

    rates: tuple[float, ...]
    seconds: float
    mix: Mix
    first: tuple[int, ...]
    repeats: int
    ttft_s: float
    itl_s: float
    seed: int = 0


def measure(
    model: str, engine: Mapping[str, Any], asked: Asked, voice: Voice, *, url: str | None, rates: Rates
) -> report.Document:
    """Load a server of `model` started for this, or the one at `url`."""
    shape = checkpoints.open(model, revision=engine.get("revision")).shape
    known, device, dtype = _machine(engine, rates)
    voice.tell(report.ceiling_line(known, dtype))
    with contextlib.ExitStack() as stack:
        target = _running(url) if url else None
        about: dict[str, Any] = {"device": known.name if known else device, "dtype": dtype, "ceilings": report.ceilings_of(known)}
        if target is None:
            voice.progress("starting the server", 0)
            server = stack.enter_context(served(model, engine))
            voice.hint(f"ready after {server.ready_s:.1f} s")
            about["ready_s"] = report.short(server.ready_s)
            target = Target(server.url)
            if not _settles(server.url):
                voice.hint(f"the engine still prepares itself after {SETTLE_S:.0f} s: first tokens may wait for that")
        rows = asyncio.run(_rows(target, shape.vocab_size, asked, voice))
    options = {
        **engine,
        "mix": asked.mix.name,
        "seconds": asked.seconds,
        "goal_ttft_ms": asked.ttft_s * 1e3,
        "goal_itl_ms": asked.itl_s * 1e3,
        "url": url,
    }
    return report.document("serve", model, about=about, options=options, rows=rows)


def _settles(url: str) -> bool:
    """Wait until the engine has prepared what it prepares in idle moments, which would hold up single requests by turns;
    whether it has, within SETTLE_S."""
    for _ in range(round(SETTLE_S)):
        with urllib.request.urlopen(f"{url}/metrics") as answer:
            if re.search(r"^redline_prepared_ratio\S* 1\.0$", answer.read().decode(), re.MULTILINE):
                return True
        time.sleep(1.0)
    return False


async def _rows(target: Target, vocab_size: int, asked: Asked, voice: Voice) -> list[report.Row]:
    random = np.random.default_rng(asked.seed)
    await offer(target, [Planned(0.0, random.integers(0, vocab_size, 32).tolist(), WARM_OUTPUT) for _ in range(WARM)])
    # In turns and with pauses, as `redline bench prefill` times them: a card that computes long prompts without a pause reaches its power limit.
    turns = [prompt for _ in range(asked.repeats + 1) for prompt in asked.first]
    plan = [Planned(0.0, random.integers(0, vocab_size, prompt).tolist(), 2) for prompt in turns]
    seen = await one_by_one(target, plan, pause_s=IDLE_S)
    kinds = len(asked.first)
    computed = [_computed_s(target, one) for one in seen]
    rows = [_first(prompt, seen[n::kinds], computed[n::kinds]) for n, prompt in enumerate(asked.first, kinds)]
    if rows:
        voice.tell(report.table(rows, FIRST))
    loaded = []
    for rate in asked.rates:
        offered = arrivals(rate, asked.seconds, asked.mix, vocab_size, random)
        voice.hint(f"{rate:g} requests a second: {len(offered)} requests")
        loaded.append(summary(rate, await offer(target, offered), asked.ttft_s, asked.itl_s))
    if loaded:
        voice.tell(report.table([{**row, **_flat(row)} for row in loaded], COLUMNS))
    return rows + loaded


def _computed_s(target: Target, seen: Seen) -> float | None:
    """Seconds in which the device computed a prompt, by its receipt; None of a server that keeps none."""
    if seen.failure or not seen.id:
        return None
    try:
        return float(_told(target.url, f"/v1/receipt/{quote(seen.id, safe='')}-0", target.key)["prefill"]["seconds"])
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _first(prompt: int, seen: Sequence[Seen], computed: Sequence[float | None]) -> report.Row:
    """First tokens on an idle server, from the moment the request was sent, and what of that the device did not compute."""
    good = [one.events[0] - one.sent for one in seen if not one.failure]
    pairs = zip(seen, computed, strict=True)
    beside = [one.events[0] - one.sent - seconds for one, seconds in pairs if seconds is not None]
    failed = Counter(one.failure for one in seen if one.failure)
    return {
        "rate": None,
        "prompt": prompt,
        "first_ms": report.milli(report.middle(good)),
        "spread": report.spread(good),
        "device_ms": report.milli(report.middle(computed)),
        "beside_ms": report.milli(report.middle(beside)),
        "samples_ms": [report.milli(seconds) for seconds in good],
        "failures": dict(failed),
        "notes": [f"first token of {prompt}: {count} failed: {why}" for why, count in failed.items()],
    }


def summary(rate: float, seen: Sequence[Seen], ttft_goal_s: float, itl_goal_s: float) -> report.Row:
    """One rate: what came of all requests that were due."""
    good = [one for one in seen if not one.failure]
    failures = Counter(one.failure for one in seen if one.failure)
    began = min(one.due for one in seen)
    ended = max([one.events[-1] for one in good], default=began)
    window = ended - began
    kept = [one for one in good if one.ttft_s <= ttft_goal_s and one.per_token_s <= itl_goal_s]
    late = max(one.sent - one.due for one in seen)
    notes = [f"{rate:g}/s: {count} failed: {why}" for why, count in failures.items()]
    if late > LATE_S:
        notes.append(f"{rate:g}/s: requests left up to {late * 1e3:.0f} ms late; their times count from when they were due")
    return {
        "rate": rate,
        "requests": len(seen),
        "failed": sum(failures.values()),
        "failures": dict(failures),
        "seconds": report.short(window),
        "output_tokens_per_s": report.short(sum(one.tokens for one in good) / window if window > 0 else None),
        "ttft_ms": _ranks([one.ttft_s for one in good]),
        "itl_ms": _ranks([b - a for one in good for a, b in pairwise(one.events)]),
        "per_token_ms": _ranks([one.per_token_s for one in good if one.tokens > 1]),
        "whole_ms": _ranks([one.whole_s for one in good]),
        "goodput_per_s": report.short(len(kept) / window if window > 0 else None),
        "good_share": report.short(len(kept) / len(seen)),
        "latest_send_ms": report.milli(late),
        "notes": notes,
    }


def _ranks(seconds: Sequence[float]) -> dict[str, float | None]:
    """Percentiles, in milliseconds."""
    shares = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}
    return {name: report.milli(report.percentile(seconds, share)) for name, share in shares.items()}


def _flat(row: report.Row) -> dict[str, float | None]:
    return {f"{name}_{rank}": row[f"{name}_ms"][rank] for name in ("ttft", "itl") for rank in ("p50", "p99")}


def _running(url: str) -> Target:
    """The server at `url`, and what it calls its model. Raises ConfigError where none answers."""
    base, key = url.rstrip("/").removesuffix("/v1"), env.api_key()
    try:
        return Target(base, _told(base, "/v1/models", key)["data"][0]["id"], key)
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise ConfigError(f"no server tells its model at {base}/v1/models: {error}", param="url") from error


def _told(base: str, path: str, key: str | None) -> Any:
    """The JSON that a server tells who asks for `path`. Raises OSError, ValueError."""
    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    with urllib.request.urlopen(urllib.request.Request(base + path, headers=headers), timeout=ANSWER_S) as answer:
        return json.load(answer)


def _machine(engine: Mapping[str, Any], rates: Rates) -> tuple[Ceilings | None, str, str]:
    """What is known of the device that the options name, without touching it: ceilings, device, type."""
    machine = detect(visible=env.visible_gpus())
    device = engine.get("device", AUTO)
    device = choose_device(machine)[0] if device == AUTO else "cuda:0" if device == "cuda" else device
    dtype = engine.get("dtype", AUTO)
    dtype = choose_dtype(machine, machine.gpu(device))[0] if dtype == AUTO else dtype
    return rates.over(ceilings.load(identify(machine, device)), dtype), device, dtype
