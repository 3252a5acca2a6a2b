"""Every family and head size through the Triton kernels on a card, logit by logit against transformers in float32."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

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

pytestmark = pytest.mark.gpu

HEAD_SIZES = (64, 80, 96, 128, 256)


@pytest.fixture(autouse=True)
def exact_float32() -> None:
    torch.set_float32_matmul_precision("highest")


@pytest.mark.parametrize("dtype", ["bf16", "f16", "f32"])
@pytest.mark.parametrize("head_size", HEAD_SIZES)
@pytest.mark.parametrize("name", FAMILIES)
def test_logits_stay_within_the_table(
    name: str, head_size: int, dtype: str, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """Whole prompts, and chunks mixed with decode steps over random pages. A truth in float32 on the CPU."""
    case = dataclasses.replace(CASES[name], settings={**CASES[name].settings, "head_dim": head_size})
    reference = reference_model(case, DTYPES[dtype])
    model = redline_model(reference, tmp_path, DTYPES[dtype], "cuda")
    prompts = half_precision_prompts(reference)
    for steps in (whole(prompts), chunked(prompts, chunk=9, decodes=5)):
        record_property("rms_ratio", check_decided(name, reference, PagedSequences(model, prompts).run(steps), dtype))


@pytest.mark.parametrize("name", CASES)
def test_every_variant_in_float32(name: str, tmp_path: Path) -> None:
    """Rope scalings, biases, tied heads, windows: as on the CPU, to 1e-4."""
    reference = reference_model(CASES[name])
    model = redline_model(reference, tmp_path, device="cuda")
    for want, got in zip(expected_logits(reference), PagedSequences(model, PROMPTS).run(whole(PROMPTS)), strict=True):
        if len(want) >= CASES[name].shortest:
            check(name, want, got.cpu(), "model", "f32")


@pytest.mark.parametrize("dtype", ["bf16", "f16", "f32"])
@pytest.mark.parametrize("head_size", HEAD_SIZES)
@pytest.mark.parametrize("name", ["llama", "llama_tied_biases", "mistral", "qwen2", "qwen3", "mixtral"])
def test_one_sequence_in_few_kernels(name: str, head_size: int, dtype: str, tmp_path: Path) -> None:
    """One new token at a time takes the fused kernels: the same truth, the same table."""
    case = dataclasses.replace(CASES[name], settings={**CASES[name].settings, "head_dim": head_size})
    reference = reference_model(case, DTYPES[dtype])
    model = redline_model(reference, tmp_path, DTYPES[dtype], "cuda")
    expected = expected_logits(reference)[0]
    got = PagedSequences(model, PROMPTS[:1]).run(chunked(PROMPTS[:1], chunk=9, decodes=25))[0]
    check(name, expected, got.cpu(), "model", dtype)
