"""From GGUF's tensor names to Hugging Face's, per family, and what the converters changed on the way in.

Two kinds of tensor change more than their name: rows of `attn_q` and `attn_k` lie permuted in files of architecture `llama`
(`hf_rows`), and the experts of a layer are stacked in one tensor (`expert_name`). Knows names and rows, not files.
Open `hf_name` first.
"""

from __future__ import annotations

from redline.checkpoint.packed import Array
from redline.errors import CheckpointError

ROPE_FACTORS = "rope_freqs.weight"

_TOP = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}

_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}

_FAMILY = {
    "gemma3": {
        "post_attention_norm": "post_attention_layernorm",
        "ffn_norm": "pre_feedforward_layernorm",
        "post_ffw_norm": "post_feedforward_layernorm",
    },
    "mixtral": {"ffn_gate_inp": "block_sparse_moe.gate"},
    "qwen3_moe": {"ffn_gate_inp": "mlp.gate"},
}

_EXPERTS = {
    "mixtral": {
        "ffn_gate_exps": "block_sparse_moe.experts.{}.w1",
        "ffn_up_exps": "block_sparse_moe.experts.{}.w3",
        "ffn_down_exps": "block_sparse_moe.experts.{}.w2",
    },
    "qwen3_moe": {
        "ffn_gate_exps": "mlp.experts.{}.gate_proj",
        "ffn_up_exps": "mlp.experts.{}.up_proj",
        "ffn_down_exps": "mlp.experts.{}.down_proj",
    },
}

_PERMUTED = ("attn_q", "attn_k")


def hf_name(name: str, family: str) -> str:
    """The Hugging Face name of GGUF tensor `name` in a model of `family`; `name` itself where redline knows none."""
    part, dot, kind = name.rpartition(".")
    if part in _TOP:
        return _TOP[part] + dot + kind
    layer, short = _layer_and_part(part)
    known = _FAMILY.get(family, {}).get(short) or _LAYER.get(short)
    return f"model.layers.{layer}.{known}.{kind}" if layer and known else name


def expert_name(name: str, family: str) -> str | None:
    """For a stack of experts, the Hugging Face name with `{}` for the expert's number; None for any other tensor."""
    part, _, kind = name.rpartition(".")
    layer, short = _layer_and_part(part)
    known = _EXPERTS.get(family, {}).get(short)
    return f"model.layers.{layer}.{known}.{kind}" if layer and known else None


def is_permuted(name: str, architecture: str) -> bool:
    """True for the tensors whose rows the converter reordered: q and k, weights and biases, of architecture llama alone."""
    return architecture == "llama" and _layer_and_part(name.rpartition(".")[0])[1] in _PERMUTED


def hf_rows(name: str, data: Array, rows: int, head_size: int) -> Array:
    """`data` [rows, ...] with its rows in Hugging Face's order, as a view [heads, 2, H / 2, ...] without a copy.

    The converter put rotary pairs side by side: row (2 i + j) of a head was row (j * H / 2 + i) of the half-split original.
    Raises CheckpointError where `rows` are not whole heads of `head_size`.
    """
    if head_size % 2 or rows % head_size:
        raise CheckpointError(f"tensor {name} has {rows} rows, which are not whole heads of {head_size}")
    heads = data.reshape(rows // head_size, head_size // 2, 2, *data.shape[1:])
    return heads.swapaxes(1, 2)


def _layer_and_part(part: str) -> tuple[str, str]:
    """("12", "attn_q") of "blk.12.attn_q"; empty strings for a name of another form."""
    prefix, _, rest = part.partition(".")
    layer, _, short = rest.partition(".")
    return (layer, short) if prefix == "blk" and layer.isascii() and layer.isdigit() else ("", "")
