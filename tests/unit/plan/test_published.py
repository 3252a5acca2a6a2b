"""Limits against reality: nobody beat one, and the best engine of each large batch-1 row came within 1.0 and 1.7 of it."""

from __future__ import annotations

import pytest

from redline.plan.published import ROWS, Row, limit_s
from redline.plan.roofline import weight_count
from redline.shapes import known


@pytest.mark.parametrize(
    "row", ROWS, ids=lambda row: f"{row.engine}-{row.model}-{row.chip}-{row.weights}-{row.batch}x{row.prompt}"
)
def test_no_limit_was_beaten(row: Row) -> None:
    assert 0 < limit_s(row) * 1e3 <= row.ms, f"{row.ms / (limit_s(row) * 1e3):.3f}"


def test_the_best_engine_of_each_large_batch_1_row_comes_near_its_limit() -> None:
    best: dict[tuple[str, str], float] = {}
    for row in ROWS:
        if row.context and row.batch == 1 and row.weights == "bf16" and weight_count(known(row.model)) > 7e9:
            ratio = row.ms / (limit_s(row) * 1e3)
            best[row.model, row.chip] = min(ratio, best.get((row.model, row.chip), ratio))
    assert len(best) >= 4
    within = {case: round(ratio, 2) for case, ratio in best.items() if 1.0 <= ratio <= 1.7}
    # B200 is the one card whose engines were young: 3.93 ms of a limit of 1.95 (vLLM with FlashInfer).
    assert set(best) - set(within) <= {("llama-3.1-8b", "b200")}, best


def test_limits_of_the_measured_card_are_the_published_ones() -> None:
    """peers' own count of limits, by other code, in ms; it counted half of the causal square without the diagonal."""
    told = {("qwen3-8b", 1, 128): 3.306, ("qwen3-8b", 256, 512): 10.454, ("llama-3.2-1b", 128, 512): 1.138}
    for row in ROWS:
        key = (row.model, row.batch, row.prompt)
        if row.chip == "P" and row.weights == "bf16" and row.context and key in told:
            assert limit_s(row) * 1e3 == pytest.approx(told[key], rel=4e-3)
