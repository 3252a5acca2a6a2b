"""The way that a GPU takes with prompts, here on a CPU through the kernels' torch twins: every family."""

from __future__ import annotations

from pathlib import Path

import pytest

from families import CASES, PROMPTS, expected_logits, redline_model, reference_model
from paging import PagedSequences, chunked, whole
from redline.kernels.tolerance import check
from redline.layers.attention import Attention


@pytest.mark.parametrize("name", CASES)
def test_heads_in_one_pass_give_the_same_logits(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Norms, rope and the cache's write fused (kernels/prepare.py) give transformers' logits too."""
    monkeypatch.setattr(Attention, "_attend_in_steps", Attention.attend)
    reference = reference_model(CASES[name])
    model = redline_model(reference, tmp_path)
    expected = expected_logits(reference)
    for steps in (whole(PROMPTS), chunked(PROMPTS, chunk=5, decodes=7)):
        for want, got in zip(expected, PagedSequences(model, PROMPTS).run(steps), strict=True):
            if len(want) >= CASES[name].shortest:
                check(name, want, got, "model", "f32")
