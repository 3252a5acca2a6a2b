"""The one sentence: which lever it names, and that its gain is the one that the seconds say."""

from __future__ import annotations

import pytest

from redline.hardware import Ceilings
from redline.hardware.power import Reading
from redline.plan.advice import LEVERS, advice, standing_advice
from redline.plan.anatomy import OVER, Anatomy
from redline.plan.meter import Meter, RequestMeter
from redline.plan.roofline import StepWork
from redline.shapes import known

CEILINGS = Ceilings("cuda:0", "a card", 1e12, {"bfloat16": 4e14}, "2026-01-01T00:00:00+00:00")
WORK = StepWork.of([(100, 1)], logit_rows=1)


def ran(times: float, *, anatomy: bool = False, power: Reading | None = None, padding: int = 0) -> str:
    """The advice for a request whose decode steps took so many times their limit on the device."""
    meter, request = Meter(known("llama-3.2-1b"), "bfloat16", 2, 2, CEILINGS, 0), RequestMeter()
    limit = meter.limit_s(WORK)
    assert limit is not None
    if anatomy:
        meter.anatomies[1] = Anatomy(1, limit, 0.0, 0.0, 3 * limit, 1.0)
    for _ in range(4):
        request.add("decode", 1, meter.step(meter.due(WORK), times * limit, 0.0, padding))
    return advice(request, meter, 0.0, power)


def test_what_held_the_clocks_down_is_the_lever_where_kernels_are_slow() -> None:
    capped = Reading(700.0, 100.0, 1.0, ("sw_power_cap",), None)
    assert "the power limit" in ran(2.0, power=capped) and "(up to 2.0x)" in ran(2.0, power=capped)
    assert "power limit" not in ran(1.0, power=capped), "it ran at its limit all the same"
    assert "kernels" in ran(2.0, power=Reading(700.0, None, 1.0, (), None))


def test_the_part_of_a_watched_step_is_named() -> None:
    assert "the gaps between kernels" in ran(4.0, anatomy=True) and "(up to 4.0x)" in ran(4.0, anatomy=True)


def test_at_the_limit_fewer_bytes_are_left_and_their_gain_is_told() -> None:
    """Half the bytes of the weights, which are nearly all that a step of one short sequence reads."""
    said = ran(1.0)
    assert "within 5 %" in said and "up to 2.0x" in said


@pytest.mark.parametrize("cause", LEVERS)
def test_the_largest_cause_of_all_phases_is_named_with_its_gain(cause: str) -> None:
    causes = {
        "prefill": {"weights": 1.0, "kv": 0.0, "host": 0.1},
        "decode": {"weights": 4.0, "kv": 1.0, **dict.fromkeys(LEVERS, 0.2), cause: 5.0},
    }
    total = sum(sum(parts.values()) for parts in causes.values())
    said = standing_advice(causes)
    assert LEVERS[cause][0] in said and "in decode" in said and f"up to {total / (total - 5.0):.1f}x" in said
    assert said.count(".") == 2, "one sentence, with one number that has a point"


def test_every_cause_beyond_the_limit_has_a_lever() -> None:
    meter = Meter(known("llama-3.2-1b"), "bfloat16", 2, 2, CEILINGS, 0)
    assert meter.causes("decode").keys() - {"weights", "kv"} == LEVERS.keys() - set(OVER), "nothing ran yet"
    meter.step(meter.due(WORK), 1.0, 0.0)
    assert meter.causes("decode").keys() - {"weights", "kv"} == LEVERS.keys() - {"launches"}, "nobody watched"
    meter.anatomies[WORK.sequences] = Anatomy(WORK.sequences, 1.0, 0.0, 0.0, 0.0, 1.0)
    assert meter.causes("decode").keys() - {"weights", "kv"} == LEVERS.keys()
    assert "within 5 %" in standing_advice({"decode": {"weights": 1.0, "kv": 0.0, "host": 0.01}})
    assert "Nothing has run" in standing_advice({})
