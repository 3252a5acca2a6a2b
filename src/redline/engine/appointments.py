"""When callers that were turned away are to come again, and who of them did.

A caller is known again by what it asks for, so nothing has to be sent along: the same prompts of the same tenant. How many
of those that were told a time come back at it is learned (`show_rate`), and later times are given out accordingly.
Bounded; knows nothing of how times are computed (gate.py). Open `Book` first.
"""

from __future__ import annotations

import hashlib
from bisect import insort
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from redline import token_ids
from redline.types import Request

MOST = 4096  # appointments that are kept; later callers are told a time, and nobody waits for them
GRACE_S, GRACE_SHARE = 2.0, 0.5  # how late a caller may come: so long, or by this share of the time it was told
HELD_S, HELD_SHARE = 0.25, 0.1  # for so long, counted in the same way, room is held for it
EARLY_S, EARLY_SHARE = 0.05, 0.05  # and so much too early is not too early
LEARN = 1 / 8
LEAST_SHOW_RATE = 0.02


@dataclass(slots=True, eq=False)
class Appointment:
    """A caller that may come at `at`, told at `made`, and what it will ask for (as roster.Ticket counts it)."""

    key: bytes
    made: float
    at: float
    requests: int
    choices: int
    prompt: int
    tokens: float
    turns: float
    late: bool = False

    @property
    def until(self) -> float:
        return self.at + max(GRACE_S, GRACE_SHARE * (self.at - self.made))

    @property
    def held_until(self) -> float:
        return self.at + max(HELD_S, HELD_SHARE * (self.at - self.made))

    def is_due(self, now: float) -> bool:
        return now >= self.at - max(EARLY_S, EARLY_SHARE * (self.at - self.made))


class Book:
    """The appointments that are open, in the order in which their callers may come."""

    def __init__(self) -> None:
        self.show_rate = 1.0
        self._coming: list[Appointment] = []  # by `at`
        self._late: list[Appointment] = []  # by `until`
        self._by_key: dict[bytes, list[Appointment]] = {}

    def __len__(self) -> int:
        return len(self._coming) + len(self._late)

    def __iter__(self) -> Iterator[Appointment]:
        """Those that are not late."""
        return iter(self._coming)

    def find(self, key: bytes, now: float) -> Appointment | None:
        """The first open appointment of a caller."""
        self._pass(now)
        found = self._by_key.get(key)
        return found[0] if found else None

    def expected(self, now: float, lead_s: float) -> tuple[int, float]:
        """Requests and tokens of the callers that may come in the next `lead_s` seconds."""
        requests, tokens = 0, 0.0
        for each in self._coming:
            if each.at > now + lead_s:
                break
            requests += each.requests
            tokens += each.tokens
        return requests, tokens

    def make(self, appointment: Appointment) -> bool:
        """Keep one, if there is room."""
        if len(self) >= MOST:
            return False
        insort(self._coming, appointment, key=_at)
        self._by_key.setdefault(appointment.key, []).append(appointment)
        return True

    def move(self, appointment: Appointment, at: float) -> None:
        """Another time for a caller that came at the one it was told, and found no room."""
        self._remove(appointment)
        appointment.at, appointment.late = at, False
        insort(self._coming, appointment, key=_at)

    def kept(self, appointment: Appointment) -> None:
        """The caller came, and was let in."""
        self._learn(1.0)
        self._remove(appointment)
        self._forget(appointment)

    def clear(self) -> None:
        """Forget all of them, but not how many are kept."""
        self._coming.clear()
        self._late.clear()
        self._by_key.clear()

    def _pass(self, now: float) -> None:
        """Let time go by: who does not come is late first, and then forgotten."""
        while self._coming and self._coming[0].held_until < now:
            first = self._coming.pop(0)
            self._learn(0.0)
            first.late = True
            insort(self._late, first, key=_until)
        while self._late and self._late[0].until < now:
            self._forget(self._late.pop(0))

    def _learn(self, came: float) -> None:
        self.show_rate = max(LEAST_SHOW_RATE, self.show_rate + (came - self.show_rate) * LEARN)

    def _remove(self, appointment: Appointment) -> None:
        (self._late if appointment.late else self._coming).remove(appointment)

    def _forget(self, appointment: Appointment) -> None:
        of_caller = self._by_key[appointment.key]
        of_caller.remove(appointment)
        if not of_caller:
            del self._by_key[appointment.key]


def _at(appointment: Appointment) -> float:
    return appointment.at


def _until(appointment: Appointment) -> float:
    return appointment.until


def key_of(requests: Sequence[Request]) -> bytes:
    """What a caller is known by: its tenant and its prompts."""
    digest = hashlib.blake2b(digest_size=16)
    for request in requests:
        for part in (request.tenant.encode(), request.cache_salt.encode(), token_ids.to_bytes(request.prompt)):
            digest.update(len(part).to_bytes(8, "little") + part)
    return digest.digest()
