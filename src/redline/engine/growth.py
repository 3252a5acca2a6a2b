"""Whether a sequence may start without others having to give up their pages for it later: `Growth`.

A preempted sequence computes everything again, so starting one too many costs more than starting it later. Answers grow a
token a step and free their pages at the end; played forward, the pages suffice or they do not. How long an answer becomes is
known where its end token is ignored, learned from those that ended otherwise, and taken for nothing before any has: then
sequences start as soon as there are pages for their prompts. Torch-free. Open `Growth.fits` first.
"""

from __future__ import annotations

import numpy as np

from redline.engine.request import Sequence

FEW = 8  # answers that must have ended before their length counts
WEIGHT = 1 / 64  # of the newest answer in the mean
AGAIN = 16  # steps after which one that did not fit is looked at again, if nobody has ended


class Growth:
    """What running sequences will still take of a pool with pages of `page_size` tokens."""

    def __init__(self, page_size: int) -> None:
        self._page_size = page_size
        self._mean = 0.0  # tokens of an answer
        self._seen = 0
        self._turned_down: tuple[int, int] | None = None  # (step, how many had ended)
        self._ended = 0

    def ended(self, seq: Sequence) -> None:
        """A sequence that ran has ended, whichever way."""
        self._ended += 1
        if seq.finish not in ("stop", "length") or _is_known(seq):
            return
        self._seen += 1
        self._mean += (seq.num_answer - self._mean) * max(WEIGHT, 1 / self._seen)

    def remaining(self, seq: Sequence) -> int:
        """Tokens that `seq` is expected to write yet, beyond those that exist; 0 where nothing is known."""
        most = max(0, seq.limit - seq.length)
        if _is_known(seq):
            return most
        return 0 if self._seen < FEW else min(most, max(0, round(self._mean) - seq.num_answer))

    def fits(self, running: list[Sequence], seq: Sequence, spare: int, step: int) -> bool:
        """Whether `seq` may join `running` in step number `step`. `spare`: pages that are left when all tokens that exist, its own
        included, have theirs."""
        if self._turned_down is not None:
            at, ended = self._turned_down
            if step - at < AGAIN and ended == self._ended:
                return False
        fits = self._lowest(running, seq) + spare >= 0
        self._turned_down = None if fits else (step, self._ended)
        return fits

    def _lowest(self, running: list[Sequence], seq: Sequence) -> int:
        """By how many pages the spare ones change at the worst moment, 0 or less. Sequences end in the order of what they have
        left; before the k-th ends, it and all later ones have grown as much as it has, and the earlier ones' pages are free."""
        both = [*running, seq]
        left = np.array([self.remaining(one) for one in both])
        held = np.array([-(-one.length // self._page_size) for one in both])
        order = np.argsort(left, kind="stable")
        left, held = left[order], held[order]
        grown = -(-left // self._page_size)
        freed = np.concatenate(([0], np.cumsum(held)[:-1]))
        return int(min(0, (freed - np.arange(len(both), 0, -1) * grown).min()))


def _is_known(seq: Sequence) -> bool:
    """Whether the answer ends at its limit and nowhere else."""
    return not seq.stop_ids
