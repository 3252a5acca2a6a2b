"""Shapes read from configs: what transformers' own config classes say, in both spellings, and what is refused by name."""

from __future__ import annotations

from typing import Any

import pytest
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from redline.errors import CheckpointError, RedlineError, UnsupportedModel
from redline.shapes import FAMILIES, KNOWN, ModelShape, RopeShape, from_gguf, from_hf, known

LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "vocab_size": 100,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
}
CONFIGS = {
    "llama": "LlamaConfig",
    "mistral": "MistralConfig",
    "qwen2": "Qwen2Config",
    "qwen3": "Qwen3Config",
    "gemma3": "Gemma3TextConfig",
    "mixtral": "MixtralConfig",
    "qwen3_moe": "Qwen3MoeConfig",
}


@pytest.mark.parametrize("family", FAMILIES)
def test_transformers_own_defaults(family: str) -> None:
    """A config that states everything and one that states only its kind and width give what transformers' class holds."""
    config = getattr(transformers, CONFIGS[family])()
    stated = config.to_dict()
    bare = {key: stated[key] for key in ("model_type", "hidden_size", "intermediate_size", "num_hidden_layers", "vocab_size")}
    bare |= {"num_attention_heads": config.num_attention_heads, "num_key_value_heads": config.num_key_value_heads}
    for shape in (from_hf(stated), from_hf(bare)):
        assert shape.family == family
        assert shape.num_heads == config.num_attention_heads
        assert shape.num_kv_heads == config.num_key_value_heads
        assert shape.head_size == (getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)
        assert shape.max_position == config.max_position_embeddings
        assert shape.norm_eps == config.rms_norm_eps
        assert shape.tie_embeddings == config.tie_word_embeddings
        assert shape.sliding_window == (getattr(config, "sliding_window", None) or 0)
        rope = config.rope_parameters
        assert shape.rope.theta == (rope["full_attention"] if family == "gemma3" else rope)["rope_theta"]
        if shape.moe is not None:
            assert shape.moe.num_experts == config.num_experts
            assert shape.moe.experts_per_token == config.num_experts_per_tok


def test_old_and_new_spelling_of_rope_agree() -> None:
    """`rope_theta` and `rope_scaling` at the top, and transformers 5's `rope_parameters`, are one thing."""
    scaling = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}
    old = from_hf({**LLAMA, "rope_theta": 5e5, "rope_scaling": {"type": "llama3", **scaling}})
    new = from_hf({**LLAMA, "rope_parameters": {"rope_type": "llama3", "rope_theta": 5e5, **scaling}})
    assert old == new
    assert new.rope == RopeShape(theta=5e5, kind="llama3", factor=8.0, original_max_position=64)


def test_rope_defaults_come_from_the_context() -> None:
    """Where a scaling does not say what it stretches, the model's own context is meant; yarn's factor is their ratio."""
    yarn = from_hf({**LLAMA, "rope_scaling": {"rope_type": "yarn", "original_max_position_embeddings": 64}}).rope
    assert (yarn.factor, yarn.original_max_position) == (4.0, 64)
    dynamic = from_hf({**LLAMA, "rope_scaling": {"rope_type": "dynamic", "factor": 2}}).rope
    assert (dynamic.factor, dynamic.original_max_position) == (2.0, 256)
    factors = [1.0] * 4
    longrope = {"rope_type": "longrope", "short_factor": factors, "long_factor": factors}
    outside = from_hf({**LLAMA, "rope_scaling": longrope, "original_max_position_embeddings": 32}).rope
    assert (outside.factor, outside.original_max_position) == (8.0, 32)


def test_gemma3_of_a_multimodal_config_that_says_little() -> None:
    """Published configs of the larger models nest the text part and leave out what equals the class's defaults."""
    text = {
        "model_type": "gemma3_text",
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "num_hidden_layers": 34,
        "rope_scaling": {"rope_type": "linear", "factor": 8.0},
        "sliding_window": 1024,
    }
    shape = from_hf({"model_type": "gemma3", "text_config": text, "vision_config": {"hidden_size": 1152}})
    assert (shape.num_heads, shape.num_kv_heads, shape.head_size, shape.vocab_size) == (8, 4, 256, 262208)
    assert shape.rope == RopeShape(theta=1e6, kind="linear", factor=8.0, original_max_position=131072)
    assert shape.rope_local == RopeShape(theta=1e4)
    assert [shape.window(i) for i in range(7)] == [1024] * 5 + [0, 1024]
    assert (shape.attn_scale, shape.embed_scale, shape.norm_offset) == (256**-0.5, 2560**0.5, 1.0)
    assert shape.tie_embeddings and shape.activation == "gelu_tanh"


@pytest.mark.parametrize(
    ("extra", "windows"),
    [
        ({}, [0, 0, 0, 0]),
        ({"sliding_window": 8, "max_window_layers": 2}, [0, 0, 0, 0]),
        ({"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 2}, [0, 0, 8, 8]),
        ({"use_sliding_window": True, "sliding_window": None}, [0, 0, 0, 0]),
        (
            {"use_sliding_window": True, "sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"] * 2},
            [8, 0, 8, 0],
        ),
    ],
)
def test_qwen2_windows(extra: dict[str, Any], windows: list[int]) -> None:
    """Qwen's windows count only where they are switched on, and then for the layers from max_window_layers on."""
    shape = from_hf({**LLAMA, "model_type": "qwen2", **extra})
    assert [shape.window(i) for i in range(4)] == windows


def test_known_shapes() -> None:
    """Every known name is a sound shape of a family that runs; the sizes are those of the published models."""
    families = {known(name).family for name in KNOWN}
    assert families == set(FAMILIES)
    assert all(known(f"tiny-{family.replace('_', '-')}").vocab_size == 512 for family in FAMILIES)
    billions = {"smollm2-135m": 0.1345, "llama-3.1-8b": 8.03, "llama-3.1-70b": 70.6, "llama-3.1-405b": 405.9, "llama-2-7b": 6.74}
    billions |= {"mistral-7b": 7.25, "mixtral-8x7b": 46.7, "qwen2.5-0.5b": 0.494, "qwen2.5-7b": 7.62, "qwen3-0.6b": 0.596}
    billions |= {"qwen3-8b": 8.19, "qwen3-30b-a3b": 30.5, "gemma-3-270m": 0.268, "gemma-3-1b": 1.0, "llama-3.2-1b": 1.236}
    for name, expected in billions.items():
        assert _weights(known(name)) / 1e9 == pytest.approx(expected, rel=0.004), name


def _weights(shape: ModelShape) -> int:
    attention = 2 * (shape.num_heads + shape.num_kv_heads) * shape.head_size * shape.hidden_size
    if shape.moe is None:
        ffn = 3 * shape.hidden_size * shape.intermediate_size
    else:
        ffn = shape.moe.num_experts * shape.hidden_size * (3 * shape.moe.intermediate_size + 1)
    tables = shape.vocab_size * shape.hidden_size * (1 if shape.tie_embeddings else 2)
    return shape.num_layers * (attention + ffn) + tables


def test_an_unknown_name_is_told_the_nearest() -> None:
    with pytest.raises(UnsupportedModel, match="Llama-3.1-8") as error:
        known("Llama-3.1-8")
    assert "llama-3.1-8b" in error.value.hint


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("hidden_size", None),
        ("hidden_size", 0),
        ("hidden_size", "64"),
        ("hidden_size", 64.0),
        ("hidden_size", 1 << 40),
        ("num_hidden_layers", -1),
        ("num_hidden_layers", 100_000),
        ("num_attention_heads", True),
        ("num_key_value_heads", 3),
        ("head_dim", 7),
        ("head_dim", 1 << 20),
        ("vocab_size", []),
        ("max_position_embeddings", 1 << 40),
        ("rms_norm_eps", float("nan")),
        ("rms_norm_eps", 10**400),
        ("rope_theta", -1.0),
        ("tie_word_embeddings", "yes"),
        ("rope_scaling", [1]),
        ("rope_parameters", {"rope_type": "linear"}),
        ("rope_parameters", {"rope_type": "linear", "factor": 0}),
    ],
)
def test_a_value_that_cannot_be_is_an_error_that_names_its_key(key: str, value: Any) -> None:
    with pytest.raises(CheckpointError) as error:
        from_hf({**LLAMA, key: value})
    named = "factor" if key == "rope_parameters" else key
    assert named in str(error.value)


@pytest.mark.parametrize(
    ("extra", "named"),
    [
        ({"model_type": "mamba2"}, "mamba2"),
        ({"model_type": None}, "None"),
        ({"rope_scaling": {"rope_type": "mrope"}}, "mrope"),
        ({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}, "partial_rotary_factor"),
        ({"hidden_act": "relu2"}, "relu2"),
        ({"model_type": "qwen3_moe", "decoder_sparse_step": 2}, "decoder_sparse_step"),
        ({"model_type": "qwen3_moe", "mlp_only_layers": [0]}, "mlp_only_layers"),
        ({"model_type": "gemma3_text", "final_logit_softcapping": 30.0}, "final_logit_softcapping"),
        ({"model_type": "gemma3_text", "use_bidirectional_attention": True}, "use_bidirectional_attention"),
        (
            {"model_type": "qwen2", "use_sliding_window": True, "sliding_window": 8, "layer_types": ["linear_attention"] * 4},
            "linear_attention",
        ),
    ],
)
def test_what_redline_does_not_run_is_refused_by_name(extra: dict[str, Any], named: str) -> None:
    with pytest.raises(UnsupportedModel, match=named):
        from_hf({**LLAMA, **extra})


def test_longrope_factors_must_match_the_pairs() -> None:
    rope = {"rope_type": "longrope", "short_factor": [1.0] * 3, "long_factor": [1.0] * 4}
    with pytest.raises(CheckpointError, match="short_factor has 3 entries for 4 pairs"):
        from_hf({**LLAMA, "rope_scaling": rope})


GGUF: dict[str, Any] = {
    "general.architecture": "llama",
    "llama.block_count": 2,
    "llama.context_length": 256,
    "llama.embedding_length": 64,
    "llama.feed_forward_length": 96,
    "llama.attention.head_count": 8,
    "llama.attention.head_count_kv": 2,
    "llama.attention.layer_norm_rms_epsilon": 1e-5,
    "llama.rope.freq_base": 1e5,
    "llama.rope.dimension_count": 8,
}
EMBEDDING = {"token_embd.weight": (100, 64)}


def test_gguf_says_what_the_same_config_says() -> None:
    """One model, described both ways. Only tensors tell biases and an own head."""
    same = {**LLAMA, "num_hidden_layers": 2, "rope_theta": 1e5}
    assert from_gguf(GGUF, EMBEDDING) == from_hf({**same, "tie_word_embeddings": True})
    assert from_gguf(GGUF, {**EMBEDDING, "output.weight": (100, 64)}) == from_hf(same)
    biases = {"blk.0.attn_q.bias": (64,), "blk.0.attn_output.bias": (64,), "blk.0.ffn_down.bias": (64,)}
    with_bias = from_gguf(GGUF, {**EMBEDDING, **biases})
    assert (with_bias.qkv_bias, with_bias.o_bias, with_bias.mlp_bias) == (True, True, True)


def test_gguf_experts_rope_factors_and_yarn() -> None:
    experts = {"llama.expert_count": 8, "llama.expert_used_count": 2}
    mixtral = from_gguf({**GGUF, **experts}, EMBEDDING)
    assert mixtral.family == "mixtral" and mixtral.moe is not None
    assert (mixtral.moe.num_experts, mixtral.moe.intermediate_size, mixtral.moe.norm_topk) == (8, 96, True)
    assert from_gguf(GGUF, EMBEDDING, [1.0, 2.0, 3.0, 4.0]).rope.freq_factors == (1.0, 2.0, 3.0, 4.0)
    scaling = {"llama.rope.scaling.type": "yarn", "llama.rope.scaling.factor": 4.0}
    yarn = from_gguf({**GGUF, **scaling, "llama.rope.scaling.original_context_length": 64}, EMBEDDING).rope
    assert (yarn.kind, yarn.factor, yarn.original_max_position, yarn.attention_factor) == ("yarn", 4.0, 64, None)


def test_gguf_gemma3_gets_what_the_architecture_implies() -> None:
    values = {key.replace("llama.", "gemma3."): value for key, value in GGUF.items()} | {"general.architecture": "gemma3"}
    values |= {"gemma3.block_count": 7, "gemma3.attention.sliding_window": 16}
    del values["gemma3.rope.freq_base"]
    shape = from_gguf(values, EMBEDDING)
    assert [shape.window(i) for i in range(7)] == [16] * 5 + [0, 16]
    assert shape.rope.theta == 1e6 and shape.rope_local == RopeShape(theta=1e4)
    assert (shape.norm_offset, shape.embed_scale, shape.attn_scale, shape.activation) == (0.0, 8.0, 8**-0.5, "gelu_tanh")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("general.architecture", "rwkv7"),
        ("llama.rope.scaling.type", "su"),
        ("llama.rope.dimension_count", 4),
        ("llama.attention.value_length", 16),
        ("llama.attention.head_count_kv", [2, 4]),
    ],
)
def test_gguf_of_a_kind_that_does_not_run_is_refused(key: str, value: Any) -> None:
    with pytest.raises(UnsupportedModel, match=value if key == "general.architecture" else key.removeprefix("llama.")):
        from_gguf({**GGUF, key: value}, EMBEDDING)


@pytest.mark.parametrize("tensors", [{}, {"token_embd.weight": (100, 63)}, {"token_embd.weight": (0, 64)}])
def test_gguf_vocabulary_comes_from_a_sound_embedding(tensors: dict[str, tuple[int, ...]]) -> None:
    with pytest.raises(CheckpointError, match="token_embd.weight"):
        from_gguf(GGUF, tensors)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=4,
)
HF_KEYS = [*LLAMA, "head_dim", "rope_theta", "rope_scaling", "rope_parameters", "layer_types", "sliding_window", "text_config"]
HF_KEYS += ["tie_word_embeddings", "num_local_experts", "hidden_act", "attention_bias", "rope_local_base_freq", "mlp_only_layers"]


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(["llama", "gemma3_text", "qwen2", "qwen3_moe"]), st.dictionaries(st.sampled_from(HF_KEYS), JSON, max_size=3)
)
def test_a_config_of_any_values_gives_a_shape_or_a_named_error(model_type: str, values: dict[str, Any]) -> None:
    try:
        assert isinstance(from_hf({**LLAMA, "model_type": model_type, **values}), ModelShape)
    except RedlineError as error:
        assert error.exit_code == 2


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(st.sampled_from([*GGUF, "llama.rope.scaling.type", "llama.expert_count"]), JSON, max_size=3))
def test_gguf_metadata_of_any_values_gives_a_shape_or_a_named_error(values: dict[str, Any]) -> None:
    try:
        assert isinstance(from_gguf({**GGUF, **values}, EMBEDDING), ModelShape)
    except RedlineError as error:
        assert error.exit_code == 2


def test_an_unknown_name_is_answered_with_names_as_users_write_them() -> None:
    """`redline serve tiny-llama` is no model: only `random:tiny-llama` is."""
    with pytest.raises(UnsupportedModel) as caught:
        known("tiny-lama")
    assert "did you mean random:tiny-llama or random:" in caught.value.hint
    with pytest.raises(UnsupportedModel) as caught:
        known("zzzzzz")
    assert caught.value.hint.startswith("known: random:") and f"random:{next(iter(KNOWN))}" in caught.value.hint
