"""Small models of every family in transformers' words, and the same weights in redline's: what the parity tests share.

Shapes are odd on purpose: one key-value head for five query heads, heads that do not add up to the model's width, windows
shorter than the text. Open `CASES` first.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers

from redline import checkpoint
from redline.kernels.tolerance import TOLERANCES, check, rms_ratio
from redline.models.load import load
from redline.models.registry import Model, build

VOCAB = 131
MAX_LEN = 64
PROMPTS = [[(7 * i * i + 3 * i + seed) % VOCAB for i in range(length)] for seed, length in enumerate((41, 1, 19, 6))]

# For sparse models in half precision, where a prompt is compared only up to its first near tie between experts.
SHORT_PROMPTS = [[(5 * i * i + 11 * i + 3 * seed) % VOCAB for i in range(2 + seed % 6)] for seed in range(30)]


@dataclass(frozen=True)
class Case:
    """A transformers class, its config class and what the config says beyond `BASE`."""

    model: str
    config: str
    settings: dict[str, Any] = field(default_factory=dict)
    shortest: int = 0  # prompts below are not compared: transformers takes another rotary table for them


BASE: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 60,
    "intermediate_size": 76,
    "num_hidden_layers": 3,
    "num_attention_heads": 5,
    "num_key_value_heads": 1,
    "max_position_embeddings": MAX_LEN,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}


def _llama(**settings: Any) -> Case:
    return Case("LlamaForCausalLM", "LlamaConfig", settings)


def _rope(kind: str, shortest: int = 0, **settings: Any) -> Case:
    rope = {"rope_type": kind, "rope_theta": 1000.0, **settings}
    return Case("LlamaForCausalLM", "LlamaConfig", {"head_dim": 16, "rope_parameters": rope}, shortest)


SLIDING_QWEN = {"use_sliding_window": True, "sliding_window": 9, "max_window_layers": 1}
GEMMA_ROPES = {
    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
    "sliding_attention": {"rope_type": "default", "rope_theta": 1e3},
}

CASES = {
    "llama": _llama(),
    "llama_tied_biases": _llama(tie_word_embeddings=True, attention_bias=True, mlp_bias=True),
    "llama_grouped_wide_heads": _llama(num_attention_heads=6, num_key_value_heads=2, head_dim=34, rms_norm_eps=1e-3),
    "llama_linear": _rope("linear", factor=4.0),
    "llama_dynamic": _rope("dynamic", factor=4.0),
    "llama_llama3": _rope("llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=24),
    "llama_yarn": _rope("yarn", factor=4.0, original_max_position_embeddings=16),
    "llama_yarn_options": _rope(
        "yarn",
        factor=8.0,
        original_max_position_embeddings=16,
        beta_fast=4.0,
        beta_slow=0.5,
        mscale=0.7,
        mscale_all_dim=0.4,
        truncate=False,
    ),
    "llama_longrope_long": _rope(
        "longrope",
        shortest=17,
        short_factor=[1.0 + 0.05 * i for i in range(8)],
        long_factor=[1.0 + 0.7 * i for i in range(8)],
        original_max_position_embeddings=16,
    ),
    "llama_longrope_short": _rope(
        "longrope",
        factor=4.0,
        short_factor=[1.0 + 0.05 * i for i in range(8)],
        long_factor=[1.0 + 0.7 * i for i in range(8)],
        original_max_position_embeddings=MAX_LEN,
    ),
    "mistral": Case("MistralForCausalLM", "MistralConfig", {"sliding_window": 7, "head_dim": 20}),
    "mistral_no_window": Case("MistralForCausalLM", "MistralConfig", {"sliding_window": None}),
    "qwen2": Case("Qwen2ForCausalLM", "Qwen2Config", {"tie_word_embeddings": True}),
    "qwen2_sliding": Case("Qwen2ForCausalLM", "Qwen2Config", SLIDING_QWEN),
    "qwen3": Case("Qwen3ForCausalLM", "Qwen3Config", {"head_dim": 22, "attention_bias": True}),
    "qwen3_sliding": Case("Qwen3ForCausalLM", "Qwen3Config", {"head_dim": 32, **SLIDING_QWEN}),
    "gemma3": Case(
        "Gemma3ForCausalLM",
        "Gemma3TextConfig",
        {"head_dim": 18, "sliding_window": 8, "query_pre_attn_scalar": 23, "rope_parameters": GEMMA_ROPES},
    ),
    "gemma3_layer_types": Case(
        "Gemma3ForCausalLM",
        "Gemma3TextConfig",
        {
            "head_dim": 16,
            "sliding_window": 5,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
            "tie_word_embeddings": False,
        },
    ),
    "mixtral": Case("MixtralForCausalLM", "MixtralConfig", {"num_local_experts": 5, "num_experts_per_tok": 2}),
    "mixtral_sliding": Case("MixtralForCausalLM", "MixtralConfig", {"num_local_experts": 3, "sliding_window": 11}),
    "qwen3_moe": Case(
        "Qwen3MoeForCausalLM",
        "Qwen3MoeConfig",
        {"head_dim": 14, "num_experts": 7, "num_experts_per_tok": 3, "moe_intermediate_size": 26},
    ),
    "qwen3_moe_norm_topk": Case(
        "Qwen3MoeForCausalLM",
        "Qwen3MoeConfig",
        {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 34, "norm_topk_prob": True},
    ),
}
FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "gemma3", "mixtral", "qwen3_moe_norm_topk")
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}


def reference_model(case: Case, dtype: torch.dtype = torch.float32) -> Any:
    """A transformers model in float32 whose random weights are numbers that `dtype` holds exactly."""
    config = getattr(transformers, case.config)(**{**BASE, **case.settings}, experts_implementation="eager")
    model = getattr(transformers, case.model)(config).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(1)
    for name, weight in model.named_parameters():
        noise = torch.randn(weight.shape, generator=generator)
        if weight.ndim == 1:  # norms start at one (Gemma's at zero), biases at zero
            weight.copy_(weight + 0.2 * noise if "norm" in name else 0.2 * noise)
        else:
            # A router that decides: near ties between experts would flip in half precision, and a flip is no rounding error.
            spread = 6.0 if name.endswith("mlp.gate.weight") else 1.0
            weight.copy_(spread * noise / math.sqrt(weight.shape[-1]))
        weight.copy_(weight.to(dtype))
    return model


def redline_model(reference: Any, folder: Path, dtype: torch.dtype = torch.float32, device: str = "cpu") -> Model:
    """The same weights, by way of the folder that users would have."""
    reference.save_pretrained(folder)
    opened = checkpoint.open(str(folder))
    model = build(opened.shape, dtype, device, max_len=MAX_LEN)
    load(model, opened)
    return model


def expected_logits(reference: Any, prompts: list[list[int]] = PROMPTS) -> list[torch.Tensor]:
    """transformers' float32 logits of `prompts`."""
    with torch.inference_mode():
        return [reference(torch.tensor([prompt])).logits[0].float() for prompt in prompts]


def half_precision_prompts(reference: Any) -> list[list[int]]:
    """`PROMPTS` for a dense model, many short ones for a sparse one."""
    return SHORT_PROMPTS if hasattr(reference.config, "num_experts_per_tok") else PROMPTS


def decided(reference: Any, dtype: str) -> list[int]:
    """How many tokens of each prompt come before the first whose experts rounding may swap; all of them in a dense model.

    A swap is a near tie, not a rounding error, and everything after it follows another path. A token is open if the last
    chosen and the first rejected logit of any router are nearer than the model's tolerance in `dtype`.
    """
    prompts = half_precision_prompts(reference)
    if prompts is PROMPTS:
        return [len(prompt) for prompt in prompts]
    lengths, chosen = [], reference.config.num_experts_per_tok
    for prompt in prompts:
        with torch.inference_mode():
            routers = reference(torch.tensor([prompt]), output_router_logits=True).router_logits
        logits_LTE = torch.stack([layer.float().reshape(len(prompt), -1) for layer in routers])
        best_LTE = logits_LTE.sort(-1, descending=True).values
        near = TOLERANCES["model"][dtype] * logits_LTE.square().mean().sqrt()
        open_T = (best_LTE[..., chosen - 1] - best_LTE[..., chosen] < near).any(0)
        lengths.append(int(open_T.int().argmax()) if open_T.any() else len(prompt))
    return lengths


def check_decided(name: str, reference: Any, got: list[torch.Tensor], dtype: str) -> float:
    """The error of half-precision logits over the tokens that are `decided`, held against the table."""
    lengths = decided(reference, dtype)
    assert sum(lengths) >= 40, "too few tokens are left to compare"
    expected = expected_logits(reference, half_precision_prompts(reference))
    wanted = torch.cat([logits[:n] for logits, n in zip(expected, lengths, strict=True)])
    found = torch.cat([logits[:n].cpu() for logits, n in zip(got, lengths, strict=True)])
    check(name, wanted, found, "model", dtype)
    return rms_ratio(wanted, found)
