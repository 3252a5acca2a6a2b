"""The host's share of a step, with a device that takes no time: `python bench/host_step.py --rows 1,256,512`.

Everything the host does for a step but filling and launching the batch: planning, applying, accounting, prediction, and
what becomes of the tokens, once as the message of the engine process and once as the text of the offline door, token by
token and gathered. `traffic` is the same with answers of 32 to 480 tokens, so that sequences come and go all the time, and
`without_receipts` that traffic where nobody can ask for a receipt.
Times are of the thread's processor clock, because a core that is shared says nothing else; of windows of steps the quickest
counts, and the median and the longest single step stand beside it. One JSON line; `--profile` prints where it goes instead.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import pstats
import random
import statistics
import sys
import time
from dataclasses import dataclass, field
from typing import Any

from redline import checkpoint
from redline.checkpoint.opener import tokenizer_for
from redline.engine.admission import Limits
from redline.engine.answer import Answer
from redline.engine.draft import Plan
from redline.engine.loop import Loop
from redline.engine.message import Output, frame
from redline.engine.pages import PagePool
from redline.engine.prefix import PrefixCache
from redline.engine.runner import Launched, StepResult
from redline.engine.scheduler import Scheduler
from redline.engine.stats import Accounts
from redline.engine.step_time import StepTime
from redline.hardware.ceilings import Ceilings
from redline.plan.receipt import Meter
from redline.shapes import known
from redline.tokenizer import Tokenizer
from redline.types import Chunk, Request, SamplingParams

H200 = Ceilings("cuda", "H200", 4.59e12, {"bfloat16": 7.66e14}, "2026-11-21")
WINDOW = 32  # steps of which one time is taken
PAGE_SIZE = 64
GATHERED = 64  # tokens of one chunk where nobody reads them as they come
SHORTEST, LONGEST = 32, 480  # answers of the traffic


class StillRunner:
    """A device whose steps take no time: the tokens are there before anybody asks."""

    def __init__(self, tokens: list[int]) -> None:
        self._tokens = tokens

    def launch(self, plan: Plan, *, follows: bool = False) -> Launched:
        count = len(plan.entries) if plan.decodes else sum(entry.samples for entry in plan.entries)
        result = StepResult(self._tokens[:count], None, [], 0.002, 0.0)
        return Launched(plan, lambda: result, lambda: True)

    def relieve(self, error: BaseException) -> bool:
        return False

    def counters(self) -> dict[str, float]:
        return {}

    def close(self) -> None:
        pass


@dataclass(frozen=True)
class Case:
    """What is measured: `steps` steps of `rows` sequences; answers end while it lasts if it is `traffic`."""

    rows: int
    steps: int
    prompt: int = 512
    tokens_per_chunk: int = 1
    traffic: bool = False
    receipts: bool = True

    def requests(self) -> list[Request]:
        draw = random.Random(1)
        count = 1 + self.rows * (2 + 2 * self.steps // (SHORTEST + LONGEST)) if self.traffic else self.rows
        return [self._request(n, draw.randint(SHORTEST, LONGEST) if self.traffic else self.steps) for n in range(count)]

    def _request(self, number: int, answer: int) -> Request:
        return Request(
            id=f"chatcmpl-{number:024d}",
            prompt=[1 + (number * 31 + i * 7) % 200 for i in range(self.prompt)],
            sampling=SamplingParams(max_tokens=answer, ignore_eos=True, seed=number),
            want_receipt=self.receipts,
            tokens_per_chunk=self.tokens_per_chunk,
        )


@dataclass
class Spent:
    """Microseconds a step, one figure for each window; `longest`: the longest single step of each, without its text."""

    loop: list[float] = field(default_factory=list)
    message: list[float] = field(default_factory=list)
    text: list[float] = field(default_factory=list)
    longest: list[float] = field(default_factory=list)

    def told(self) -> dict[str, float]:
        process = [loop + message for loop, message in zip(self.loop, self.message, strict=True)]
        door = [loop + text for loop, text in zip(self.loop, self.text, strict=True)]
        return {
            "process_us": round(min(process), 1),
            "process_median_us": round(statistics.median(process), 1),
            "longest_step_median_us": round(statistics.median(self.longest), 1),
            "door_us": round(min(door), 1),
            **{f"{name}_us": round(min(getattr(self, name)), 1) for name in ("loop", "message", "text")},
        }


class Host:
    """An engine without a device, and whoever reads its answers."""

    def __init__(self, tokenizer: Tokenizer, case: Case) -> None:
        longest = case.prompt + max(case.steps, LONGEST)
        pool = PagePool(case.rows * (longest // PAGE_SIZE + 2), PAGE_SIZE)
        requests = case.requests()
        limits = Limits(
            max_num_seqs=case.rows,
            max_num_batched_tokens=max(8192, case.rows),
            max_model_len=longest + 1,
            max_queued_requests=len(requests),
        )
        meter = Meter(known("llama-3.2-1b"), "bfloat16", 2, 2, H200, 0)
        runner: Any = StillRunner([97 + i % 26 for i in range(case.rows)])
        self.loop = Loop(
            runner, Scheduler(limits, pool, PrefixCache(pool), ()), Accounts(meter, 0, receipts=case.receipts), seed=0
        )
        self._step_time = StepTime(meter, on_cpu=False)
        self._answers: dict[tuple[str, int], Answer] = {}
        for request in requests:
            self._answers[request.id, 0] = Answer(tokenizer, request, 0)
            self.loop.submit(request)
        while (plan := self.loop.in_flight) is None or not len(plan.entries) == case.rows == plan.num_tokens:
            self._read(self._turn())
            if case.traffic and self.loop.stats.steps > 2 * case.rows:
                break

    def measure(self, steps: int) -> Spent:
        spent = Spent()
        for _ in range(steps // WINDOW):
            times = [self._timed() for _ in range(WINDOW)]
            for name, seconds in zip(("loop", "message", "text"), zip(*times, strict=True), strict=True):
                getattr(spent, name).append(sum(seconds) / WINDOW * 1e6)
            spent.longest.append(max(loop + message for loop, message, _ in times) * 1e6)
        return spent

    def _timed(self) -> tuple[float, float, float]:
        clock = time.thread_time
        began = clock()
        chunks = self._turn()
        turned = clock()
        frame(Output(chunks))
        sent = clock()
        self._read(chunks)
        return turned - began, sent - turned, clock() - sent

    def _turn(self) -> list[Chunk]:
        """One step, as the engine process makes it."""
        waits_for = self.loop.in_flight
        if waits_for is not None:
            self._step_time.predict(waits_for)
        self.loop.step()
        if waits_for is not None:
            self._step_time.learn(waits_for, 0.002)
        return self.loop.take()

    def _read(self, chunks: list[Chunk]) -> None:
        """What the offline door does with chunks."""
        for chunk in chunks:
            answer = self._answers[chunk.id, chunk.index]
            answer.push(chunk)
            assert not answer.wants_cancel


def figures(tokenizer: Tokenizer, rows: int, steps: int) -> dict[str, Any]:
    """One batch size: all decode, the same gathered, and traffic."""
    long = steps + 128
    without = Host(tokenizer, Case(rows, steps, traffic=True, receipts=False)).measure(steps).told()
    gathered = Host(tokenizer, Case(rows, long, tokens_per_chunk=GATHERED)).measure(steps)
    return {
        "rows": rows,
        **Host(tokenizer, Case(rows, long)).measure(steps).told(),
        "gathered": {"door_us": gathered.told()["door_us"]},
        "traffic": Host(tokenizer, Case(rows, steps, traffic=True)).measure(steps).told(),
        "without_receipts": {name: without[name] for name in ("process_us", "process_median_us", "door_us")},
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="random:tiny-llama", help="whose tokenizer makes the text")
    parser.add_argument("--rows", default="1,256,512")
    parser.add_argument("--steps", type=int, default=512)
    parser.add_argument("--traffic", action="store_true", help="profile this")
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args()
    tokenizer = tokenizer_for(checkpoint.open(options.model))
    sizes = [int(size) for size in options.rows.split(",")]
    if options.profile:
        host = Host(tokenizer, Case(sizes[0], options.steps + 128, traffic=options.traffic))
        profile = cProfile.Profile()
        profile.runcall(host.measure, options.steps)
        pstats.Stats(profile, stream=sys.stderr).sort_stats("tottime").print_stats(28)
        return 0
    print(json.dumps({"steps": options.steps, "batches": [figures(tokenizer, rows, options.steps) for rows in sizes]}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
