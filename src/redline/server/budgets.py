"""Budgets of one key: what it may use in a minute and in a day, and how much at once.

A call reserves the most that it may use before the engine hears of it, and is settled with what it used. A reservation
counts in full for as long as the call is open, and the use counts from the call's end until it has left the window. So no
window of that length, wherever it begins, ever sees more than the limit, as long as no call uses more than it reserved.
Pure bookkeeping: the time is an argument, and nothing here knows of keys, HTTP or files. Open `Account.reserve`.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

from redline.errors import OverLimit, RateLimited

MINUTE_S = 60.0
DAY_S = 86400.0
MINUTE_SLOT_S = 1.0
DAY_SLOT_S = 60.0
FIRST_CALL_S = 2.0  # how long a call is taken to last before one has ended
MEMORY = 0.2  # of the newest call in the mean


@dataclass(frozen=True, kw_only=True)
class Limits:
    """None is no limit."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    tokens_per_day: int | None = None
    concurrency: int | None = None

    def __bool__(self) -> bool:
        return any(limit is not None for limit in (self.requests_per_minute, self.tokens, self.concurrency))

    @property
    def tokens(self) -> int | None:
        """The most tokens that one call may ever reserve."""
        return min((limit for limit in (self.tokens_per_minute, self.tokens_per_day) if limit is not None), default=None)


@dataclass(frozen=True, kw_only=True)
class Standing:
    """How one limit stands, as the x-ratelimit headers tell it."""

    limit: int
    remaining: int
    reset_s: float  # until all of it is free again


class Window:
    """What was used in the last `span_s` seconds. A slot counts until the whole of it lies outside."""

    def __init__(self, span_s: float, slot_s: float) -> None:
        self._span_s = span_s
        self._slot_s = slot_s
        self._slots: deque[tuple[int, int]] = deque()  # number of the slot, amount; oldest first
        self._total = 0

    def used(self, now: float) -> int:
        while self._slots and self._ends(self._slots[0][0]) <= now:
            self._total -= self._slots.popleft()[1]
        return self._total

    def add(self, amount: int, now: float) -> None:
        """`now` never lies before an earlier one's slot; the clock that says otherwise is held to be wrong."""
        number = int(now // self._slot_s)
        if self._slots and self._slots[-1][0] >= number:
            number, before = self._slots.pop()
            self._slots.append((number, before + amount))
        else:
            self._slots.append((number, amount))
        self._total += amount

    def frees_in_s(self, amount: int, now: float) -> float:
        """Seconds until `amount` of what is used will have left; infinite where less is used."""
        if amount <= 0:
            return 0.0
        self.used(now)
        for number, used in self._slots:
            amount -= used
            if amount <= 0:
                return self._ends(number) - now
        return math.inf

    def empties_in_s(self, now: float) -> float:
        """Seconds until nothing counts any more."""
        return max(0.0, self._ends(self._slots[-1][0]) - now) if self._slots else 0.0

    def _ends(self, number: int) -> float:
        return (number + 1) * self._slot_s + self._span_s


class Account:
    """The books of one key. Times are Unix seconds, so that a day's use can be read from a file again."""

    def __init__(self) -> None:
        self._calls = Window(MINUTE_S, MINUTE_SLOT_S)
        self._minute = Window(MINUTE_S, MINUTE_SLOT_S)
        self._day = Window(DAY_S, DAY_SLOT_S)
        self._held = 0
        self._open = 0
        self._call_s = FIRST_CALL_S

    @property
    def open(self) -> int:
        """Calls that are not settled."""
        return self._open

    @property
    def held(self) -> int:
        """Tokens that they reserved."""
        return self._held

    def restore(self, tokens: int, at: float, now: float) -> None:
        """Count what was used in the day's slot that began `at`, before this process did; oldest first."""
        self._day.add(tokens, min(at, now))
        if at + DAY_SLOT_S > now - MINUTE_S:
            self._minute.add(tokens, now)

    def reserve(self, tokens: int, limits: Limits, now: float) -> Reservation:
        """Room for a call of at most `tokens`. Raises RateLimited with the seconds to wait, OverLimit where waiting is vain."""
        if limits.concurrency is not None and self._open >= limits.concurrency:
            raise _limited("calls together", limits.concurrency, self._open, 1, self._call_s / max(1, self._open))
        self._check("requests per minute", limits.requests_per_minute, self._calls, 0, 1, now)
        self._check("tokens per minute", limits.tokens_per_minute, self._minute, self._held, tokens, now)
        self._check("tokens per day", limits.tokens_per_day, self._day, self._held, tokens, now)
        self._calls.add(1, now)
        self._held += tokens
        self._open += 1
        return Reservation(self, tokens, now)

    def standing(self, limits: Limits, now: float) -> tuple[Standing | None, Standing | None]:
        """Of requests, and of the tokens' limit that leaves the least."""
        requests = tokens = None
        if limits.requests_per_minute is not None:
            requests = self._stands(limits.requests_per_minute, self._calls, 0, now)
        elif limits.concurrency is not None:
            free = max(0, limits.concurrency - self._open)
            requests = Standing(limit=limits.concurrency, remaining=free, reset_s=self._call_s if self._open else 0.0)
        for limit, window in ((limits.tokens_per_minute, self._minute), (limits.tokens_per_day, self._day)):
            if limit is not None:
                one = self._stands(limit, window, self._held, now)
                tokens = one if tokens is None or one.remaining < tokens.remaining else tokens
        return requests, tokens

    def _check(self, name: str, limit: int | None, window: Window, held: int, asked: int, now: float) -> None:
        if limit is None:
            return
        if asked > limit:
            raise OverLimit(
                f"this call may use {asked} {name.split()[0]}, and its key is allowed {limit} {name}",
                hint="send a shorter prompt, or ask for fewer tokens with max_tokens",
            )
        used = window.used(now)
        missing = used + held + asked - limit
        if missing > 0:
            # What open calls hold comes back when they end, less what they used; the mean call says when.
            wait_s = window.frees_in_s(missing, now)
            raise _limited(name, limit, used + held, asked, wait_s if math.isfinite(wait_s) else self._call_s)

    def _stands(self, limit: int, window: Window, held: int, now: float) -> Standing:
        remaining = max(0, limit - window.used(now) - held)
        return Standing(limit=limit, remaining=remaining, reset_s=max(window.empties_in_s(now), self._call_s if held else 0.0))

    def _settle(self, reservation: Reservation, used: int, now: float) -> None:
        self._held -= reservation.tokens
        self._open -= 1
        self._call_s += MEMORY * (max(0.0, now - reservation.since) - self._call_s)
        if used > 0:
            self._minute.add(used, now)
            self._day.add(used, now)


class Reservation:
    """What one open call holds; `settle` it exactly once with what it used. More settling does nothing."""

    def __init__(self, account: Account, tokens: int, since: float) -> None:
        self.tokens = tokens
        self.since = since
        self._account: Account | None = account

    def settle(self, used: int, now: float) -> None:
        account, self._account = self._account, None
        if account is not None:
            account._settle(self, used, now)


def _limited(name: str, limit: int, used: int, asked: int, wait_s: float) -> RateLimited:
    return RateLimited(
        f"this key is allowed {limit} {name}: {used} are used or reserved, and this call asks for {asked}",
        hint=f"retry in {max(1, math.ceil(wait_s))} s",
        retry_after_s=wait_s,
    )
