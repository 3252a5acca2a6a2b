"""Receipts by hand: what a step had to do, what it took, where the rest went, and the one lever that is named."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from typing import Any

import pytest

from redline.hardware import Ceilings
from redline.hardware.power import Reading
from redline.plan.anatomy import _NAMES, Fit
from redline.plan.receipt import NOT_MEASURED, Anatomy, Meter, RequestMeter, Totals, receipt, split, summary
from redline.plan.roofline import StepWork, cost, limit_s
from redline.shapes import known

SHAPE = known("smollm2-135m")
CEILINGS = Ceilings("cpu", "a cpu", 30e9, {"bfloat16": 4e11}, "2026-01-01T00:00:00+00:00")
FILE_BYTES = 85_000_000
PREFILL = StepWork.of([(0, 100)], logit_rows=1)
DECODE = StepWork.of([(100, 1)], logit_rows=1)
PREFILL_LIMIT = limit_s(cost(SHAPE, 2, 2, PREFILL), CEILINGS, "bfloat16")
DECODE_LIMIT = limit_s(cost(SHAPE, 2, 2, DECODE), CEILINGS, "bfloat16")


def meter(ceilings: Ceilings | None = CEILINGS, file_bytes: int = FILE_BYTES) -> Meter:
    return Meter(SHAPE, "bfloat16", 2, 2, ceilings, file_bytes)


def one_request(
    meter: Meter,
    *,
    prefill_s: float = 2 * PREFILL_LIMIT,
    decode_s: float = 2 * DECODE_LIMIT,
    host_s: float = 0.0,
    steps: int = 10,
    queue_s: float = 0.0,
) -> dict[str, Any]:
    request = RequestMeter()
    request.add("prefill", 100, meter.step(meter.due(PREFILL), prefill_s, 0.0))
    for _ in range(steps):
        request.add("decode", 1, meter.step(meter.due(DECODE), decode_s, host_s))
    return receipt(request, meter, queue_s=queue_s, time_to_first_token_s=queue_s + prefill_s, cached_tokens=7)


def test_a_decode_step_is_limited_by_its_269_megabytes() -> None:
    """SmolLM2-135M in bfloat16 reads 269 MB a token (KV of 101 tokens is 2.3 MB): 9.05 ms at 30 GB/s."""
    assert pytest.approx(9.05e-3, rel=2e-3) == DECODE_LIMIT


def test_figures_of_a_lone_request() -> None:
    made = one_request(meter())
    assert made["device"] == "a cpu"
    assert made["ceilings"] == {
        "read_gb_s": 30.0,
        "matmul_tflops": 0.4,
        "measured_at": CEILINGS.measured_at,
        "source": "measured",
    }
    prefill, decode = made["prefill"], made["decode"]
    assert (prefill["tokens"], prefill["cached_tokens"], decode["tokens"]) == (100, 7, 10)
    assert prefill["ratio"] == decode["ratio"] == 0.5
    assert decode["ms_per_token"] == pytest.approx(2e3 * DECODE_LIMIT, rel=1e-3)
    assert decode["limit_ms_per_token"] == pytest.approx(1e3 * DECODE_LIMIT, rel=1e-3)
    assert decode["tokens_per_s"] == pytest.approx(0.5 / DECODE_LIMIT, rel=1e-3)
    assert decode["share_of_bandwidth"] == pytest.approx(0.5, rel=1e-2)
    assert made["bytes_per_token"]["weights"] == pytest.approx(269.0e6, rel=1e-3)
    assert made["bytes_per_token"]["kv"] == 102 * 30 * 2 * 3 * 64 * 2  # 101 read, 1 written
    assert made["file_floor_ms"] == pytest.approx(FILE_BYTES / 30e9 * 1e3, rel=1e-3)
    assert made["rest"]["host_s"] == 0 and made["rest"]["other_share"] == 0.5


def test_waiting_for_the_host_lowers_the_ratio_and_is_split_off() -> None:
    made = one_request(meter(), decode_s=DECODE_LIMIT, prefill_s=PREFILL_LIMIT, host_s=DECODE_LIMIT)
    assert made["decode"]["ratio"] == 0.5 and made["prefill"]["ratio"] == 1.0
    assert made["rest"]["other_s"] == pytest.approx(0, abs=1e-9)
    assert made["rest"]["host_s"] == pytest.approx(10 * DECODE_LIMIT, rel=1e-3)


def test_a_shared_step_counts_whole_for_each_request() -> None:
    shared = meter()
    work = StepWork.of([(100, 1), (100, 1)], logit_rows=2)
    step = shared.step(shared.due(work), 0.02, 0.0)
    receipts = []
    for _ in range(2):
        request = RequestMeter()
        request.add("decode", 1, step)
        receipts.append(receipt(request, shared, queue_s=0, time_to_first_token_s=None, cached_tokens=0))
    assert receipts[0] == receipts[1] and receipts[0]["decode"]["seconds"] == 0.02
    assert (shared.totals["decode"].steps, shared.totals["decode"].seconds) == (1, 0.02)


def test_totals_split_by_phase() -> None:
    one = meter()
    one_request(one)
    mixed = StepWork.of([(0, 50), (100, 1)], logit_rows=1)
    one.step(one.due(mixed), 0.1, 0.01)
    assert (one.totals["prefill"].steps, one.totals["decode"].steps) == (2, 10)
    assert one.totals["prefill"].tokens == 151
    assert one.totals["prefill"].wall_s == pytest.approx(2 * PREFILL_LIMIT + 0.11)
    assert one.totals["decode"].limit_s == pytest.approx(10 * DECODE_LIMIT)


def test_without_ceilings_there_is_a_reason_in_place_of_ratios() -> None:
    made = one_request(meter(None))
    assert made["reason"] == NOT_MEASURED and made["ceilings"] is None and made["file_floor_ms"] is None
    decode = made["decode"]
    assert decode["ratio"] is decode["limit_ms_per_token"] is decode["share_of_bandwidth"] is made["prefill"]["ratio"] is None
    assert made["rest"]["other_s"] is None and made["rest"]["host_s"] == 0
    assert decode["tokens_per_s"] > 0 and "redline doctor" in made["advice"]
    assert "not measured yet" in summary(made)


def test_random_weights_have_no_file_and_no_floor() -> None:
    made = one_request(meter(file_bytes=0), decode_s=1.2 * DECODE_LIMIT)
    assert made["file_floor_ms"] is None and "inside the steps" in made["advice"]


def test_a_request_that_ended_before_it_ran_has_a_receipt() -> None:
    made = receipt(RequestMeter(), meter(), queue_s=1.0, time_to_first_token_s=None, cached_tokens=0)
    assert made["decode"]["tokens_per_s"] is None and made["bytes_per_token"] == {"weights": None, "kv": None}
    json.dumps(made)
    assert "ended before it ran" in summary(made)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"queue_s": 5.0}, "waiting in the queue"),
        ({"host_s": 3 * DECODE_LIMIT}, "waiting for the host"),
        ({"decode_s": 4 * DECODE_LIMIT}, "inside the steps"),
        ({"decode_s": 1.1 * DECODE_LIMIT, "prefill_s": PREFILL_LIMIT}, "weights' format"),
        ({"decode_s": 0.5 * DECODE_LIMIT, "prefill_s": 0.5 * PREFILL_LIMIT}, "faster than the measured limit"),
    ],
)
def test_the_advice_names_the_largest_lever(changes: dict[str, float], words: str) -> None:
    assert words in one_request(meter(), **changes)["advice"]


def test_at_the_limit_only_fewer_bytes_help() -> None:
    unpacked = meter(file_bytes=269_000_000)
    made = one_request(unpacked, decode_s=1.01 * DECODE_LIMIT, prefill_s=PREFILL_LIMIT)
    assert "within 5 % of the limit" in made["advice"]


def test_the_gain_of_a_lever_is_the_time_it_would_save() -> None:
    """Half of all time is the queue: without it twice as fast."""
    alone = one_request(meter(), steps=0)
    busy = one_request(meter(), steps=0, queue_s=alone["prefill"]["seconds"])
    assert "(up to 2.0x)" in busy["advice"] and "queue" in busy["advice"]


def test_promise_and_truth_stand_side_by_side() -> None:
    """Without a predictor a decode step is promised 1.3 of its limit, until steps have taken twice the limit three times."""
    made = one_request(meter(), steps=10)
    promised = (3 * 1.3 + 7 * 2.0) * DECODE_LIMIT / 10
    assert made["decode"]["promised_ms_per_token"] == pytest.approx(1e3 * promised, rel=1e-3)
    assert made["prefill"]["promised_s"] == pytest.approx(1.25 * PREFILL_LIMIT, rel=1e-3)
    blind = one_request(meter(None))
    assert blind["decode"]["promised_ms_per_token"] is blind["prefill"]["promised_s"] is None


def test_what_a_token_cost_is_told_where_somebody_counts() -> None:
    quiet = one_request(meter())
    assert quiet["energy"]["joules"] is None and quiet["energy"]["reason"] and "J a token" not in summary(quiet)
    request, of = RequestMeter(), meter()
    for _ in range(4):
        request.add("decode", 1, of.step(of.due(StepWork.of([(9, 1)] * 2, logit_rows=2)), 0.1, 0.0))
    power = Reading(watts=300.0, idle_watts=60.0, over_s=2.0, throttled=(), reason=None)
    made = receipt(request, of, queue_s=0.0, time_to_first_token_s=None, cached_tokens=0, power=power)
    told: Any = made["energy"]
    assert (told["joules"], told["idle_joules"], told["joules_per_token"]) == (60.0, 12.0, 15.0), "half of each step is its own"
    assert "15 J a token, 20% of it idle" in summary(made)


def test_the_summary_is_four_lines_a_person_can_read() -> None:
    first, *lines = summary(one_request(meter())).splitlines()
    assert re.fullmatch(r"[\d.]+ ms a token were expected, 18.10 it took", lines.pop(0))
    lines.insert(0, first)
    assert len(lines) == 3
    assert lines[0] == "55.3 tok/s, 50% of what a cpu can do (limit 110.5 tok/s, reading 30.0 GB/s)"
    assert lines[1].startswith("prompt: 100 tokens in ") and "7 more from the cache" in lines[1]
    assert lines[2].startswith("The largest lever is ")


def test_a_receipt_is_json() -> None:
    made = one_request(meter())
    assert json.loads(json.dumps(made)) == made


def test_the_mean_step_is_split_into_parts_that_add_up() -> None:
    """The weights' and the KV's limits, padding, what goes beyond them, sampling, and the host's wait."""
    made = meter()
    total = Totals()
    for _ in range(4):
        step = made.step(
            made.due(DECODE), 2 * DECODE_LIMIT, 0.5 * DECODE_LIMIT, padding=3, sampling_s=0.1 * DECODE_LIMIT, captured=True
        )
        total.add(step, 1)
    told: Any = split(total, made)
    assert (told["steps"], told["rows"], told["captured_share"]) == (4, 4.0, 1.0)
    assert told["weights_ms"] + told["kv_ms"] == pytest.approx(1e3 * DECODE_LIMIT, rel=1e-3)
    assert told["kv_ms"] == pytest.approx(1e3 * 102 * 30 * 2 * 3 * 64 * 2 / 30e9, rel=1e-3)
    assert 0 < told["padding_ms"] < 0.01 * told["weights_ms"], "three rows more to look up and to multiply"
    assert told["ms"] == pytest.approx(told["device_ms"] + told["host_ms"], rel=1e-3) and told["host_share"] == 0.2
    assert told["sampling_ms"] == pytest.approx(0.1e3 * DECODE_LIMIT, rel=1e-3)
    assert told["launches_ms"] is None, "nobody watched the kernels"
    parts = ("weights", "weights_over", "kv", "kv_over", "padding", "sampling", "unattributed")
    assert sum(told[f"{part}_ms"] for part in parts) == pytest.approx(told["device_ms"], rel=1e-3)
    assert abs(told["unattributed_share"]) < 0.001


def test_attention_is_told_from_the_rest_by_how_steps_differ() -> None:
    """Steps of 2 ms and 60 ps a byte beyond that, contexts growing as answers do, noise of 3 %: both are found again."""
    made = meter()
    total = Totals()
    noise = random.Random(5)
    for context in range(100, 1300, 2):
        work = StepWork.of([(context, 1)] * 4, logit_rows=4)
        kv_bytes = made.cost(work).kv_read_bytes + made.cost(work).kv_write_bytes
        total.add(made.step(made.due(work), (2e-3 + 6e-11 * kv_bytes) * noise.uniform(0.97, 1.03), 0.0), 4)
    told: Any = split(total, made)
    assert told["kv_ms"] + told["kv_over_ms"] == pytest.approx(6e-8 * total.kv_bytes / total.steps, rel=0.05)
    weights = told["weights_ms"] + told["weights_over_ms"]
    assert weights == pytest.approx(2.0, rel=0.05) and abs(told["unattributed_share"]) < 0.01


def test_steps_that_suddenly_take_longer_are_not_attributed_at_once() -> None:
    """Somebody else came to the device: what such steps take is learned slowly, and meanwhile nobody knows why."""
    made = meter()
    for _ in range(600):
        made.step(made.due(DECODE), 2 * DECODE_LIMIT, 0.0)
    total = Totals()
    for _ in range(10):
        total.add(made.step(made.due(DECODE), 3 * DECODE_LIMIT, 0.0), 1)
    told: Any = split(total, made)
    assert told["unattributed_share"] > 0.3
    for _ in range(3000):
        made.step(made.due(DECODE), 3 * DECODE_LIMIT, 0.0)
    total = Totals()
    total.add(made.step(made.due(DECODE), 3 * DECODE_LIMIT, 0.0), 1)
    told = split(total, made)
    assert abs(told["unattributed_share"]) < 0.01


def test_steps_of_other_rows_are_learned_apart() -> None:
    made, total = meter(), Totals()
    for rows, times in ((1, 2.0), (8, 3.0)) * 40:
        work = StepWork.of([(100, 1)] * rows, logit_rows=rows)
        total.add(made.step(made.due(work), times * DECODE_LIMIT, 0.0), rows)
    assert abs(split(total, made)["unattributed_share"]) < 0.001  # type: ignore[arg-type]


def test_the_first_step_of_all_says_what_attention_usually_takes() -> None:
    fixed, grown = Fit().step(1e6, 1e-3, 5e-3)
    assert fixed + grown == pytest.approx(5e-3) and grown == pytest.approx(1e-3 / 0.8)


def test_a_watched_step_tells_where_the_rest_went() -> None:
    made = meter()
    total = Totals()
    for context in (100, 300):
        work = StepWork.of([(context, 1)], logit_rows=1)
        total.add(made.step(made.due(work), 2 * DECODE_LIMIT, 0.0), 1)
    kv_bytes = total.kv_bytes / 2
    kernels = {"gemv": 1.2 * DECODE_LIMIT, "_decode": 0.3 * DECODE_LIMIT, "_pick": 0.1 * DECODE_LIMIT}
    made.anatomies[1] = Anatomy.of(kernels, step_s=1.9 * DECODE_LIMIT, rows=1, kv_bytes=kv_bytes)
    told: Any = split(total, made)
    parts = ("weights", "weights_over", "kv", "kv_over", "padding", "sampling", "launches", "unattributed")
    assert sum(told[f"{part}_ms"] for part in parts) == pytest.approx(told["device_ms"], rel=1e-3)
    assert told["weights_ms"] + told["weights_over_ms"] == pytest.approx(1.2e3 * DECODE_LIMIT, rel=1e-3)
    assert told["kv_ms"] + told["kv_over_ms"] == pytest.approx(0.3e3 * DECODE_LIMIT, rel=1e-3)
    assert told["launches_ms"] == pytest.approx(0.3e3 * DECODE_LIMIT, rel=1e-3)
    assert told["unattributed_share"] == pytest.approx(0.05, rel=0.01)


def test_kernels_that_overlap_do_not_make_a_step_longer() -> None:
    seen = Anatomy.of({"gemv": 3.0, "flash_fwd": 1.0}, step_s=2.0, rows=1, kv_bytes=1.0)
    assert (seen.weights_s, seen.kv_s, seen.sampling_s, seen.launches_s) == (1.5, 0.5, 0.0, 0.0)


def test_a_watched_step_without_gaps_says_so() -> None:
    """Nothing between kernels is a figure; that nobody watched is none."""
    made, total = meter(), Totals()
    total.add(made.step(made.due(DECODE), 2 * DECODE_LIMIT, 0.0), 1)
    made.anatomies[1] = Anatomy.of({"gemv": 3 * DECODE_LIMIT}, step_s=2 * DECODE_LIMIT, rows=1, kv_bytes=total.kv_bytes)
    assert split(total, made)["launches_ms"] == 0.0


def test_a_watched_step_of_other_rows_does_not_count() -> None:
    made = meter()
    made.anatomies[8] = Anatomy(8, 1.0, 1.0, 1.0, 1.0, 1.0)
    total = Totals()
    total.add(made.step(made.due(DECODE), DECODE_LIMIT, 0.0), 1)
    told = made.over(total)
    assert (
        told is not None
        and "launches" not in told
        and told["sampling"] == 0.0
        and sum(told.values()) == pytest.approx(0, abs=1e-9)
    )
    assert made.over(Totals()) is None


def test_without_ceilings_a_step_has_times_and_no_parts() -> None:
    made = one_request(meter(None))
    assert made["step"]["device_ms"] > 0 and made["step"]["weights_ms"] is made["step"]["unattributed_ms"] is None
    assert made["rest"]["unattributed_share"] is None
    assert one_request(meter(), steps=0)["step"] == {"steps": 0}


def test_prompts_are_reckoned_at_the_usual_share_of_the_matrix_rate() -> None:
    """SmolLM2-135M multiplies 106 million weights a token, and 4 * 30 layers * 9 heads * 64 a pair."""
    rates = meter().prompt_seconds()
    assert rates is not None
    assert rates[0] == pytest.approx(2 * 106.2e6 / (0.8 * 4e11), rel=1e-2) and rates[1] == 4 * 30 * 9 * 64 / (0.8 * 4e11)
    assert meter(None).prompt_seconds() is None


def test_our_kernels_that_are_told_apart_by_name_exist() -> None:
    """A kernel that is renamed would count among those that read weights."""
    folder = Path(__file__).parents[3] / "src" / "redline" / "kernels"
    sources = [path.read_text() for path in sorted(folder.rglob("*_triton.py"))]
    triton = {name for source in sources for name in re.findall(r"^def (\w+)\(", source, re.MULTILINE)}
    cuda = {name for path in folder.rglob("*.cu") for name in re.findall(r"(\w+)\(const __grid_constant__", path.read_text())}
    named = set().union(*_NAMES.values())
    assert named <= triton | cuda, named - triton - cuda
