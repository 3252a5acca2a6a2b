"""A step of which few final states are wanted computes the last layer for them alone: the same states."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from families import CASES, PROMPTS, redline_model, reference_model
from paging import PagedSequences
from redline.kernels.tolerance import check


@pytest.mark.parametrize("name", CASES)
@torch.inference_mode()
def test_wanted_rows_are_those_of_the_whole(name: str, tmp_path: Path) -> None:
    model = redline_model(reference_model(CASES[name]), tmp_path)
    sequences = PagedSequences(model, PROMPTS)
    batch = sequences._batch([len(prompt) for prompt in PROMPTS])
    every = model.forward(batch, sequences._cache)
    before = [cache.clone() for cache in (*sequences._cache.k, *sequences._cache.v)]
    for rows in ([len(every) - 1], [40, 41, 60, 66]):
        wanted = torch.tensor(rows, dtype=torch.int64)
        found = model.forward(dataclasses.replace(batch, rows_R=wanted), sequences._cache)
        check(name, every[wanted], found, "model", "f32")
    for old, new in zip(before, (*sequences._cache.k, *sequences._cache.v), strict=True):
        assert torch.equal(old.nan_to_num(), new.nan_to_num())
