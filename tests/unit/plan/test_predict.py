"""Forecasts: never below the limit, equal to the roofline where nothing is lost, and within their bars of what was measured."""

from __future__ import annotations

import dataclasses
import time

import pytest

from redline.hardware.ceilings import Ceilings
from redline.hardware.specs import CHIPS
from redline.plan.efficiency import CPU, HOPPER, at
from redline.plan.place import Place, on_chips
from redline.plan.precision import KV, WEIGHTS, kv_format, weight_format
from redline.plan.predict import Estimate, Load, Predictor
from redline.plan.roofline import StepWork, cost, limit_s
from redline.plan.split import Layout
from redline.shapes import known

RATES = Ceilings("cuda:0", "NVIDIA H200", 4.59e12, {"bfloat16": 766e12}, "2026-11-21", "measured")
H200 = dataclasses.replace(on_chips("h200"), ceilings=RATES, peak=RATES, doubts=())


def predictor(
    model: str = "llama-3.1-8b", place: Place = H200, weights: str = "bf16", kv: str = "bf16", layout: Layout | None = None
) -> Predictor:
    return Predictor(known(model), place, weight_format(weights), kv_format(kv), layout or Layout())


@pytest.mark.parametrize("model", ["llama-3.1-8b", "llama-3.2-1b", "gemma-3-1b", "qwen3-30b-a3b"])
def test_the_limit_is_the_rooflines(model: str) -> None:
    """One chip, 16 bits: the same stages that receipts count, by roofline's own sum."""
    shape = known(model)
    for prompts, decodes, context in (([], 8, 700), ([(0, 512)], 0, 0), ([(512, 256)], 4, 900)):
        spans = [*prompts, *[(context - 1, 1)] * decodes]
        work = StepWork.of(spans, logit_rows=len(spans), window=shape.sliding_window)
        step = predictor(model).step(prompts, decodes, context)
        least = limit_s(cost(shape, 2, 2, work), RATES, "bfloat16")
        assert step.seconds.limit == pytest.approx(least)


@pytest.mark.parametrize("chip", [row.name for row in CHIPS])
def test_no_forecast_lies_below_its_limit_and_bars_hold_their_value(chip: str) -> None:
    place = on_chips(f"2x{chip}")
    for weights in WEIGHTS.values():
        for layout in (Layout(), Layout(2), Layout(1, 2)):
            made = Predictor(known("llama-3.1-8b"), place, weights, KV["bfloat16"], layout)
            steady = made.steady(Load(4, 300, 64))
            for each in (steady.itl, steady.worst_itl, steady.ttft, made.first_token(300)):
                assert each.limit is not None and 0 < each.limit <= each.low <= each.value <= each.high
            rate = steady.tokens_per_s
            assert rate.limit is not None and rate.low <= rate.value <= rate.high <= rate.limit * (1 + 1e-9)


def test_parts_add_up_to_the_step() -> None:
    step = predictor(layout=Layout(2), place=dataclasses.replace(H200, count=2)).step([(0, 100)], 3, 500)
    assert sum(part.seconds for part in step.parts) == pytest.approx(step.seconds.value)
    assert sum(part.limit_s for part in step.parts) == pytest.approx(step.seconds.limit)
    assert step.tokens == 103


def test_without_losses_a_forecast_is_the_limit() -> None:
    """Curves of 1 and no time beside the stages."""
    whole = ((1.0, 1.0),)
    perfect = dataclasses.replace(
        HOPPER,
        linear=whole,
        layer_s=((1.0, 0.0),),
        decode_attention=whole,
        prompt_attention=whole,
        logit_passes=0,
        prompt_s=0,
        step_s=0,
    )
    made = predictor(place=dataclasses.replace(H200, efficiency=perfect))
    for step in (made.decode(1, 300), made.decode(64, 4000), made.step([(0, 4096)])):
        assert step.seconds.value == pytest.approx(step.seconds.limit)


def test_a_step_of_which_only_sums_are_known_is_the_same_step() -> None:
    made = predictor("llama-3.2-1b")
    for prompts, decodes, context in (([], 8, 700), ([(128, 512)], 0, 0)):
        spans = [*prompts, *[(context - 1, 1)] * decodes]
        known_sums = made.of_work(StepWork.of(spans, logit_rows=len(spans)))
        assert known_sums.seconds.value == pytest.approx(made.step(prompts, decodes, context).seconds.value)


def test_short_prompts_cost_what_every_prompt_costs_once() -> None:
    """They take the attention of few queries, but the host knows no difference."""
    made = predictor("qwen3-8b")
    first = {tokens: made.first_token(tokens).value for tokens in (1, 2, 16, 17)}
    assert first[16] == pytest.approx(first[17], rel=0.02)
    assert first[2] - first[1] == pytest.approx(HOPPER.prompt_s, rel=0.2)


def test_an_idle_machines_first_step_is_a_burst_and_no_other_is() -> None:
    """What many such steps in a row take is what a power limit leaves. Watt by watt a cap changes a forecast by little."""
    made, factor = predictor(), at(HOPPER.burst, 256)
    assert factor < 0.9
    (alone,) = made.prefill(1, 256)
    assert made.first_token(256).value == pytest.approx(factor * alone.seconds.value)
    first, *rest = made.prefill(3, 8192)
    expected = at(HOPPER.burst, 8192) * first.seconds.value + sum(step.seconds.value for step in rest)
    assert len(rest) == 2 and made.first_token(8192, 3).value == pytest.approx(expected)
    assert H200.power_w is not None
    capped = predictor(place=dataclasses.replace(H200, cap_w=H200.power_w - 1)).first_token(256)
    assert capped.value == pytest.approx(made.first_token(256).value, rel=0.01)
    assert capped.high / capped.value >= made.first_token(256).high / made.first_token(256).value


def test_fewer_bits_take_less_time_where_memory_limits() -> None:
    steps = [predictor(weights=name).decode(1, 300).seconds.value for name in ("bf16", "fp8", "int4")]
    assert steps == sorted(steps, reverse=True)
    kv = [predictor(kv=name).decode(64, 8000).seconds.value for name in ("bf16", "fp8", "int4")]
    assert kv == sorted(kv, reverse=True)


def test_a_group_of_chips_reads_its_share_and_pays_for_talking() -> None:
    two = dataclasses.replace(H200, count=2)
    alone, pair = predictor().decode(1, 300), predictor(place=two, layout=Layout(2)).decode(1, 300)

    def moved(step) -> float:
        return sum(part.bytes for part in step.parts if part.name in ("qkv", "o", "gate_up", "down", "lm_head"))

    assert moved(pair) == pytest.approx(moved(alone) / 2)
    assert [part.bound for part in pair.parts].count("link") == 1
    assert pair.seconds.limit > alone.seconds.limit / 2
    assert pair.seconds.value > alone.seconds.value / 2


def test_a_pipeline_cuts_the_batch_and_never_makes_one_token_quicker() -> None:
    two = dataclasses.replace(H200, count=2)
    staged = predictor(place=two, layout=Layout(1, 2))
    assert staged.decode(1, 300).seconds.value >= predictor().decode(1, 300).seconds.value
    halves = {part.name: part.flops for part in staged.decode(64, 300).parts}
    whole = {part.name: part.flops for part in predictor().decode(64, 300).parts}
    assert halves["down"] == pytest.approx(whole["down"] / 2)


def test_doubts_add_up_and_have_names() -> None:
    measured = predictor()
    planned = predictor(weights="int4")
    assert measured.error == pytest.approx(HOPPER.error)
    assert planned.error == pytest.approx(sum(share**2 for _, share in planned.doubts) ** 0.5) and planned.error > measured.error
    assert any("int4" in reason for reason, _ in planned.doubts)
    assert Estimate.of(10.0, 0.25, 9.5) == Estimate(10.0, 9.5, 12.5, 9.5)
    assert Estimate.of(2.0, 0.25).inverse(10).as_dict() == {"value": 5.0, "low": 4.0, "high": 6.25, "limit": None}


def test_long_prompts_come_in_chunks_that_see_what_was_before() -> None:
    made = Predictor(known("llama-3.2-1b"), H200, WEIGHTS["bfloat16"], KV["bfloat16"], Layout(), tokens=512)
    steps = made.prefill(1, 1200)
    assert [step.tokens for step in steps] == [512, 512, 176]
    flops = [sum(part.flops for part in step.parts if part.name == "attention") for step in steps]
    assert flops[1] > 2 * flops[0]
    assert [step.tokens for step in made.prefill(3, 200)] == [512, 88]


def test_more_users_make_more_tokens_and_each_waits_longer() -> None:
    made = predictor()
    loads = [made.steady(Load(users, 500, 200)) for users in (1, 8, 64)]
    rates, gaps = [load.tokens_per_s.value for load in loads], [load.itl.value for load in loads]
    assert rates == sorted(rates) and gaps == sorted(gaps)
    assert all(load.worst_itl.value > load.itl.value for load in loads[1:])


def test_joules_only_where_power_and_its_shares_are_known() -> None:
    told = predictor().joules_per_token(Load(1, 128, 256))
    # 2.35 J were counted on that card for Qwen3-8B at batch 1 (bench/results/2026-11-21.jsonl), whose step is 1 % longer.
    assert told is not None and told.low <= 2.35 <= told.high
    assert predictor(place=dataclasses.replace(H200, power_w=None)).joules_per_token(Load(1, 8, 8)) is None
    assert predictor(place=dataclasses.replace(H200, efficiency=CPU)).joules_per_token(Load(1, 8, 8)) is None


def test_curves_are_straight_over_the_logarithm_and_flat_outside() -> None:
    points = ((1.0, 0.2), (100.0, 0.6))
    assert [at(points, x) for x in (0.5, 1, 10, 100, 1e6)] == pytest.approx([0.2, 0.2, 0.4, 0.6, 0.6])


def test_a_forecast_takes_far_less_than_50_ms() -> None:
    made = predictor("llama-3.1-405b", layout=Layout(8))
    began = time.process_time()
    for context in range(1000, 1020):
        made.step([(0, 4096)], 256, context)
    assert (time.process_time() - began) / 20 < 0.05
