"""Hugging Face folders: shards and their index, the texts beside them, and the tensors that a language model does not load."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from redline.checkpoint import folder
from redline.checkpoint.folder import FolderCheckpoint
from redline.errors import CheckpointError, UnsupportedModel

CONFIG = {
    "model_type": "llama", "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
    "num_key_value_heads": 1, "vocab_size": 10, "tie_word_embeddings": False, "eos_token_id": 7,
}  # fmt: skip
A, B = np.ones((10, 8), np.float32), np.full((8,), 2, np.float16)


def put(path: Path, name: str, content: Any) -> None:
    path.mkdir(exist_ok=True)
    (path / name).write_text(content if isinstance(content, str) else json.dumps(content))


def single(path: Path, arrays: dict[str, np.ndarray], **config: Any) -> Path:
    put(path, "config.json", CONFIG | config)
    safetensors.numpy.save_file(arrays, path / "model.safetensors")
    return path


def sharded(path: Path, shards: dict[str, dict[str, np.ndarray]], weight_map: dict[str, Any] | None = None) -> Path:
    put(path, "config.json", CONFIG)
    for name, arrays in shards.items():
        safetensors.numpy.save_file(arrays, path / name)
    true_map = {tensor: name for name, arrays in shards.items() for tensor in arrays}
    put(path, "model.safetensors.index.json", {"metadata": {}, "weight_map": true_map if weight_map is None else weight_map})
    return path


S1, S2 = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


def test_one_file(tmp_path: Path) -> None:
    checkpoint = FolderCheckpoint(single(tmp_path / "tiny", {"model.embed_tokens.weight": A, "model.norm.weight": B}))
    assert checkpoint.name == "tiny" and checkpoint.shape.family == "llama"
    assert checkpoint.stored_dtype == "f32" and checkpoint.file_bytes == A.nbytes + B.nbytes
    found = {packed.name: packed.data for packed in checkpoint.arrays()}
    np.testing.assert_array_equal(found["model.norm.weight"], B)
    assert checkpoint.chat_template is None and checkpoint.template_tokens == {}
    assert checkpoint.generation.eos_ids == (7,)


def test_shards_are_one_stream(tmp_path: Path) -> None:
    checkpoint = FolderCheckpoint(sharded(tmp_path, {S1: {"a": A}, S2: {"b": B, "c": B}}))
    assert sorted(packed.name for packed in checkpoint.arrays()) == ["a", "b", "c"]
    assert folder.is_complete(tmp_path)


BAD_MAPS: dict[str, tuple[Any, str]] = {
    "no map": ([], "no weight_map"),
    "missing file": ({"a": S1, "b": "model-00003.safetensors"}, "lacks model-00003.safetensors"),
    "missing tensor": ({"a": S1, "b": S2, "x": S2}, "places tensor x in " + S2),
    "tensor of another shard": ({"a": S2, "b": S2}, "places tensor a in " + S2),
    "leaves the folder": ({"a": "../" + S1, "b": S2}, "not a safetensors file of this folder"),
    "absolute": ({"a": "/etc/x.safetensors", "b": S2}, "not a safetensors file of this folder"),
    "pickle": ({"a": "pytorch_model.bin"}, "not a safetensors file of this folder"),
    "number": ({"a": 3}, "not a safetensors file of this folder"),
}


@pytest.mark.parametrize("lie", BAD_MAPS)
def test_an_index_that_lies_is_refused(lie: str, tmp_path: Path) -> None:
    weight_map, says = BAD_MAPS[lie]
    path = sharded(tmp_path, {S1: {"a": A, "b2": B}, S2: {"b": B}}, weight_map)
    with pytest.raises(CheckpointError) as caught:
        FolderCheckpoint(path)
    assert says in str(caught.value)


def test_a_tensor_that_the_index_does_not_list_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=f"{S2} holds tensor c, which .* places in no file"):
        FolderCheckpoint(sharded(tmp_path, {S1: {"a": A}, S2: {"b": B, "c": B}}, {"a": S1, "b": S2}))


def test_folders_without_weights_say_what_they_have(tmp_path: Path) -> None:
    put(tmp_path, "config.json", CONFIG)
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(CheckpointError, match="only pytorch_model.bin") as caught:
        FolderCheckpoint(tmp_path)
    assert "never pickled" in caught.value.hint and not folder.is_complete(tmp_path)
    with pytest.raises(CheckpointError, match="has no config.json"):
        FolderCheckpoint(tmp_path / "nowhere")


def test_quantised_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match="'gptq'"):
        FolderCheckpoint(single(tmp_path, {"a": A}, quantization_config={"quant_method": "gptq"}))


def test_a_tied_head_and_rotary_buffers_are_not_yielded(tmp_path: Path) -> None:
    arrays = {"model.embed_tokens.weight": A, "lm_head.weight": A, "model.layers.0.self_attn.rotary_emb.inv_freq": B}
    tied = FolderCheckpoint(single(tmp_path / "tied", arrays, tie_word_embeddings=True))
    assert [packed.name for packed in tied.arrays()] == ["model.embed_tokens.weight"] and tied.file_bytes == A.nbytes
    own = FolderCheckpoint(single(tmp_path / "own", arrays))
    assert {packed.name for packed in own.arrays()} == {"model.embed_tokens.weight", "lm_head.weight"}


@pytest.mark.parametrize("prefix", ["language_model.model.", "model.language_model."])
def test_the_language_model_within_a_model_with_vision(prefix: str, tmp_path: Path) -> None:
    arrays = {
        prefix + "embed_tokens.weight": A,
        prefix + "layers.0.mlp.up_proj.weight": A,
        "vision_tower.vision_model.head.weight": A,
        "model.vision_tower.x.weight": A,
        "multi_modal_projector.y": A,
        "model.multi_modal_projector.y": A,
    }
    text = {**CONFIG, "model_type": "gemma3_text", "head_dim": 4}
    checkpoint = FolderCheckpoint(single(tmp_path, arrays, model_type="gemma3", text_config=text))
    assert sorted(packed.name for packed in checkpoint.arrays()) == [
        "model.embed_tokens.weight",
        "model.layers.0.mlp.up_proj.weight",
    ]


def test_texts_beside_the_weights(tmp_path: Path) -> None:
    path = single(tmp_path, {"a": A})
    put(path, "generation_config.json", {"eos_token_id": [3, 5, 3], "temperature": 0.6, "top_k": 20, "top_p": 0.95, "min_p": "x"})
    put(path, "special_tokens_map.json", {"bos_token": "<old>", "pad_token": "<pad>"})
    put(path, "tokenizer_config.json", {"bos_token": {"content": "<s>"}, "eos_token": "</s>", "chat_template": "from config"})
    checkpoint = FolderCheckpoint(path)
    assert checkpoint.generation == folder.GenerationDefaults(eos_ids=(3, 5), temperature=0.6, top_k=20, top_p=0.95)
    assert checkpoint.template_tokens == {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    assert checkpoint.chat_template == "from config"
    put(
        path,
        "tokenizer_config.json",
        {"chat_template": [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]},
    )
    assert FolderCheckpoint(path).chat_template == "d"
    put(path, "chat_template.jinja", "from file é")
    assert FolderCheckpoint(path).chat_template == "from file é"


@pytest.mark.parametrize("name", ["config.json", "generation_config.json", "tokenizer_config.json"])
@pytest.mark.parametrize(
    "content", ["", "[]", "{", "[" * 5000, '{"a": 1, "a": 2}'], ids=["empty", "list", "open", "deep", "twice"]
)
def test_broken_json_is_one_clear_error(name: str, content: str, tmp_path: Path) -> None:
    path = single(tmp_path, {"a": A})
    put(path, name, content)
    with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
        FolderCheckpoint(path)
