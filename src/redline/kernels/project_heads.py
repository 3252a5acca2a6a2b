"""The heads of a prompt straight from the layer's input: the projection, and what prepare.py makes of its result, in one pass.

    q, k, v    = prepare(x W^T + b)        and the caches hold k and v, as prepare.py has it

Many rows of bf16 with heads of 64 or 128 on a Hopper card take cuda/many_rows.cu; everything else the two passes. Knows nothing of layers.
Open `project_heads` first. Legend as in prepare.py; D model size.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from redline.kernels import prepare
from redline.kernels.heads import HeadPreparation
from redline.kernels.op import Inputs, OpSpec, random_tensor
from redline.kernels.skinny import FEW_ROWS, on_hopper
from redline.ops import OPS

SIZES = (64, 128)

Projection = tuple[Tensor, Tensor | None]
"""Weights [M, D] and bias [M]."""


def project_heads(
    x_TD: Tensor,
    projection: Projection,
    positions_T: Tensor,
    slots_T: Tensor,
    k_cache_PSKH: Tensor,
    v_cache_PSKH: Tensor,
    preparation: HeadPreparation,
    tail: int | None = None,
) -> tuple[Tensor, ...]:
    """As prepare.prepare_heads of the projection of x: the queries ([T, N, H],), or with a `tail` q, k and v of T + tail rows."""
    (weight_MD, bias_M), (kv_heads, size) = projection, k_cache_PSKH.shape[2:]
    if len(x_TD) <= FEW_ROWS or size not in SIZES or not on_hopper(x_TD, weight_MD, len(weight_MD)):
        qkv_TM = F.linear(x_TD, weight_MD, bias_M)
        return prepare.prepare_heads(qkv_TM, positions_T, slots_T, k_cache_PSKH, v_cache_PSKH, preparation, tail)
    from redline.kernels import many_rows_cuda
    from redline.kernels.product import HEADS, Heads, Product

    rows, heads = len(x_TD) + (tail or 0), len(weight_MD) // size - 2 * kv_heads
    counts = (heads,) if tail is None else (heads, kv_heads, kv_heads)
    parts = tuple(x_TD.new_empty((rows, count, size)) for count in counts)
    if tail:
        for part in parts:
            part[-tail:].zero_()
    product = Product(HEADS, x_TD.contiguous(), weight_MD, parts[0], bias_N=bias_M)
    kept = None if tail is None else (parts[1], parts[2])
    many_rows_cuda.launch_heads(product, Heads(positions_T, slots_T, k_cache_PSKH, v_cache_PSKH, preparation), kept)
    return parts


def reference(
    x_TD: Tensor,
    projection: Projection,
    preparation: HeadPreparation,
    tail: int | None = None,
    **others: Tensor,
) -> tuple[Tensor, ...]:
    """What `project_heads` returns, and the caches as they are afterwards."""
    weight_MD, bias_M = projection
    qkv_TM = x_TD.double() @ weight_MD.double().T
    qkv_TM = qkv_TM if bias_M is None else qkv_TM + bias_M.double()
    return prepare.reference(qkv_TM.float(), prepare=preparation, tail=tail, **others)


def _make_inputs(axes: Mapping[str, int], dtype: torch.dtype, device: torch.device, seed: int) -> Inputs:
    """As prepare.py's, with a projection before it, which has a bias with `BIAS`."""
    inputs = prepare.SPEC.make_inputs(axes, dtype, device, seed)
    outputs, inner = inputs.pop("qkv_TM").shape[1], axes["D"]
    return {
        "x_TD": random_tensor((axes["T"], inner), dtype, device, seed + 6),
        "projection": (
            random_tensor((outputs, inner), dtype, device, seed + 7) / inner**0.5,
            random_tensor((outputs,), dtype, device, seed + 8) if axes.get("BIAS") else None,
        ),
        "preparation": inputs.pop("prepare"),
        **inputs,
    }


SPEC = OpSpec(
    op=OPS["project_heads"],
    reference=reference,
    run=project_heads,
    make_inputs=_make_inputs,
    cases=(
        {"T": 3, "N": 4, "K": 2, "H": 16, "S": 4, "L": 40, "D": 24, "SKIP": 1},
        {"T": 9, "N": 2, "K": 1, "H": 64, "S": 16, "L": 31, "D": 64, "NORM": 1, "TAIL": 2},
        {"T": 200, "N": 9, "K": 3, "H": 64, "S": 16, "L": 300, "D": 72, "SKIP": 1, "BIAS": 1},
        {"T": 385, "N": 5, "K": 1, "H": 128, "S": 64, "L": 500, "D": 256, "TAIL": 63},
        {"T": 300, "N": 4, "K": 2, "H": 128, "S": 64, "L": 500, "D": 192, "NORM": 1, "SKIP": 1, "TAIL": 20},
    ),
    tolerance="activation",  # the projection is rounded where it is a pass of its own
    mutates=prepare.SPEC.mutates,
)
