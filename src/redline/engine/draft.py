"""One step on paper: what is computed for which sequence (`Entry`, `Plan`), and the plan while it is made (`Draft`).

Torch-free. Who is in a step is the scheduler's business (scheduler.py); how it is computed is the batch builder's and the
runner's. Open `Plan` first.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import msgspec

from redline.engine.request import Sequence
from redline.plan.roofline import StepWork

FORCED_SHARE = 0.5
"""What a step that is not captured is taken to cost more than one that is: 0.2 to 0.3 for the 8B at 128 rows on an H200, more where
the host is slower than the step."""


class Entry(msgspec.Struct, frozen=True, eq=False, gc=False):
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

    The rest saves readers a look at each entry. `by_one`: every entry computes one answer token. `decodes`: each also samples the
    next.
    `steady`: moreover the entries are those of the plan before, in its order, each one token further. `constrained`: one that
    samples may have a grammar. `touched` are the entries whose rows' tables on the device change (fresh rows, new pages,
    tokens to upload); None: any may. `num_samples` counts the entries that sample, and `context` sums up start + count;
    -1: nobody has counted. Of those tokens `common` need not be read again: pages that several sequences hold, but once each.
    """

    step: int
    entries: list[Entry]
    copies: list[tuple[int, int]]
    num_tokens: int
    decodes: bool = False
    steady: bool = False
    constrained: bool = True
    touched: list[Entry] | None = None
    num_samples: int = -1
    context: int = -1
    by_one: bool = False
    common: int = 0

    def work(self, window: int = 0) -> StepWork:
        """What the step must do; `window` is the model's sliding window, 0 for none."""
        entries = self.entries
        if window or self.context < 0:
            samples = sum([entry.samples for entry in entries])
            work = StepWork.of([(entry.start, entry.count) for entry in entries], logit_rows=samples, window=window)
            return work if not self.common else replace(work, common_reads=min(self.common, work.context_reads))
        pairs = self.context
        for entry in reversed(entries):
            if entry.count == 1:
                break  # chunks come last
            pairs += (entry.count - 1) * entry.start + entry.count * (entry.count - 1) // 2
        return StepWork(
            self.num_tokens, len(entries), self.num_samples, self.context, pairs, common_reads=min(self.common, self.context)
        )


@dataclass(frozen=True)
class MixedBound:
    """How much prompt a step may compute while somebody waits for the tokens of running sequences.

    Prompt tokens of one step shall take `seconds` at most, where a token takes `token_s` and each pair of a new token and
    one that it sees takes `pair_s` (plan/roofline.py). A step always gets `least` tokens on, however long the context.
    """

    seconds: float
    token_s: float
    pair_s: float
    least: int = 64

    def cost(self, start: int, count: int) -> float:
        """Seconds of `count` prompt tokens after `start` others."""
        return count * (self.token_s + self.pair_s * (start + 0.5 * count))

    def tokens(self, start: int, seconds: float) -> int:
        """The most prompt tokens after `start` others that take `seconds`: the root of `cost(start, count) = seconds`."""
        linear, square = self.token_s + self.pair_s * start, 0.5 * self.pair_s
        if square <= 0.0:
            return int(seconds / linear) if seconds > 0.0 else 0
        return max(0, int((math.sqrt(linear * linear + 4.0 * square * max(0.0, seconds)) - linear) / (2.0 * square)))


class Budget:
    """The tokens of one step: `tokens` now, at least `least` whatever happens."""

    def __init__(self, tokens: int, least: int) -> None:
        self.tokens = tokens
        self.shrinks = 0
        self._least = least
        self._since = 0  # the first step that was planned with it

    def shrink(self, step: int, failed: Plan | None) -> int:
        """Halve it from plan number `step` on; not again for a `failed` one that was planned before it fell. Returns it."""
        if self.tokens > self._least and (failed is None or failed.step >= self._since):
            self.tokens = max(self._least, self.tokens // 2)
            self.shrinks += 1
            self._since = step
        return self.tokens


class Draft:
    """The plan that is being made."""

    def __init__(self, budget: int, bound: MixedBound | None = None) -> None:
        self._budget = budget
        self.budget = budget  # tokens that may still be planned
        self.singles: list[Entry] = []
        self.chunks: list[Entry] = []
        self.touched: list[Entry] = []
        self.copies: list[tuple[int, int]] = []
        self.in_prompt: set[Sequence] = set()  # sequences whose prompt KV this step writes
        self.num_samples = 0
        self.context = 0  # sum of the lengths after the step
        self.by_one = True  # whether every entry computes one answer token
        self.decodes = True  # and samples the next
        self._bound = bound
        self._seconds = bound.seconds if bound is not None else 0.0  # of prompt tokens that may still be planned
        self._has_chunk = False
        self._listens: bool | None = None  # whether a running sequence's tokens are waited for one by one; None: not known yet

    def spare(self, rest: list[Sequence]) -> int:
        """Tokens that are left for chunks when those of `rest` that need one token only have got it."""
        decoding = [seq for seq in rest if len(seq.tokens) + seq.in_flight == seq.num_planned + 1]
        self.listens(decoding)
        return self.budget - len(decoding)

    def listens(self, decoding: list[Sequence]) -> None:
        """Tell which sequences get one token beside those planned; the first call holds."""
        if self._listens is None:
            reading = (*decoding, *(entry.sequence for entry in self.singles))
            self._listens = 1 in [seq.tokens_per_chunk for seq in reading]

    def chunk(self, seq: Sequence, start: int, most: int) -> int:
        """How many of the next `most` tokens of `seq`, after `start`, this step should compute; 0: the next step begins with it."""
        bound = self._bound
        if bound is None or not self._listens or most <= 1:
            return most
        fitting = bound.tokens(start, self._seconds)
        if start < seq.prompt_len:  # else it has answered already, and is read as well
            if self._has_chunk and fitting < min(most, bound.least):
                return 0
            most = min(most, max(bound.least, fitting))
        self._has_chunk = True
        self._seconds -= bound.cost(start, most)
        return most

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
        if fresh or seq.num_tabled < len(pages) or seq.upload_from is not None:
            self.touched.append(entry)
        seq.upload_from = None
        seq.num_planned = end
        seq.num_tabled = len(pages)
        seq.in_flight += ends
        self.budget -= count
        self.num_samples += samples
        self.context += end
        if start < seq.prompt_len:
            self.in_prompt.add(seq)
            self.by_one = self.decodes = False
        elif count > 1:
            self.by_one = self.decodes = False
        elif not samples:
            self.decodes = False
        (self.singles if count == 1 else self.chunks).append(entry)

    def took(self, singles: int, context: int) -> None:
        """Count in so many entries of one token that sample, which were put into `singles` directly; `context` sums up their lengths."""
        self.budget -= singles
        self.num_samples += singles
        self.context += context

    @property
    def num_tokens(self) -> int:
        return self._budget - self.budget


def forced_by_one(running: list[Sequence]) -> bool:
    """Whether forced tokens should wait for their turns, one a step: nobody has prompt tokens left, so the step can be a captured
    one, and that saves more than computing them at once, where each saves a sequence's share of a step."""
    forced = 0
    for seq in running:
        if seq.num_planned < seq.prompt_len:
            return False
        forced += len(seq.tokens) + seq.in_flight - seq.num_planned - 1
    return forced < FORCED_SHARE * len(running)


class Course:
    """Whether plans go on as the ones before them: makes a `Plan` of each draft."""

    def __init__(self) -> None:
        self._turns = 0  # how often a sequence has joined or left those that run
        self._whole_at = -1  # that, when the last plan was made, if it decoded all that run and nothing else
        self._constrained = False  # of the last plan

    def turns(self) -> None:
        """A sequence joins or leaves those that run."""
        self._turns += 1

    def plan(self, draft: Draft, step: int, num_running: int, common: int) -> Plan | None:
        """The draft as plan number `step`; None if there is nothing in it. `common`: see `Plan`."""
        entries = draft.singles + draft.chunks if draft.chunks else draft.singles
        whole = draft.decodes and len(entries) == num_running
        steady = whole and self._whole_at == self._turns
        self._whole_at = self._turns if whole else -1
        if not entries:
            return None
        if not steady:
            self._constrained = True in [entry.sequence.constrained for entry in entries]
        return Plan(
            step,
            entries,
            draft.copies,
            draft.num_tokens,
            draft.decodes,
            steady,
            self._constrained,
            draft.touched,
            draft.num_samples,
            draft.context,
            draft.by_one,
            common,
        )
