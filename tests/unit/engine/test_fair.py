"""Fair shares: what the paper promises, on random traffic with a server of its own; and in the scheduler."""

from __future__ import annotations

import math
from bisect import insort
from dataclasses import dataclass, field
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fakes import EOS, FakeDevice, FakeLoop
from redline.engine.admission import Limits
from redline.engine.fair import ANSWER_WEIGHT, IDLE_FLOWS, FairShare
from redline.engine.pages import PagePool
from redline.engine.scheduler import Scheduler
from redline.types import Request, SamplingParams


def request(id: str, tenant: str, prompt: int = 4, answer: int = 10, weight: float = 1.0, priority: int = 0) -> Request:
    sampling = SamplingParams(max_tokens=answer, ignore_eos=True)
    return Request(id=id, prompt=[7] * prompt, sampling=sampling, tenant=tenant, weight=weight, priority=priority)


def cost(of: Request) -> float:
    return len(of.prompt) + ANSWER_WEIGHT * (of.sampling.max_tokens or 0)


@dataclass
class Server:
    """Serves `at_once` requests, lowest (priority, tag, number) first, each for as long as it costs."""

    fair: FairShare
    at_once: int
    queue: list[tuple[int, float, int, Request]] = field(default_factory=list)
    running: list[tuple[float, int, Request]] = field(default_factory=list)
    started: list[Request] = field(default_factory=list)
    now: float = 0.0
    number: int = 0

    def add(self, of: Request) -> None:
        self.number += 1
        insort(self.queue, (of.priority, self.fair.tag(of), self.number, of))

    def turn(self) -> None:
        """Until the next end."""
        while self.queue and len(self.running) < self.at_once:
            priority, tag, number, of = self.queue.pop(0)
            self.fair.started(priority, tag)
            self.started.append(of)
            insort(self.running, (self.now + cost(of), number, of))
        if self.running:
            self.now, _, of = self.running.pop(0)
            self.fair.ended(of, of.sampling.max_tokens or 0, started=True)
            self.fair.settled(of, len(of.prompt))


Wish = tuple[int, int, int]  # tenant, prompt, answer
wishes = st.lists(st.tuples(st.integers(0, 3), st.integers(1, 50), st.integers(1, 100)), min_size=1, max_size=60)


@settings(max_examples=150, deadline=None)
@given(wishes, st.lists(st.sampled_from((0.5, 1.0, 2.0, 5.0)), min_size=4, max_size=4), st.integers(1, 4))
def test_tenants_that_always_wait_get_their_shares(asked: list[Wish], weights: list[float], at_once: int) -> None:
    """Theorem 1 of the paper: over any time in which two tenants wait, their services by weight differ by a request each."""
    fair = FairShare()
    server = Server(fair, at_once)
    for number, (tenant, prompt, answer) in enumerate(asked):
        server.add(request(f"r{number}", str(tenant), prompt, answer, weights[tenant]))
    left = {str(t): sum(1 for wish in asked if wish[0] == t) for t in range(4)}
    largest = {t: max((cost(of) for *_, of in server.queue if of.tenant == t), default=0.0) for t in left}
    served = dict.fromkeys(left, 0.0)
    while server.queue or server.running:
        before = len(server.started)
        server.turn()
        for of in server.started[before:]:
            served[of.tenant] += cost(of)
            left[of.tenant] -= 1
            waiting = [t for t in left if left[t]]
            for one in waiting:
                for other in waiting:
                    apart = served[one] / weights[int(one)] - served[other] / weights[int(other)]
                    most = largest[one] / weights[int(one)] + largest[other] / weights[int(other)]
                    assert apart <= most + 1e-6, (one, other, apart, most)
    fair.check()
    assert not fair._classes and not fair._charges


@settings(max_examples=100, deadline=None)
@given(wishes, st.randoms(use_true_random=False), st.integers(1, 3))
def test_within_a_tenant_order_is_kept_and_everything_runs(asked: list[Wish], draw: Random, at_once: int) -> None:
    fair = FairShare()
    server = Server(fair, at_once)
    pending = [request(f"r{number}", str(tenant), prompt, answer) for number, (tenant, prompt, answer) in enumerate(asked)]
    for of in pending:
        server.add(of)
        if draw.random() < 0.5:
            server.turn()
    while server.queue or server.running:
        server.turn()
    assert len(server.started) == len(pending)
    for tenant in "0123":
        assert [of.id for of in server.started if of.tenant == tenant] == [of.id for of in pending if of.tenant == tenant]


def test_a_newcomer_waits_for_no_flood() -> None:
    """A thousand requests of one tenant are waiting; the first of another starts next, its tenth among the next twenty."""
    fair = FairShare()
    server = Server(fair, 1)
    for number in range(1000):
        server.add(request(f"flood{number}", "flood"))
    for _ in range(5):
        server.turn()
    for number in range(10):
        server.add(request(f"few{number}", "few"))
    for _ in range(25):
        server.turn()
    order = [of.tenant for of in server.started[5:]]
    assert "few" in order[:2] and order[:22].count("few") == 10


def test_weights_are_shares_and_priorities_come_first() -> None:
    fair = FairShare()
    server = Server(fair, 1)
    for number in range(400):
        server.add(request(f"a{number}", "a", weight=3.0))
        server.add(request(f"b{number}", "b", weight=1.0))
        server.add(request(f"c{number}", "c", priority=1))
    for _ in range(200):
        server.turn()
    tenants = [of.tenant for of in server.started]
    assert tenants.count("c") == 0 and tenants.count("a") == pytest.approx(150, abs=2)


def test_idle_time_is_not_saved_up() -> None:
    """Who asked for nothing for long is not owed the time: it gets its share from now on, not all of it."""
    fair = FairShare()
    server = Server(fair, 1)
    server.add(request("late", "late"))
    server.turn()
    for number in range(300):
        server.add(request(f"busy{number}", "busy"))
    for _ in range(200):
        server.turn()
    for number in range(50):
        server.add(request(f"late{number}", "late"))
    for _ in range(40):
        server.turn()
    assert [of.tenant for of in server.started[-40:]].count("late") == pytest.approx(20, abs=2)


def test_an_answer_that_ends_early_is_given_back() -> None:
    """Two tenants use the same; one of them always asks for as much as there is. Their shares stay the same."""
    fair = FairShare()
    served = {"plain": 0, "open": 0}
    queue: list[tuple[float, str, Request]] = []
    for number in range(2000):
        for tenant, answer in (("plain", 20), ("open", 4000)):
            if sum(of.tenant == tenant for *_, of in queue) < 4:
                of = request(f"{tenant}{number}", tenant, answer=answer)
                insort(queue, (fair.tag(of), of.id, of))
        tag, _, of = queue.pop(0)
        fair.started(0, tag)
        served[of.tenant] += 1
        fair.ended(of, 20, started=True)
        fair.settled(of, 4)
    assert served["open"] == pytest.approx(served["plain"], rel=0.1)


@pytest.mark.parametrize("weight", [0.0, -1.0, math.inf, math.nan])
def test_a_weight_that_is_none_counts_as_one(weight: float) -> None:
    fair = FairShare()
    first = request("a", "t", weight=weight)
    assert fair.tag(first) == 0.0 and fair.tag(request("b", "t")) == cost(first)


def test_tenants_that_left_are_forgotten() -> None:
    fair = FairShare()
    fair.tag(request("stays", "stays"))
    for number in range(5000):
        of = request(f"r{number}", f"tenant{number}")
        fair.tag(of)
        fair.ended(of, 10, started=True)
        fair.settled(of, 4)
    assert len(fair._classes[0].flows) <= 2 * IDLE_FLOWS


def test_the_scheduler_shares_steps_between_tenants() -> None:
    """Two rows; one tenant has 60 requests waiting before the other brings 10: these are done after some 20 of those."""
    pool = PagePool(64, 4)
    limits = Limits(max_num_seqs=2, max_num_batched_tokens=32, max_model_len=64, max_queued_requests=100)
    loop = FakeLoop(Scheduler(limits, pool, None, [EOS]), FakeDevice(64, 4))
    for number in range(60):
        loop.scheduler.add(request(f"flood{number}", "flood"))
    for _ in range(10):
        loop.step()
    for number in range(10):
        loop.scheduler.add(request(f"few{number}", "few"))
    loop.run()
    ends = [name for name, _ in loop.ends]
    assert max(ends.index(f"few{number}") for number in range(10)) < 26
    assert [name for name in ends if name.startswith("few")] == [f"few{number}" for number in range(10)]
    loop.scheduler.check()
