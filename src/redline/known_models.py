"""Configurations of well-known models, for `random:NAME` and for plans without a file. Data only.

Each entry is what the model's public `config.json` says, reduced to what `shapes.from_hf` reads; the `tiny-` ones are
made for tests. Knows nothing of shapes; `shapes.known` reads it.
"""

from __future__ import annotations

from typing import Any

_LLAMA3_ROPE = {"rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}


def _config(
    model_type: str, layers: int, hidden: int, ffn: int, heads: tuple[int, int, int], vocab: int, context: int, **rest: Any
) -> dict[str, Any]:
    """A config.json; `heads` is (query heads, key-value heads, head size)."""
    return {
        "model_type": model_type,
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "intermediate_size": ffn,
        "num_attention_heads": heads[0],
        "num_key_value_heads": heads[1],
        "head_dim": heads[2],
        "vocab_size": vocab,
        "max_position_embeddings": context,
        **rest,
    }


def _llama3(layers: int, hidden: int, ffn: int, heads: tuple[int, int, int], factor: float, tied: bool = False) -> dict[str, Any]:
    rope = {**_LLAMA3_ROPE, "rope_theta": 5e5, "factor": factor}
    rest = {"rms_norm_eps": 1e-5, "rope_parameters": rope, "tie_word_embeddings": tied}
    return _config("llama", layers, hidden, ffn, heads, 128256, 131072, **rest)


def _qwen(model_type: str, layers: int, hidden: int, ffn: int, heads: tuple[int, int, int], **rest: Any) -> dict[str, Any]:
    return _config(model_type, layers, hidden, ffn, heads, rest.pop("vocab", 151936), rest.pop("context"), rope_theta=1e6, **rest)


def _tiny(model_type: str, **rest: Any) -> dict[str, Any]:
    return _config(model_type, 2, 128, 256, (4, 2, 64), 512, 4096, **rest)


CONFIGS: dict[str, dict[str, Any]] = {
    "smollm2-135m": _config(
        "llama", 30, 576, 1536, (9, 3, 64), 49152, 8192, rms_norm_eps=1e-5, rope_theta=1e5, tie_word_embeddings=True
    ),
    "smollm2-360m": _config(
        "llama", 32, 960, 2560, (15, 5, 64), 49152, 8192, rms_norm_eps=1e-5, rope_theta=1e5, tie_word_embeddings=True
    ),
    "llama-2-7b": _config("llama", 32, 4096, 11008, (32, 32, 128), 32000, 4096, rms_norm_eps=1e-5),
    "llama-3.2-1b": _llama3(16, 2048, 8192, (32, 8, 64), 32.0, tied=True),
    "llama-3.2-3b": _llama3(28, 3072, 8192, (24, 8, 128), 32.0, tied=True),
    "llama-3.1-8b": _llama3(32, 4096, 14336, (32, 8, 128), 8.0),
    "llama-3.1-70b": _llama3(80, 8192, 28672, (64, 8, 128), 8.0),
    "llama-3.1-405b": _llama3(126, 16384, 53248, (128, 8, 128), 8.0),
    "mistral-7b": _config(
        "mistral", 32, 4096, 14336, (32, 8, 128), 32768, 32768, rms_norm_eps=1e-5, rope_theta=1e6, sliding_window=None
    ),
    "mixtral-8x7b": _config("mixtral", 32, 4096, 14336, (32, 8, 128), 32000, 32768, rms_norm_eps=1e-5, rope_theta=1e6),
    "qwen2.5-0.5b": _qwen("qwen2", 24, 896, 4864, (14, 2, 64), context=32768, tie_word_embeddings=True),
    "qwen2.5-coder-0.5b": _qwen("qwen2", 24, 896, 4864, (14, 2, 64), context=32768, tie_word_embeddings=True),
    "qwen2.5-7b": _qwen("qwen2", 28, 3584, 18944, (28, 4, 128), context=32768, vocab=152064),
    "qwen3-0.6b": _qwen("qwen3", 28, 1024, 3072, (16, 8, 128), context=40960, tie_word_embeddings=True),
    "qwen3-8b": _qwen("qwen3", 36, 4096, 12288, (32, 8, 128), context=40960),
    "qwen3-30b-a3b": _qwen(
        "qwen3_moe",
        *(48, 2048, 6144, (32, 4, 128)),
        context=40960,
        num_experts=128,
        num_experts_per_tok=8,
        moe_intermediate_size=768,
        norm_topk_prob=True,
    ),
    "gemma-3-270m": _config("gemma3_text", 18, 640, 2048, (4, 1, 256), 262144, 32768, sliding_window=512),
    "gemma-3-1b": _config("gemma3_text", 26, 1152, 6912, (4, 1, 256), 262144, 32768, sliding_window=512),
    "tiny-llama": _tiny("llama", tie_word_embeddings=True),
    "tiny-mistral": _tiny("mistral", sliding_window=16),
    "tiny-qwen2": _tiny("qwen2"),
    "tiny-qwen3": _tiny("qwen3"),
    "tiny-gemma3": _tiny("gemma3_text", sliding_window=16, sliding_window_pattern=2),
    "tiny-mixtral": _tiny("mixtral", num_local_experts=4),
    "tiny-qwen3-moe": _tiny("qwen3_moe", num_experts=8, num_experts_per_tok=2, moe_intermediate_size=64, norm_topk_prob=True),
}
