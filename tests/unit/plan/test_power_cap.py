"""Plans under a power cap: published cards lie within the stated bars, a lower cap never gives more, and the limit in force changes
nothing."""

from __future__ import annotations

import dataclasses
import math
import time

import pytest

from redline.errors import ConfigError
from redline.hardware.ceilings import Ceilings
from redline.hardware.machine import Cpu, Gpu, Machine
from redline.plan import power_cap
from redline.plan.corrections import version
from redline.plan.document import document
from redline.plan.efficiency import CPU, HOPPER
from redline.plan.goal import Goal, parse
from redline.plan.place import Place, here, on_chips
from redline.plan.power_points import H200_STEPS, SERIES, errors, summary
from redline.plan.precision import kv_format, weight_format
from redline.plan.predict import Load, Predictor
from redline.plan.search import Answer, search
from redline.plan.split import Layout
from redline.plan.trade_off import best, caps, curve, told, under
from redline.shapes import known

SHAPE = known("llama-3.1-8b")
H200 = on_chips("h200")
RATES = Ceilings("cuda:0", "NVIDIA H200", 4.59e12, {"bfloat16": 766e12}, "2026-11-21", "measured")


def answer(goal: str = "users=8", place: Place = H200) -> Answer:
    return search(SHAPE, place, parse(goal, SHAPE.max_position))


def predictor(place: Place, layout: Layout | None = None) -> Predictor:
    return Predictor(SHAPE, place, weight_format("bf16"), kv_format("bf16"), layout or Layout())


def test_published_cards_under_caps_lie_within_the_stated_bars() -> None:
    found = errors()
    assert len(found) >= 60 and len({each.series for each in found}) == len(SERIES) == 11
    within = [each for each in found if abs(each.off) <= each.bar]
    assert len(within) >= 0.9 * len(found)
    for series in SERIES:
        of_it = [abs(each.off) for each in found if each.series == series.name]
        assert sorted(of_it)[len(of_it) // 2] < 0.07, series.name
    off = sorted(abs(each.off) for each in found)
    assert off[len(off) // 2] < 0.03 and f"half within {off[len(off) // 2]:.1%}" in summary()


@pytest.mark.parametrize(("rows", "clock", "steady_ms", "burst_ms", "ratio"), H200_STEPS)
def test_an_h200_whose_limit_holds_its_clock_down_agrees(
    rows: int, clock: float, steady_ms: float, burst_ms: float, ratio: float
) -> None:
    """The cap in force: its 700 W. The time follows the clock that was seen, and the curve of watts gives that clock back."""
    assert power_cap.slowdown(clock, 1.0, ratio) == pytest.approx(steady_ms / burst_ms, rel=0.02)
    held = power_cap.grip(H200, rows)
    assert held is not None and held.watts == 700 and held.clock == held.base == pytest.approx(clock, abs=0.005)
    wanted = power_cap.demand_w(700, clock, 700)
    assert 700 < wanted < 1200 and power_cap.clock_at(700, wanted, 700) == pytest.approx(clock)


def test_a_clock_falls_with_the_cap_and_power_with_its_cube_above_the_floor_of_the_voltage() -> None:
    clocks = [power_cap.clock_at(cap, 700, 700) for cap in range(100, 800, 10)]
    assert clocks == sorted(clocks) and clocks[0] == power_cap.LEAST_CLOCK and clocks[-1] == 1.0
    still = power_cap.STILL * 700
    assert power_cap.clock_at(still + 0.9**3 * (700 - still), 700, 700) == pytest.approx(0.9)
    below = power_cap.clock_at(still + 0.2 * (700 - still), 700, 700)
    assert power_cap.clock_at(still + 0.1 * (700 - still), 700, 700) == pytest.approx(below / 2)


def test_multiplying_loses_in_proportion_and_reading_less() -> None:
    assert power_cap.slowdown(0.5, 1.0, math.inf) == 2.0 == pytest.approx(power_cap.slowdown(0.5, 1.0, 50))
    reading = power_cap.slowdown(0.5, 1.0, 0.0)
    assert 1 < power_cap.slowdown(0.9, 1.0, 0.0) < 1.05 < reading < 2
    assert power_cap.slowdown(0.8, 0.8, 3.0) == 1.0


def test_a_cap_at_the_limit_or_above_gives_the_same_plan() -> None:
    goal = parse("itl_ms<=6, users=8", SHAPE.max_position)
    plain = document("m", SHAPE, search(SHAPE, H200, goal))
    for cap in (700.0, 5000.0):
        again = document("m", SHAPE, search(SHAPE, under(H200, cap), goal))
        assert again == plain
    high = told(answer().shown, H200, goal, 800.0)
    assert high["command"] is None and not any(each["slower"] for each in high["holds"].values())


@pytest.mark.parametrize("chip", ["h200", "h100", "a100", "t4", "l4", "4090", "b200", "2xh200"])
@pytest.mark.parametrize("load", [Load(1, 128, 512), Load(8, 2000, 100), Load(64, 500, 8), Load(16, 9000, 1)])
def test_a_lower_cap_never_gives_more_tokens_nor_less_time(chip: str, load: Load) -> None:
    place = on_chips(chip)
    layout = Layout(place.count)
    before = predictor(place, layout).steady(load)
    for cap in reversed(caps(place)):
        made = predictor(under(place, cap), layout)
        now, watts = made.steady(load), made.mean_watts(load)
        for was, each in ((before.itl, now.itl), (before.worst_itl, now.worst_itl), (before.ttft, now.ttft)):
            assert each.limit is not None and each.limit <= each.low <= each.value <= each.high
            assert each.value >= was.value * (1 - 1e-9) and each.high >= was.high * (1 - 1e-9)
        assert now.tokens_per_s.value <= before.tokens_per_s.value * (1 + 1e-9)
        assert watts is not None and watts.low <= watts.value <= watts.high <= cap + 1e-9
        before = now


def test_caps_are_round_and_go_from_the_lowest_to_the_limit() -> None:
    for chip in ("h200", "t4", "5090", "b200"):
        place = on_chips(chip)
        found = caps(place)
        assert found == tuple(sorted(set(found))) and 7 <= len(found) <= 13
        assert found[0] == power_cap.least_w(place)[0] and found[-1] == place.power_w


def test_the_curve_marks_the_most_tokens_per_joule_that_meet_the_goal() -> None:
    free, bound = (parse(text, SHAPE.max_position) for text in ("users=8", "users=8, itl_ms<=4.75"))
    shown = answer().shown
    assert shown is not None
    points = curve(shown, free)
    chosen = best(points)
    assert chosen is not None and chosen.cap_w < 700 and all(point.meets for point in points)
    assert chosen.candidate.joules.value == min(point.candidate.joules.value for point in points)  # type: ignore[union-attr]
    tight = best(curve(shown, bound))
    assert tight is not None and chosen.cap_w < tight.cap_w <= 700
    assert tight.candidate.itl.value <= 4.75e-3
    assert best(curve(shown, parse("users=8, itl_ms<=1", SHAPE.max_position))) is None
    found = told(shown, H200, free, "curve")
    assert found["best_w"] == chosen.cap_w and found["command"] == f"sudo nvidia-smi --power-limit={chosen.cap_w:g}"
    last = found["curve"][-1]
    assert last["cap_w"] == 700 and last["bar"] == 0.0 and last["itl_ms"] == shown.itl.as_dict(1e3), "as without a cap"
    assert found["curve"][0]["bar"] > found["curve"][-2]["bar"] > 0


@pytest.mark.parametrize(
    ("place", "said"),
    [
        (dataclasses.replace(H200, power_w=None), "the power of H200 is not known"),
        (dataclasses.replace(H200, efficiency=CPU), "nobody measured the power of plain torch on a CPU"),
        (on_chips("gb10"), "shares its power with its processor"),
        (on_chips("rubin"), "the power of Rubin R100 is not known"),
    ],
)
def test_where_power_is_not_known_the_curve_is_null_with_the_reason(place: Place, said: str) -> None:
    found = told(answer(place=place).shown, place, Goal(Load(8, 1024, 256)), "curve")
    assert found["curve"] is None and found["best_w"] is None and said in found["reason"]
    with pytest.raises(ConfigError, match="no cap can be planned"):
        power_cap.check(place, 300)


@pytest.mark.parametrize("text", ["0", "-5", "many", "nan", "inf", ""])
def test_what_is_no_power_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        power_cap.read(text)
    assert power_cap.read("450") == power_cap.read("450W") == power_cap.read(" 450 w") == 450.0


def card(limit: float = 700, least: float | None = 200, default: float | None = 700) -> Machine:
    gpu = Gpu(0, "GPU-1", "NVIDIA H200", (9, 0), 140 << 30, 139 << 30, "580", limit, power_default_w=default, power_min_w=least)
    return Machine(Cpu("a processor", 8), (gpu,), 64 << 30, 60 << 30)


def test_caps_below_what_the_card_takes_or_what_was_measured_are_refused_with_a_sentence() -> None:
    with pytest.raises(ConfigError) as raised:
        power_cap.check(here(card(least=350), "cuda:0", RATES), 300)
    assert "a cap of 300 W is below 350 W: H200 takes no lower limit" in raised.value.sentence()
    with pytest.raises(ConfigError) as raised:
        power_cap.check(here(card(), "cuda:0", RATES), 210)
    assert "below 280 W: no card was measured below 0.4 of its limit" in raised.value.sentence()
    assert "itself goes down to 200 W" in raised.value.sentence()
    power_cap.check(here(card(), "cuda:0", RATES), 280)


def test_a_card_whose_limit_was_lowered_is_planned_as_it_stands() -> None:
    """Rates that were measured under that limit have it in them; the data sheet's have not."""
    load = Load(8, 1024, 256)
    full, sheet = here(card(), "cuda:0", None), here(card(limit=350), "cuda:0", None)
    slow, fast = predictor(sheet).steady(load), predictor(full).steady(load)
    assert slow.itl.value > 1.1 * fast.itl.value and slow.itl.error > fast.itl.error
    assert slow == predictor(under(full, 350)).steady(load)
    measured = predictor(here(card(limit=350), "cuda:0", RATES))
    assert measured.steady(load) == predictor(here(card(), "cuda:0", RATES)).steady(load)
    watts = measured.mean_watts(load)
    assert watts is not None and watts.value == pytest.approx(350)
    assert caps(sheet)[-1] == 350


def test_joules_are_of_the_watts_that_decode_and_prompts_take() -> None:
    made = predictor(H200)
    short, long = made.mean_watts(Load(8, 16, 500)), made.mean_watts(Load(8, 8000, 8))
    assert short is not None and long is not None
    assert short.value == pytest.approx(0.87 * 700, rel=0.02) and long.value == pytest.approx(700, rel=0.02)
    joules, rate = made.joules_per_token(Load(8, 16, 500)), made.steady(Load(8, 16, 500)).tokens_per_s
    assert joules is not None and joules.value == pytest.approx(short.value / rate.value)


def test_a_request_s_joules_are_a_goal() -> None:
    goal = parse("joules_per_request<=100000, joules_per_token<=5, users=8", SHAPE.max_position)
    found = search(SHAPE, H200, goal).best
    assert found is not None and found.joules is not None
    value = found.measure("joules_per_request")
    assert value is not None and value.value == pytest.approx(256 * found.joules.value)
    tight = parse("joules_per_token<=0.0001", SHAPE.max_position)
    assert search(SHAPE, H200, tight).best is None


def test_what_is_known_of_watts_is_no_part_of_what_steps_were_promised(monkeypatch: pytest.MonkeyPatch) -> None:
    from redline.hardware.ceilings import identify
    from redline.plan import corrections

    identity = identify(card(), "cuda:0")
    before = version(identity)
    monkeypatch.setattr(corrections, "curves", lambda *, on_cpu: dataclasses.replace(HOPPER, watts=((1, 0.5),)))
    corrections._version.cache_clear()
    try:
        assert version(identity) == before
    finally:
        corrections._version.cache_clear()


def test_a_curve_takes_far_less_than_half_a_second() -> None:
    shown = answer("users=64").shown
    assert shown is not None
    began = time.process_time()
    curve(shown, Goal(Load(64, 1024, 256)))
    assert time.process_time() - began < 0.2
