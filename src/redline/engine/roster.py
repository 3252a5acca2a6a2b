"""What one engine has been given and how far it is, as the API process knows it: who waits, who runs, who starts when.

Fed with what is sent to the engine and with what comes back. Torch-free; decides nothing: who is let in is the gate's
business (gate.py). Open `Roster.start_of` first.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from redline.engine.forecast import Lengths, Tempo, Timeline
from redline.engine.message import EngineInfo, Foreseen
from redline.types import Chunk, Request

FULL = 0.9  # of the KV pages: then it is pages that are missing, where requests wait
STUCK_TURNS, STUCK_S = 4, 0.1  # ... though rows are free, for longer than this
OVERRUN = 0.3  # of the expected length: what an answer that exceeds it is expected to go on
REST = 10  # times what playing the queue forward takes: so long the result is good enough
MANY_ROWS = 4096  # where an engine does not say how many it has


@dataclass(slots=True, eq=False)
class Ticket:
    """One request: `choices` answers that may have `allowed` tokens, of which it is expected to take `tokens`, prompt
    included, and `turns` of the engine. `turn` was that of its first token; `open` choices have not ended."""

    tenant: str
    weight: float
    priority: int
    prompt: int
    choices: int
    allowed: int
    tokens: float
    turns: float
    since: float
    open: int
    turn: int | None = None


@dataclass(slots=True)
class Line:
    """What waits of one tenant in one priority."""

    weight: float
    requests: int = 0
    tokens: float = 0.0


@dataclass(slots=True)
class Played:
    """The queue played forward: when each place of it starts, how many requests and tokens stand there."""

    made: float
    timeline: Timeline
    starts: list[float] = field(default_factory=list)
    requests: list[float] = field(default_factory=list)
    tokens: list[float] = field(default_factory=list)

    def room_at(self, held: list[float], room: float) -> float:
        """When what stands before the end of the queue is at most `room`, of what `held` counts; 0 if it is already."""
        for place in range(len(held) - 1, -1, -1):
            room -= held[place]
            if room < 0:
                return self.starts[place]
        return 0.0

    def copy(self) -> Played:
        lists = (self.starts.copy(), self.requests.copy(), self.tokens.copy())
        return Played(self.made, self.timeline.copy(), *lists)


class Roster:
    """The requests of one engine, or of several that follow each other."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.lines: dict[tuple[int, str], Line] = {}  # by priority and tenant
        self.waiting_tokens = 0.0
        self._clock = clock
        self._rows, self._context = MANY_ROWS, 1 << 20
        self._tempo, self._lengths = Tempo(), Lengths()
        self._waiting: dict[str, Ticket] = {}
        self._running: dict[str, Ticket] = {}
        self._without_token: set[str] = set()  # those of the running that have none yet
        self._waiting_choices = self._running_choices = 0
        self._pages_full = False
        self._played: Played | None = None
        self._cost_s = 0.0  # of playing
        self._changed = True

    @property
    def waiting(self) -> int:
        """Requests that have not started."""
        return len(self._waiting)

    @property
    def turn_s(self) -> float:
        """Seconds between two turns of the engine; 0 while that is not known."""
        return self._tempo.turn_s

    def opened(self, info: EngineInfo) -> None:
        """A new engine is ready."""
        self._rows, self._context = info.max_num_seqs or MANY_ROWS, info.max_model_len
        self._tempo = Tempo()
        self.foreseen(info.foreseen)

    def foreseen(self, what: Foreseen) -> None:
        """What the engine expects of its steps."""
        self._tempo.foresee(what.turn_s, what.prompt_s)

    def ticket(self, request: Request) -> Ticket:
        """What `request` is expected to take."""
        sampling, prompt = request.sampling, len(request.prompt)
        allowed = 1 if request.pooling is not None else min(sampling.max_tokens or self._context, self._context - prompt)
        allowed = max(1, allowed)
        return Ticket(
            tenant=request.tenant,
            weight=request.weight if 0 < request.weight < math.inf else 1.0,
            priority=request.priority,
            prompt=prompt,
            choices=sampling.n,
            allowed=allowed,
            tokens=prompt + self._lengths.tokens(allowed) * sampling.n,
            turns=self._lengths.turns(allowed),
            since=self._clock(),
            open=sampling.n,
        )

    def free_rows(self, now: float) -> int:
        """Rows that nobody runs in or waits for."""
        rows = self._running_choices if self._is_stuck(now) else self._rows
        return rows - self._running_choices - self._waiting_choices

    def queued(self, now: float) -> tuple[int, float]:
        """Requests that wait for a row, and their tokens: the first of those that have not started need not."""
        requests, tokens, free = len(self._waiting), self.waiting_tokens, self.free_rows(now) + self._waiting_choices
        for ticket in self._waiting.values():
            if free < 1:
                break
            free -= ticket.choices
            requests -= 1
            tokens -= ticket.tokens
        return requests, max(0.0, tokens)

    def enter(self, request_id: str, ticket: Ticket) -> None:
        """A request was sent to the engine."""
        if not self._running and not self._waiting:
            self._tempo.begin(self._clock())
        self._waiting[request_id] = ticket
        self._waiting_choices += ticket.choices
        self.waiting_tokens += ticket.tokens
        line = self.lines.setdefault((ticket.priority, ticket.tenant), Line(ticket.weight))
        line.weight = ticket.weight
        line.requests += 1
        line.tokens += ticket.tokens
        if self._played is not None:
            self._add(self._played, ticket)

    def heard(self, chunks: list[Chunk], started: list[str]) -> None:
        """What one step of the engine brought. What is not known here is no matter."""
        for request_id in started:
            self._start(request_id)
        if not chunks:
            return
        prompts = 0
        if self._without_token or self._waiting:
            for chunk in chunks:
                if chunk.id in self._waiting:  # of an engine that does not say what starts
                    self._start(chunk.id)
                if chunk.id in self._without_token and (chunk.tokens or chunk.finish):
                    self._without_token.remove(chunk.id)
                    self._running[chunk.id].turn = self._tempo.turns
                    prompts += self._running[chunk.id].prompt
        self._tempo.turn(self._clock(), prompts)

    def choice_ended(self, chunk: Chunk) -> None:
        """A choice has come to its end."""
        ticket = self._running.get(chunk.id)
        if ticket is None or ticket.open == 0:
            return
        self._changed = True
        ticket.open -= 1
        self._running_choices -= 1
        if chunk.finish in ("stop", "length") and chunk.usage is not None and ticket.turn is not None:
            turns = self._tempo.turns - ticket.turn
            self._lengths.learn(ticket.allowed, chunk.usage.completion_tokens, max(1, turns))

    def ended(self, request_id: str) -> None:
        """A request is over, or nobody wants it any more."""
        self._changed = True
        ticket = self._running.pop(request_id, None)
        if ticket is not None:
            self._running_choices -= ticket.open
            self._without_token.discard(request_id)
        elif request_id in self._waiting:
            self._leave(request_id)

    def pages(self, used: int, total: int) -> None:
        """How full the KV pages are."""
        self._pages_full = used > FULL * total > 0

    def clear(self) -> None:
        """Nothing waits or runs any more."""
        for request_id in [*self._waiting, *self._running]:
            self.ended(request_id)

    def start_of(self, ticket: Ticket, now: float, played: Played, coming: int = 0) -> float:
        """When a request that comes now will start; `now` while nothing is known of the engine.

        `played` is the queue, and `coming` requests that stand behind it there are expected before this one.
        """
        if not self._tempo.known:
            return now
        ahead, own = float(coming), self.lines.get((ticket.priority, ticket.tenant))
        turn = (own.requests if own is not None else 0) + 1
        for (priority, tenant), line in self.lines.items():
            if priority < ticket.priority or (priority == ticket.priority and tenant == ticket.tenant):
                ahead += line.requests
            elif priority == ticket.priority:
                ahead += min(line.requests, math.ceil(turn * line.weight / ticket.weight))
        if ahead < len(self._waiting) + coming and ahead < len(played.starts):
            return max(now, played.starts[int(ahead)])
        return max(now, played.timeline.next_start)

    def played(self, now: float) -> Played:
        """What waits, played forward from now, or from a moment ago where playing takes long."""
        played = self._played
        if played is not None and now - played.made < max(REST * self._cost_s, 0.0 if self._changed else self._tempo.turn_s):
            return played
        began = time.perf_counter()
        played = Played(now, Timeline(now, self._usable_rows(now), self._busy_until(now)))
        for ticket in self._waiting.values():
            self._add(played, ticket)
        self._cost_s = time.perf_counter() - began
        self._played, self._changed = played, False
        return played

    def seconds(self, prompt: int, turns: float) -> tuple[float, float]:
        """What a prompt and an answer take."""
        return prompt * self._tempo.prompt_s, turns * self._tempo.turn_s

    def _add(self, played: Played, ticket: Ticket) -> None:
        played.starts.append(played.timeline.add(ticket.choices, *self.seconds(ticket.prompt, ticket.turns)))
        played.requests.append(1.0)
        played.tokens.append(ticket.tokens)

    def _is_stuck(self, now: float) -> bool:
        """Whether requests wait though rows are free: then it is pages that are missing."""
        if not (self._pages_full and self._waiting):
            return False
        oldest = next(iter(self._waiting.values()))
        return now - oldest.since > max(STUCK_S, STUCK_TURNS * self._tempo.turn_s)

    def _usable_rows(self, now: float) -> int:
        return max(1, self._running_choices if self._is_stuck(now) else self._rows)

    def _busy_until(self, now: float) -> list[float]:
        """When each running choice will free its row."""
        ends: list[float] = []
        since = self._tempo.since(now)
        for ticket in self._running.values():
            done = 0 if ticket.turn is None else self._tempo.turns - ticket.turn
            left = max(ticket.turns - done, min(OVERRUN * ticket.turns, ticket.allowed - done), 1.0)
            ends += [since + sum(self.seconds(ticket.prompt if ticket.turn is None else 0, left))] * ticket.open
        return ends

    def _start(self, request_id: str) -> None:
        if request_id in self._waiting:
            self._changed = True
            ticket = self._running[request_id] = self._leave(request_id)
            self._running_choices += ticket.choices
            self._without_token.add(request_id)

    def _leave(self, request_id: str) -> Ticket:
        ticket = self._waiting.pop(request_id)
        self._waiting_choices -= ticket.choices
        self.waiting_tokens = self.waiting_tokens - ticket.tokens if self._waiting else 0.0
        line = self.lines[ticket.priority, ticket.tenant]
        line.requests -= 1
        line.tokens -= ticket.tokens
        if not line.requests:
            del self.lines[ticket.priority, ticket.tenant]
        return ticket
