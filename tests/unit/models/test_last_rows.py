"""A step of which few final states are wanted computes the last layer for them alone: the same states."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from families import CASES, PROMPTS, redline_model, reference_model
from paging import PagedSequences
from redline.kernels.tolerance import check
from redline.layers import attention
from redline.layers.attention import Attention


@pytest.mark.parametrize("name", CASES)
@torch.inference_mode()
def test_wanted_rows_are_those_of_the_whole(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = redline_model(reference_model(CASES[name]), tmp_path)
    sequences = PagedSequences(model, PROMPTS)
    batch = sequences._batch([len(prompt) for prompt in PROMPTS])
    every = model.forward(batch, sequences._cache)
    alone: list[int] = []
    attend_rows = Attention._attend_rows
    monkeypatch.setattr(attention, "LEAST_TOKENS", attention.TOKENS_A_ROW)
    monkeypatch.setattr(Attention, "_attend_rows", lambda own, *args: alone.append(len(args[-1])) or attend_rows(own, *args))
    before = [cache.clone() for cache in (*sequences._cache.k, *sequences._cache.v)]
    for rows in ([len(every) - 1], [40, 41, 60, 66]):
        wanted = torch.tensor(rows, dtype=torch.int64)
        found = model.forward(dataclasses.replace(batch, rows_R=wanted), sequences._cache)
        check(name, every[wanted], found, "model", "f32")
    assert alone == [1], "one row is few of them, four are not"
    for old, new in zip(before, (*sequences._cache.k, *sequences._cache.v), strict=True):
        assert torch.equal(old.nan_to_num(), new.nan_to_num())


def test_its_kernel_is_compiled_in_an_idle_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys and values without queries are another kernel than all three; the first long prompt would wait for it."""
    model = redline_model(reference_model(CASES["qwen3"]), tmp_path)
    shape, widths = model.shape, list[int]()
    prepare_heads = attention.prepare_heads

    def noted(qkv_TM: torch.Tensor, *others: Any) -> tuple[torch.Tensor, ...]:
        widths.append(qkv_TM.shape[1])
        return prepare_heads(qkv_TM, *others)

    monkeypatch.setattr(attention, "prepare_heads", noted)
    model.prepare_prompts(attention.LEAST_TOKENS // 2)
    assert not widths
    model.prepare_prompts(attention.LEAST_TOKENS)
    assert widths == [2 * shape.num_kv_heads * shape.head_size]
