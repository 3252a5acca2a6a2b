"""What the results of a step make of its sequences: tokens known, told and registered, and ends.

The scheduler's other half (scheduler.py), called through it. Knows nothing of queues, rows or budgets; that a sequence has
ended it tells its owner. Open `Results.apply` first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from redline.engine.draft import Plan
from redline.engine.ledger import Ledger
from redline.engine.request import Follow, Pooled, Sampled, Sequence
from redline.types import Finish


class Results:
    """Takes results in. `end` ends a sequence with a finish."""

    def __init__(self, ledger: Ledger, page_size: int, end: Callable[[Sequence, Finish], None]) -> None:
        self._ledger = ledger
        self._page_size = page_size
        self._end = end

    def apply(self, plan: Plan, tokens: list[int], follow: Callable[[Sequence, int], Follow] | None) -> list[Sampled]:
        """One token for each entry of a launched plan that samples, in order.

        `follow` tells what the grammar of a constrained sequence says after a token that did not end it.
        Plans are applied in the order of planning. Tokens of choices that ended meanwhile are ignored; those of preempted
        ones count, for they were sampled before the pages went. Nearly all tokens neither end their sequence nor fill a page,
        and are taken in right here.
        """
        entries = plan.entries if plan.decodes else [entry for entry in plan.entries if entry.samples]
        known: list[Sampled] = []
        page_size = self._page_size
        for sample, (entry, token) in enumerate(zip(entries, tokens, strict=True)):
            seq = entry.sequence
            if seq.finish is not None:
                continue
            held = seq.tokens
            length = len(held) + 1
            if seq.constrained or token in seq.stop_ids or length == seq.limit:
                if entry.start + entry.count == length - 1:  # else the grammar has forced what stands there
                    known.append(self._taken(seq, sample, token, follow))
                continue
            seq.in_flight -= 1
            held.append(token)
            if length >= (seq.num_registered + 1) * page_size:
                self._ledger.register(seq)
            told = seq.num_told
            if (first := told == seq.prompt_len) or length - told >= seq.tokens_per_chunk:
                seq.num_told = length
                known.append(Sampled(seq, sample, None, None, first, held[told:]))
        return known

    def apply_pooled(self, plan: Plan) -> list[Pooled]:
        """End the sequences whose vectors a launched plan completed."""
        if plan.decodes:
            return []
        pooling = [(i, e) for i, e in enumerate(plan.entries) if e.sequence.request.pooling is not None]
        known = [Pooled(e.sequence, i) for i, e in pooling if e.pools and e.sequence.finish is None]
        for pooled in known:
            pooled.sequence.in_flight -= 1
            self._end(pooled.sequence, "stop")
        return known

    def release(self, choices: Iterable[Sequence], follow: Follow) -> list[Sampled]:
        """Let the choices of a request start whose grammar is compiled; `follow` is what it says of the beginning.

        Forced tokens join the prompt. Choices that need nothing else end here, with their answers.
        """
        known: list[Sampled] = []
        for seq in choices:
            seq.ready = True
            finish, stop = seq.extend(follow, None)
            if finish is not None:
                known.append(self._told(seq, None, finish, stop))
        return known

    def _taken(self, seq: Sequence, sample: int, token: int, follow: Callable[[Sequence, int], Follow] | None) -> Sampled:
        """A sampled token that may end its sequence, or that a grammar has something to say of."""
        seq.in_flight -= 1
        finish, stop = seq.take(token)
        if seq.constrained and stop is None:
            assert follow is not None, "a constrained sequence without its grammar"
            finish, stop = seq.extend(follow(seq, token), finish)
        return self._told(seq, sample, finish, stop)

    def _told(self, seq: Sequence, sample: int | None, finish: Finish | None, stop: int | None) -> Sampled:
        """The tokens of `seq` that are new; ends it where it has a finish."""
        self._ledger.register(seq)
        if finish is not None:
            self._end(seq, finish)
        return Sampled(seq, sample, finish, stop, seq.num_told == seq.prompt_len, seq.tell())
