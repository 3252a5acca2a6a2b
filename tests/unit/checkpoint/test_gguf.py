"""GGUF checkpoints: names, row order, experts, ties and rope factors, against arrays laid out the way converters do it."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from model_files import ARRAY, F32, STRING, U32, Gguf, Value, llama_gguf
from redline.checkpoint.gguf import GgufCheckpoint
from redline.checkpoint.packed import Packed
from redline.errors import CheckpointError, UnsupportedModel

FUZZ_ROUNDS = 500


def opened(tmp_path: Path, file: Gguf) -> GgufCheckpoint:
    path = tmp_path / "model.gguf"
    path.write_bytes(file.to_bytes())
    return GgufCheckpoint(path)


def by_name(checkpoint: GgufCheckpoint) -> dict[str, Packed]:
    arrays = list(checkpoint.arrays())
    assert len({packed.name for packed in arrays}) == len(arrays)
    return {packed.name: packed for packed in arrays}


def values(packed: Packed) -> np.ndarray:
    return packed.data.reshape(packed.shape)


def permuted(weight: np.ndarray, heads: int) -> np.ndarray:
    """What llama.cpp's converter does to the rows of q and k."""
    rows = weight.shape[0]
    return weight.reshape(heads, 2, rows // heads // 2, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)


def replaced(file: Gguf, arrays: dict[str, np.ndarray]) -> Gguf:
    """The keys of `file` with these tensors."""
    new = Gguf(keys=file.keys)
    for name, array in arrays.items():
        new.add(name, array)
    return new


def test_a_llama_file_yields_hugging_face_names_in_file_order(tmp_path) -> None:
    checkpoint = opened(tmp_path, llama_gguf(np.random.default_rng(0)))
    layer = "model.layers.0."
    assert [packed.name for packed in checkpoint.arrays()] == [
        "model.embed_tokens.weight", "model.norm.weight", layer + "input_layernorm.weight", layer + "post_attention_layernorm.weight",
        layer + "self_attn.q_proj.weight", layer + "self_attn.k_proj.weight", layer + "self_attn.v_proj.weight",
        layer + "self_attn.o_proj.weight", layer + "mlp.gate_proj.weight", layer + "mlp.up_proj.weight", layer + "mlp.down_proj.weight",
    ]  # fmt: skip
    assert checkpoint.shape.family == "llama" and checkpoint.shape.tie_embeddings
    assert checkpoint.name == "model" and checkpoint.stored_dtype == "f32"
    assert checkpoint.file_bytes == sum(packed.nbytes for packed in checkpoint.arrays())
    assert checkpoint.chat_template == "{{ messages }}"
    assert checkpoint.template_tokens == {"bos_token": "<s>", "eos_token": "</s>"}
    assert checkpoint.generation.eos_ids == (1, 4), "the named end, and <|im_end|>, a control token"


def test_rotary_rows_come_back_without_a_copy(tmp_path) -> None:
    """q and k, weights and biases, of architecture llama only; v is never touched."""
    rng = np.random.default_rng(1)
    q, k, bias = rng.normal(size=(32, 32)), rng.normal(size=(16, 32)), rng.normal(size=16)
    arrays = {
        "token_embd.weight": np.zeros((5, 32)), "blk.0.attn_q.weight": permuted(q, 4), "blk.0.attn_k.weight": permuted(k, 2),
        "blk.0.attn_v.weight": k, "blk.0.attn_k.bias": permuted(bias, 2), "blk.0.attn_q.bias": np.zeros(32),
    }  # fmt: skip
    file = replaced(llama_gguf(rng), {name: array.astype(np.float32) for name, array in arrays.items()})
    found = by_name(opened(tmp_path, file))
    np.testing.assert_array_equal(values(found["model.layers.0.self_attn.q_proj.weight"]), q.astype(np.float32))
    np.testing.assert_array_equal(values(found["model.layers.0.self_attn.k_proj.weight"]), k.astype(np.float32))
    np.testing.assert_array_equal(values(found["model.layers.0.self_attn.v_proj.weight"]), k.astype(np.float32))
    np.testing.assert_array_equal(values(found["model.layers.0.self_attn.k_proj.bias"]), bias.astype(np.float32))
    assert not found["model.layers.0.self_attn.q_proj.weight"].data.flags.owndata


def test_rows_that_are_not_whole_heads_are_refused(tmp_path) -> None:
    file = llama_gguf(np.random.default_rng(0))
    file.add("blk.1.attn_q.weight", np.zeros((12, 32), np.float32))
    with pytest.raises(CheckpointError, match=r"blk\.1\.attn_q\.weight has 12 rows, which are not whole heads of 8"):
        list(opened(tmp_path, file).arrays())


def llama_keys_as(architecture: str, **more: Value) -> Gguf:
    file = llama_gguf(np.random.default_rng(0))
    keys = {name.replace("llama.", f"{architecture}."): value for name, value in file.keys}
    keys["general.architecture"] = Value(STRING, architecture)
    keys |= {f"{architecture}.{name.replace('__', '.')}": value for name, value in more.items()}
    file.keys = list(keys.items())
    return file


def test_other_architectures_are_not_permuted(tmp_path) -> None:
    file = llama_keys_as("qwen2")
    q = np.random.default_rng(3).normal(size=(32, 32)).astype(np.float32)
    file = replaced(file, {"token_embd.weight": np.zeros((5, 32), np.float32), "blk.0.attn_q.weight": q})
    np.testing.assert_array_equal(values(by_name(opened(tmp_path, file))["model.layers.0.self_attn.q_proj.weight"]), q)


@pytest.mark.parametrize(
    ("architecture", "more", "names"),
    [
        ("llama", {"expert_count": Value(U32, 3), "expert_used_count": Value(U32, 2)}, ("block_sparse_moe", "w1", "w3", "w2")),
        (
            "qwen3moe",
            {"expert_count": Value(U32, 3), "expert_used_count": Value(U32, 2), "expert_feed_forward_length": Value(U32, 16)},
            ("mlp", "gate_proj", "up_proj", "down_proj"),
        ),
    ],
)
def test_stacked_experts_become_tensors_of_their_own(tmp_path, architecture, more, names) -> None:
    rng = np.random.default_rng(4)
    stacks = {kind: rng.normal(size=(3, 16, 32)).astype(np.float32) for kind in ("gate", "up", "down")}
    arrays = {"token_embd.weight": np.zeros((5, 32), np.float32), "blk.0.ffn_gate_inp.weight": np.ones((3, 32), np.float32)}
    arrays |= {f"blk.0.ffn_{kind}_exps.weight": stack for kind, stack in stacks.items()}
    found = by_name(opened(tmp_path, replaced(llama_keys_as(architecture, **more), arrays)))
    room, *parts = names
    assert len(found) == 2 + 9
    assert found[f"model.layers.0.{room}.gate.weight"].shape == (3, 32)
    for kind, part in zip(("gate", "up", "down"), parts, strict=True):
        for expert in range(3):
            packed = found[f"model.layers.0.{room}.experts.{expert}.{part}.weight"]
            np.testing.assert_array_equal(packed.data, stacks[kind][expert])


def test_a_stack_of_another_size_is_refused(tmp_path) -> None:
    file = llama_keys_as("llama", expert_count=Value(U32, 4), expert_used_count=Value(U32, 2))
    file.add("blk.0.ffn_up_exps.weight", np.zeros((3, 16, 32), np.float32))
    with pytest.raises(CheckpointError, match="not a stack of 4 experts"):
        list(opened(tmp_path, file).arrays())


def test_gemma_names_its_four_norms(tmp_path) -> None:
    file = llama_keys_as("gemma3", attention__key_length=Value(U32, 8))
    norms = ("attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm", "attn_q_norm")
    arrays = {f"blk.0.{name}.weight": np.full(32, index, np.float32) for index, name in enumerate(norms)}
    checkpoint = opened(tmp_path, replaced(file, {"token_embd.weight": np.zeros((5, 32), np.float32)} | arrays))
    assert checkpoint.shape.norm_offset == 0.0, "the file's norms have the +1 already"
    expected = (
        "input_layernorm",
        "post_attention_layernorm",
        "pre_feedforward_layernorm",
        "post_feedforward_layernorm",
        "self_attn.q_norm",
    )
    for index, name in enumerate(expected):
        assert by_name(checkpoint)[f"model.layers.0.{name}.weight"].data[0] == index


def test_an_own_head_is_yielded_and_unties(tmp_path) -> None:
    file = llama_gguf(np.random.default_rng(0))
    file.add("output.weight", np.zeros((5, 32), np.float32))
    checkpoint = opened(tmp_path, file)
    assert not checkpoint.shape.tie_embeddings and "lm_head.weight" in by_name(checkpoint)


def test_rope_factors_move_into_the_shape(tmp_path) -> None:
    file = llama_gguf(np.random.default_rng(0))
    file.add("rope_freqs.weight", np.array([1, 2, 4, 8], np.float32))
    checkpoint = opened(tmp_path, file)
    assert checkpoint.shape.rope.freq_factors == (1.0, 2.0, 4.0, 8.0)
    assert not any("rope" in name for name in by_name(checkpoint))


@pytest.mark.parametrize("factors", [np.ones(3, np.float32), np.ones((2, 2), np.float32), np.array([1, 2, 0, 1], np.float32),
                                     np.array([1, np.nan, 1, 1], np.float32)], ids=["three", "square", "zero", "nan"])  # fmt: skip
def test_rope_factors_that_cannot_be_are_refused(tmp_path, factors) -> None:
    file = llama_gguf(np.random.default_rng(0))
    file.add("rope_freqs.weight", factors)
    with pytest.raises(CheckpointError):
        opened(tmp_path, file)


def test_a_name_that_is_not_known_is_passed_on(tmp_path) -> None:
    """The loader then names it as left over, instead of dropping it."""
    file = llama_gguf(np.random.default_rng(0))
    file.add("blk.0.surprise.weight", np.zeros(32, np.float32))
    assert "blk.0.surprise.weight" in by_name(opened(tmp_path, file))


def test_parts_vocabularies_and_other_architectures_are_refused(tmp_path) -> None:
    with pytest.raises(UnsupportedModel, match="one of 2 parts"):
        opened(tmp_path, llama_gguf(np.random.default_rng(0), split__count=Value(U32, 2)))
    with pytest.raises(UnsupportedModel, match="'mamba'"):
        opened(tmp_path, llama_gguf(np.random.default_rng(0), general__architecture=Value(STRING, "mamba")))
    with pytest.raises(CheckpointError, match="holds no tensors"):
        opened(tmp_path, Gguf(keys=llama_gguf(np.random.default_rng(0)).keys))
    with pytest.raises(CheckpointError, match="is empty"):
        (tmp_path / "empty.gguf").touch()
        GgufCheckpoint(tmp_path / "empty.gguf")
    with pytest.raises(CheckpointError, match="cannot read"):
        GgufCheckpoint(tmp_path / "missing.gguf")


def test_lists_that_lie_about_their_types_do_no_harm(tmp_path) -> None:
    nested = Value(ARRAY, [Value(ARRAY, ["x"]), Value(ARRAY, ["y"])], ARRAY)
    for tokens in (nested, Value(F32, 1.0), Value(STRING, "abc")):
        checkpoint = opened(tmp_path, llama_gguf(np.random.default_rng(0), tokenizer__ggml__tokens=tokens))
        assert checkpoint.template_tokens == {} and len(checkpoint.generation.eos_ids) <= 2


@pytest.mark.soak
def test_any_mutation_opens_or_raises_a_checkpoint_error(tmp_path, effort: int) -> None:
    """The whole way from the file to its arrays: metadata of any type and value, shapes that contradict each other."""
    rng = np.random.default_rng(5)
    sound = llama_gguf(rng, llama__expert_count=Value(U32, 0)).to_bytes()
    path = tmp_path / "fuzz.gguf"
    opened_count = 0
    for _ in range(FUZZ_ROUNDS * effort):
        raw = bytearray(sound)
        for _ in range(rng.integers(1, 3)):
            at = int(rng.integers(24, 1500))
            raw[at : at + int(rng.integers(1, 5))] = rng.choice([b"\0", b"\1", b"\xff", b"\x04\0\0\0", b"\0\0\0\x80", b"a"])
        path.write_bytes(raw)
        try:
            checkpoint = GgufCheckpoint(path)
            for packed in checkpoint.arrays():
                assert packed.data.size * packed.data.itemsize == packed.nbytes
            opened_count += 1
        except CheckpointError:
            continue
    assert opened_count


@pytest.mark.real_model
@pytest.mark.parametrize(
    ("model", "tensors", "weights", "stored"),
    [("smollm2", 272, 134_515_008, "q4_1"), ("qwen_coder", 291, 630_167_424, "q5_0")],
)
def test_real_files_open_at_once(model: str, tensors: int, weights: int, stored: str, request: pytest.FixtureRequest) -> None:
    """The headers hold 100,000 and 300,000 strings; a reader that is slow at them would delay every start."""
    path = request.getfixturevalue(model)
    start = time.perf_counter()
    checkpoint = GgufCheckpoint(path)
    assert time.perf_counter() - start < 2
    found = by_name(checkpoint)
    assert len(found) == tensors and sum(packed.elements for packed in found.values()) == weights
    assert checkpoint.stored_dtype == stored and checkpoint.chat_template
    assert found["model.embed_tokens.weight"].shape == (checkpoint.shape.vocab_size, checkpoint.shape.hidden_size)
