"""Gated activations of the feed-forward layer.

    silu_mul(g | u)      = silu(g) * u        silu(g) = g / (1 + exp(-g))                              (Shazeer, 2020)
    gelu_tanh_mul(g | u) = gelu(g) * u        gelu(g) = g/2 * (1 + tanh(sqrt(2/pi) * (g + 0.044715 g^3)))

The gate is the first half of the last axis, the value the second. Knows nothing of layers. Open `silu_mul` first.

T tokens, F ffn size.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from redline.kernels.op import Inputs, OpSpec, random_tensor, use_triton
from redline.ops import OPS


def silu_mul(gate_up_T2F: Tensor) -> Tensor:
    """silu of the first half times the second: [T, 2F] contiguous to a new [T, F] of the same type."""
    if use_triton(gate_up_T2F):
        from redline.kernels import activation_triton

        return activation_triton.silu_mul(gate_up_T2F)
    gate_TF, up_TF = gate_up_T2F.chunk(2, -1)
    return F.silu(gate_TF).mul_(up_TF)


def gelu_tanh_mul(gate_up_T2F: Tensor) -> Tensor:
    """gelu (its tanh form) of the first half times the second: [T, 2F] contiguous to a new [T, F] of the same type."""
    if use_triton(gate_up_T2F):
        from redline.kernels import activation_triton

        return activation_triton.gelu_tanh_mul(gate_up_T2F)
    gate_TF, up_TF = gate_up_T2F.chunk(2, -1)
    return F.gelu(gate_TF, approximate="tanh").mul_(up_TF)


def reference_silu_mul(gate_up_T2F: Tensor) -> tuple[Tensor]:
    gate_TF, up_TF = gate_up_T2F.float().chunk(2, -1)
    return (gate_TF / (1 + torch.exp(-gate_TF)) * up_TF,)


def reference_gelu_tanh_mul(gate_up_T2F: Tensor) -> tuple[Tensor]:
    gate_TF, up_TF = gate_up_T2F.float().chunk(2, -1)
    inner_TF = math.sqrt(2 / math.pi) * (gate_TF + 0.044715 * gate_TF**3)
    return (gate_TF / 2 * (1 + torch.tanh(inner_TF)) * up_TF,)


def _make_inputs(axes: Mapping[str, int], dtype: torch.dtype, device: torch.device, seed: int) -> Inputs:
    """Values up to about 12, where both activations are flat, beside ordinary ones."""
    return {"gate_up_T2F": 3 * random_tensor((axes["T"], 2 * axes["F"]), dtype, device, seed)}


_CASES = tuple({"T": t, "F": f} for t, f in ((1, 1), (1, 1536), (7, 31), (3, 1025), (2, 4864)))

SILU_MUL = OpSpec(
    op=OPS["silu_mul"],
    reference=reference_silu_mul,
    run=silu_mul,
    make_inputs=_make_inputs,
    cases=_CASES,
    tolerance="activation",
    triton="redline.kernels.activation_triton:silu_mul",
    batch_invariant=True,
)

GELU_TANH_MUL = OpSpec(
    op=OPS["gelu_tanh_mul"],
    reference=reference_gelu_tanh_mul,
    run=gelu_tanh_mul,
    make_inputs=_make_inputs,
    cases=_CASES,
    tolerance="activation",
    triton="redline.kernels.activation_triton:gelu_tanh_mul",
    batch_invariant=True,
)
