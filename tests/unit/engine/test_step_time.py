"""Predicted step times: long enough that a sound step is never taken for a stuck one, short enough to notice one."""

from __future__ import annotations

import pytest

from redline.engine.request import Sequence
from redline.engine.scheduler import Entry, Plan
from redline.engine.step_time import StepTime
from redline.engine.supervisor import STALLED_FACTOR, STALLED_S
from redline.hardware.ceilings import Ceilings
from redline.plan.receipt import Meter
from redline.shapes import known
from redline.types import Request, SamplingParams

SHAPE = known("tiny-llama")


def plan(*spans: tuple[int, int]) -> Plan:
    entries = []
    for number, (start, count) in enumerate(spans):
        request = Request(id=f"r{number}", prompt=[1] * 4, sampling=SamplingParams())
        sequence = Sequence(request, 0, (0, 0.0, number), 100, frozenset(), None)
        entries.append(Entry(sequence, start, count, True, number, False, [], 0))
    return Plan(0, entries, [], sum(count for _, count in spans))


def step_time(ceilings: Ceilings | None = None, *, on_cpu: bool = True) -> StepTime:
    return StepTime(Meter(SHAPE, "float32", 4, 4, ceilings, 0), on_cpu=on_cpu)


def red_after(predicted: float) -> float:
    """Seconds of silence after which a step with this prediction is told as stuck."""
    return max(STALLED_S, STALLED_FACTOR * predicted)


def test_a_slow_machine_that_was_never_measured_gets_its_time() -> None:
    """Its first prompt takes as long as 4 GFLOP/s make it: an old core, with other work beside it."""
    chunk = plan((0, 2048))
    took = Meter(SHAPE, "float32", 4, 4, None, 0).cost(step_time()._work(chunk)).flops / 4e9
    assert took > 0.1 and red_after(step_time().predict(chunk)) > took


def test_prompts_are_learned_in_proportion_to_their_work() -> None:
    times = step_time()
    times.learn(plan((0, 100)), 2.0)
    assert times.predict(plan((0, 100))) == pytest.approx(2.0)
    assert times.predict(plan((0, 200))) == pytest.approx(4.0, rel=0.2)
    for _ in range(200):
        times.learn(plan((0, 100)), 0.02)
    assert times.predict(plan((0, 100))) < 0.03


def test_one_slow_step_is_believed_at_once_and_forgotten_slowly() -> None:
    times = step_time()
    decode = plan((10, 1), (20, 1))
    for _ in range(50):
        times.learn(decode, 0.1)
    assert times.predict(decode) == pytest.approx(0.1)
    times.learn(decode, 1.0)
    assert times.predict(decode) == pytest.approx(1.0)
    times.learn(decode, 0.1)
    assert 0.9 < times.predict(decode) < 1.0


def test_a_larger_batch_may_take_longer_in_proportion() -> None:
    times = step_time()
    times.learn(plan((10, 1)), 0.5)
    assert times.predict(plan(*((10, 1) for _ in range(8)))) == pytest.approx(0.5 * 8)
    assert times.predict(plan((10, 1))) == pytest.approx(0.5)
    times.learn(plan(*((10, 1) for _ in range(8))), 0.6)
    assert times.predict(plan(*((10, 1) for _ in range(8)))) == pytest.approx(0.6)


def test_a_measured_machine_is_expected_near_its_limit() -> None:
    ceilings = Ceilings("cpu", "a cpu", 10e9, {"float32": 100e9}, "2026-01-01")
    known_machine, unknown = step_time(ceilings), step_time()
    assert known_machine.predict(plan((0, 512))) < unknown.predict(plan((0, 512)))
    assert red_after(known_machine.predict(plan((0, 16)))) == STALLED_S, "a small step that hangs is found in 3 s"
