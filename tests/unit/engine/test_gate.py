"""Admission over a simulated engine with fixed step times: bounds, and whether what callers are told comes true."""

from __future__ import annotations

import heapq
import itertools
from bisect import insort
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

import pytest

from redline.config import SchedulerConfig
from redline.engine.appointments import GRACE_S, LEAST_SHOW_RATE, MOST, Appointment, Book
from redline.engine.fair import FairShare
from redline.engine.forecast import Lengths, Tempo, Timeline
from redline.engine.gate import LEAST_QUEUED_TOKENS, Gate
from redline.engine.message import EngineInfo
from redline.errors import Overloaded, TooLarge
from redline.types import Chunk, Request, SamplingParams, Usage

ROWS, STEP_S, ANSWER = 8, 0.05, 20
SERVICE_S = ANSWER * STEP_S
CAPACITY = ROWS / SERVICE_S  # requests a second


@dataclass
class Simulation:
    """A gate before an engine of `ROWS` rows, on a clock of its own. What happens is in order of time."""

    config: SchedulerConfig
    now: float = 0.0
    queue: list[tuple[int, float, int, Request, int]] = field(default_factory=list)  # as the scheduler ranks it; tokens
    fair: FairShare = field(default_factory=FairShare)
    running: dict[str, list[int]] = field(default_factory=dict)  # tokens left, tokens made
    admitted: dict[str, float] = field(default_factory=dict)
    ended: dict[str, float] = field(default_factory=dict)
    events: list[tuple[float, int, Callable[[], None]]] = field(default_factory=list)
    number: itertools.count[int] = field(default_factory=itertools.count)

    def __post_init__(self) -> None:
        self.gate = Gate(self.config, clock=lambda: self.now)
        self.gate.opened(info())
        self.at(STEP_S, self.step)

    def at(self, moment: float, do: Callable[[], None]) -> None:
        heapq.heappush(self.events, (moment, next(self.number), do))

    def run(self, until: float) -> None:
        while self.events and self.events[0][0] <= until:
            self.now, _, do = heapq.heappop(self.events)
            do()
        self.now = until

    def submit(self, of: Request, answer: int = ANSWER) -> None:
        self.gate.admit([of])
        self.admitted[of.id] = self.now
        insort(self.queue, (of.priority, self.fair.tag(of), next(self.number), of, answer))

    def step(self) -> None:
        started = []
        while self.queue and len(self.running) < ROWS:
            priority, tag, _, of, answer = self.queue.pop(0)
            self.fair.started(priority, tag)
            self.running[of.id] = [answer, 0]
            started.append(of.id)
        chunks = []
        for id, counts in self.running.items():
            counts[0] -= 1
            counts[1] += 1
            usage = Usage(prompt_tokens=4, completion_tokens=counts[1])
            chunks.append(Chunk(id=id, tokens=[1], finish="length" if counts[0] == 0 else None, usage=usage))
        self.gate.roster.heard(chunks, started)
        for chunk in chunks:
            if chunk.finish:
                self.gate.roster.choice_ended(chunk)
                self.gate.roster.ended(chunk.id)
                del self.running[chunk.id]
                self.ended[chunk.id] = self.now
        self.at(self.now + STEP_S, self.step)

    def latencies(self, since: float) -> list[float]:
        return [end - self.admitted[id] for id, end in self.ended.items() if self.admitted[id] > since]


def info(**fields: Any) -> EngineInfo:
    of = {"max_model_len": 4096, "num_pages": 1000, "page_size": 16, "max_num_seqs": ROWS}
    return EngineInfo(model="m", dtype="float32", device="cpu", vocab_size=9, **(of | fields))


def request(number: int, *, prompt: int = 4, answer: int = ANSWER, tenant: str = "", **fields: Any) -> Request:
    tokens = [number % 500, number // 500, *range(2, prompt)]
    sampling = SamplingParams(max_tokens=answer, n=fields.pop("n", 1))
    return Request(id=f"r{number}", prompt=tokens, sampling=sampling, tenant=tenant, **fields)


@dataclass
class Caller:
    """Asks; comes back when it was told to, or every 20 ms. `told` is from the first refusal."""

    world: Simulation
    of: Request
    answer: int
    impatient: bool
    refused: float | None = None
    told: float = 0.0
    refusals: int = 0

    def ask(self) -> None:
        try:
            self.world.submit(self.of, self.answer)
        except Overloaded as error:
            assert error.retry_after_s is not None and error.retry_after_s >= 0
            self.refusals += 1
            if self.refused is None:
                self.refused, self.told = self.world.now, error.retry_after_s
            self.world.at(self.world.now + (0.02 if self.impatient else error.retry_after_s), self.ask)

    @property
    def waited(self) -> float | None:
        admitted = self.world.admitted.get(self.of.id)
        return None if admitted is None or self.refused is None else admitted - self.refused


def overload(world: Simulation, seconds: float, answers: Callable[[Random], int], allowed: int) -> list[Caller]:
    """Ten seconds of 80 % load, so that the engine is known, then ten times what it can do; every caller comes back."""
    draw, callers = Random(5), []
    numbers = itertools.count()
    mean = sum(answers(Random(i)) for i in range(500)) / 500

    def arrive() -> None:
        number, answer = next(numbers), answers(draw)
        callers.append(Caller(world, request(number, answer=allowed), answer, impatient=draw.random() < 0.05))
        callers[-1].ask()
        rate = (0.8 if world.now < 10 else 10.0) * ROWS / (mean * STEP_S)
        if world.now < 10 + seconds:
            world.at(world.now + draw.expovariate(rate), arrive)

    arrive()
    world.run(2 * (10 + seconds) * 10)
    return [caller for caller in callers if caller.refused is not None and caller.refused > 10]


def errors(callers: list[Caller]) -> list[float]:
    """How far what was told is from what came true, as a share of the latter; a step is the engine's resolution."""
    found = [(caller.told, caller.waited) for caller in callers]
    return sorted(max(0.0, abs(told - waited) - STEP_S) / waited for told, waited in found if waited)


@pytest.mark.parametrize(
    "bound", [{"max_queue_s": 0.18}, {"max_queue_s": 1.0}, {"max_queued_requests": 10}, {"max_queued_tokens": 400}]
)
def test_at_ten_times_the_capacity_what_is_told_comes_true(bound: dict[str, Any]) -> None:
    """Both for those who come when they were told to, and for those who try every 20 ms to get in earlier."""
    world = Simulation(SchedulerConfig(**bound))
    callers = overload(world, 5, lambda draw: ANSWER, ANSWER)
    patient, impatient = (errors([c for c in callers if c.impatient is kind]) for kind in (False, True))
    assert len(patient) > 250 and len(impatient) > 10 and len(world.ended) == len(world.admitted) > 400
    assert patient[int(0.95 * len(patient))] <= 0.3 and impatient[int(0.95 * len(impatient))] <= 0.3
    served = sum(11 <= end < 41 for end in world.ended.values())
    assert served > 0.95 * CAPACITY * 30, "and the engine is never idle for it"


def test_admitted_requests_keep_their_latency() -> None:
    """The queue is bounded in time: ten times the load makes nobody who is let in wait more than that."""
    world = Simulation(SchedulerConfig(max_queue_s=0.18))
    overload(world, 5, lambda draw: ANSWER, ANSWER)
    assert max(world.latencies(since=10)) <= 1.2 * SERVICE_S


def test_answers_whose_lengths_nobody_knows() -> None:
    """Lengths are exponential, and every caller allows ten times the mean: the mean is learned, the rest is luck."""
    world = Simulation(SchedulerConfig(max_queue_s=2.0))
    callers = overload(world, 5, lambda draw: min(200, 1 + int(draw.expovariate(1 / ANSWER))), 200)
    patient = errors([caller for caller in callers if not caller.impatient])
    assert len(patient) > 200 and patient[len(patient) * 8 // 10] <= 0.3
    few = sum(caller.refusals <= 3 for caller in callers if not caller.impatient)
    assert few > 0.5 * len(callers), "most come a few times, and get in"


def test_the_bounds_hold_whatever_comes() -> None:
    world = Simulation(SchedulerConfig(max_queued_requests=7, max_queued_tokens=200))
    draw = Random(2)

    def arrive(number: int) -> None:
        of = request(number, prompt=draw.randrange(2, 40), tenant=draw.choice("abc"), priority=draw.randrange(2))
        try:
            world.submit(of, draw.randrange(1, 20))
        except Overloaded:
            pass
        waiting, tokens = world.gate.roster.queued(world.now)
        assert waiting <= 7 and (tokens <= 200 or waiting == 1), (waiting, tokens)

    for number in range(3000):
        world.at(draw.random() * 20, lambda number=number: arrive(number))  # type: ignore[misc]
    world.run(100)
    assert len(world.ended) == len(world.admitted) > 200 and world.gate.refused["requests"] and world.gate.refused["tokens"]
    assert world.gate.roster.waiting == 0 and world.gate.roster.waiting_tokens == 0 and not world.gate.roster.lines


def test_nothing_is_refused_while_rows_are_free_and_one_too_large_still_gets_in() -> None:
    world = Simulation(SchedulerConfig(max_queued_requests=1, max_queued_tokens=10))
    for number in range(ROWS):
        world.submit(request(number))
    world.submit(request(100, prompt=200))
    with pytest.raises(Overloaded, match="1 requests are waiting"):
        world.submit(request(101))
    with pytest.raises(TooLarge, match="the queue holds 1"):
        world.gate.admit([request(200 + i) for i in range(3)])
    world.run(10)
    world.gate.admit([request(300 + i) for i in range(ROWS + 1)])


def test_a_flood_of_one_tenant_leaves_room_for_another() -> None:
    world = Simulation(SchedulerConfig(max_queued_requests=100))
    refused: dict[str, int] = {"flood": 0, "few": 0}
    for number in range(2000):
        tenant = "few" if number % 40 == 0 else "flood"
        try:
            world.submit(request(number, tenant=tenant))
        except Overloaded:
            refused[tenant] += 1
        world.run(world.now + 0.01)
    assert refused["flood"] > 1000 and refused["few"] == 0


def test_a_better_priority_gets_the_room_that_is_left() -> None:
    world = Simulation(SchedulerConfig(max_queued_requests=10))
    with pytest.raises(Overloaded):
        for number in range(100):
            world.submit(request(number))
    world.submit(request(200, priority=-1))
    with pytest.raises(Overloaded):
        world.submit(request(201, priority=1))


def test_a_deadline_that_cannot_be_met_is_refused_at_once_and_one_that_can_is_not() -> None:
    world = Simulation(SchedulerConfig())
    for number in range(10 * ROWS):
        world.at(0.1, lambda number=number: world.submit(request(number)))  # type: ignore[misc]
    world.run(3.0)
    with pytest.raises(Overloaded, match="longer than its deadline") as caught:
        world.submit(request(900, deadline=world.now + 2.0))
    assert caught.value.param == "deadline_ms" and caught.value.retry_after_s == pytest.approx(5.0, rel=0.3)
    world.submit(request(901, deadline=world.now + 9.0))
    world.submit(request(902, deadline=world.now + 2.0, priority=-1))


def test_choices_take_rows() -> None:
    world = Simulation(SchedulerConfig(max_queued_requests=1))
    world.submit(request(0, n=ROWS))
    world.submit(request(1))
    with pytest.raises(Overloaded):
        world.submit(request(2))


def test_pages_that_run_out_are_noticed_though_rows_are_free() -> None:
    """An engine that starts nothing for want of pages: what waits is held against those that run."""
    gate = Gate(SchedulerConfig(max_queued_requests=3), clock=lambda: now)
    now = 0.0
    gate.opened(info(max_num_seqs=64))
    for number in range(3):
        gate.admit([request(number)])
    gate.roster.heard([], ["r0"])
    gate.roster.pages(1000, 1000)
    now = 5.0
    gate.admit([request(3)]) if gate.roster.queued(now)[0] < 2 else None
    with pytest.raises(Overloaded):
        gate.admit([request(4)])
        gate.admit([request(5)])


def test_default_bounds_follow_the_engine() -> None:
    gate = Gate(SchedulerConfig())
    assert gate._room.requests == 1024 and gate._room.tokens == LEAST_QUEUED_TOKENS
    gate.opened(info(num_pages=100_000))
    assert gate._room.tokens == 8 * 1_600_000


def test_a_refusal_is_quick_however_much_is_remembered() -> None:
    """Far below the 50 ms of the demand: the whole book is played forward in a few."""
    import time

    world = Simulation(SchedulerConfig())
    took = []
    for number in range(3000):
        began = time.perf_counter()
        try:
            world.submit(request(number))
        except Overloaded:
            pass
        took.append(time.perf_counter() - began)
        if number % 5 == 0:
            world.run(world.now + 0.01)
    assert len(world.gate._book) > 1000
    assert sorted(took)[int(0.99 * len(took))] < 0.025


def appointment(key: str, at: float, made: float = 0.0) -> Appointment:
    return Appointment(key=key.encode(), made=made, at=at, requests=1, choices=1, prompt=1, tokens=2.0, turns=1.0)


def test_the_book_learns_how_many_come_and_forgets_the_others() -> None:
    book = Book()
    for number in range(200):
        book.make(appointment(f"k{number}", float(number)))
    for number in range(100):
        if number % 2:
            found = book.find(f"k{number}".encode(), float(number))
            assert found is not None and found.is_due(float(number))
            book.kept(found)
    assert 0.2 < book.show_rate < 0.8
    assert book.find(b"k0", 1000.0) is None and len(book) == 0 and not book._by_key
    assert book.show_rate == LEAST_SHOW_RATE


def test_a_caller_may_be_late_but_not_early_and_the_book_is_bounded() -> None:
    book = Book()
    assert book.make(appointment("a", 10.0))
    assert book.expected(9.0, 0.5) == (0, 0.0) and book.expected(9.0, 2.0) == (1, 2.0)
    found = book.find(b"a", 10.0 + 5.0)
    assert found is not None and found.late and found.is_due(15.0) and not found.is_due(9.0)
    book.move(found, 20.0)
    assert book.find(b"a", 19.0) is found and not found.late
    assert book.find(b"a", 20.0 + max(GRACE_S, 10.0) + 1) is None
    kept = sum(book.make(appointment("b", 100.0 + number)) for number in range(MOST + 10))
    assert kept == MOST


def test_what_is_learned() -> None:
    tempo, lengths = Tempo(), Lengths()
    assert not tempo.known and tempo.turn_s == 0 and lengths.tokens(100) == 100 and lengths.turns(10_000) == 256
    tempo.begin(0.0)
    for turn in range(1, 30):
        tempo.turn(turn * 0.1, 0)
    tempo.turn(3.0 + 10.0, 0)  # a compilation
    assert tempo.turns == 30 and tempo.turn_s < 0.2
    tempo.begin(20.0)
    for turn in range(1, 60):
        tempo.turn(20.0 + turn * 0.5, 100)
    assert tempo.turn_s == pytest.approx(0.5, rel=0.1)
    for _ in range(50):
        lengths.learn(1000, 100, 50)
    assert lengths.tokens(800) == pytest.approx(80) and lengths.turns(1000) == pytest.approx(50)
    assert lengths.tokens(5000) == 256


def test_the_queue_is_played_forward_row_by_row() -> None:
    line = Timeline(10.0, 2, [12.0])
    assert [line.add(1, 0.0, 5.0) for _ in range(4)] == [10.0, 12.0, 15.0, 17.0]
    slow = Timeline(0.0, 4, [])
    assert [slow.add(1, 1.0, 9.0) for _ in range(5)] == [0.0, 1.0, 2.0, 3.0, 10.0]
    many = Timeline(0.0, 2, [])
    assert [many.add(2, 0.0, 3.0), many.add(1, 0.0, 3.0)] == [0.0, 3.0]
    unlikely = Timeline(0.0, 1, [])
    assert [unlikely.add(1, 0.0, 4.0, share=0.5), unlikely.next_start] == [0.0, 2.0]
