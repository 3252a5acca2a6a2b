"""A GGUF file and a Hugging Face folder of the same weights give the same logits, family by family.

The files are written with the `gguf` package, with its own table of names and by the converter's rules: rotary rows of
architecture llama permuted, Gemma's norms stored with the one added, experts stacked, rope scaling as a tensor.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
import transformers

from paging import PagedSequences, chunked
from redline import checkpoint
from redline.kernels.tolerance import check
from redline.layers.rope import inverse_frequencies
from redline.models.load import load
from redline.models.registry import build
from redline.shapes import RopeShape

VOCAB = 67
PROMPTS = [[(5 * i * i + i) % VOCAB for i in range(29)], [3, 1]]
LLAMA3 = {"rope_type": "llama3", "rope_theta": 500.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
CASES: dict[str, tuple[str, str, str, dict[str, Any]]] = {
    "llama_tied": ("llama", "LlamaForCausalLM", "LlamaConfig", {"tie_word_embeddings": True, "attention_bias": True}),
    "llama_rope_freqs": (
        "llama",
        "LlamaForCausalLM",
        "LlamaConfig",
        {"rope_parameters": {**LLAMA3, "original_max_position_embeddings": 16}},
    ),
    "mixtral": ("llama", "MixtralForCausalLM", "MixtralConfig", {"num_local_experts": 4, "rope_theta": 1e4}),
    "qwen2": ("qwen2", "Qwen2ForCausalLM", "Qwen2Config", {}),
    "qwen3": ("qwen3", "Qwen3ForCausalLM", "Qwen3Config", {"head_dim": 16}),
    "qwen3_moe": (
        "qwen3moe",
        "Qwen3MoeForCausalLM",
        "Qwen3MoeConfig",
        {"head_dim": 16, "num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 24, "norm_topk_prob": True},
    ),
    "gemma3": (
        "gemma3",
        "Gemma3ForCausalLM",
        "Gemma3TextConfig",
        {"num_hidden_layers": 7, "head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 8},
    ),
}
BASE: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}


def _reference(model: str, config: str, settings: dict[str, Any]) -> Any:
    made = getattr(transformers, model)(getattr(transformers, config)(**{**BASE, **settings}, experts_implementation="eager"))
    generator = torch.Generator().manual_seed(3)
    for name, weight in made.eval().requires_grad_(False).named_parameters():
        noise = torch.randn(weight.shape, generator=generator)
        weight.copy_(weight + 0.2 * noise if "norm" in name else noise / math.sqrt(weight.shape[-1]))
    return made


def _write(path: Path, architecture: str, reference: Any) -> None:
    """The GGUF file that the converter would make of `reference`, in f32."""
    config = reference.config
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_key_length(head_size)
    writer.add_value_length(head_size)
    rope = config.rope_parameters.get("full_attention", config.rope_parameters)
    writer.add_rope_freq_base(rope["rope_theta"])
    if architecture == "gemma3":
        writer.add_sliding_window(config.sliding_window)
    if hasattr(config, "num_experts_per_tok"):
        writer.add_expert_count(config.num_local_experts)
        writer.add_expert_used_count(config.num_experts_per_tok)
        if architecture == "qwen3moe":
            writer.add_expert_feed_forward_length(config.moe_intermediate_size)
    if rope["rope_type"] == "llama3":
        scaled = RopeShape(theta=500.0, kind="llama3", factor=8.0, original_max_position=16)
        plain = inverse_frequencies(RopeShape(theta=500.0), head_size, 64)
        writer.add_tensor("rope_freqs.weight", (plain / inverse_frequencies(scaled, head_size, 64)).numpy())
    for name, array in _tensors(architecture, reference):
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _tensors(architecture: str, reference: Any) -> list[tuple[str, np.ndarray]]:
    config = reference.config
    arch = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
    names = gguf.get_tensor_name_map(arch, config.num_hidden_layers)
    found: list[tuple[str, np.ndarray]] = []
    for name, tensor in reference.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        array = tensor.numpy()
        layer = name.split(".")[2] if name.startswith("model.layers.") else ""
        if name.endswith("experts.gate_up_proj"):
            gate, up = np.split(array, 2, axis=1)
            found += [(f"blk.{layer}.ffn_gate_exps.weight", gate.copy()), (f"blk.{layer}.ffn_up_exps.weight", up.copy())]
        elif name.endswith("experts.down_proj"):
            found.append((f"blk.{layer}.ffn_down_exps.weight", array))
        elif name.endswith("mlp.gate.weight"):
            found.append((f"blk.{layer}.ffn_gate_inp.weight", array))
        else:
            heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(name.split(".")[-2])
            if architecture == "llama" and heads is not None:
                array = array.reshape(heads, 2, -1, *array.shape[1:]).swapaxes(1, 2).reshape(array.shape)
            if architecture == "gemma3" and "norm" in name:
                array = array + 1.0
            mapped = names.get_name(name, try_suffixes=(".weight", ".bias"))
            assert mapped is not None, name
            found.append((mapped, np.ascontiguousarray(array)))
    return found


@pytest.mark.parametrize("name", CASES)
def test_a_gguf_file_gives_transformers_logits(name: str, tmp_path: Path) -> None:
    architecture, model_class, config_class, settings = CASES[name]
    reference = _reference(model_class, config_class, settings)
    _write(tmp_path / "model.gguf", architecture, reference)
    opened = checkpoint.open(str(tmp_path / "model.gguf"))
    model = build(opened.shape, torch.float32, "cpu", max_len=64)
    load(model, opened)
    got = PagedSequences(model, PROMPTS).run(chunked(PROMPTS, chunk=7, decodes=3))
    for prompt, logits in zip(PROMPTS, got, strict=True):
        with torch.inference_mode():
            expected = reference(torch.tensor([prompt])).logits[0]
        check(name, expected, logits, "model", "f32")
