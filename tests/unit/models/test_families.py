"""Every family against transformers: same random weights, same tokens, logits within the tolerance table.

The weights travel as users' do: `save_pretrained` to a folder, opened as a checkpoint.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from families import (
    CASES,
    DTYPES,
    FAMILIES,
    PROMPTS,
    check_decided,
    expected_logits,
    half_precision_prompts,
    redline_model,
    reference_model,
)
from paging import PagedSequences, chunked, whole
from redline.kernels.tolerance import check
from redline.layers.batch import Batch
from redline.layers.decoder import Decoder


@pytest.mark.parametrize("name", CASES)
def test_logits_equal_transformers_whole_and_chunked(name: str, tmp_path: Path) -> None:
    """Whole prompts in one batch, and chunks mixed with decode steps over random pages, both give transformers' logits."""
    reference = reference_model(CASES[name])
    model = redline_model(reference, tmp_path)
    expected = expected_logits(reference)
    for steps in (whole(PROMPTS), chunked(PROMPTS, chunk=5, decodes=7)):
        for want, got in zip(expected, PagedSequences(model, PROMPTS).run(steps), strict=True):
            if len(want) >= CASES[name].shortest:
                check(name, want, got, "model", "f32")


@pytest.mark.parametrize("name", [name for name in CASES if not name.startswith("gemma3")])
def test_steps_of_few_kernels_give_the_same_logits(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The way that a GPU takes with few sequences, here through the kernels' torch twins: every family that has it."""
    fused = []

    def runs_fused(model: Decoder, batch: Batch) -> bool:
        fused.append(model._fuses and batch.ragged.max_query == 1 and len(batch.tokens_T) == len(batch.ragged.context_B))
        return fused[-1]

    monkeypatch.setattr(Decoder, "runs_fused", runs_fused)
    reference = reference_model(CASES[name])
    model = redline_model(reference, tmp_path)
    for want, got in zip(
        expected_logits(reference), PagedSequences(model, PROMPTS).run(chunked(PROMPTS, chunk=5, decodes=7)), strict=True
    ):
        if len(want) >= CASES[name].shortest:
            check(name, want, got, "model", "f32")
    assert sum(fused) >= 5 or CASES[name].settings.get("mlp_bias"), "no step took that way"


@pytest.mark.parametrize("dtype", ["bf16", "f16"])
@pytest.mark.parametrize("name", FAMILIES)
def test_half_precision_stays_within_the_table(name: str, dtype: str, tmp_path: Path) -> None:
    """In half precision the logits are as near to the float32 truth as the table asks of a whole model."""
    reference = reference_model(CASES[name], DTYPES[dtype])
    model = redline_model(reference, tmp_path, DTYPES[dtype])
    prompts = half_precision_prompts(reference)
    check_decided(name, reference, PagedSequences(model, prompts).run(chunked(prompts, chunk=9, decodes=3)), dtype)
