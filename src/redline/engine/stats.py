"""What the engine did: counters for metrics, and the accounts from which requests' receipts are made.

Fed by the loop; knows nothing of devices or sockets. Open `Accounts.step` first.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from redline.engine.message import Stats
from redline.engine.request import Sequence
from redline.engine.scheduler import Plan, SchedulerStats
from redline.log import FALLBACKS
from redline.plan.receipt import Meter, RequestMeter, receipt
from redline.plan.roofline import StepWork
from redline.types import Request, Timing


@dataclass(slots=True)
class Account:
    """One request between admission and the end of its last choice. Times are time.monotonic()."""

    request: Request
    open_choices: int
    meter: RequestMeter = field(default_factory=RequestMeter)
    first_step: float | None = None
    first_token: float | None = None
    cached_tokens: int = 0


class Accounts:
    """Counters since the start, and the accounts of live requests. `window` is the model's sliding window, 0 for none."""

    def __init__(self, meter: Meter, window: int, clock: Callable[[], float] = time.monotonic):
        self.meter = meter
        self.prompt_tokens = 0
        self.generation_tokens = 0
        self.step_s = 0.0
        self._window = window
        self._clock = clock
        self._live: dict[str, Account] = {}

    def open(self, request: Request) -> None:
        """Begin the account of an admitted request."""
        self._live[request.id] = Account(request, request.sampling.n)
        self.prompt_tokens += len(request.prompt)

    def step(self, plan: Plan, seconds: float, host_s: float) -> None:
        """Account a step that has just ended: `seconds` of the device, before which it waited `host_s` for the host."""
        logit_rows = sum(entry.samples for entry in plan.entries)
        work = StepWork.of(((e.start, e.count) for e in plan.entries), logit_rows=logit_rows, window=self._window)
        limit = self.meter.step(work, seconds, host_s)
        self.step_s += seconds
        began = self._clock() - seconds
        shares: dict[str, tuple[int, bool]] = {}  # tokens of the request in this step, and whether any were prompt
        for entry in plan.entries:
            id = entry.sequence.request.id
            tokens, prompt = shares.get(id, (0, False))
            shares[id] = tokens + entry.count, prompt or entry.start < entry.sequence.prompt_len
            if id in self._live and entry.sequence.index == 0:
                self._live[id].cached_tokens = entry.sequence.cached_tokens
        for id, (tokens, prompt) in shares.items():
            account = self._live.get(id)
            if account is not None:
                account.meter.add("prefill" if prompt else "decode", tokens, limit)
                account.first_step = account.first_step or began

    def token(self, sequence: Sequence) -> None:
        """Account an answer token that became known."""
        self.generation_tokens += 1
        account = self._live[sequence.request.id]
        account.first_token = account.first_token or self._clock()

    def timing(self, sequence: Sequence) -> Timing:
        """Where the time of the request went until now, for a choice that ends. Ask before `close`."""
        account, now = self._live[sequence.request.id], self._clock()
        began = account.first_step or now
        first = account.first_token or now
        return Timing(
            queue_s=max(0.0, began - account.request.arrival), prefill_s=max(0.0, first - began), decode_s=max(0.0, now - first)
        )

    def close(self, sequence: Sequence) -> dict[str, object] | None:
        """A choice ended. With the last one comes the request's receipt, if it was asked for."""
        account = self._live[sequence.request.id]
        account.open_choices -= 1
        if account.open_choices:
            return None
        del self._live[sequence.request.id]
        request = account.request
        if not request.want_receipt:
            return None
        return receipt(
            account.meter,
            self.meter,
            queue_s=max(0.0, (account.first_step or self._clock()) - request.arrival),
            time_to_first_token_s=account.first_token - request.arrival if account.first_token else None,
            cached_tokens=account.cached_tokens,
        )

    def stats(self, scheduler: SchedulerStats) -> Stats:
        """The message for metrics."""
        more: dict[str, float] = {}
        for phase, total in self.meter.totals.items():
            more |= {f"{phase}_tokens_total": float(total.tokens), f"{phase}_seconds_total": total.wall_s}
            more |= {f"{phase}_bytes_total": total.weight_bytes + total.kv_bytes, f"{phase}_flops_total": total.flops}
            if total.limit_s and total.wall_s:
                more[f"{phase}_roofline_ratio"] = total.limit_s / total.wall_s
        if (ceilings := self.meter.ceilings) is not None:
            more["ceiling_read_bytes_per_second"] = ceilings.read_bytes_per_s
            more["ceiling_matmul_flops_per_second"] = ceilings.matmul_flops.get(self.meter.dtype, 0.0)
        return Stats(
            running=scheduler.running,
            waiting=scheduler.waiting,
            pages_total=scheduler.pages_free + scheduler.pages_cached + scheduler.pages_used,
            pages_used=scheduler.pages_used,
            prefix_queries=scheduler.prefix_query_tokens,
            prefix_hits=scheduler.prefix_hit_tokens,
            prompt_tokens=self.prompt_tokens,
            generation_tokens=self.generation_tokens,
            preemptions=scheduler.preemptions,
            steps=scheduler.steps,
            step_s=self.step_s,
            more=more,
            fallbacks=[(name, reason, count) for (name, reason), count in FALLBACKS.items()],
        )
