"""Masks beside the step: with a vocabulary of 152 thousand tokens they take microseconds."""

from __future__ import annotations

from pathlib import Path

import pytest

from mask_times import measure
from redline import checkpoint
from redline.checkpoint.opener import tokenizer_for

SLACK = 4  # for whatever machine runs the tests; bench/masks.py asks for the limits themselves


@pytest.mark.soak
@pytest.mark.real_model
def test_a_mask_takes_microseconds(qwen_coder: Path, effort: int) -> None:
    opened = checkpoint.open(str(qwen_coder))
    sizes = {"answers": 1 if effort == 1 else 4, "tokens": 40 if effort == 1 else 120}
    found = measure(tokenizer_for(opened), opened.shape.vocab_size, opened.generation.eos_ids, **sizes)
    assert found["mask_count"] > 1000
    assert found["mask_median_us"] < 60 * SLACK and found["mask_p99_us"] < 1000 * SLACK
