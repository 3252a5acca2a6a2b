"""What the engine did: counters for metrics, and the accounts from which requests' receipts are made.

Fed by the loop; knows nothing of devices or sockets. Open `Accounts.step` first.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from redline.engine.draft import Plan
from redline.engine.message import Foreseen, Sample, Stats
from redline.engine.request import Sequence
from redline.engine.scheduler import SchedulerStats
from redline.hardware.power import LEAST_S, Mark, PowerMeter, PowerSource
from redline.log import FALLBACKS
from redline.plan.meter import Due, Meter, RequestMeter, StepLimit, Totals
from redline.plan.receipt import NOT_MEASURED, receipt
from redline.plan.roofline import StepWork
from redline.types import Request, Timing

if TYPE_CHECKING:
    from redline.engine.runner import StepResult

CONTEXT = 128  # tokens of context of a decode step that nobody has seen
CHUNK = 512  # prompt tokens of a chunk by which chunks are judged, where none is asked for
WITHIN_LIMIT = ("weights", "kv")  # of `Meter.causes`


@dataclass(slots=True)
class Account:
    """One request between admission and the end of its last choice. Times are time.monotonic()."""

    request: Request
    open_choices: int
    power: Mark  # when it came
    meter: RequestMeter = field(default_factory=RequestMeter)
    decodes: int = 0  # tokens that it computes in each step at present; 0 while it does not decode
    began: Totals | None = None  # the engine's sums when that began
    first_step: float | None = None
    first_token: float | None = None
    cached_tokens: int = 0


class Accounts:
    """Counters since the start, and the accounts of live requests. `window` is the model's sliding window, 0 for none.

    Without `receipts` nothing is put down for single requests but when they began; the sums of all steps go on.
    """

    def __init__(
        self,
        meter: Meter,
        window: int,
        clock: Callable[[], float] = time.monotonic,
        power: PowerMeter | None = None,
        *,
        receipts: bool = True,
    ):
        self.meter = meter
        self.receipts = receipts
        self.power = power or PowerMeter(PowerSource.absent("nobody counts the energy of this engine"), clock)
        self.prompt_tokens = 0
        self.generation_tokens = 0
        self.step_s = 0.0
        self._window = window
        self._clock = clock
        self._begins = False  # whether work has come since the engine had none
        self._live: dict[str, Account] = {}
        self._decoding: dict[str, Account] = {}  # those whose `began` is set
        self._sums = Totals()  # over all steps
        self._step = -1  # number of the step before
        self._context = 0  # tokens of context of a sequence in the newest decode step

    def open(self, request: Request) -> None:
        """Begin the account of an admitted request. Whoever has started its first step says so (`begun`)."""
        self._begins = self._begins or not self._live
        self._live[request.id] = Account(request, request.sampling.n, self.power.mark())
        self.prompt_tokens += len(request.prompt)

    def begun(self) -> None:
        """A step was started: what can wait until then, for the device need not wait for it."""
        if self._begins:
            self._begins = False
            self.power.look()

    def due(self, plan: Plan) -> Due:
        """What `step` will need of a step that is not accounted yet."""
        return self.meter.due(plan.work(self._window))

    def step(self, plan: Plan, due: Due, took: StepResult) -> None:
        """Account a step that has just ended. In a steady run of steps nothing is done for each request: what they took part in is
        the difference of two sums."""
        mixed = plan.num_tokens > len(plan.entries) and plan.entries[0].count == 1
        work = due.work
        limit = self.meter.step(
            due, took.seconds, took.host_s, took.padding, sampling_s=took.sampling_s, captured=took.captured, mixed=mixed
        )
        self.power.step(took.seconds + took.host_s)
        if work.tokens == work.sequences:
            self._context = work.context_reads // work.sequences
        if not (plan.steady and plan.step == self._step + 1):
            self._assign(plan, limit, self._clock() - took.seconds)
        self._sums.add(limit, 0)
        self._step = plan.step
        self.step_s += took.seconds

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
        for id in (*prefilling, *decoding):
            if live[id].first_step is None:
                live[id].first_step = began
        if self.receipts:
            self._put_down(prefilling, decoding, limit)

    def _put_down(self, prefilling: dict[str, int], decoding: dict[str, int], limit: StepLimit) -> None:
        """A step to the meters of those who had so many tokens in it."""
        live = self._live
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
        wanted = request.want_receipt and self.receipts
        if not self._live:
            self.power.look(LEAST_S)
        if not wanted:
            return None
        return receipt(
            account.meter,
            self.meter,
            queue_s=max(0.0, (account.first_step or self._clock()) - request.arrival),
            time_to_first_token_s=account.first_token - request.arrival if account.first_token else None,
            cached_tokens=account.cached_tokens,
            power=self.power.since(account.power),
        )

    def prompt_seconds(self, tokens: int = CHUNK) -> tuple[float, float] | None:
        """`Meter.prompt_seconds` in chunks of about so many tokens, at the rate such steps have reached lately."""
        contract = self.meter.contract
        slowdown = contract.slowdown("mixed", tokens) or contract.slowdown("prefill", tokens)
        return self.meter.prompt_seconds(1 / max(1.0, slowdown)) if slowdown else self.meter.prompt_seconds()

    def foreseen(self, rows: int) -> Foreseen:
        """What a step of so many decoding sequences and a prompt token will take, by the contract."""
        context = self._context or CONTEXT
        work = StepWork.of([(context - 1, 1)] * rows, logit_rows=rows, window=self._window)
        limit, prompt = self.meter.limit_s(work), self.prompt_seconds()
        turn_s = self.meter.contract.expected("decode", work, limit).seconds if limit else 0.0
        return Foreseen(turn_s, prompt[0] if prompt else 0.0)

    def predicted(self, rows: int) -> dict[str, float]:
        """What decoding will take by the contract, of one sequence and of `rows`, and a prompt token; empty where nothing is known.

        `bar_ratio` is the contract's bar for one sequence.
        """
        work = StepWork.of([(CONTEXT - 1, 1)], logit_rows=1, window=self._window)
        limit = self.meter.limit_s(work)
        if limit is None:
            return {}
        told = self.meter.contract.expected("decode", work, limit)
        full = self.foreseen(rows)
        return {
            "decode_limit_ms": limit * 1e3,
            "decode_limit_tokens_per_s": 1 / limit,
            "decode_ms": told.seconds * 1e3,
            "bar_ratio": told.bar,
            "full_decode_ms": full.turn_s * 1e3,
            "full_decode_tokens_per_s": rows / full.turn_s,
            "prompt_token_ms": full.prompt_s * 1e3,
        }

    def stats(self, scheduler: SchedulerStats) -> Stats:
        """The message for metrics."""
        self.power.look()
        more: dict[str, float] = {}
        for phase, total in self.meter.totals.items():
            more |= {f"{phase}_tokens_total": float(total.tokens), f"{phase}_seconds_total": total.wall_s}
            more |= {f"{phase}_bytes_total": total.weight_bytes + total.kv_bytes, f"{phase}_flops_total": total.flops}
        more["token_budget_shrinks_total"] = float(scheduler.shrinks)
        if (ceilings := self.meter.ceilings) is not None:
            more["ceiling_read_bytes_per_second"] = ceilings.read_bytes_per_s
            more["ceiling_matmul_flops_per_second"] = ceilings.matmul_flops.get(self.meter.dtype, 0.0)
        if not self.power.no_joules:
            more |= {"energy_joules_total": self.power.joules, "step_energy_joules_total": self.power.step_joules}
            if self.power.idle_watts is not None:
                more["idle_joules_per_second"] = self.power.idle_watts
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
            samples=[*self._phases(), *self._deviations(), *self._throttled()],
            kept=self.meter.contract.kept(),
            foreseen=self.foreseen(max(1, scheduler.running)),
            absent=self._absent(),
            fallbacks=[(name, reason, count) for (name, reason), count in FALLBACKS.items()],
        )

    def _phases(self) -> Iterator[Sample]:
        """Where the time of each phase went: the limit's share, and that of each cause beyond it; they add up to 1."""
        for phase, total in self.meter.totals.items():
            causes, wall = self.meter.causes(phase), total.wall_s
            if not (causes and wall and total.limit_s):
                continue
            yield Sample("roofline_ratio", {"phase": phase}, total.limit_s / wall)
            for cause, seconds in causes.items():
                labels = {"phase": phase, "cause": cause}
                yield Sample("step_cause_seconds_total", labels, seconds)
                if cause not in WITHIN_LIMIT:
                    yield Sample("roofline_rest_ratio", labels, seconds / wall)

    def _deviations(self) -> Iterator[Sample]:
        """How far steps lay from what was promised of their kind."""
        for kept in self.meter.contract.kept():
            labels = {"doing": kept.doing, "tokens": str(kept.tokens_from)}
            yield Sample("prediction_deviations_total", labels, kept.deviations)
            yield Sample("prediction_correction_ratio", labels, kept.correction)
            yield Sample("prediction_bar_ratio", labels, kept.bar)
            yield Sample("prediction_error_ratio", labels | {"of": "promise"}, kept.error)
            yield Sample("prediction_error_ratio", labels | {"of": "correction"}, kept.corrected_error)

    def _throttled(self) -> Iterator[Sample]:
        for reason, seconds in self.power.throttled_s.items():
            yield Sample("throttled_seconds_total", {"reason": reason}, seconds)

    def _absent(self) -> dict[str, str]:
        missing = {"limit": "" if self.meter.ceilings else NOT_MEASURED}
        missing |= {"energy": self.power.no_joules, "throttling": self.power.no_throttled}
        return {name: why for name, why in missing.items() if why}
