"""Accounts of requests and engine, on a clock that the test turns."""

from __future__ import annotations

from typing import Any

import pytest

from redline.engine.request import Sequence
from redline.engine.runner import StepResult
from redline.engine.scheduler import Entry, Plan, SchedulerStats
from redline.engine.stats import Accounts
from redline.hardware import Ceilings
from redline.hardware.power import PowerMeter, PowerSource
from redline.log import FALLBACKS
from redline.plan.contract import FEW
from redline.plan.receipt import Meter
from redline.plan.roofline import StepWork, cost, limit_s
from redline.shapes import known
from redline.types import Request, SamplingParams

SHAPE = known("tiny-llama")
CEILINGS = Ceilings("cpu", "a cpu", 1e10, {"float32": 1e11}, "2026-01-01T00:00:00+00:00")

IDLE = SchedulerStats(
    waiting=1,
    running=2,
    pages_free=3,
    pages_cached=4,
    pages_used=5,
    steps=6,
    tokens_planned=7,
    preemptions=8,
    prefix_query_tokens=9,
    prefix_hit_tokens=10,
)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def accounts(clock: Clock) -> Accounts:
    return Accounts(Meter(SHAPE, "float32", 4, 4, CEILINGS, 1000), window=0, clock=clock)


def choices(name: str, prompt: int, n: int = 1, **fields: Any) -> list[Sequence]:
    request = Request(id=name, prompt=list(range(prompt)), sampling=SamplingParams(n=n), **fields)
    return [Sequence(request, index, (0, 0.0, index), 99, frozenset(), None) for index in range(n)]


def plan(*parts: tuple[Sequence, int, int, bool]) -> Plan:
    entries = [Entry(seq, start, count, samples, i, False, [], 0) for i, (seq, start, count, samples) in enumerate(parts)]
    return Plan(0, entries, [], sum(entry.count for entry in entries))


def account(accounts: Accounts, ended: Plan, seconds: float, host_s: float, padding: int = 0) -> None:
    """A step that has ended, as the loop accounts it."""
    accounts.step(ended, accounts.due(ended), StepResult([], None, [], seconds, host_s, padding=padding))


def test_a_receipt_of_a_request_of_two_choices(accounts: Accounts, clock: Clock) -> None:
    """Two prefill steps and two decode steps, the last alone in its choice; times as the clock and the device said."""
    one, two = choices("a", 10, n=2, arrival=99.0, want_receipt=True)
    one.cached_tokens = 4
    accounts.open(one.request)
    steps = (
        [(one, 4, 6, True)],
        [(two, 9, 1, True), (one, 10, 1, True)],
        [(two, 10, 1, True), (one, 11, 1, True)],
        [(two, 11, 1, True)],
    )
    for parts in steps:
        clock.now += 0.5
        account(accounts, plan(*parts), seconds=0.25, host_s=0.125)
        for _ in parts:
            accounts.token(one)
    assert accounts.close(two) is None, "the receipt comes with the last choice"
    receipt: Any = accounts.close(one)
    # 4 tokens more were cached; the step with two's last prompt token is prefill for the whole request.
    assert (receipt["prefill"]["tokens"], receipt["prefill"]["cached_tokens"], receipt["decode"]["tokens"]) == (8, 4, 3)
    assert receipt["prefill"]["seconds"] == receipt["decode"]["seconds"] == pytest.approx(2 * 0.375)
    assert receipt["queue_s"] == pytest.approx(100.5 - 0.25 - 99.0)
    assert receipt["time_to_first_token_s"] == pytest.approx(100.5 - 99.0)
    works = [StepWork.of(spans, logit_rows=len(spans)) for spans in ([(4, 6)], [(9, 1), (10, 1)])]
    limits = [limit_s(cost(SHAPE, 4, 4, work), CEILINGS, "float32") for work in works]
    assert receipt["prefill"]["limit_s"] == pytest.approx(sum(limits), rel=1e-3)


class Counter:
    """A device of 100 W, and 300 W more in every second of a step."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.busy_s = 0.0

    def source(self) -> PowerSource:
        return PowerSource(lambda: 100.0 * self._clock.now + 300.0 * self.busy_s, lambda: ("sw_power_cap",))


def test_energy_is_shared_by_tokens_and_its_idle_part_is_told(clock: Clock) -> None:
    """Of a prefill step of ten tokens six are one request's; of decode steps both have half."""
    counter = Counter(clock)
    meter = Meter(SHAPE, "float32", 4, 4, CEILINGS, 1000)
    accounts = Accounts(meter, 0, clock, PowerMeter(counter.source(), clock))
    clock.now += 2.0
    [one], [two] = choices("a", 6, arrival=clock.now, want_receipt=True), choices("b", 4, arrival=clock.now, want_receipt=True)
    accounts.open(one.request)
    accounts.open(two.request)
    accounts.begun()
    steps = [plan((one, 0, 6, True), (two, 0, 4, True)), *[plan((one, 6 + i, 1, True), (two, 4 + i, 1, True)) for i in range(8)]]
    for step in steps:
        clock.now += 0.5
        counter.busy_s += 0.5
        account(accounts, step, seconds=0.4, host_s=0.1)
    first: Any = accounts.close(one)
    second: Any = accounts.close(two)
    energy = first["energy"]
    assert (energy["watts"], energy["idle_watts"], energy["reason"]) == (400.0, 100.0, None)
    assert energy["joules"] == pytest.approx(400 * (0.3 + 8 * 0.25)) and energy["prefill_joules"] == pytest.approx(120.0)
    assert energy["idle_joules"] == pytest.approx(energy["joules"] / 4)
    assert energy["joules_per_token"] == pytest.approx(100.0) and energy["throttled"] == ["sw_power_cap"]
    assert "power limit" in first["advice"]
    stats = accounts.stats(IDLE)
    assert energy["joules"] + second["energy"]["joules"] == pytest.approx(stats.more["step_energy_joules_total"])
    assert stats.more["energy_joules_total"] == pytest.approx(200.0 + 400.0 * 4.5) and stats.absent == {}
    throttled = [sample.value for sample in stats.samples if sample.name == "throttled_seconds_total"]
    assert throttled == [pytest.approx(4.5)]


def test_what_is_not_known_of_energy_is_null_with_the_reason(accounts: Accounts) -> None:
    [one] = choices("a", 6, want_receipt=True)
    accounts.open(one.request)
    account(accounts, plan((one, 0, 6, True)), 0.5, 0.0)
    receipt: Any = accounts.close(one)
    reason = receipt["energy"].pop("reason")
    assert reason and set(receipt["energy"].values()) == {None, 0.0}
    assert accounts.stats(IDLE).absent == {"energy": reason, "throttling": reason}


def test_without_receipts_the_sums_go_on(clock: Clock) -> None:
    stats = []
    for receipts in (True, False):
        accounts = Accounts(Meter(SHAPE, "float32", 4, 4, CEILINGS, 1000), 0, clock, receipts=receipts)
        [one] = choices("a", 6, arrival=clock.now, want_receipt=True)
        accounts.open(one.request)
        account(accounts, plan((one, 0, 6, True)), 0.5, 0.0)
        accounts.token(one)
        timing = accounts.timing(one)
        assert (accounts.close(one) is not None) == receipts
        stats.append((timing, accounts.stats(IDLE)))
    assert stats[0] == stats[1]


def test_what_steps_take_is_foreseen_from_what_they_took(accounts: Accounts) -> None:
    """Decode steps of three times their limit, prompts of five times."""
    [one], [two] = choices("a", 600), choices("b", 9)
    accounts.open(one.request)
    accounts.open(two.request)
    before = accounts.foreseen(4)
    decode = StepWork.of([(9, 1)], logit_rows=1)
    for _ in range(8):
        account(accounts, plan((two, 9, 1, True)), 3 * (accounts.meter.limit_s(decode) or 0.0), 0.0)
        mixed = plan((two, 9, 1, True), (one, 0, 600, True))
        account(accounts, mixed, 5 * (accounts.meter.limit_s(mixed.work()) or 0.0), 0.0)
    after = accounts.foreseen(4)
    works = StepWork.of([(9, 1)] * 4, logit_rows=4)
    assert after.turn_s == pytest.approx(3 * (accounts.meter.limit_s(works) or 0.0))
    usual, slow = accounts.meter.prompt_seconds(), accounts.meter.prompt_seconds(share=1 / 5)
    assert usual is not None and slow is not None
    assert (before.prompt_s, after.prompt_s) == (usual[0], pytest.approx(slow[0]))
    assert accounts.prompt_seconds(8192) == usual, "nobody has seen steps of about that size"
    deviations = {s.labels["doing"]: s.value for s in accounts.stats(IDLE).samples if s.name == "prediction_deviations_total"}
    assert deviations == {"decode": FEW, "mixed": FEW}
    errors = [s for s in accounts.stats(IDLE).samples if s.name == "prediction_error_ratio" and s.labels["doing"] == "decode"]
    assert [s.labels["of"] for s in errors] == ["promise", "correction"] and errors[1].value < errors[0].value


def test_no_receipt_is_made_that_nobody_asked_for(accounts: Accounts) -> None:
    [one] = choices("a", 3)
    accounts.open(one.request)
    assert accounts.close(one) is None


def test_a_request_that_never_ran_has_waited_until_its_end(accounts: Accounts, clock: Clock) -> None:
    [one] = choices("a", 3, arrival=98.0, want_receipt=True)
    accounts.open(one.request)
    clock.now = 103.0
    receipt: Any = accounts.close(one)
    assert receipt["queue_s"] == 5.0 and receipt["time_to_first_token_s"] is None and receipt["decode"]["ratio"] is None


def test_steps_of_ended_requests_count_for_the_engine_alone(accounts: Accounts) -> None:
    """Their last step may end after them."""
    [one], [two] = choices("a", 3), choices("b", 4)
    accounts.open(one.request)
    accounts.open(two.request)
    accounts.close(one)
    account(accounts, plan((one, 3, 1, True), (two, 0, 4, True)), seconds=2.0, host_s=0.0)
    accounts.token(two)
    stats = accounts.stats(IDLE)
    assert (stats.prompt_tokens, stats.generation_tokens, stats.step_s, stats.pages_total, stats.steps) == (7, 1, 2.0, 12, 6)
    assert (stats.more["prefill_tokens_total"], stats.more["prefill_seconds_total"], stats.more["decode_tokens_total"]) == (
        5,
        2,
        0,
    )
    ratios = {sample.labels["phase"]: sample.value for sample in stats.samples if sample.name == "roofline_ratio"}
    assert list(ratios) == ["prefill"] and 0 < ratios["prefill"] < 1
    rests = [sample.value for sample in stats.samples if sample.name == "roofline_rest_ratio"]
    assert ratios["prefill"] + sum(rests) == pytest.approx(1.0), "where the time went adds up"


def test_a_requests_time_is_waiting_prefill_and_decode_and_nothing_is_lost(accounts: Accounts, clock: Clock) -> None:
    """From its arrival to the moment of asking: the three add up to all of it."""
    [one] = choices("a", 4, arrival=clock.now - 1.0)
    accounts.open(one.request)
    clock.now += 2.0
    account(accounts, plan((one, 0, 4, True)), seconds=0.5, host_s=0.0)
    accounts.token(one)
    clock.now += 3.0
    timing = accounts.timing(one)
    assert (timing.queue_s, timing.prefill_s, timing.decode_s) == pytest.approx((2.5, 0.5, 3.0))
    assert timing.queue_s + timing.prefill_s + timing.decode_s == pytest.approx(clock.now - one.request.arrival)


def test_the_time_of_a_request_that_never_ran_is_all_waiting(accounts: Accounts, clock: Clock) -> None:
    [one] = choices("a", 4, arrival=clock.now)
    accounts.open(one.request)
    clock.now += 2.0
    timing = accounts.timing(one)
    assert (timing.queue_s, timing.prefill_s, timing.decode_s) == (2.0, 0.0, 0.0)


def test_fallbacks_of_the_process_are_told(accounts: Accounts) -> None:
    FALLBACKS.clear()
    try:
        FALLBACKS["attention", "no GPU"] += 2
        assert accounts.stats(IDLE).fallbacks == [("attention", "no GPU", 2)]
    finally:
        FALLBACKS.clear()


def test_a_steady_run_is_accounted_as_step_by_step(clock: Clock) -> None:
    """Requests that come, pause, go and change their width between steady runs get the same receipts either way."""
    steps: list[tuple[list[str], bool]] = [
        (["a"], False),
        (["a", "b0", "b1"], False),
        *[(["a", "b0", "b1"], True)] * 5,
        (["a", "b0"], False),
        *[(["a", "b0"], True)] * 3,
        (["b0"], False),
        (["a", "b0"], False),
        (["a", "b0"], True),
    ]
    receipts = []
    for steady_runs in (True, False):
        accounts = Accounts(Meter(SHAPE, "float32", 4, 4, CEILINGS, 1000), window=0, clock=clock)
        [one] = choices("a", 10, arrival=99.0, want_receipt=True)
        two, three = choices("b", 8, n=2, arrival=99.0, want_receipt=True)
        at = {"a": (one, 10), "b0": (two, 8), "b1": (three, 8)}
        accounts.open(one.request)
        accounts.open(two.request)
        account(accounts, plan((one, 0, 10, True), (two, 0, 8, True), (three, 7, 1, True)), 0.5, 0.0)
        for number, (names, steady) in enumerate(steps, 1):
            parts = [(at[name][0], at[name][1], 1, True) for name in names]
            at |= {name: (at[name][0], at[name][1] + 1) for name in names}
            made = plan(*parts)
            account(accounts, Plan(number, made.entries, [], made.num_tokens, True, steady and steady_runs), 0.25, 0.01, 2)
        assert accounts.close(three) is None
        receipts.append([accounts.close(one), accounts.close(two), accounts.meter.totals])
    assert receipts[0] == receipts[1]
    decode: Any = receipts[0][1]["decode"]  # type: ignore[index]
    assert decode["tokens"] == 6 * 2 + 7 and decode["seconds"] == pytest.approx(13 * 0.26)


def test_a_steady_plan_after_a_lost_step_is_looked_at_anew(accounts: Accounts) -> None:
    """Its requests may have ended with that step."""
    [one], [two] = choices("a", 3, want_receipt=True), choices("b", 4, want_receipt=True)
    accounts.open(one.request)
    accounts.open(two.request)
    account(accounts, plan((one, 3, 1, True), (two, 4, 1, True)), 1.0, 0.0)
    accounts.close(one)
    made = plan((one, 5, 1, True), (two, 6, 1, True))
    account(accounts, Plan(2, made.entries, [], 2, True, True), 1.0, 0.0)
    receipt: Any = accounts.close(two)
    assert receipt["decode"]["tokens"] == 2


def test_a_sparse_bill_of_tokens_counts_them_all(accounts: Accounts) -> None:
    [one] = choices("a", 3)
    accounts.open(one.request)
    accounts.token(one, 7)
    assert accounts.stats(IDLE).generation_tokens == 7
