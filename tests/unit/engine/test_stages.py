"""The stages of a start: every second belongs to one of them, and they are told as they come."""

from __future__ import annotations

import time

import pytest

from redline.engine import stages
from redline.engine.stages import LOADING, Stages, described, process_began


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(stages.time, "monotonic", lambda: now[0])
    return now


def test_every_second_belongs_to_a_stage(clock: list[float]) -> None:
    told: list[tuple[str, float]] = []
    start = Stages(lambda stage, percent: told.append((stage, percent)), began=99.75)
    start("a", 0)
    clock[0] += 2.0
    start("b", 10)
    start("b", 20)
    clock[0] += 1.0
    start("a", 30)
    clock[0] += 0.5
    assert start.seconds() == {"Python": 0.25, "a": 2.5, "b": 1.0} and start.total_s == 3.75
    assert told == [("a", 0), ("b", 10), ("b", 20), ("a", 30)]
    assert start.seconds() == {"Python": 0.25, "a": 2.5, "b": 1.0}


def test_a_start_that_began_with_its_first_stage_has_no_other(clock: list[float]) -> None:
    start = Stages(lambda stage, percent: None)
    start("a", 0)
    clock[0] += 1.0
    assert start.seconds() == {"a": 1.0} and start.total_s == 1.0


def test_the_line_leaves_out_what_took_no_time_and_tells_the_rate_of_loading() -> None:
    assert described({"Python": 0.01, LOADING: 2.0, "warming up": 0.5}, 10_000_000_000) == (
        "loading weights 2.0 s (5.0 GB/s), warming up 0.5 s"
    )
    assert described({LOADING: 0.01}) == "" and described({}) == ""


def test_this_process_began_before_now() -> None:
    assert 0 <= time.monotonic() - process_began() < 3600
