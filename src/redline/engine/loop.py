"""The loop: launch step n, apply step n-1, plan step n+1. Requests go in, chunks come out.

While a step runs on the device the host applies the one before it, so the device never waits for the host; the price is
that a step is planned without knowing the tokens of the step before, which the device feeds to itself. The same loop
turns in the engine process (worker.py) and behind the offline door (llm.py). Knows nothing of sockets or text.
Open `Loop.step` first.
"""

from __future__ import annotations

import math
import random
import time

import msgspec

from redline import log
from redline.engine.constraints import Constraints, masked_rows
from redline.engine.draft import MixedBound, Plan
from redline.engine.message import Stats, failure_of
from redline.engine.prompt_scores import PromptScoreBook
from redline.engine.request import Ended, Follow, Sampled, Sequence
from redline.engine.runner import Launched, Runner, StepResult
from redline.engine.scheduler import Scheduler
from redline.engine.stats import Accounts
from redline.errors import InternalError, RedlineError, UnsupportedField
from redline.hardware.ceilings import Ceilings
from redline.plan.receipt import Meter
from redline.types import Chunk, Failure, Request, Usage

_SEED_BITS = 63
MIXED_STEP_S = 0.05  # of prompts, in a step for whose other tokens somebody waits: a stutter that is hardly seen
GRAMMAR_WAIT_S = 0.005  # at a time, where there is nothing to do until a grammar is compiled


class Loop:
    """One model's loop. Single-threaded: every method is called from the thread that calls `step`.

    Requests without a seed of their own get one drawn from `seed`, or from the system's entropy without it.
    """

    def __init__(
        self,
        runner: Runner,
        scheduler: Scheduler,
        accounts: Accounts,
        constraints: Constraints | None = None,
        *,
        seed: int | None = None,
    ):
        self._runner = runner
        self._constraints = constraints
        self._scheduler = scheduler
        self._accounts = accounts
        self._in_flight: Launched | None = None
        self._outbox: list[Chunk] = []
        self._prompt_scores = PromptScoreBook()
        self._seeds = random.Random(seed)
        self._bounded_by: tuple[Ceilings | None, int] = (None, 0)
        self._checked_at = -math.inf  # time.monotonic()
        self.failed_steps = 0  # one after the other, up to now

    @property
    def meter(self) -> Meter:
        """The engine's steps against the roofline."""
        return self._accounts.meter

    @property
    def stats(self) -> Stats:
        """Counters and gauges, for metrics."""
        stats = self._accounts.stats(self._scheduler.stats())
        return msgspec.structs.replace(stats, more=stats.more | self._runner.counters())

    @property
    def has_work(self) -> bool:
        """Whether `step` would do something."""
        return self._in_flight is not None or self._scheduler.has_work

    @property
    def in_flight(self) -> Plan | None:
        """The step that the next call of `step` will wait for."""
        return self._in_flight.plan if self._in_flight is not None else None

    @property
    def step_tokens(self) -> int:
        """The most tokens of a step, now."""
        return self._scheduler.budget.tokens

    @property
    def device_works(self) -> bool:
        """Whether the step in flight has not ended."""
        return self._in_flight is not None and not self._in_flight.ended()

    @property
    def device_waits(self) -> bool:
        """Whether the step in flight has ended, so that the device has nothing to do until `step` is called."""
        return self._in_flight is not None and self._in_flight.ended()

    @property
    def unprepared(self) -> bool:
        """Whether steps were asked for that wait for an idle moment to be captured."""
        return self._runner.unprepared

    @property
    def started(self) -> list[str]:
        """The requests that the last call of `step` took out of the queue."""
        return self._scheduler.started

    def submit(self, request: Request) -> None:
        """Take a request in. A refusal comes out as the finish of each of its choices."""
        if request.sampling.seed is None:
            seeded = msgspec.structs.replace(request.sampling, seed=self._seeds.getrandbits(_SEED_BITS))
            request = msgspec.structs.replace(request, sampling=seeded)
        try:
            if request.grammar is not None and self._constraints is None:
                raise UnsupportedField("this engine has no tokenizer for structured output", param="grammar")
            self._scheduler.add(request)
        except RedlineError as error:
            self._refuse(request, failure_of(error))
            return
        self._accounts.open(request)
        self._bound_prompts()
        if request.grammar is not None and self._constraints is not None:
            self._constraints.open(request)

    def cancel(self, id: str, index: int | None = None) -> None:
        """End a request, or one choice of it; its pages are free when this returns. Unknown ids are fine."""
        for ended in self._scheduler.cancel(id, index=index):
            self._end(ended, None)

    def fail(self, id: str, failure: Failure) -> None:
        """End what still runs of a request with an error."""
        for ended in self._scheduler.cancel(id, "error"):
            self._end(ended, failure)

    def cancel_all(self) -> None:
        """End every request."""
        for id in self._scheduler.request_ids():
            self.cancel(id)

    def step(self) -> None:
        """Start what is planned, settle what has ended, meanwhile nothing waits. Blocks for at most one step."""
        for ended in self._scheduler.expire(time.monotonic()):
            self._end(ended, None)
        self._settle_grammars()
        plan = self._scheduler.plan()
        launched = self._launch(plan) if plan is not None else None
        previous, self._in_flight = self._in_flight, launched
        if launched is not None:
            self._accounts.begun()
        if previous is not None:
            self._apply(previous)
        elif launched is None and self._constraints is not None and self._constraints.pending:
            self._constraints.wait(GRAMMAR_WAIT_S)
        if launched is not None and launched.draw is not None:
            self._draw(launched)

    def check(self, every_s: float = 0.0) -> None:
        """Assert that pages and rows are conserved. For idle moments: it looks at every page, which takes milliseconds where
        there are many, so not if it did within `every_s`."""
        if (now := time.monotonic()) - self._checked_at >= every_s:
            self._scheduler.check()
            self._checked_at = now

    def take(self) -> list[Chunk]:
        """The chunks since the last call."""
        chunks, self._outbox = self._outbox, []
        return chunks

    def close(self) -> None:
        """Wait for the step in flight and let the device go."""
        if self._in_flight is not None:
            self._in_flight.wait()
            self._in_flight = None
        if self._constraints is not None:
            self._constraints.stop()
        self._runner.close()

    def _bound_prompts(self) -> None:
        """Once a GPU is measured, prompts are computed in chunks that hold up the running answers only a little.

        How large those are follows what such steps have taken lately.
        """
        meter = self._accounts.meter
        ceilings, revision = self._bounded_by
        if meter.ceilings is ceilings and meter.contract.revision == revision:
            return
        self._bounded_by = meter.ceilings, meter.contract.revision
        rates = meter.prompt_seconds() if meter.ceilings is not None and meter.ceilings.device != "cpu" else None
        if rates is None:
            self._scheduler.bound = None
            return
        usual = MixedBound(MIXED_STEP_S, *rates).tokens(0, MIXED_STEP_S)
        self._scheduler.bound = MixedBound(MIXED_STEP_S, *(self._accounts.prompt_seconds(usual) or rates))

    def _launch(self, plan: Plan) -> Launched | None:
        try:
            return self._runner.launch(plan, follows=self._in_flight is not None)
        except Exception as error:
            self._fail(plan, error)
            return None

    def _draw(self, launched: Launched) -> None:
        """Start the second half of a step, now that the tokens before it are known to the grammars."""
        assert self._constraints is not None and launched.draw is not None
        sampling = (entry for entry in launched.plan.entries if entry.samples)
        rows = masked_rows((row, e.start + e.count, e.sequence) for row, e in enumerate(sampling))
        try:
            words = self._runner.mask_words(len(rows), -(-self._constraints.vocab_size // 32))
            self._constraints.masks([sequence for _, sequence in rows], words)
            launched.draw([row for row, _ in rows], words)
        except Exception as error:
            self._in_flight = None
            self._fail(launched.plan, error)
        self._fail_unconstrained()

    def _settle_grammars(self) -> None:
        """Let those start whose grammars have been compiled; end those that cannot have one."""
        if self._constraints is None:
            return
        for request_id, found in self._constraints.settle():
            if isinstance(found, Failure):
                self.fail(request_id, found)
                continue
            for sampled in self._scheduler.release(request_id, found):
                self._tell(sampled, None)

    def _fail_unconstrained(self) -> None:
        """End the requests whose grammars cannot go on."""
        if self._constraints is not None:
            for request_id, failure in self._constraints.take_failures():
                self.fail(request_id, failure)

    def _follow(self, sequence: Sequence, token: int) -> Follow:
        assert self._constraints is not None, "a constrained sequence was let in"
        return self._constraints.follow(sequence, token)

    def _apply(self, launched: Launched) -> None:
        """Tokens of an ended step to their sequences and to the outbox."""
        due = self._accounts.due(launched.plan)  # while the device computes it
        try:
            result = launched.wait()
        except Exception as error:
            self._fail(launched.plan, error)
            return
        self.failed_steps = 0
        self._accounts.step(launched.plan, due, result)
        self._prompt_scores.keep(launched.plan, result)
        for pooled in self._scheduler.apply_pooled(launched.plan):
            self._end(Ended(pooled.sequence, "stop"), None, result.vectors[pooled.entry])
        self._tell_all(self._scheduler.apply(launched.plan, result.tokens, self._follow), result)
        self._fail_unconstrained()

    def _tell_all(self, known: list[Sampled], result: StepResult) -> None:
        """The chunks of a step. Most bring a token and nothing else."""
        outbox, scored, plain = self._outbox, result.logprobs is not None, 0
        for sampled in known:
            if sampled.first or sampled.finish is not None or scored:
                self._tell(sampled, result)
                continue
            sequence, tokens = sampled.sequence, sampled.tokens
            plain += len(tokens)
            outbox.append(Chunk(id=sequence.request.id, index=sequence.index, tokens=tokens))
        self._accounts.generation_tokens += plain

    def _tell(self, sampled: Sampled, result: StepResult | None) -> None:
        """The chunk of tokens that became known; without a `result` they were all forced."""
        sequence = sampled.sequence
        self._outbox.append(self._chunk(sampled, result))
        if sampled.finish is not None and sequence.constrained and self._constraints is not None:
            self._constraints.close(sequence)

    def _chunk(self, sampled: Sampled, result: StepResult | None) -> Chunk:
        sequence = sampled.sequence
        request = sequence.request
        wanted = request.sampling.logprobs
        logprobs = None
        if wanted is not None and result is not None and result.logprobs is not None and sampled.sample is not None:
            scored = result.logprobs[sampled.sample]
            logprobs = [msgspec.structs.replace(scored, top=scored.top[:wanted])]
        first = sequence.index == 0 and sampled.first
        if sampled.tokens:
            self._accounts.token(sequence, len(sampled.tokens))
        return Chunk(
            id=request.id,
            index=sequence.index,
            tokens=sampled.tokens,
            logprobs=logprobs,
            prompt_logprobs=self._prompt_scores.take(request) if first else None,
            finish=sampled.finish,
            stop_token=sampled.stop_token,
            usage=_usage(sequence) if sampled.finish else None,
            timing=self._accounts.timing(sequence) if sampled.finish else None,
            receipt=self._accounts.close(sequence) if sampled.finish else None,
        )

    def _end(self, ended: Ended, failure: Failure | None, embedding: bytes | None = None) -> None:
        sequence = ended.sequence
        if sequence.index == 0:  # the choice that brings them
            self._prompt_scores.drop(sequence.request.id)
        if sequence.constrained and self._constraints is not None:
            self._constraints.close(sequence)
        held_back = sequence.tell()
        if held_back:
            self._accounts.token(sequence, len(held_back))
        self._outbox.append(
            Chunk(
                id=sequence.request.id,
                index=sequence.index,
                tokens=held_back,
                finish=ended.finish,
                failure=failure,
                usage=_usage(sequence),
                timing=self._accounts.timing(sequence),
                receipt=self._accounts.close(sequence),
                embedding=embedding,
            )
        )

    def _refuse(self, request: Request, failure: Failure) -> None:
        for index in range(request.sampling.n):
            self._outbox.append(Chunk(id=request.id, index=index, finish="error", failure=failure, usage=Usage()))

    def _fail(self, plan: Plan, error: Exception) -> None:
        """End the requests of a step that did not work, and whoever shares what it was to write; the others go on."""
        self.failed_steps += 1
        log.get("engine").error("step %d failed: %s", plan.step, error, exc_info=error)
        if self._runner.relieve(error):
            log.get("engine").warning("out of memory: later steps have at most %d tokens", self._scheduler.shrink(plan))
        failure = failure_of(error if isinstance(error, RedlineError) else InternalError(f"a step failed: {error}"))
        for ended in self._scheduler.abandon(plan):
            self._end(ended, failure)


def _usage(sequence: Sequence) -> Usage:
    told = sequence.num_told - sequence.prompt_len
    return Usage(prompt_tokens=sequence.prompt_len, completion_tokens=told, cached_tokens=sequence.cached_tokens)
