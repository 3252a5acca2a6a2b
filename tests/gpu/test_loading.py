"""Weights that were streamed to a card are those that a CPU unpacks, from a folder and from a GGUF file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from model_files import llama_gguf
from redline import checkpoint, log
from redline.models import stream
from redline.models.load import load
from redline.models.registry import build
from redline.parallel.ranks import Ranks
from redline.quant import unpack
from redline.shapes import KNOWN

pytestmark = pytest.mark.gpu


def _check(path: Path, dtype: torch.dtype, ranks: Ranks | None = None) -> None:
    opened = checkpoint.open(str(path))
    models = [build(opened.shape, dtype, device, max_len=16, ranks=ranks) for device in ("cpu", "cuda:0")]
    for model in models:
        load(model, opened)
    expected, got = (dict(model.slots()) for model in models)
    for name, slot in expected.items():
        assert torch.equal(got[name].target.cpu(), slot.target), name


@pytest.mark.parametrize("block_bytes", [1 << 12, 1 << 16, stream.BLOCK_BYTES])
@pytest.mark.parametrize("name", ["tiny-llama", "tiny-qwen2", "tiny-gemma3", "tiny-qwen3-moe"])
def test_a_folder(name: str, block_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "BLOCK_BYTES", block_bytes)
    before = sum(log.FALLBACKS.values())
    weights = {packed.name: unpack(packed, torch.bfloat16) for packed in checkpoint.open(f"random:{name}").arrays()}
    (tmp_path / "config.json").write_text(json.dumps(dict(KNOWN[name])))
    save_file(weights, tmp_path / "model.safetensors")
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        _check(tmp_path, dtype)
    _check(tmp_path, torch.bfloat16, Ranks(1, 2))
    assert sum(log.FALLBACKS.values()) == before, "host memory could not be locked"


def test_a_gguf_file(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(llama_gguf(np.random.default_rng(0)).to_bytes())
    _check(path, torch.bfloat16)


@pytest.mark.real_model
def test_a_real_gguf_file(smollm2: Path) -> None:
    _check(smollm2, torch.bfloat16)


def test_blocks_are_waited_for_before_they_are_read_into_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many reads through few blocks of one lane: a block that is overwritten too early leaves wrong weights."""
    monkeypatch.setattr(stream, "LANES", 1)
    monkeypatch.setattr(stream, "BLOCK_BYTES", 1 << 20)
    name = "random:tiny-llama"
    weights = {packed.name: unpack(packed, torch.bfloat16) for packed in checkpoint.open(name).arrays()}
    weights["model.embed_tokens.weight"] = torch.randn(200_000, 128, dtype=torch.bfloat16)
    weights["lm_head.weight"] = torch.randn(200_000, 128, dtype=torch.bfloat16)
    (tmp_path / "config.json").write_text(json.dumps({**KNOWN["tiny-llama"], "vocab_size": 200_000}))
    save_file(weights, tmp_path / "model.safetensors")
    _check(tmp_path, torch.bfloat16)
