"""A folder written from a `random:` model is that model: same weights, same shape, a tokenizer that spells the same."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

from redline import checkpoint
from redline.models.load import load
from redline.models.registry import build

BENCH = Path(__file__).parents[3] / "bench"


@pytest.fixture(scope="module")
def make_folder() -> Iterator[ModuleType]:
    sys.path.insert(0, str(BENCH))
    try:
        import make_folder

        yield make_folder
    finally:
        sys.path.remove(str(BENCH))


def _weights(source: str) -> dict[str, torch.Tensor]:
    opened = checkpoint.open(source)
    model = build(opened.shape, torch.float32, "cpu", max_len=16)
    load(model, opened)
    return {name: slot.target for name, slot in model.slots()}


@pytest.mark.parametrize("name", ["tiny-llama", "tiny-gemma3"])
def test_the_folder_is_the_random_model(name: str, make_folder: ModuleType, tmp_path: Path) -> None:
    nbytes = make_folder.write(name, tmp_path / "model", torch.float32, shard_bytes=1 << 19)
    opened = checkpoint.open(str(tmp_path / "model"))
    files = sorted((tmp_path / "model").glob("*.safetensors"))
    assert len(files) > 1 and files[0].name == f"model-00001-of-{len(files):05}.safetensors"
    assert opened.file_bytes == nbytes and opened.stored_dtype == "f32"
    expected = _weights(f"random:{name}")
    got = _weights(str(tmp_path / "model"))
    assert got.keys() == expected.keys()
    for tensor in expected:
        torch.testing.assert_close(got[tensor], expected[tensor], rtol=0, atol=1e-6)


def test_its_tokenizer_has_a_piece_for_every_id(make_folder: ModuleType, tmp_path: Path) -> None:
    make_folder.write("tiny-llama", tmp_path, torch.bfloat16)
    tokenizer, plain = checkpoint.open(str(tmp_path)).tokenizer(), checkpoint.open("random:tiny-llama").tokenizer()
    text = "Grüße, 你好\n"
    assert tokenizer.encode(text, False) == plain.encode(text, False)
    assert [tokenizer.piece(id_) for id_ in range(512)] == [plain.piece(id_) for id_ in range(512)]
    assert json.loads((tmp_path / "config.json").read_text())["torch_dtype"] == "bfloat16"
