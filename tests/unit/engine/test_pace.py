"""Readers are woken at once while they are few, in beats where they are many, and nothing waits longer than it may."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from functools import partial

import pytest

from redline.engine import pace
from redline.engine.pace import LONGEST_S, REST_S, Pace

MANY = 300


def test_the_first_beat_wakes_at_once_and_each_reader_once() -> None:
    async def test() -> None:
        woken: Counter[int] = Counter()
        beats = Pace()
        wakers = [partial(woken.update, [number]) for number in range(MANY)]
        for waker in [*wakers, *wakers]:
            beats.wait(waker)
        assert not woken, "before the beat"
        beats.beat()
        assert woken == Counter(range(MANY))

    asyncio.run(test())


def test_after_many_comes_a_rest_that_gathers_and_ends_by_itself() -> None:
    async def test() -> None:
        woken: Counter[str] = Counter()
        beats = Pace()
        for number in range(MANY):
            beats.wait(partial(woken.update, [str(number)]))
        beats.beat()
        began = time.monotonic()
        for _ in range(3):  # three steps of the engine
            beats.wait(partial(woken.update, ["late"]))
            beats.wait(partial(woken.update, ["later"]))
            beats.beat()
            await asyncio.sleep(0)
        assert woken["late"] == 0, "it rests"
        while not woken["late"]:
            assert time.monotonic() - began < 1.0
            await asyncio.sleep(0.001)
        assert time.monotonic() - began >= 0.5 * min(LONGEST_S, MANY * REST_S)
        assert woken["late"] == woken["later"] == 3, "woken once each, by one beat"

    asyncio.run(test())


def test_one_reader_never_waits() -> None:
    """A clock that stands shows the shortest time between two steps there can be; a microsecond is shorter than any step."""
    now = 0.0

    async def test() -> None:
        nonlocal now
        woken: list[int] = []
        beats = Pace(lambda: now)
        for step in range(100):
            beats.wait(partial(woken.append, step))
            beats.beat()
            now += REST_S + 1e-9
        assert woken == list(range(100))

    asyncio.run(test())


def test_no_rest_is_longer_than_the_longest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "REST_S", 10.0)
    now = 0.0

    async def test() -> None:
        nonlocal now
        woken: list[str] = []
        beats = Pace(lambda: now)
        beats.wait(partial(woken.append, "first"))
        beats.beat()
        now = LONGEST_S
        beats.wait(partial(woken.append, "second"))
        beats.beat()
        assert woken == ["first", "second"]

    asyncio.run(test())
