"""Who may wait: the bounds of the queue, in requests, tokens and time, kept in the API process.

All requests pass here before they are sent, so a caller is turned away at once, whatever the engine is doing, and told
when there will be room for exactly what it asks (roster.py, forecast.py). It is let in when it comes then: newcomers
may fill the queue only up to `NEWCOMERS` of its bounds, callers with an appointment (appointments.py) up to `EXPECTED`,
and tenants that have less than their share of it to the full, so one that floods the queue shuts nobody else out.

Torch-free; knows nothing of HTTP or sockets. Open `Gate.admit` first.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from redline.config import SchedulerConfig
from redline.engine.appointments import Appointment, Book, key_of
from redline.engine.message import EngineInfo
from redline.engine.roster import REST, Played, Roster, Ticket
from redline.errors import Overloaded, TooLarge
from redline.types import Request

NEWCOMERS, EXPECTED, LIGHT = 0.8, 0.9, 1.0  # of the bounds
POOL_QUEUE = 8  # tokens that may wait, in KV pools ...
LEAST_QUEUED_TOKENS = 1 << 18  # ... and at least
LONGEST_S = 3600.0  # that a caller is told to wait
LEAD_TURNS = 4.0  # before an appointment, room is not given to newcomers any more
SURELY_LATE = 0.7  # of the predicted wait: a deadline before that cannot be met


@dataclass(frozen=True)
class Room:
    """How much may wait."""

    requests: float
    tokens: float
    seconds: float

    def part(self, share: float) -> Room:
        """A part of it, of requests at least one."""
        return Room(max(1.0, math.floor(self.requests * share)), self.tokens * share, self.seconds * share)


@dataclass(frozen=True)
class _Call:
    """The requests of one call, which are let in together or not at all."""

    requests: Sequence[Request]
    tickets: list[Ticket]

    @property
    def tokens(self) -> float:
        return sum(ticket.tokens for ticket in self.tickets)

    def appointment(self, now: float, at: float) -> Appointment:
        return Appointment(
            key=key_of(self.requests),
            made=now,
            at=at,
            requests=len(self.tickets),
            choices=sum(ticket.choices for ticket in self.tickets),
            prompt=sum(ticket.prompt for ticket in self.tickets),
            tokens=self.tokens,
            turns=max(ticket.turns for ticket in self.tickets),
        )


class Gate:
    """Lets requests in or not. `roster` must be told of everything that becomes of them."""

    def __init__(self, config: SchedulerConfig, clock: Callable[[], float] = time.monotonic) -> None:
        self.roster = Roster(clock)
        self.refused: Counter[str] = Counter()  # requests, by reason
        self._config = config
        self._clock = clock
        self._room = _room(config, LEAST_QUEUED_TOKENS)
        self._book = Book()
        self._told: Played | None = None  # the queue with the appointments behind it
        self._told_from: Played | None = None
        self._told_cost_s = 0.0

    def opened(self, info: EngineInfo) -> None:
        """A new engine is ready; what the one before it held is gone."""
        self._room = _room(self._config, max(LEAST_QUEUED_TOKENS, POOL_QUEUE * info.num_pages * info.page_size))
        self._book.clear()
        self._told = None
        self.roster.opened(info)

    def admit(self, requests: Sequence[Request]) -> None:
        """Let the requests of one call in, all of them; they wait from now on.

        Raises Overloaded, with the time after which they would be let in, where the queue has no room for them or would
        keep them past their deadline; TooLarge where it never will.
        """
        now = self._clock()
        call = _Call(requests, [self.roster.ticket(request) for request in requests])
        appointment = self._book.find(key_of(requests), now) if len(self._book) else None
        will_wait = self._will_wait(call, now)
        if will_wait > self._room.requests:
            raise TooLarge(
                f"{len(requests)} prompts in one request, and the queue holds {self._room.requests:.0f}",
                hint="send fewer at a time",
                param="prompt",
            )
        if will_wait:
            share = self._share(call, appointment, now)
            coming = self._book.expected(now, LEAD_TURNS * self.roster.turn_s) if share == NEWCOMERS else (0, 0.0)
            wait_s = self._start(call.tickets[0], now, coming[0]) - now
            reason = self._missing(call, now, will_wait, wait_s, share, coming)
            if reason is not None:
                raise self._turned_away(reason, call, appointment, now)
            self._check_deadlines(call, wait_s, now)
        if appointment is not None:
            self._book.kept(appointment)
        for request, ticket in zip(requests, call.tickets, strict=True):
            self.roster.enter(request.id, ticket)

    def _will_wait(self, call: _Call, now: float) -> int:
        """How many of the requests cannot start at once."""
        free, begun = self.roster.free_rows(now), 0
        while begun < len(call.tickets) and free > 0:
            free -= call.tickets[begun].choices
            begun += 1
        return len(call.tickets) - begun

    def _share(self, call: _Call, appointment: Appointment | None, now: float) -> float:
        """How much of the room the caller may use."""
        first, lines = call.tickets[0], self.roster.lines
        own = [line for (_, tenant), line in lines.items() if tenant == first.tenant]
        if len(own) < len(lines):
            weights = {tenant: line.weight for (_, tenant), line in lines.items()} | {first.tenant: first.weight}
            room = self._room.part(NEWCOMERS * first.weight / sum(weights.values()))
            requests = sum(line.requests for line in own) + len(call.tickets)
            if requests <= room.requests and sum(line.tokens for line in own) + call.tokens <= room.tokens:
                return LIGHT
        if lines and first.priority < min(priority for priority, _ in lines):
            return LIGHT
        return EXPECTED if appointment is not None and appointment.is_due(now) else NEWCOMERS

    def _start(self, ticket: Ticket, now: float, coming: int) -> float:
        """When a request would start, behind `coming` requests that are not here yet."""
        played = self._with_appointments(now) if coming else self.roster.played(now)
        return self.roster.start_of(ticket, now, played, coming)

    def _missing(
        self, call: _Call, now: float, will_wait: int, wait_s: float, share: float, coming: tuple[int, float]
    ) -> str | None:
        """What there is not enough of, where `coming` requests with so many tokens are expected at any moment."""
        room, queued = self._room.part(share), self.roster.queued(now)
        requests = queued[0] + self._book.show_rate * coming[0]
        tokens = queued[1] + self._book.show_rate * coming[1]
        if requests and requests + will_wait > room.requests:
            return "requests"
        if tokens and tokens + call.tokens > room.tokens:
            return "tokens"
        return "time" if wait_s > room.seconds else None

    def _check_deadlines(self, call: _Call, wait_s: float, now: float) -> None:
        """Refuse what would only wait for its deadline to pass."""
        first = min((request.deadline for request in call.requests if request.deadline is not None), default=math.inf)
        if now + SURELY_LATE * wait_s > first:
            self.refused["deadline"] += len(call.requests)
            raise Overloaded(
                f"it would wait about {wait_s:.1f} s for its turn, longer than its deadline allows",
                hint="allow more time, or try again later",
                param="deadline_ms",
                retry_after_s=max(0.0, wait_s - (first - now)),
            )

    def _turned_away(self, reason: str, call: _Call, appointment: Appointment | None, now: float) -> Overloaded:
        """The refusal, with an appointment; one that has an appointment already keeps it."""
        self.refused[reason] += len(call.requests)
        if appointment is None:
            played = self._with_appointments(now)
            appointment = call.appointment(now, self._room_at(played, call, now))
            if self._book.make(appointment):
                self._expect(played, appointment)
        elif appointment.is_due(now):  # what was foreseen did not come true: as soon as can be
            self._book.move(appointment, self._room_at(self.roster.played(now), call, now))
        requests, tokens = self.roster.queued(now)
        told = {
            "requests": f"{requests} requests are waiting already",
            "tokens": f"{tokens:.0f} tokens are waiting already",
            "time": f"more is waiting already than {self._room.seconds:g} s of work",
        }
        return Overloaded(told[reason], hint="try again when retry-after says", retry_after_s=appointment.at - now)

    def _room_at(self, played: Played, call: _Call, now: float) -> float:
        """When the queue will have room for a call that stands behind what was played."""
        room = self._room.part(EXPECTED)
        at = max(
            played.room_at(played.requests, room.requests - len(call.tickets)),
            played.room_at(played.tokens, room.tokens - call.tokens),
            played.timeline.next_start - room.seconds,
            now,
        )
        # An engine tells of a start when its step has ended.
        return min(at + self.roster.turn_s, now + LONGEST_S)

    def _with_appointments(self, now: float) -> Played:
        """What waits and who was told to come, played forward; from a moment ago where that takes long."""
        base = self.roster.played(now)
        if self._told is None or (self._told_from is not base and now - self._told.made >= REST * self._told_cost_s):
            began = time.perf_counter()
            self._told, self._told_from = base.copy(), base
            for appointment in self._book:
                self._expect(self._told, appointment)
            self._told_cost_s = time.perf_counter() - began
        return self._told

    def _expect(self, played: Played, appointment: Appointment) -> None:
        share = self._book.show_rate
        seconds = self.roster.seconds(appointment.prompt, appointment.turns)
        played.starts.append(played.timeline.add(appointment.choices, *seconds, share))
        played.requests.append(appointment.requests * share)
        played.tokens.append(appointment.tokens * share)


def _room(config: SchedulerConfig, tokens: int) -> Room:
    most = tokens if config.max_queued_tokens is None else config.max_queued_tokens
    return Room(config.max_queued_requests, most, config.max_queue_s)
