"""Receipts by hand: what a step had to do, what it took, where the rest went, and the one lever that is named."""

from __future__ import annotations

import json
from typing import Any

import pytest

from redline.hardware import Ceilings
from redline.plan.receipt import NOT_MEASURED, Meter, RequestMeter, receipt, summary
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
    request.add("prefill", 100, meter.step(PREFILL, prefill_s, 0.0))
    for _ in range(steps):
        request.add("decode", 1, meter.step(DECODE, decode_s, host_s))
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
    step = shared.step(work, 0.02, 0.0)
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
    one.step(mixed, 0.1, 0.01)
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


def test_the_summary_is_three_lines_a_person_can_read() -> None:
    lines = summary(one_request(meter())).splitlines()
    assert len(lines) == 3
    assert lines[0] == "55.3 tok/s, 50% of what a cpu can do (limit 110.5 tok/s, reading 30.0 GB/s)"
    assert lines[1].startswith("prompt: 100 tokens in ") and "7 more from the cache" in lines[1]
    assert lines[2].startswith("The largest lever is ")


def test_a_receipt_is_json() -> None:
    made = one_request(meter())
    assert json.loads(json.dumps(made)) == made
