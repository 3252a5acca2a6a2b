"""Decides what each step computes: which sequences, which of their tokens, in which pages. Pure, on the host, no torch.

The loop launches step n, applies the results of step n-1 and plans step n+1, so `plan` never knows the tokens of the newest
launched step; the device feeds them to the next step itself. Three rules make that safe:

- Every plan is launched (or given to `abandon`), in the order of planning, and the device runs steps in that order. Pages
  that are let go may therefore be handed to the next plan at once, and a page counts as written once its step is planned.
- An end by length is known when the last token is planned, so nothing is computed past it. An end token is known one step
  late: the step planned meanwhile runs for nothing and its result is ignored.
- A sequence that lost its pages starts again only when all its tokens are known.
- A token that a grammar forces is known as soon as the one before it: it takes the place of what the step in flight samples
  there, and the forced ones are computed as one chunk with the next step.

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
from redline.engine.fair import FairShare
from redline.engine.ledger import Ledger
from redline.engine.pages import PagePool
from redline.engine.prefix import PrefixCache
from redline.engine.request import Ended, Follow, Pooled, Rank, Sampled, Sequence
from redline.errors import InvalidRequest, Overloaded
from redline.types import Finish, Request

RETRY_AFTER_S = 1.0  # what a refused request is told to wait


class Entry(msgspec.Struct, frozen=True, eq=False):
    """What one step computes for one sequence: the KV of tokens [start, start + count) and, if `samples`, the next token.

    A sequence that pools never samples: what it waits for is the vector that its prompt's last chunk completes (`pools`).

    `fresh`: the row is newly assigned; upload `sequence.tokens` and the sampling state to it before the step.
    `pages` is the page list to read, valid even if the sequence ends before the launch; `pages[first_new:]` are not in the
    row's page table yet. Nor are `sequence.tokens[upload_from:]` in its token table, where that is given.
    """

    sequence: Sequence
    start: int
    count: int
    samples: bool
    row: int
    fresh: bool
    pages: list[int]
    first_new: int
    upload_from: int | None = None

    @property
    def pools(self) -> bool:
        """Whether the step completes the vector of a sequence that pools."""
        return self.sequence.request.pooling is not None and self.start + self.count == self.sequence.prompt_len


class Plan(msgspec.Struct, frozen=True, eq=False):
    """One step. Every plan must be launched, in the order of planning, or abandoned.

    `entries`: sequences with one token to compute, then chunks of prefill; no sequence twice. `copies`: (source, destination)
    pages to copy before the step writes anything; no destination is also a source. `num_tokens` is the sum of the counts.
    """

    step: int
    entries: list[Entry]
    copies: list[tuple[int, int]]
    num_tokens: int


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


class Scheduler:
    """The state of all requests between admission and end. Not thread-safe: one loop owns it."""

    def __init__(self, limits: Limits, pool: PagePool, prefix: PrefixCache | None, eos_ids: Iterable[int]) -> None:
        self._limits = limits
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
        draft = _Draft(self._limits.max_num_batched_tokens)
        self.started = []
        self._make_room(draft)
        self._continue_running(draft)
        self._admit_waiting(draft)
        self._pool.free([source for source, _ in draft.copies])  # held until now, see Ledger.grow
        if not (draft.singles or draft.chunks):
            return None
        for entry in draft.chunks:
            self._ledger.register(entry.sequence)
        plan = Plan(self._steps, draft.singles + draft.chunks, draft.copies, self._limits.max_num_batched_tokens - draft.budget)
        self._steps += 1
        self._tokens_planned += plan.num_tokens
        return plan

    def apply(self, plan: Plan, tokens: list[int], follow: Callable[[Sequence, int], Follow] | None = None) -> list[Sampled]:
        """Take in the results of a launched plan: one token for each entry that samples, in order.

        `follow` tells what the grammar of a constrained sequence says after a token that did not end it.
        Plans are applied in the order of planning. Tokens of choices that ended meanwhile are ignored; those of preempted
        ones count, for they were sampled before the pages went.
        """
        sampling = [entry for entry in plan.entries if entry.samples]
        known: list[Sampled] = []
        for sample, (entry, token) in enumerate(zip(sampling, tokens, strict=True)):
            seq = entry.sequence
            if seq.finish is not None or entry.start + entry.count < len(seq.tokens):
                continue  # it has ended, or its grammar forced what stands there
            seq.in_flight -= 1
            finish, stop = seq.take(token)
            if seq.constrained and stop is None:
                assert follow is not None, "a constrained sequence without its grammar"
                finish, stop = seq.extend(follow(seq, token), finish)
            known.append(self._told(seq, sample, finish, stop))
        return known

    def release(self, request_id: str, follow: Follow) -> list[Sampled]:
        """Let the choices of a request start whose grammar is compiled; `follow` is what it says of the beginning.

        Forced tokens join the prompt. Choices that need nothing else end here, with their answers.
        """
        known: list[Sampled] = []
        for seq in tuple(self._live.get(request_id, ())):
            seq.ready = True
            finish, stop = seq.extend(follow, None)
            if finish is not None:
                known.append(self._told(seq, None, finish, stop))
        return known

    def _told(self, seq: Sequence, sample: int | None, finish: Finish | None, stop: int | None) -> Sampled:
        """The tokens of `seq` that are new; ends it where it has a finish."""
        self._ledger.register(seq)
        if finish is not None:
            self._end(seq, finish)
        return Sampled(seq, sample, finish, stop, seq.num_told == seq.prompt_len, seq.tell())

    def apply_pooled(self, plan: Plan) -> list[Pooled]:
        """End the sequences whose vectors a launched plan completed; goes with `apply`, which passes over them."""
        pooling = [(i, e) for i, e in enumerate(plan.entries) if e.sequence.request.pooling is not None]
        known = [Pooled(e.sequence, i) for i, e in pooling if e.pools and e.sequence.finish is None]
        for pooled in known:
            pooled.sequence.in_flight -= 1
            self._end(pooled.sequence, "stop")
        return known

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

    def _make_room(self, draft: _Draft) -> None:
        """Preempt the worst in rank for waiting sequences of strictly better priority, as far as that lets them start."""
        running = self._running
        if not self._waiting or not running or self._waiting[0].rank[0] >= running[-1].rank[0]:
            return
        rows, pages = len(self._rows), self._unclaimed()
        for seq in tuple(self._waiting):
            worse = running[bisect_right(running, seq.rank[0], key=_priority) :]
            if not worse or seq.in_flight:
                return
            if not seq.ready or self._waits_for_parent(seq, draft):
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

    def _continue_running(self, draft: _Draft) -> None:
        """Plan the running sequences in order of rank; preemption shortens the list from its end, behind `position`."""
        running, budget = self._running, self._limits.max_num_batched_tokens
        spare = budget - sum([1 for seq in running if len(seq.tokens) + seq.in_flight - seq.num_planned == 1])
        position = 0
        while position < len(running):
            seq = running[position]
            position += 1
            if seq.num_planned == seq.limit - 1:
                continue  # all is planned, its last token is on its way
            pending = len(seq.tokens) + seq.in_flight - seq.num_planned
            if pending == 1:
                count = self._secure(seq, 1, draft)
            else:
                count = self._secure(seq, min(pending, spare), draft)
                spare -= count
            if count:
                draft.add(seq, count, fresh=False)

    def _admit_waiting(self, draft: _Draft) -> None:
        """Start waiting sequences in order of rank while there are rows, budget, and pages for all their tokens and the next."""
        waiting = self._waiting
        if not (waiting and self._rows and draft.budget):
            return
        pages = self._unclaimed()
        position = 0
        while position < len(waiting) and self._rows and draft.budget:
            seq = waiting[position]
            if not seq.ready or self._waits_for_parent(seq, draft):
                position += 1
                continue
            if seq.in_flight or pages < 1:
                return
            shared, start = self._ledger.shared(seq)
            cost = self._ledger.cost(seq, shared, start)
            if cost > pages:
                return
            pages -= cost
            del waiting[position]
            self._ledger.open(seq, self._rows.pop(), shared, start)
            insort(self._running, seq, key=_rank)
            self._leave_queue(seq)
            count = min(seq.length - start, draft.budget)
            draft.note_copy(self._ledger.grow(seq, count))
            draft.add(seq, count, fresh=True)

    def _waits_for_parent(self, seq: Sequence, draft: _Draft) -> bool:
        """Whether a choice should wait for the first one's prompt KV, which must have been planned in an earlier step."""
        parent = seq.parent
        if parent is None or parent.finish is not None:
            return False
        return parent.num_planned < parent.prompt_len or parent in draft.in_prompt

    def _secure(self, seq: Sequence, count: int, draft: _Draft) -> int:
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
        return self._pool.num_available - sum(map(self._ledger.claim, self._running))

    def _preempt(self, seq: Sequence) -> None:
        """Take row and pages from `seq`; it waits, at its rank, to compute again what is not found in the prefix cache."""
        self._release(seq)
        insort(self._waiting, seq, key=_rank)
        self._preemptions += 1

    def _release(self, seq: Sequence) -> None:
        _remove(self._running, seq)
        self._rows.append(self._ledger.close(seq))

    def _leave_queue(self, seq: Sequence) -> None:
        if seq.request.id in self._queued:
            self._queued.remove(seq.request.id)
            self.started.append(seq.request.id)
        self._fair.started(seq.rank[0], seq.rank[1])

    def _end(self, seq: Sequence, finish: Finish) -> None:
        seq.finish = finish
        self._fair.ended(seq.request, seq.num_answer, started=seq.started)
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


class _Draft:
    """The plan that is being made."""

    def __init__(self, budget: int) -> None:
        self.budget = budget  # tokens that may still be planned
        self.singles: list[Entry] = []
        self.chunks: list[Entry] = []
        self.copies: list[tuple[int, int]] = []
        self.in_prompt: set[Sequence] = set()  # sequences whose prompt KV this step writes

    def note_copy(self, pair: tuple[int, int] | None) -> None:
        if pair is not None:
            self.copies.append(pair)

    def add(self, seq: Sequence, count: int, fresh: bool) -> None:
        """Plan the next `count` tokens of `seq`, whose slots are writable."""
        start, pages = seq.num_planned, seq.pages
        end = start + count
        ends = end == len(seq.tokens) + seq.in_flight  # a token comes of it, or a vector
        samples = ends and seq.request.pooling is None
        entry = Entry(seq, start, count, samples, seq.row, fresh, pages, seq.num_tabled, 0 if fresh else seq.upload_from)
        seq.upload_from = None
        seq.num_planned = end
        seq.num_tabled = len(pages)
        seq.in_flight += ends
        self.budget -= count
        if start < seq.prompt_len:
            self.in_prompt.add(seq)
        (self.singles if count == 1 else self.chunks).append(entry)


def _rank(seq: Sequence) -> Rank:
    return seq.rank


def _priority(seq: Sequence) -> int:
    return seq.rank[0]


def _remove(line: list[Sequence], seq: Sequence) -> None:
    position = bisect_left(line, seq.rank, key=_rank)
    assert line[position] is seq, f"{seq} is not where it should be"
    del line[position]
