"""At which sizes `redline bench kernels` times each op: those that a model's steps have.

Axes of known ops follow from the model's shape; an op that this file does not know is timed at the largest of its own
cases. Attention's operands are made on the device, all sequences of one length: a hundred thousand tokens of context are too
many for `OpSpec.make_inputs`, which draws on the CPU. Open `sizes` first, then `inputs`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from redline.kernels import step_attention
from redline.kernels.attention import make_ragged
from redline.kernels.op import Inputs, OpSpec
from redline.ops import Axes
from redline.shapes import ModelShape

LINEAR_ROWS = (1, 2, 4, 8, 32, 128, 256)
ATTENTION = ("paged_attention", "decode_attention", "step_attention", "invariant_attention")


@dataclass(frozen=True)
class Scale:
    """How large the largest sizes are: tokens of a prefill step, a long context, rows of a large batch."""

    tokens: int
    context: int
    rows: int


GPU = Scale(tokens=8192, context=32768, rows=256)
CPU = Scale(tokens=128, context=512, rows=8)


def sizes(spec: OpSpec, shape: ModelShape, scale: Scale, page_size: int) -> list[Axes]:
    """The axes at which `spec` is timed for a model of `shape`."""
    name = spec.name
    if name in _LINEAR:
        most = max(case["T"] for case in spec.cases)  # rows that the op is made for
        return [{**axes, "T": rows} for rows in LINEAR_ROWS if rows <= most for axes in _linear(name, shape)]
    if name in ATTENTION:
        return _attention(name, shape, scale, page_size)
    model = {
        "D": shape.hidden_size,
        "F": shape.intermediate_size,
        "N": shape.num_heads,
        "K": shape.num_kv_heads,
        "H": shape.head_size,
        "L": scale.tokens,
        "S": page_size,
        "V": shape.vocab_size,
        "P": scale.context // page_size,
    }
    if name in _TOKENS:
        return [{axis: model.get(axis, tokens) for axis in spec.op.axes} for tokens in (1, scale.rows, scale.tokens)]
    if name in _MANY:
        return [{axis: model.get(axis, tokens) for axis in spec.op.axes} for tokens in (scale.rows, 2 * scale.rows, scale.tokens)]
    if name == "copy_pages":
        return [{axis: {"C": 2 * shape.num_layers, "M": 4}.get(axis) or model[axis] for axis in spec.op.axes}]
    if name in _ROWS:
        model["L"] = scale.context // 8  # tokens of a history
        return [{axis: model.get(axis, count) for axis in spec.op.axes} for count in (1, scale.rows)]
    return [max(spec.cases, key=lambda case: spec.op.total_bytes(case, spec.op.dtypes[0]))]


_TOKENS = ("rms_norm", "add_rms_norm", "rotate", "silu_mul", "gelu_tanh_mul", "write_kv", "prepare_heads")
_MANY = ("gated_linear", "project_heads")
_ROWS = ("sample", "apply_mask", "apply_penalties", "begin_decode", "end_decode")
_LINEAR = (
    *("norm_linear", "norm_gated", "linear_add", "project"),
    *("gained_linear", "gained_gated", "add_gained", "gained_project", "gained_choose", "invariant_linear"),
)


def _linear(name: str, shape: ModelShape) -> list[Axes]:
    """The products of the layers, and the head, without their rows."""
    heads = shape.num_heads * shape.head_size
    qkv = heads + 2 * shape.num_kv_heads * shape.head_size
    found = {
        "norm_linear": [{"N": qkv, "K": shape.hidden_size}],
        "norm_gated": [{"F": shape.intermediate_size, "K": shape.hidden_size}],
        "linear_add": [{"N": shape.hidden_size, "K": heads}, {"N": shape.hidden_size, "K": shape.intermediate_size}],
        "project": [{"N": shape.vocab_size, "K": shape.hidden_size}],
    }
    like = {
        "gained_linear": "norm_linear",
        "gained_gated": "norm_gated",
        "add_gained": "linear_add",
        "gained_project": "project",
        "gained_choose": "project",
        "invariant_linear": "norm_linear",
    }
    return [*found[like.get(name, name)]]


def _attention(name: str, shape: ModelShape, scale: Scale, page_size: int) -> list[Axes]:
    heads = {"N": shape.num_heads, "K": shape.num_kv_heads, "H": shape.head_size, "S": page_size, "W": 0}
    decode = [(1, scale.context // 128), (scale.rows, scale.context // 64), (1, scale.context), (16, scale.context)]
    if name in ("decode_attention", "step_attention"):
        return [{"B": rows, "C": context, **heads} for rows, context in decode]
    whole = scale.tokens // 2
    prefill = [(1, whole, whole), (scale.tokens // 512 or 1, min(512, whole), min(512, whole)), (1, whole // 4, scale.context)]
    steps = [(rows, 1, context) for rows, context in decode]
    return [{"B": rows, "Q": queries, "C": context, **heads} for rows, queries, context in dict.fromkeys(prefill + steps)]


def inputs(spec: OpSpec, axes: Axes, dtype: torch.dtype, device: torch.device) -> Inputs:
    """Operands of one timed call."""
    if spec.name not in ATTENTION:
        return spec.make_inputs(axes, dtype, device, 1)
    made = spec.make_inputs({**axes, "B": 1, "Q": 1, "C": 1}, dtype, device, 1)
    rows, queries, context = axes["B"], axes.get("Q", 1), axes["C"]
    ragged, num_pages = make_ragged([queries] * rows, [context] * rows, axes["S"], device, 1)
    cache = (num_pages, axes["S"], axes["K"], axes["H"])
    heads = axes["N"] + 2 * axes["K"]
    qkv = torch.randn((rows * queries, heads * axes["H"]), dtype=dtype, device=device)
    changed: dict[str, object] = {
        "k_cache_PSKH": torch.randn(cache, dtype=dtype, device=device),
        "v_cache_PSKH": torch.randn(cache, dtype=dtype, device=device),
        "ragged": ragged,
    }
    if "qkv_BM" in made:
        table = torch.randn((context, axes["H"]), dtype=torch.float32, device=device)
        changed |= {"qkv_BM": qkv, "prepare": dataclasses.replace(made["prepare"], cos_sin_LH=table)}
    else:
        changed["q_TNH"] = qkv[:, : axes["N"] * axes["H"]].view(rows * queries, axes["N"], axes["H"])
    about = (axes["N"], axes["K"], axes["H"], axes["S"])
    if spec.name == "step_attention" and step_attention.takes(device, dtype, *about):
        changed["shared"] = step_attention.share(ragged, *about)  # made once for all layers, so not timed
    return {**made, **changed}


def label(axes: Mapping[str, int]) -> str:
    """Axes as a person reads them: `T1 N4096 K4096`; what is 0 is left out."""
    return " ".join(f"{name}{value}" for name, value in axes.items() if value)
