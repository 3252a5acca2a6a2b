"""What a folder says of its embeddings: sentence-transformers' file on pooling, old and new, and other servers' config fields."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from families import CASES, redline_model, reference_model
from redline import checkpoint
from redline.checkpoint.embedding import POOLING, EmbeddingDefaults, of_folder, of_gguf
from redline.errors import CheckpointError
from redline.models.load import load
from redline.models.registry import build


def told(folder: Path, pooling: dict[str, Any] | None = None, config: dict[str, Any] | None = None) -> EmbeddingDefaults:
    if pooling is not None:
        (folder / POOLING).parent.mkdir(exist_ok=True)
        (folder / POOLING).write_text(json.dumps(pooling))
    return of_folder(folder, config or {})


def flags(**on: bool) -> dict[str, Any]:
    modes = dict.fromkeys(("cls_token", "mean_tokens", "max_tokens", "lasttoken"), False) | on
    return {
        "word_embedding_dimension": 8,
        **{f"pooling_mode_{name}": value for name, value in modes.items()},
        "include_prompt": True,
    }


@pytest.mark.parametrize(
    ("pooling", "expected"),
    [
        (None, None),
        (flags(lasttoken=True), "last"),
        (flags(mean_tokens=True), "mean"),
        (flags(cls_token=True), "cls"),
        (flags(mean_tokens=True, max_tokens=True), "max_tokens+mean"),
        (flags(), None),
        ({"pooling_mode": "lasttoken"}, "last"),
        ({"pooling_mode": "mean"}, "mean"),
        ({"pooling_mode": "weightedmean"}, "weightedmean"),
    ],
)
def test_pooling(pooling: dict[str, Any] | None, expected: str | None, tmp_path: Path) -> None:
    assert told(tmp_path, pooling).pooling == expected


def test_a_dense_layer_behind_the_pooling_is_no_pooling_of_ours(tmp_path: Path) -> None:
    (tmp_path / "2_Dense").mkdir()
    (tmp_path / "2_Dense" / "config.json").write_text("{}")
    assert told(tmp_path, flags(mean_tokens=True)).pooling == "dense"


def test_a_broken_file_is_told(tmp_path: Path) -> None:
    (tmp_path / POOLING).parent.mkdir()
    (tmp_path / POOLING).write_text("{")
    with pytest.raises(CheckpointError):
        of_folder(tmp_path, {})


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, (False, ())),
        ({"is_matryoshka": True}, (True, ())),
        ({"is_matryoshka": "yes"}, (False, ())),
        ({"matryoshka_dimensions": [64, 128]}, (True, (64, 128))),
        ({"matryoshka_dimensions": [64, "a", -1, True]}, (True, (64,))),
        ({"matryoshka_dimensions": 5}, (False, ())),
    ],
)
def test_matryoshka(config: dict[str, Any], expected: tuple[bool, tuple[int, ...]], tmp_path: Path) -> None:
    found = told(tmp_path, None, config)
    assert (found.matryoshka, found.dimensions) == expected


def test_gguf() -> None:
    kinds = {
        kind: of_gguf({"general.architecture": "qwen3", "qwen3.pooling_type": kind}).pooling for kind in (0, 1, 2, 3, 4, "1")
    }
    assert kinds == {0: None, 1: "mean", 2: "cls", 3: "last", 4: "rank", "1": None}


def test_a_model_saved_without_its_head_loads(tmp_path: Path) -> None:
    """As embedding models are: the inner model alone, whose tensors lack the prefix, and whose head is the embedding."""
    reference = reference_model(CASES["qwen2"])
    whole = redline_model(reference, tmp_path / "whole")
    reference.model.save_pretrained(tmp_path / "bare")
    opened = checkpoint.open(str(tmp_path / "bare"))
    assert {name.split(".")[0] for name in (packed.name for packed in opened.arrays())} == {"model"}
    bare = build(opened.shape, torch.float32, "cpu", max_len=64)
    load(bare, opened)
    for (name, want), (_, got) in zip(whole.slots(), bare.slots(), strict=True):
        assert torch.equal(want.target, got.target), name
