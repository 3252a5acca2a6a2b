"""What the engine did: counters for metrics, and the accounts from which requests' receipts are made.

Fed by the loop; knows nothing of devices or sockets. Open `Accounts.step` first.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from redline.engine.draft import Plan
from redline.engine.message import Stats
from redline.engine.request import Sequence
from redline.engine.scheduler import SchedulerStats
from redline.log import FALLBACKS
from redline.plan.receipt import Meter, RequestMeter, StepLimit, Totals, receipt
from redline.types import Request, Timing


@dataclass(slots=True)
class Account:
    """One request between admission and the end of its last choice. Times are time.monotonic()."""

    request: Request
    open_choices: int
    meter: RequestMeter = field(default_factory=RequestMeter)
    decodes: int = 0  # tokens that it computes in each step at present; 0 while it does not decode
    began: Totals | None = None  # the engine's sums when that began
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
        self._decoding: dict[str, Account] = {}  # those whose `began` is set
        self._sums = Totals()  # over all steps
        self._step = -1  # number of the step before

    def open(self, request: Request) -> None:
        """Begin the account of an admitted request."""
        self._live[request.id] = Account(request, request.sampling.n)
        self.prompt_tokens += len(request.prompt)

    def step(self, plan: Plan, seconds: float, host_s: float, padding: int = 0, *, captured: bool = False) -> None:
        """Account a step that has just ended: `seconds` of the device, before which it waited `host_s` for the host.

        It ran as one graph if `captured`, and `padding` of its rows were empty. In a steady run of steps nothing is done for
        each request: what they took part in is the difference of two sums.
        """
        limit = self.meter.step(plan.work(self._window), seconds, host_s, padding, captured=captured)
        if not (plan.steady and plan.step == self._step + 1):
            self._assign(plan, limit, self._clock() - seconds)
        self._sums.add(limit, 0)
        self._step = plan.step
        self.step_s += seconds

    def _assign(self, plan: Plan, limit: StepLimit, began: float) -> None:
        """Who takes part in a step: prefill is put down at once, decoding from its first step to its last."""
        decoding: dict[str, int] = {}  # tokens of the request in this step
        prefilling: dict[str, int] = {}
        live = self._live
        for entry in plan.entries:
            sequence = entry.sequence
            id = sequence.request.id
            if id not in live:
                continue
            if entry.start < sequence.prompt_len:
                prefilling[id] = prefilling.get(id, 0) + entry.count
                if sequence.index == 0:
                    live[id].cached_tokens = sequence.cached_tokens
            else:
                decoding[id] = decoding.get(id, 0) + entry.count
        for id, tokens in prefilling.items():
            live[id].meter.add("prefill", tokens + decoding.pop(id, 0), limit)
        before, self._decoding = self._decoding, {}
        for id, tokens in decoding.items():
            account = self._decoding[id] = live[id]
            if before.pop(id, None) is None or account.decodes != tokens:
                self._settle(account)
                account.decodes, account.began = tokens, self._sums.copy()
        for account in before.values():
            self._settle(account)
        for id in (*prefilling, *decoding):
            if live[id].first_step is None:
                live[id].first_step = began

    def _settle(self, account: Account) -> None:
        """Put down what a request has decoded since its `began`."""
        if account.began is not None:
            account.meter.decode.add_between(account.began, self._sums, account.decodes)
            account.began, account.decodes = None, 0

    def token(self, sequence: Sequence, count: int = 1) -> None:
        """Account `count` answer tokens that became known, the first of a choice among them."""
        self.generation_tokens += count
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
        self._settle(account)
        self._decoding.pop(sequence.request.id, None)
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
        more["token_budget_shrinks_total"] = float(scheduler.shrinks)
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
