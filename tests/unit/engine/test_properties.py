"""Scheduler, pages and prefix cache under random traffic on a starved pool: every choice ends exactly once with exactly the
tokens the model would have given it alone, pages are conserved, and nothing grows.

The oracle is `fakes.expected_answer`, which knows no engine; the fake device checks every KV slot that is read.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from random import Random

import pytest

from fakes import EOS, VOCABULARY, FakeDevice, FakeLoop, expected_answer
from redline.engine.admission import Limits
from redline.engine.pages import PagePool
from redline.engine.prefix import PrefixCache
from redline.engine.scheduler import Scheduler
from redline.errors import ContextTooLong, DoesNotFit, Overloaded
from redline.types import Pooling, Request, SamplingParams

ROUNDS = 40


@dataclass
class World:
    """An engine of random size, the traffic it gets, and what was let in."""

    rng: Random
    scheduler: Scheduler
    pool: PagePool
    limits: Limits
    loop: FakeLoop = field(init=False)
    accepted: dict[str, Request] = field(default_factory=dict)
    cancelled: set[tuple[str, int]] = field(default_factory=set)
    refused: int = 0
    takes_grammars: bool = True  # a step is planned before the tokens of no more than one are known


def make_world(rng: Random) -> World:
    page_size = rng.choice([1, 2, 4, 8])
    pool = PagePool(rng.randint(40, 160) // page_size, page_size)
    rows = rng.randint(1, 8)
    limits = Limits(
        max_num_seqs=rows,
        max_num_batched_tokens=rows + rng.choice([0, 1, 5, 60]),
        max_model_len=rng.choice([8, 40, 64, 90]),
        max_queued_requests=rng.choice([4, 1000]),
    )
    prefix = PrefixCache(pool) if rng.random() < 0.8 else None
    scheduler = Scheduler(limits, pool, prefix, [EOS])
    world = World(rng, scheduler, pool, limits)
    device = FakeDevice(pool.num_pages, page_size)
    lag = rng.choice([0, 1, 1, 1, 2])
    world.takes_grammars = lag < 2
    world.loop = FakeLoop(
        scheduler,
        device,
        lag=lag,
        meanwhile=lambda: disturb(world),
        fails=lambda plan: rng.random() < 0.003,
    )
    return world


def make_request(world: World, name: str) -> Request:
    rng = world.rng
    shared = [1 + i % 3 for i in range(rng.choice([0, 0, 8, 16, 24]))]
    prompt = shared + [rng.randrange(1, VOCABULARY) for _ in range(rng.randint(1, rng.choice([3, 30])))]
    pooling: Pooling | None = rng.choice(["last", "mean"]) if rng.random() < 0.15 else None
    return Request(
        id=name,
        prompt=prompt,
        grammar="fake" if pooling is None and world.takes_grammars and rng.random() < 0.4 else None,
        sampling=SamplingParams(
            n=1 if pooling else rng.choice([1, 1, 1, 2, 5]),
            max_tokens=rng.choice([None, 1, 2, 7, 20]),
            min_tokens=rng.choice([0, 0, 1]),
            stop_token_ids=rng.choice([(), (), (5, 6)]),
            ignore_eos=rng.random() < 0.3,
            prompt_logprobs=None if pooling else rng.choice([None, None, None, 0]),
        ),
        pooling=pooling,
        priority=rng.choice([0, 0, 0, -1, 3]),
        arrival=world.loop.now,
        deadline=world.loop.now + rng.randint(1, 60) if rng.random() < 0.1 else None,
        cache_salt=rng.choice(["", "", "tenant"]),
    )


def offer(world: World, name: str) -> None:
    request = make_request(world, name)
    try:
        world.scheduler.add(request)
    except (ContextTooLong, DoesNotFit, Overloaded):
        world.refused += 1
    else:
        world.accepted[name] = request
        if request.grammar is not None:
            world.loop.hold(request, world.rng.choice([0, 0, 1, 5, 30]))


def disturb(world: World) -> None:
    """Sometimes cancel a request, or one choice of it, that may be running, waiting, ended or unknown."""
    rng = world.rng
    if rng.random() < 0.03 and world.accepted:
        request = world.accepted[rng.choice(list(world.accepted)[-10:])]
        index = rng.choice([None, rng.randrange(request.sampling.n)])
        world.cancelled |= {(request.id, i) for i in range(request.sampling.n) if index in (None, i)}
        world.loop.cancel(request.id, "abort", index)
        world.loop.cancel(request.id, "abort", index)  # a second time is no error


def serve(world: World, num_requests: int, label: str) -> None:
    """Offer requests at random moments, step until idle, check the laws all along."""
    rng, offered = world.rng, 0
    while offered < num_requests or not world.loop.idle:
        while offered < num_requests and rng.random() < 0.4:
            offer(world, f"{label}{offered}")
            offered += 1
        disturb(world)
        plan = world.loop.step()
        assert plan is None or plan.num_tokens <= world.limits.max_num_batched_tokens
        if rng.random() < 0.1:
            world.scheduler.check()
    world.scheduler.check()
    assert world.pool.num_used == 0, "pages are held although nothing runs"


def judge(world: World) -> None:
    """Every choice of every accepted request ended once, with the right tokens."""
    loop = world.loop
    assert loop.ends.keys() == {(r.id, i) for r in world.accepted.values() for i in range(r.sampling.n)}
    longest = min(world.limits.max_model_len, world.pool.num_pages * world.pool.page_size + 1)
    for (name, index), finish in loop.ends.items():
        request, answer = world.accepted[name], loop.answers.get((name, index), [])
        tokens, natural = expected_answer(request, index, longest)
        if finish in ("stop", "length"):
            assert (answer, finish) == (tokens, natural)
        else:
            assert answer == tokens[: len(answer)] and (len(answer) < len(tokens) or not tokens)
            assert finish != "abort" or (name, index) in world.cancelled
            assert finish != "deadline" or request.deadline is not None


@pytest.mark.soak
def test_random_traffic_on_starved_pools(effort: int) -> None:
    """Engines of random size, one after the other; preemption, hits, cancels, deadlines and failed steps all happen."""
    happened: Counter[str] = Counter()
    for seed in range(ROUNDS * effort):
        world = make_world(Random(seed))
        serve(world, 50, "r")
        judge(world)
        stats = world.scheduler.stats()
        happened += Counter(preempted=stats.preemptions, hit=stats.prefix_hit_tokens, refused=world.refused)
        happened.update(world.loop.ends.values())
        happened["pooled"] += sum(world.accepted[name].pooling is not None for name, _ in world.loop.ends)
        happened["constrained"] += sum(world.accepted[name].grammar is not None for name, _ in world.loop.ends)
        happened["forced"] += world.loop.forced
    for kind in (
        "preempted",
        "hit",
        "refused",
        "stop",
        "length",
        "abort",
        "deadline",
        "error",
        "pooled",
        "constrained",
        "forced",
    ):
        assert happened[kind] >= ROUNDS * effort, f"too little of {kind} to say anything"


def sizes(scheduler: Scheduler) -> dict[str, int]:
    """Lengths of every container that the scheduler and what it owns hold, found by looking."""
    found: dict[str, int] = {}
    pending: list[tuple[str, object]] = [("scheduler", scheduler)]
    while pending:
        name, owner = pending.pop()
        for attribute, value in vars(owner).items():
            if isinstance(value, (list, dict, set)):
                found[f"{name}.{attribute}"] = len(value)
            elif type(value).__module__.startswith("redline.engine") and hasattr(value, "__dict__"):
                pending.append((f"{name}.{attribute}", value))
    return found


def test_nothing_grows_over_two_thousand_requests() -> None:
    """One engine serves 2,000 requests; whenever it is idle all containers are as small as they were after the first."""
    rng = Random(7)
    pool = PagePool(32, 4)
    limits = Limits(max_num_seqs=8, max_num_batched_tokens=32, max_model_len=64, max_queued_requests=1000)
    scheduler = Scheduler(limits, pool, PrefixCache(pool), [EOS])
    world = World(rng, scheduler, pool, limits)
    world.loop = FakeLoop(scheduler, FakeDevice(32, 4), meanwhile=lambda: disturb(world))
    after_first: dict[str, int] = {}
    for batch in range(20):
        serve(world, 100, f"b{batch}-")
        after_first = after_first or sizes(scheduler)
    judge(world)
    assert len(world.accepted) + world.refused == 2000 and len(world.accepted) > 1500
    assert scheduler.stats().preemptions > 200
    now = sizes(scheduler)
    per_page = {name for name in now if "pool" in name or "prefix" in name}
    assert {name: now[name] for name in now.keys() - per_page} == {name: after_first[name] for name in now.keys() - per_page}
    assert max(now[name] for name in per_page) <= pool.num_pages
