"""RMS normalisation, alone and behind a residual sum.

    rms_norm(x)[d]     = x[d] * w[d] / sqrt(mean_d(x[d]^2) + eps)                          (Zhang and Sennrich, 2019)
    add_rms_norm(x, r) = rms_norm(s), s   with s = x + r, rounded to r's type before it is normalised

Everything between reading x and rounding the result is float32. A model whose weights are stored as an offset from 1
(Gemma) adds the 1 when it loads them. Knows nothing of layers. Open `rms_norm` first.

T rows, D row size; a tensor [T, N, H] is T * N rows of H.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping

import torch
from torch import Tensor

from redline.kernels.op import Inputs, OpSpec, random_tensor, use_triton
from redline.ops import OPS


def rms_norm(x_TD: Tensor, weight_D: Tensor, eps: float, dtype: torch.dtype | None = None) -> Tensor:
    """`x` normalised over its last axis and scaled by `weight`; a new tensor of x's shape, of `dtype` or else of x's type.

    `x` is [T, D] or [T, N, H] (rows of H) with its last axes contiguous and any stride between tokens; `weight` float32.
    """
    if use_triton(x_TD):
        from redline.kernels import norm_triton

        return norm_triton.rms_norm(x_TD, weight_D, eps, dtype)
    return _normalised(x_TD.float(), weight_D, eps).to(dtype or x_TD.dtype)


def add_rms_norm(x_TD: Tensor, residual_TD: Tensor, weight_D: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """(rms_norm(x + residual), x + residual), both new tensors [T, D]: the first of x's type, the sum of residual's."""
    if use_triton(x_TD):
        from redline.kernels import norm_triton

        return norm_triton.add_rms_norm(x_TD, residual_TD, weight_D, eps)
    total_TD = (x_TD + residual_TD).to(residual_TD.dtype)
    return _normalised(total_TD.float(), weight_D, eps).to(x_TD.dtype), total_TD


def _normalised(x_TD: Tensor, weight_D: Tensor, eps: float) -> Tensor:
    """The formula in float32 on a CPU, in few calls: for one token their number is the cost. torch's own takes twice as many."""
    length_T1 = torch.linalg.vector_norm(x_TD, dim=-1, keepdim=True)
    mean_square_T1 = torch.addcmul(_scalar(eps), length_T1, length_T1, value=1 / x_TD.shape[-1])
    return (x_TD * mean_square_T1.rsqrt_()).mul_(weight_D)


@functools.cache
def _scalar(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float32)


def reference_rms_norm(x_TD: Tensor, weight_D: Tensor, eps: float, dtype: torch.dtype | None = None) -> tuple[Tensor]:
    x_TD = x_TD.float()
    return (x_TD / torch.sqrt((x_TD * x_TD).mean(-1, keepdim=True) + eps) * weight_D,)


def reference_add_rms_norm(x_TD: Tensor, residual_TD: Tensor, weight_D: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    total_TD = (x_TD.float() + residual_TD.float()).to(residual_TD.dtype).float()
    return *reference_rms_norm(total_TD, weight_D, eps), total_TD


def _rms_norm_inputs(axes: Mapping[str, int], dtype: torch.dtype, device: torch.device, seed: int) -> Inputs:
    """Rows of D, or of `HEADS` heads of D cut out of a wider tensor as q and k are cut out of a fused projection; `WIDE` rows
    are float32, as the residual stream is, and become what they are asked to."""
    heads, size = axes.get("HEADS", 1), axes["D"]
    if heads > 1:
        wide = random_tensor((axes["T"], (heads + 2) * size), dtype, device, seed)
        x_TD = wide[:, size : (heads + 1) * size].view(axes["T"], heads, size)
    else:
        x_TD = random_tensor((axes["T"], size), dtype, device, seed)
    if axes.get("WIDE"):
        x_TD = x_TD.float()
    return {"x_TD": x_TD, "weight_D": 1 + random_tensor((size,), torch.float32, device, seed + 1) / 10, "eps": 1e-5} | (
        {"dtype": dtype} if axes.get("WIDE") else {}
    )


def _add_rms_norm_inputs(axes: Mapping[str, int], dtype: torch.dtype, device: torch.device, seed: int) -> Inputs:
    """The residual is float32, as in the models, whatever x is."""
    residual_TD = random_tensor((axes["T"], axes["D"]), torch.float32, device, seed + 2)
    return _rms_norm_inputs(axes, dtype, device, seed) | {"residual_TD": residual_TD}


_ROWS = tuple({"T": t, "D": d} for t, d in ((1, 1), (1, 64), (3, 576), (17, 96), (2, 1025), (5, 2048), (2, 16384)))

RMS_NORM = OpSpec(
    op=OPS["rms_norm"],
    reference=reference_rms_norm,
    run=rms_norm,
    make_inputs=_rms_norm_inputs,
    cases=_ROWS + ({"T": 7, "D": 80, "HEADS": 3}, {"T": 1, "D": 128, "HEADS": 33}, {"T": 3, "D": 576, "WIDE": 1}),
    tolerance="elementwise",
    triton="redline.kernels.norm_triton:rms_norm",
    batch_invariant=True,
)

ADD_RMS_NORM = OpSpec(
    op=OPS["add_rms_norm"],
    reference=reference_add_rms_norm,
    run=add_rms_norm,
    make_inputs=_add_rms_norm_inputs,
    cases=_ROWS,
    tolerance="elementwise",
    triton="redline.kernels.norm_triton:add_rms_norm",
    batch_invariant=True,
)
