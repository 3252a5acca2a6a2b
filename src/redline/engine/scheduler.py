"""Decides what each step computes: which sequences, which of their tokens, in which pages. Pure, on the host, no torch.

The loop launches step n, applies the results of step n-1 and plans step n+1, so `plan` never knows the tokens of the newest
launched step; the device feeds them to the next step itself. Three rules make that safe:

- Every plan is launched (or given to `abandon`), in the order of planning, and the device runs steps in that order. Pages
  that are let go may therefore be handed to the next plan at once, and a page counts as written once its step is planned.
- An end by length is known when the last token is planned, so nothing is computed past it. An end token is known one step
  late: the step planned meanwhile runs for nothing and its result is ignored.
- A sequence that lost its pages starts again only when all its tokens are known.
- A token that a grammar forces is known as soon as the one before it: it takes the place of what the step in flight samples
  there, and the forced ones are computed as one chunk with the next step; or one by one, where that keeps steps captured.

Waiting and running sequences are kept in order of rank: priority, then the tenants' fair shares (fair.py), then arrival.
Decoding comes first in the token budget, chunks of prefill fill the rest. A running sequence that finds no page takes those
of the worst in rank, so the best always gets on; a waiting one takes rows and pages only from strictly worse priorities.
Nobody overtakes the head of the queue.

Knows nothing of devices, models, text or sockets. Open `Scheduler.plan` first.
"""

from __future__ import annotations

import itertools
from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Iterable

import msgspec

from redline.engine.admission import Limits, token_limit
from redline.engine.deadlines import Deadlines
from redline.engine.draft import Budget, Course, Draft, MixedBound, forced_by_one
from redline.engine.draft import Entry as Entry
from redline.engine.draft import Plan as Plan
from redline.engine.fair import FairShare
from redline.engine.growth import Growth
from redline.engine.ledger import Ledger
from redline.engine.pages import PagePool
from redline.engine.prefix import PrefixCache
from redline.engine.request import Ended, Follow, Pooled, Rank, Sampled, Sequence
from redline.engine.results import Results
from redline.errors import InvalidRequest, Overloaded
from redline.types import Finish, Request

RETRY_AFTER_S = 1.0  # what a refused request is told to wait


class SchedulerStats(msgspec.Struct, frozen=True, kw_only=True):
    """Gauges (sequences, pages) and running totals since the start (steps, tokens, preemptions)."""

    waiting: int
    running: int
    pages_free: int
    pages_cached: int
    pages_used: int
    steps: int
    tokens_planned: int
    preemptions: int
    prefix_query_tokens: int  # tokens of sequences that were looked up in the prefix cache when they started
    prefix_hit_tokens: int  # those of them that were found there
    token_budget: int = 0  # tokens that a step may have now
    shrinks: int = 0  # how often that was halved


class Scheduler:
    """The state of all requests between admission and end. Not thread-safe: one loop owns it."""

    def __init__(
        self, limits: Limits, pool: PagePool, prefix: PrefixCache | None, eos_ids: Iterable[int], growth: Growth | None = None
    ) -> None:
        """With `growth`, sequences start only where nobody is expected to be preempted for it."""
        self._limits = limits
        self._growth = growth
        self.captured = False  # whether steps of one token for each sequence are, and cost less than others
        self.bound: MixedBound | None = None  # of prompts in steps for whose other tokens somebody waits
        self.budget = Budget(limits.max_num_batched_tokens, limits.max_num_seqs)  # of a step; `shrink` lowers it
        self._pool = pool
        self._ledger = Ledger(pool, prefix)
        self._eos_ids = frozenset(eos_ids)
        self._waiting: list[Sequence] = []  # by rank
        self._running: list[Sequence] = []  # by rank
        self._rows = list(range(limits.max_num_seqs - 1, -1, -1))
        self._live: dict[str, list[Sequence]] = {}  # by request: choices that have not ended
        self._queued: set[str] = set()  # requests of which no choice has started
        self._deadlines = Deadlines()
        self._serial = itertools.count()
        self._fair = FairShare()
        self.started: list[str] = []  # the requests that the last call of `plan` took out of the queue
        self._steps = self._tokens_planned = self._preemptions = 0
        self._course = Course()
        self._results = Results(self._ledger, pool.page_size, self._end)

    @property
    def has_work(self) -> bool:
        return bool(self._running or self._waiting)

    def request_ids(self) -> list[str]:
        """Requests that have not ended."""
        return list(self._live)

    def stats(self) -> SchedulerStats:
        return SchedulerStats(
            waiting=len(self._waiting),
            running=len(self._running),
            pages_free=self._pool.num_free,
            pages_cached=self._pool.num_idle,
            pages_used=self._pool.num_used,
            steps=self._steps,
            tokens_planned=self._tokens_planned,
            preemptions=self._preemptions,
            prefix_query_tokens=self._ledger.query_tokens,
            prefix_hit_tokens=self._ledger.hit_tokens,
            token_budget=self.budget.tokens,
            shrinks=self.budget.shrinks,
        )

    def add(self, request: Request) -> None:
        """Queue every choice of `request`.

        Raises Overloaded if the queue is full, InvalidRequest for an id in use or an empty prompt, and what
        `admission.token_limit` raises for what could never fit.
        """
        if request.id in self._live:
            raise InvalidRequest(f"a request with the id {request.id} is running", param="id")
        limit = token_limit(request, self._limits, self._pool)
        if len(self._queued) >= self._limits.max_queued_requests + len(self._rows):  # those that start with the next step
            raise Overloaded(
                f"{len(self._queued)} requests are waiting already", hint="try again later", retry_after_s=RETRY_AFTER_S
            )
        sampling = request.sampling
        stop_ids = frozenset(sampling.stop_token_ids) | (frozenset() if sampling.ignore_eos else self._eos_ids)
        choices: list[Sequence] = []
        tag = self._fair.tag(request)
        for index in range(sampling.n):
            rank = (request.priority, tag, next(self._serial))
            choices.append(Sequence(request, index, rank, limit, stop_ids, parent=choices[0] if choices else None))
            insort(self._waiting, choices[-1], key=_rank)
        self._live[request.id] = choices
        self._queued.add(request.id)
        self._deadlines.add(request)

    def cancel(self, request_id: str, finish: Finish = "abort", index: int | None = None) -> list[Ended]:
        """End the choices of a request, or choice `index` alone, that have not ended; their pages are free on return.

        An unknown or ended request is no error: the list is empty.
        """
        chosen = [seq for seq in self._live.get(request_id, ()) if index is None or seq.index == index]
        for seq in chosen:
            self._end(seq, finish)
        return [Ended(seq, finish) for seq in chosen]

    def expire(self, now: float) -> list[Ended]:
        """End every request whose deadline is before `now` (time.monotonic); the loop calls it before `plan`."""
        return [end for request_id in self._deadlines.late(now) for end in self.cancel(request_id, "deadline")]

    def plan(self) -> Plan | None:
        """The next step, or None if nothing can be computed before the results of a launched step are applied.

        With no step outstanding and `has_work`, it is None only where all wait for their grammars (`release`).
        """
        self._ledger.register_planned()
        draft = Draft(self.budget.tokens, self.bound)
        self.started = []
        self._make_room(draft)
        self._continue_running(draft)
        self._admit_waiting(draft)
        if draft.copies:
            self._pool.free([source for source, _ in draft.copies])  # held until now, see Ledger.grow
        self._ledger.planned = [entry.sequence for entry in draft.chunks]
        plan = self._course.plan(draft, self._steps, len(self._running), common=self._pool.shared_tokens)
        if plan is None:
            return None
        self._steps += 1
        self._tokens_planned += plan.num_tokens
        return plan

    def shrink(self, failed: Plan | None = None) -> int:
        """Halve the token budget of later steps, after one that did not fit the memory; returns the new one (`Budget.shrink`)."""
        return self.budget.shrink(self._steps, failed)

    def apply(self, plan: Plan, tokens: list[int], follow: Callable[[Sequence, int], Follow] | None = None) -> list[Sampled]:
        """Take in the results of a launched plan: one token for each entry that samples, in order (`Results.apply`)."""
        return self._results.apply(plan, tokens, follow)

    def apply_pooled(self, plan: Plan) -> list[Pooled]:
        """End the sequences whose vectors a launched plan completed; goes with `apply`, which passes over them."""
        return self._results.apply_pooled(plan)

    def release(self, request_id: str, follow: Follow) -> list[Sampled]:
        """Let the choices of a request start whose grammar is compiled; `follow` is what it says of the beginning."""
        return self._results.release(tuple(self._live.get(request_id, ())), follow)

    def abandon(self, plan: Plan) -> list[Ended]:
        """End, with "error", every request that a failed step leaves without sound KV; the others go on.

        Those are the requests of `plan` and any that shares a page it was to write. The prefix cache is emptied: planning has
        registered such pages already. The loop calls this instead of `apply`, with at most one later plan made.
        """
        size = self._pool.page_size
        spoiled = {page for e in plan.entries for page in e.pages[e.start // size : self._pool.pages_for(e.start + e.count)]}
        failed = {entry.sequence.request.id: None for entry in plan.entries}
        failed |= {seq.request.id: None for seq in self._running if not spoiled.isdisjoint(seq.pages)}
        self._ledger.forget()
        return [ended for request_id in failed for ended in self.cancel(request_id, "error")]

    def check(self) -> None:
        """Assert that rows and pages are conserved and held by exactly those who run. Called when idle, and in tests."""
        rows = sorted([*self._rows, *(seq.row for seq in self._running)])
        assert rows == list(range(self._limits.max_num_seqs)), "rows were lost or given twice"
        assert all(seq.row < 0 and not seq.pages for seq in self._waiting), "a waiting sequence holds something"
        live = [seq for choices in self._live.values() for seq in choices]
        assert len(live) == len(self._running) + len(self._waiting) and all(seq.finish is None for seq in live)
        assert self._queued <= self._live.keys() and len(self._deadlines) <= len(self._live)
        self._fair.check()
        self._ledger.check(self._running)

    def _make_room(self, draft: Draft) -> None:
        """Preempt the worst in rank for waiting sequences of strictly better priority, as far as that lets them start."""
        running = self._running
        if not self._waiting or not running or self._waiting[0].rank[0] >= running[-1].rank[0]:
            return
        rows, pages = len(self._rows), self._unclaimed()
        for seq in tuple(self._waiting):
            worse = running[bisect_right(running, seq.rank[0], key=_priority) :]
            if not worse or seq.in_flight:
                return
            if not seq.ready or _waits_for_parent(seq, draft):
                continue
            cost = self._ledger.cost(seq, *self._ledger.shared(seq))
            if cost > pages and cost > pages + sum(len(victim.pages) + self._ledger.claim(victim) for victim in worse):
                return
            while worse and (rows < 1 or pages < cost):
                victim, available = worse.pop(), self._pool.num_available
                pages += self._ledger.claim(victim)
                self._preempt(victim)
                pages += self._pool.num_available - available
                rows += 1
            rows -= 1
            pages -= cost

    def _continue_running(self, draft: Draft) -> None:
        """Plan the running sequences in order of rank; preemption shortens the list from its end, behind `position`."""
        refs, page_size = self._pool.holders, self._pool.page_size
        singles, spare, most, quick, context = draft.singles, -1, 0, 0, 0
        for position, seq in enumerate(self._running):
            start = seq.num_planned
            if start == seq.limit - 1:
                continue  # all is planned, its last token is on its way
            pages, end = seq.pages, len(seq.tokens) + seq.in_flight
            if end == start + 1:
                held = len(pages)
                if (
                    start >= seq.prompt_len
                    and end <= held * page_size
                    and refs[pages[start // page_size]] == 1
                    and seq.num_tabled == held
                    and seq.upload_from is None
                ):  # as `_secure` and `Draft.add` would have it, without their calls
                    singles.append(Entry(seq, start, 1, True, seq.row, False, pages, held))
                    seq.num_planned = end
                    seq.in_flight += 1
                    quick += 1
                    context += end
                elif self._secure(seq, 1, draft):
                    draft.add(seq, 1, fresh=False)
                continue
            if spare < 0:
                spare = draft.spare(self._running[position:]) - quick
                alone = self.captured and not (self._waiting and self._rows)
                most = 1 if alone and forced_by_one(self._running) else spare
            count = self._secure(seq, draft.chunk(seq, start, min(end - start, spare, most)), draft)
            spare -= count
            if count:
                draft.add(seq, count, fresh=False)
        draft.took(quick, context)

    def _admit_waiting(self, draft: Draft) -> None:
        """Start waiting sequences in order of rank while there are rows, budget, and pages for all their tokens and the next."""
        waiting = self._waiting
        if not (waiting and self._rows and draft.budget):
            return
        pages, position = self._unclaimed(), 0
        draft.listens([])
        while position < len(waiting) and self._rows and draft.budget:
            seq = waiting[position]
            if not seq.ready or _waits_for_parent(seq, draft):
                position += 1
                continue
            if seq.in_flight or pages < 1:
                return
            shared, start = self._ledger.shared(seq)
            cost = self._ledger.cost(seq, shared, start)
            if cost > pages:
                return
            if (
                self._growth is not None
                and self._running
                and not self._growth.fits(self._running, seq, pages - cost, self._steps)
            ):
                return
            count = draft.chunk(seq, start, min(seq.length - start, draft.budget))
            if not count:
                return
            pages -= cost
            del waiting[position]
            self._ledger.open(seq, self._rows.pop(), shared, start)
            insort(self._running, seq, key=_rank)
            self._course.turns()
            self._leave_queue(seq)
            draft.note_copy(self._ledger.grow(seq, count))
            draft.add(seq, count, fresh=True)

    def _secure(self, seq: Sequence, count: int, draft: Draft) -> int:
        """Make the slots of up to `count` more tokens of a running sequence writable; returns how many are, 0 for none.

        Takes what pages there are; only if they do not suffice for one token, those of the worst in rank.
        """
        if count == 0 or self._ledger.writable(seq, count):
            return count
        while (room := self._ledger.room(seq)) < 1:
            if self._running[-1] is seq:
                return 0
            self._preempt(self._running[-1])
        count = min(count, room)
        draft.note_copy(self._ledger.grow(seq, count))
        return count

    def _unclaimed(self) -> int:
        """Available pages beyond what running sequences will take for tokens that exist."""
        return self._pool.num_available - self._ledger.claims(self._running)

    def _preempt(self, seq: Sequence) -> None:
        """Take row and pages from `seq`; it waits, at its rank, to compute again what is not found in the prefix cache."""
        self._release(seq)
        insort(self._waiting, seq, key=_rank)
        self._preemptions += 1

    def _release(self, seq: Sequence) -> None:
        _remove(self._running, seq)
        self._course.turns()
        self._rows.append(self._ledger.close(seq))

    def _leave_queue(self, seq: Sequence) -> None:
        if seq.request.id in self._queued:
            self._queued.remove(seq.request.id)
            self.started.append(seq.request.id)
        self._fair.started(seq.rank[0], seq.rank[1])

    def _end(self, seq: Sequence, finish: Finish) -> None:
        seq.finish = finish
        self._fair.ended(seq.request, seq.num_answer, started=seq.started)
        if self._growth is not None and seq.started:
            self._growth.ended(seq)
        if seq.row >= 0:
            self._release(seq)
        else:
            _remove(self._waiting, seq)
        request_id = seq.request.id
        self._live[request_id].remove(seq)
        if not self._live[request_id]:
            del self._live[request_id]
            self._fair.settled(seq.request, 0 if request_id in self._queued else seq.prompt_len - seq.cached_tokens)
            self._queued.discard(request_id)
            self._deadlines.remove(request_id)


def _rank(seq: Sequence) -> Rank:
    return seq.rank


def _priority(seq: Sequence) -> int:
    return seq.rank[0]


def _remove(line: list[Sequence], seq: Sequence) -> None:
    position = bisect_left(line, seq.rank, key=_rank)
    assert line[position] is seq, f"{seq} is not where it should be"
    del line[position]


def _waits_for_parent(seq: Sequence, draft: Draft) -> bool:
    """Whether a choice should wait for the first one's prompt KV, which must have been planned in an earlier step."""
    parent = seq.parent
    if parent is None or parent.finish is not None:
        return False
    return parent.num_planned < parent.prompt_len or parent in draft.in_prompt
