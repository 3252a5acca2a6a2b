"""What a model is, as numbers: `ModelShape`. Read from a Hugging Face config or from GGUF metadata, torch-free.

The planner, the loader, the scheduler and the models all read this record; none of them reads a config file. Knows
nothing of files: it is given dictionaries. Open `ModelShape` first, then `from_hf`. The table of known shapes
(`random:NAME`) is `KNOWN`.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from redline.errors import CheckpointError, UnsupportedModel
from redline.fields import MAX_SIZE, Fields, shown
from redline.known_models import CONFIGS


@dataclass(frozen=True, kw_only=True)
class RopeShape:
    """Rotary embedding of one kind of layer. `kind` is default, linear, dynamic, yarn, llama3 or longrope."""

    theta: float = 10000.0
    kind: str = "default"
    factor: float = 1.0
    original_max_position: int = 0
    low_freq_factor: float = 1.0  # llama3
    high_freq_factor: float = 4.0  # llama3
    beta_fast: float = 32.0  # yarn
    beta_slow: float = 1.0  # yarn
    attention_factor: float | None = None  # yarn and longrope; None: the formula of the method
    mscale: float = 0.0  # yarn
    mscale_all_dim: float = 0.0  # yarn
    truncate: bool = True  # yarn
    short_factor: tuple[float, ...] = ()  # longrope, one per pair
    long_factor: tuple[float, ...] = ()  # longrope
    freq_factors: tuple[float, ...] = ()  # divisors of the inverse frequencies, from GGUF's rope_freqs.weight


@dataclass(frozen=True, kw_only=True)
class MoeShape:
    """A sparse feed-forward layer. `intermediate_size` is one expert's."""

    num_experts: int
    experts_per_token: int
    intermediate_size: int
    norm_topk: bool = True  # the chosen experts' probabilities are scaled to sum to 1


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """Dimensions and switches of a decoder. Sizes in elements, `sliding_window` in tokens (0: none)."""

    family: str  # llama, qwen2, qwen3, mistral, gemma3, mixtral, qwen3_moe: a file in models/
    num_layers: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_kv_heads: int
    head_size: int
    vocab_size: int
    max_position: int
    norm_eps: float = 1e-5
    rope: RopeShape = RopeShape()
    rope_local: RopeShape | None = None  # of sliding layers, where it differs (Gemma 3)
    tie_embeddings: bool = False
    qkv_bias: bool = False
    o_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    activation: str = "silu"  # or gelu_tanh
    sliding_window: int = 0
    sliding_layers: tuple[bool, ...] = ()  # which layers slide; empty: all do, if sliding_window is set
    attn_scale: float | None = None  # None: head_size ** -0.5
    embed_scale: float = 1.0
    norm_offset: float = 0.0  # added to stored norm weights at load (Gemma's Hugging Face files: 1)
    moe: MoeShape | None = None

    def slides(self, layer: int) -> bool:
        """Whether layer `layer` sees only `sliding_window` tokens."""
        return self.sliding_window > 0 and (not self.sliding_layers or self.sliding_layers[layer])

    def window(self, layer: int) -> int:
        """Tokens that layer `layer` sees back, itself included; 0: all."""
        return self.sliding_window if self.slides(layer) else 0


KNOWN: Mapping[str, Mapping[str, Any]] = CONFIGS  # name to config.json; `known(name)` is its shape

FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "gemma3", "mixtral", "qwen3_moe")

_HF_FAMILY = {name: name for name in FAMILIES if name != "gemma3"} | {"gemma3_text": "gemma3"}
_GGUF_FAMILY = {"llama": "llama", "qwen2": "qwen2", "qwen3": "qwen3", "qwen3moe": "qwen3_moe", "gemma3": "gemma3"}

# What transformers takes where a family's config.json is silent and llama's default is not meant.
_HF_DEFAULTS: dict[str, dict[str, Any]] = {
    "llama": {"max_position_embeddings": 2048},
    "mistral": {"num_key_value_heads": 8, "sliding_window": 4096, "max_position_embeddings": 131072},
    "mixtral": {
        "num_key_value_heads": 8,
        "rms_norm_eps": 1e-5,
        "rope_theta": 1e6,
        "max_position_embeddings": 131072,
        "num_local_experts": 8,
        "num_experts_per_tok": 2,
    },
    "qwen2": {"sliding_window": 4096},
    "qwen3": {"sliding_window": 4096, "head_dim": 128},
    "qwen3_moe": {"sliding_window": 4096},
    "gemma3": {
        "vocab_size": 262208,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "max_position_embeddings": 131072,
        "tie_word_embeddings": True,
        "rope_theta": 1e6,
        "rope_local_base_freq": 1e4,
        "sliding_window": 4096,
    },
}

_ROPE_KINDS = ("default", "linear", "dynamic", "yarn", "llama3", "longrope")
_ACTIVATIONS = {"silu": "silu", "swish": "silu", "gelu_pytorch_tanh": "gelu_tanh"}
_MAX_LAYERS = 1024
_MAX_HEAD = 1024
_MAX_POSITION = 1 << 30


def from_hf(config: Mapping[str, Any]) -> ModelShape:
    """The shape that a Hugging Face `config.json` describes, in the old or in the transformers 5 spelling.

    Where a key is missing, the family's default in transformers holds. Raises UnsupportedModel for an architecture,
    rope type or switch that redline does not run, and CheckpointError naming a key whose value cannot be.
    """
    fields = Fields(config)
    model_type = fields.get("model_type")
    if model_type == "gemma3":
        text = {"tie_word_embeddings": config.get("tie_word_embeddings", True), **fields.mapping("text_config")}
        return from_hf({**text, "model_type": "gemma3_text"})
    family = _HF_FAMILY.get(model_type) if isinstance(model_type, str) else None
    if family is None:
        raise _unknown_architecture(model_type)
    fields = Fields({**_HF_DEFAULTS[family], **config})
    hidden_size = fields.integer("hidden_size")
    num_heads = fields.integer("num_attention_heads")
    num_layers = fields.integer("num_hidden_layers", high=_MAX_LAYERS)
    attention_bias = family in ("llama", "qwen3", "qwen3_moe", "gemma3") and fields.flag("attention_bias")
    sliding_window, sliding_layers = _hf_windows(family, fields, num_layers)
    max_position = fields.integer("max_position_embeddings", 32768, low=2, high=_MAX_POSITION)
    rope, rope_local = _hf_ropes(fields, max_position)
    activation_key = "hidden_activation" if family == "gemma3" else "hidden_act"
    shape = ModelShape(
        family=family,
        num_layers=num_layers,
        hidden_size=hidden_size,
        intermediate_size=fields.integer("intermediate_size"),
        num_heads=num_heads,
        num_kv_heads=fields.integer("num_key_value_heads", num_heads),
        head_size=fields.integer("head_dim", max(1, hidden_size // num_heads), high=_MAX_HEAD),
        vocab_size=fields.integer("vocab_size"),
        max_position=max_position,
        norm_eps=fields.number("rms_norm_eps", 1e-6),
        rope=rope,
        rope_local=rope_local,
        tie_embeddings=fields.flag("tie_word_embeddings"),
        qkv_bias=family == "qwen2" or attention_bias,
        o_bias=attention_bias,
        mlp_bias=family == "llama" and fields.flag("mlp_bias"),
        qk_norm=family in ("qwen3", "qwen3_moe", "gemma3"),
        activation=_hf_activation(fields, activation_key, "gelu_pytorch_tanh" if family == "gemma3" else "silu"),
        sliding_window=sliding_window,
        sliding_layers=sliding_layers,
        moe=_hf_moe(family, fields),
    )
    if family == "gemma3":
        for key in ("final_logit_softcapping", "attn_logit_softcapping"):
            fields.refuse(key)
        fields.refuse("use_bidirectional_attention", False)
        scale = fields.number("query_pre_attn_scalar", 256.0) ** -0.5
        shape = dataclasses.replace(shape, attn_scale=scale, embed_scale=hidden_size**0.5, norm_offset=1.0)
    return _consistent(shape)


def _unknown_architecture(name: object) -> UnsupportedModel:
    return UnsupportedModel(f"models of architecture {shown(name)} are not supported", hint=f"supported: {', '.join(FAMILIES)}")


def _hf_activation(fields: Fields, key: str, default: str) -> str:
    name = fields.get(key) or default
    if not isinstance(name, str) or name not in _ACTIVATIONS:
        raise UnsupportedModel(f"{key} {shown(name)} is not supported")
    return _ACTIVATIONS[name]


def _hf_moe(family: str, fields: Fields) -> MoeShape | None:
    if family == "mixtral":
        experts, size, norm_topk = fields.integer("num_local_experts"), fields.integer("intermediate_size"), True
    elif family == "qwen3_moe":
        fields.refuse("mlp_only_layers", [])
        fields.refuse("decoder_sparse_step", 1)
        key = "num_experts" if fields.get("num_experts") is not None else "num_local_experts"
        experts, size = fields.integer(key, 128), fields.integer("moe_intermediate_size", 768)
        norm_topk = fields.flag("norm_topk_prob")
    else:
        return None
    chosen = fields.integer("num_experts_per_tok", 8)
    return MoeShape(num_experts=experts, experts_per_token=chosen, intermediate_size=size, norm_topk=norm_topk)


def _hf_windows(family: str, fields: Fields, num_layers: int) -> tuple[int, tuple[bool, ...]]:
    """(sliding_window, sliding_layers) as the family's transformers class reads them."""
    if family == "llama" or fields.get("sliding_window") is None:
        return 0, ()
    if family in ("qwen2", "qwen3", "qwen3_moe") and not fields.flag("use_sliding_window"):
        return 0, ()
    window = fields.integer("sliding_window", high=_MAX_POSITION)
    if family in ("mistral", "mixtral", "qwen3_moe"):
        return window, ()
    if fields.get("layer_types") is not None:
        return window, _layer_types(fields.get("layer_types"), num_layers)
    if family == "gemma3":
        pattern = fields.integer("sliding_window_pattern", 6)
        return window, tuple((layer + 1) % pattern != 0 for layer in range(num_layers))
    first = fields.integer("max_window_layers", 28, low=0)
    return window, tuple(layer >= first for layer in range(num_layers))


def _layer_types(types: Any, num_layers: int) -> tuple[bool, ...]:
    if not isinstance(types, Sequence) or len(types) != num_layers:
        raise CheckpointError(
            f"the model's layer_types must name the kind of each of its {num_layers} layers, not {shown(types)}"
        )
    for kind in types:
        if kind not in ("sliding_attention", "full_attention"):
            raise UnsupportedModel(f"layer_types {shown(kind)} is not supported")
    return tuple(kind == "sliding_attention" for kind in types)


def _hf_ropes(fields: Fields, max_position: int) -> tuple[RopeShape, RopeShape | None]:
    """(rope, rope_local): the second for sliding layers that rotate otherwise."""
    theta = fields.number("rope_theta", 10000.0, above=1.0)
    local_theta = fields.get("rope_local_base_freq")
    parameters = fields.mapping("rope_scaling") or fields.mapping("rope_parameters")
    nested = {kind: Fields(parameters).mapping(kind) for kind in ("full_attention", "sliding_attention") if kind in parameters}
    original = fields.integer("original_max_position_embeddings", 0, low=2, high=_MAX_POSITION)
    rope = _hf_rope(nested.get("full_attention", {}) if nested else parameters, theta, max_position, original)
    if nested.get("sliding_attention") or local_theta is not None:
        base = theta if local_theta is None else fields.number("rope_local_base_freq", above=1.0)
        local = _hf_rope(nested.get("sliding_attention", {}), base, max_position, original)
        return rope, (local if local != rope else None)
    return rope, None


def _hf_rope(parameters: Mapping[str, Any], theta: float, max_position: int, original: int) -> RopeShape:
    fields = Fields(parameters)
    kind = fields.get("rope_type") or fields.get("type") or "default"
    if kind not in _ROPE_KINDS:
        raise UnsupportedModel(f"rope type {shown(kind)} is not supported", hint=f"supported: {', '.join(_ROPE_KINDS)}")
    fields.refuse("partial_rotary_factor", 1, 1.0)
    theta = fields.number("rope_theta", theta, above=1.0)
    if kind == "default":
        return RopeShape(theta=theta)
    if kind != "dynamic":  # which always counts from max_position_embeddings
        original = original or fields.integer("original_max_position_embeddings", max_position, low=2, high=_MAX_POSITION)
    default_factor = max_position / original if kind in ("yarn", "longrope") else None
    common = RopeShape(
        theta=theta,
        kind=kind,
        factor=fields.number("factor", default_factor),
        original_max_position=original if kind != "dynamic" else max_position,
        attention_factor=None if fields.get("attention_factor") is None else fields.number("attention_factor"),
    )
    if kind == "llama3":
        low, high = fields.number("low_freq_factor"), fields.number("high_freq_factor")
        if high <= low:
            raise CheckpointError(f"the model's high_freq_factor {high:g} must exceed its low_freq_factor {low:g}")
        return dataclasses.replace(common, low_freq_factor=low, high_freq_factor=high)
    if kind == "yarn":
        return dataclasses.replace(
            common,
            beta_fast=fields.number("beta_fast", 32.0),
            beta_slow=fields.number("beta_slow", 1.0),
            mscale=fields.number("mscale", 0.0, above=-1.0),
            mscale_all_dim=fields.number("mscale_all_dim", 0.0, above=-1.0),
            truncate=fields.flag("truncate", True),
        )
    if kind == "longrope":
        return dataclasses.replace(
            common, short_factor=fields.number_list("short_factor"), long_factor=fields.number_list("long_factor")
        )
    return common


def from_gguf(
    metadata: Mapping[str, Any], tensors: Mapping[str, tuple[int, ...]], freq_factors: Sequence[float] = ()
) -> ModelShape:
    """The shape of a GGUF file: its metadata, and its tensors' logical (row-major) shapes by their GGUF names.

    Biases and an own output head are known only from the tensors that are there; `freq_factors` are the values of
    `rope_freqs.weight`. Norm weights of Gemma files already hold the +1. Raises as `from_hf` does.
    """
    architecture = metadata.get("general.architecture")
    family = _GGUF_FAMILY.get(architecture) if isinstance(architecture, str) else None
    if family is None:
        raise _unknown_architecture(architecture)
    fields = Fields(metadata, f"{architecture}.")
    hidden_size = fields.integer("embedding_length")
    num_heads = fields.integer("attention.head_count")
    num_layers = fields.integer("block_count", high=_MAX_LAYERS)
    head_size = fields.integer("attention.key_length", max(1, hidden_size // num_heads), high=_MAX_HEAD)
    fields.refuse("attention.value_length", head_size)
    fields.refuse("rope.dimension_count", head_size)
    max_position = fields.integer("context_length", low=2, high=_MAX_POSITION)
    if family == "llama" and fields.integer("expert_count", 0, low=0):
        family = "mixtral"
    moe = _gguf_moe(family, fields)
    shape = ModelShape(
        family=family,
        num_layers=num_layers,
        hidden_size=hidden_size,
        intermediate_size=moe.intermediate_size if moe else fields.integer("feed_forward_length"),
        num_heads=num_heads,
        num_kv_heads=fields.integer("attention.head_count_kv", num_heads),
        head_size=head_size,
        vocab_size=_gguf_vocab(tensors, hidden_size),
        max_position=max_position,
        norm_eps=fields.number("attention.layer_norm_rms_epsilon"),
        rope=_gguf_rope(fields, max_position, freq_factors, 1e6 if family == "gemma3" else 1e4),
        tie_embeddings="output.weight" not in tensors,
        qkv_bias="blk.0.attn_q.bias" in tensors,
        o_bias="blk.0.attn_output.bias" in tensors,
        mlp_bias="blk.0.ffn_down.bias" in tensors,
        qk_norm=family in ("qwen3", "qwen3_moe", "gemma3"),
        sliding_window=fields.integer("attention.sliding_window", 0, low=0, high=_MAX_POSITION),
        moe=moe,
    )
    return _consistent(_gguf_gemma3(shape, fields) if family == "gemma3" else shape)


def _gguf_gemma3(shape: ModelShape, fields: Fields) -> ModelShape:
    """What llama.cpp builds into the architecture and a GGUF file therefore does not say."""
    # The 27B model (62 layers) alone divides by the width per head; all others by the head size.
    scalar = shape.hidden_size / shape.num_heads if shape.num_layers == 62 else shape.head_size
    return dataclasses.replace(
        shape,
        activation="gelu_tanh",
        attn_scale=scalar**-0.5,
        embed_scale=shape.hidden_size**0.5,
        rope_local=RopeShape(theta=fields.number("rope.freq_base_swa", 1e4, above=1.0)),
        sliding_layers=tuple((layer + 1) % 6 != 0 for layer in range(shape.num_layers)) if shape.sliding_window else (),
    )


def _gguf_vocab(tensors: Mapping[str, tuple[int, ...]], hidden_size: int) -> int:
    shape = tensors.get("token_embd.weight")
    if shape is None:
        raise CheckpointError("the tensor token_embd.weight is missing")
    if len(shape) != 2 or shape[1] != hidden_size or not 1 <= shape[0] <= MAX_SIZE:
        raise CheckpointError(f"token_embd.weight must have the shape (vocabulary, {hidden_size}), not {tuple(shape)}")
    return shape[0]


def _gguf_moe(family: str, fields: Fields) -> MoeShape | None:
    if family not in ("mixtral", "qwen3_moe"):
        return None
    size_key = "expert_feed_forward_length" if family == "qwen3_moe" else "feed_forward_length"
    fields.refuse("expert_shared_count", 0)
    return MoeShape(
        num_experts=fields.integer("expert_count"),
        experts_per_token=fields.integer("expert_used_count"),
        intermediate_size=fields.integer(size_key),
        norm_topk=fields.flag("expert_weights_norm", True),
    )


def _gguf_rope(fields: Fields, max_position: int, freq_factors: Sequence[float], theta: float) -> RopeShape:
    theta = fields.number("rope.freq_base", theta, above=1.0)
    divisors = tuple(float(value) for value in freq_factors)
    kind = fields.get("rope.scaling.type") or ("linear" if fields.get("rope.scale_linear") is not None else "none")
    if kind == "none":
        return RopeShape(theta=theta, freq_factors=divisors)
    if kind not in ("linear", "yarn"):
        raise UnsupportedModel(f"rope.scaling.type {shown(kind)} is not supported", hint="supported: none, linear, yarn")
    factor = fields.number("rope.scaling.factor" if fields.get("rope.scaling.type") else "rope.scale_linear")
    original = fields.integer("rope.scaling.original_context_length", max_position, high=_MAX_POSITION)
    rope = RopeShape(theta=theta, kind=kind, factor=factor, original_max_position=original, freq_factors=divisors)
    if kind == "linear":
        return rope
    scale = fields.number("rope.scaling.attn_factor", 1.0)  # multiplies the method's own formula
    return dataclasses.replace(
        rope,
        attention_factor=None if scale == 1.0 else scale * (0.1 * math.log(max(factor, 1.0)) + 1.0),
        beta_fast=fields.number("rope.scaling.yarn_beta_fast", 32.0),
        beta_slow=fields.number("rope.scaling.yarn_beta_slow", 1.0),
    )


def _consistent(shape: ModelShape) -> ModelShape:
    """`shape`, if its numbers go together; raises CheckpointError or UnsupportedModel."""
    if shape.num_heads % shape.num_kv_heads:
        raise CheckpointError(
            f"num_attention_heads {shape.num_heads} is not a multiple of num_key_value_heads {shape.num_kv_heads}"
        )
    if shape.head_size % 2 or shape.head_size < 4:
        raise CheckpointError(f"head_dim must be an even number of at least 4, not {shape.head_size}")
    if max(shape.num_heads * shape.head_size, shape.hidden_size, shape.intermediate_size) > 1 << 20:
        raise CheckpointError("hidden_size, intermediate_size and num_attention_heads * head_dim must not exceed 1048576")
    if shape.moe and shape.moe.experts_per_token > shape.moe.num_experts:
        raise CheckpointError(
            f"num_experts_per_tok {shape.moe.experts_per_token} exceeds the number of experts {shape.moe.num_experts}"
        )
    for rope in (shape.rope, shape.rope_local or shape.rope):
        _check_pairs(rope, shape.head_size // 2)
    return shape


def _check_pairs(rope: RopeShape, num_pairs: int) -> None:
    for name in ("short_factor", "long_factor", "freq_factors"):
        needed = rope.kind == "longrope" and name != "freq_factors"
        if (getattr(rope, name) or needed) and len(getattr(rope, name)) != num_pairs:
            raise CheckpointError(f"rope {name} has {len(getattr(rope, name))} entries for {num_pairs} pairs")


def known(name: str) -> ModelShape:
    """The shape of a well-known model; raises UnsupportedModel with the nearest names for any other, as users write them."""
    if name not in KNOWN:
        near = difflib.get_close_matches(name.lower(), KNOWN, n=3, cutoff=0.3)
        raise UnsupportedModel(
            f"no known model is called {name!r}",
            hint=f"did you mean random:{' or random:'.join(near)}?" if near else f"known: random:{', random:'.join(KNOWN)}",
        )
    return from_hf(KNOWN[name])
