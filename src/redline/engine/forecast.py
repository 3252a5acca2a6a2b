"""When what waits will start: the pace of the engine and the length of answers, learned, and the queue played forward.

Everything here is known in the API process: what it submitted, what the engine says has started, and how often it is
heard. `Tempo` and `Lengths` learn, a `Timeline` plays: rows become free as running answers end, and waiting ones take
them in turn. Torch-free; knows nothing of requests (roster.py) or of who may wait (gate.py). Open `Timeline.add` first.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from dataclasses import dataclass

FIRST_GUESS = 256  # tokens of an answer, before any has ended
FEW = 4  # samples; after them ...
OUTLIER = 8.0  # ... one that is so many times the mean says something of itself, and little of the next
MEMORY = 1 / 16  # of a mean: the share of its newest sample, once there are that many


@dataclass(slots=True)
class Mean:
    """A mean that forgets; None before the first sample."""

    value: float | None = None
    samples: int = 0

    def learn(self, sample: float) -> None:
        self.samples += 1
        known = sample if self.value is None else self.value
        if self.samples > FEW and known > 0:
            sample = min(sample, OUTLIER * known)
        self.value = known + (sample - known) * max(MEMORY, 1 / self.samples)


class Tempo:
    """Seconds from one turn of the engine to the next, each of which gives every running choice its next token.

    `turns` counts them. `prompt_s` is what a prompt token adds. Until the engine was heard, both are what it foresaw.
    """

    def __init__(self) -> None:
        self.turns = 0
        self._foreseen_turn_s = self._foreseen_prompt_s = 0.0
        self._turn_s = Mean()
        self._prompt_s = Mean()
        self._before: float | None = None

    @property
    def known(self) -> bool:
        return self._turn_s.value is not None or self._foreseen_turn_s > 0.0

    @property
    def turn_s(self) -> float:
        return self._foreseen_turn_s if self._turn_s.value is None else self._turn_s.value

    @property
    def prompt_s(self) -> float:
        return self._foreseen_prompt_s if self._prompt_s.value is None else self._prompt_s.value

    def foresee(self, turn_s: float, prompt_s: float) -> None:
        """What the engine expects of itself (plan/contract.py); 0 where it knows nothing."""
        self._foreseen_turn_s, self._foreseen_prompt_s = turn_s, prompt_s

    def since(self, now: float) -> float:
        """The moment of the last turn, or when it should have been."""
        return now if self._before is None else max(self._before, now - self.turn_s)

    def begin(self, now: float) -> None:
        """The engine gets something to do after it had nothing."""
        self._before = now

    def turn(self, now: float, prompt_tokens: int) -> None:
        """The engine was heard with tokens; first tokens of prompts of so many tokens are among them."""
        self.turns += 1
        before, self._before = self._before, now
        if before is None:
            return
        if prompt_tokens:
            self._prompt_s.learn(max(0.0, now - before - self.turn_s) / prompt_tokens)
        self._turn_s.learn(now - before)


class Lengths:
    """How much of what was allowed the answers take, by the size of what was allowed."""

    def __init__(self) -> None:
        self._tokens: dict[int, Mean] = {}
        self._turns: dict[int, Mean] = {}

    def learn(self, allowed: int, tokens: int, turns: int) -> None:
        """An answer that might have had `allowed` tokens ended with `tokens`, which took `turns` of the engine."""
        size = allowed.bit_length()
        self._tokens.setdefault(size, Mean()).learn(tokens / allowed)
        self._turns.setdefault(size, Mean()).learn(turns / allowed)

    def tokens(self, allowed: int) -> float:
        """Tokens of an answer that may have `allowed`."""
        return _expected(self._tokens, allowed)

    def turns(self, allowed: int) -> float:
        """Turns of the engine that it takes."""
        return _expected(self._turns, allowed)


def _expected(means: dict[int, Mean], allowed: int) -> float:
    mean = means.get(allowed.bit_length())
    if mean is None or mean.value is None:
        return float(min(allowed, FIRST_GUESS))
    return mean.value * allowed


class Timeline:
    """The engine's rows from `now` on. `busy` are the moments at which running choices free theirs."""

    def __init__(self, now: float, rows: int, busy: Iterable[float]) -> None:
        taken = heapq.nsmallest(rows, busy)
        self._rows = [now] * (rows - len(taken)) + taken
        heapq.heapify(self._rows)
        self._prompts = now  # when the prompts before this one are computed

    @property
    def next_start(self) -> float:
        """The moment at which what is added next would start."""
        return max(self._rows[0], self._prompts)

    def add(self, choices: int, prompt_s: float, answer_s: float, share: float = 1.0) -> float:
        """The moment at which the next in the queue starts. `share`: how likely it is there at all."""
        start = self.next_start
        self._prompts = start + prompt_s * share
        for _ in range(min(choices, len(self._rows))):
            heapq.heapreplace(self._rows, max(self._rows[0], start) + (prompt_s + answer_s) * share)
        return start

    def copy(self) -> Timeline:
        same = Timeline(0.0, 0, ())
        same._rows, same._prompts = self._rows.copy(), self._prompts
        return same
