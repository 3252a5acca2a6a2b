"""The contract on machines that keep the promise, break it, are noisy, hiccup and drift: what is counted, logged, corrected."""

from __future__ import annotations

import logging
import math
import random

import pytest

from redline.hardware import Ceilings
from redline.hardware.machine import Cpu, Machine
from redline.plan import contract as of_contract
from redline.plan import predict
from redline.plan.contract import FEW, FIRST, RECENT, Contract, Expected, Kept
from redline.plan.meter import Meter
from redline.plan.place import here
from redline.plan.precision import kv_format, weight_format
from redline.plan.promise import promiser
from redline.plan.roofline import StepWork
from redline.plan.split import Layout
from redline.shapes import known

LIMIT = 1e-3
BAR = 0.2


def decode(rows: int, context: int = 100) -> StepWork:
    return StepWork.of([(context, 1)] * rows, logit_rows=rows)


def promise(work: StepWork) -> Expected:
    """A machine that takes 1.25 of its limit, it is said."""
    return Expected(1.25 * LIMIT, BAR, "said so")


def only(contract: Contract) -> Kept:
    (kept,) = contract.kept()
    return kept


def test_a_machine_that_keeps_its_promise_is_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    contract = Contract(promise)
    with caplog.at_level(logging.INFO):
        for number in range(200):
            contract.step("decode", decode(4), LIMIT, 1.25 * LIMIT * (1.0 + 0.02 * (-1) ** number))
    kept = only(contract)
    assert (kept.deviations, contract.deviations, contract.revision, caplog.records) == (0, 0, 0, [])
    assert (kept.steps, kept.tokens_from, kept.tokens_to, kept.promised_bar) == (200, 4, 7, BAR)
    assert kept.correction == pytest.approx(1.0, abs=0.021) and kept.bar < BAR
    assert kept.promised_s == pytest.approx(1.25 * LIMIT) and kept.measured_s == pytest.approx(1.25 * LIMIT, rel=0.03)


def test_a_slower_machine_is_counted_logged_once_and_believed(caplog: pytest.LogCaptureFixture) -> None:
    """1.6 times the promise, with 3 % of noise: the first steps break it, and then the corrected promise holds."""
    draw, contract = random.Random(1), Contract(promise)
    with caplog.at_level(logging.INFO):
        for _ in range(300):
            contract.step("decode", decode(4), LIMIT, 1.6 * 1.25 * LIMIT * math.exp(draw.gauss(0.0, 0.03)))
    kept = only(contract)
    assert FEW <= kept.deviations <= FEW + 45, "those before the correction, and one in ten of the others at the most"
    assert [record.levelname for record in caplog.records] == ["INFO"] and "1.6" in caplog.text
    assert kept.correction == pytest.approx(1.6, rel=0.03)
    assert kept.error == pytest.approx(0.6, abs=0.05) and kept.corrected_error < 0.06, "the error has shrunk"
    told = contract.expected("decode", decode(5), LIMIT)
    assert told.seconds == pytest.approx(2.0 * LIMIT, rel=0.03) and told.bar < BAR and told.source.startswith("said so; ")
    assert contract.slowdown("decode", 5) == pytest.approx(2.0, rel=0.03)


def test_the_bar_is_what_nine_of_ten_steps_keep_and_no_promise_hides_how_wide_that_is() -> None:
    """Steps that scatter beyond the promised bar deviate from it, however many they are."""
    draw = random.Random(2)
    for noise in (0.01, 0.08, 0.4):
        contract = Contract(promise)
        for _ in range(4 * RECENT):
            contract.step("decode", decode(1), LIMIT, 1.25 * LIMIT * math.exp(draw.gauss(0.0, noise)))
        kept, told = only(contract), contract.expected("decode", decode(1), LIMIT)
        assert kept.bar == told.bar == pytest.approx(max(math.expm1(1.645 * noise), of_contract.LEAST_BAR), rel=0.6), noise
        assert (kept.deviations > 0.3 * kept.steps) == (noise == 0.4)


@pytest.mark.parametrize("at", (0, 60))
def test_one_hiccup_is_counted_and_moves_nothing(at: int) -> None:
    """A kernel that is compiled in the first step, or a pause later."""
    contract = Contract(promise)
    for number in range(100):
        contract.step("decode", decode(1), LIMIT, 20.0 if number == at else 1.25 * LIMIT)
    kept = only(contract)
    assert kept.deviations == 1 and kept.correction == pytest.approx(1.0) and contract.revision == 0
    assert contract.expected("decode", decode(1), LIMIT).seconds == pytest.approx(1.25 * LIMIT)


def test_a_machine_that_slows_down_is_followed() -> None:
    contract = Contract(promise)
    for factor in (1.0, 1.7, 0.9):
        for _ in range(RECENT + 2):
            contract.step("decode", decode(1), LIMIT, factor * 1.25 * LIMIT)
        assert contract.expected("decode", decode(1), LIMIT).seconds == pytest.approx(factor * 1.25 * LIMIT)
    assert contract.revision == 2, "readers look again each time, and only then"


def test_kinds_are_apart_and_the_nearest_speaks_for_those_that_were_not_seen() -> None:
    contract = Contract()
    for _ in range(FEW):
        contract.step("decode", decode(1), LIMIT, 2.0 * LIMIT)
        contract.step("mixed", StepWork.of([(9, 1), (0, 500)], logit_rows=2), LIMIT, 3.0 * LIMIT)
    assert [(kept.doing, kept.tokens_from) for kept in contract.kept()] == [("decode", 1), ("mixed", 256)]
    assert contract.expected("decode", decode(64), LIMIT).seconds == pytest.approx(2.0 * LIMIT)
    assert contract.slowdown("mixed", 300) == contract.slowdown("mixed", 2000) == pytest.approx(3.0)
    contract.step("decode", decode(64), LIMIT, 2.0 * LIMIT)
    assert contract.kept()[1].deviations == 0, "its first step is held against what the others took"
    assert contract.slowdown("mixed", 2048) is contract.slowdown("prefill", 300) is None, "too far away to say anything"
    assert contract.expected("prefill", decode(1), LIMIT).seconds == FIRST["prefill"].seconds * LIMIT


def test_a_predictor_is_asked_once_for_steps_that_are_alike() -> None:
    asked: list[StepWork] = []

    def predict(work: StepWork) -> Expected | None:
        asked.append(work)
        return None if work.tokens > 8 else promise(work)

    contract = Contract(predict)
    for number in range(100):
        contract.step("decode", decode(1, 100 + number), LIMIT * (1 + 1e-4 * number), 1.25 * LIMIT)
    assert len(asked) == 1
    contract.step("decode", decode(1, 5000), 1.5 * LIMIT, 1.25 * LIMIT)
    contract.step("decode", decode(16), LIMIT, FIRST["decode"].seconds * LIMIT)
    assert len(asked) == 3 and contract.kept()[1].source == FIRST["decode"].source, "without an answer the usual one stands"


def test_what_took_no_time_says_nothing() -> None:
    contract = Contract()
    assert contract.step("decode", decode(1), LIMIT, 0.0) == contract.step("decode", decode(1), 0.0, LIMIT) == 0.0
    assert contract.kept() == []


def test_the_promises_are_those_of_the_plan_once_the_machine_is_measured() -> None:
    shape, machine = known("smollm2-135m"), Machine(Cpu("a cpu", 2), (), 1 << 34, 1 << 33)
    ceilings = Ceilings("cpu", "a cpu", 10e9, {"float32": 1e11}, "2026-01-01T00:00:00+00:00")
    meter = Meter(shape, "float32", 4, 4, None, 0, "", promiser(shape, machine, "cpu", "float32"))
    work = decode(2)
    assert meter.step(meter.due(work), 0.1, 0.0).promised_s == 0.0 and meter.contract.kept() == []
    meter.ceilings = ceilings
    plan = predict.Predictor(shape, here(machine, "cpu", ceilings), weight_format("float32"), kv_format("float32"), Layout())
    said = plan.of_work(work).seconds.value
    assert meter.step(meter.due(work), 2 * said, 0.01).promised_s == pytest.approx(said)
    assert only(meter.contract).promised_bar == plan.error
    limit = meter.limit_s(work)
    assert limit is not None and meter.contract.expected("decode", work, limit).seconds == pytest.approx(said)
