"""Linear layers of one row, with what surrounds them in a decoder block done in the same pass over the weights.

    project(x, W)         y = x W^T                      float32
    norm_linear(s, W)     y = rms_norm(s) W^T + b
    norm_gated(s, W)      y = act(g) * u                 g | u = rms_norm(s) W^T
    linear_add(x, W, s)   s = s + (x W^T + b)            in place

`s` is the residual stream, float32. With one row the weights are all there is to read, so each kernel reads them once and
keeps everything else in registers; nothing between the two ends of a formula is rounded. With more rows a matrix product is
faster. Knows nothing of layers. Open `norm_linear` first; the kernels are in gemv_triton.py.

T rows (one), K inputs, N outputs, F half of the outputs of a gated layer.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from redline.kernels.activation import reference_gelu_tanh_mul, reference_silu_mul
from redline.kernels.norm import reference_rms_norm, rms_norm
from redline.kernels.op import Inputs, OpSpec, random_tensor, use_triton
from redline.ops import OPS


def project(x_TK: Tensor, weight_NK: Tensor) -> Tensor:
    """The projection of `x` (of the weight's type) in float32, [T, N]: the head."""
    if use_triton(x_TK):
        from redline.kernels import gemv_triton

        return gemv_triton.project(x_TK, weight_NK)
    return _linear(x_TK, weight_NK, None)


def norm_linear(stream_TK: Tensor, norm_K: Tensor, eps: float, weight_NK: Tensor, bias_N: Tensor | None = None) -> Tensor:
    """The projection of the normalised stream, [T, N] in the weight's type. `stream` and `norm` are float32."""
    if use_triton(stream_TK):
        from redline.kernels import gemv_triton

        return gemv_triton.norm_linear(stream_TK, norm_K, eps, weight_NK, bias_N)
    return _linear(rms_norm(stream_TK, norm_K, eps), weight_NK, bias_N).to(weight_NK.dtype)


def norm_gated(stream_TK: Tensor, norm_K: Tensor, eps: float, weight_2FK: Tensor, gelu: bool = False) -> Tensor:
    """The gated activation of the normalised stream, [T, F] in the weight's type; gate rows first, then value rows."""
    if use_triton(stream_TK):
        from redline.kernels import gemv_triton

        return gemv_triton.norm_gated(stream_TK, norm_K, eps, weight_2FK, gelu)
    gate_TF, up_TF = _linear(rms_norm(stream_TK, norm_K, eps), weight_2FK, None).chunk(2, -1)
    return ((F.gelu(gate_TF, approximate="tanh") if gelu else F.silu(gate_TF)) * up_TF).to(weight_2FK.dtype)


def linear_add(x_TK: Tensor, weight_NK: Tensor, stream_TN: Tensor, bias_N: Tensor | None = None) -> None:
    """Add the projection of `x` (of the weight's type) to the stream, in place."""
    if use_triton(x_TK):
        from redline.kernels import gemv_triton

        return gemv_triton.linear_add(x_TK, weight_NK, stream_TN, bias_N)
    stream_TN.add_(_linear(x_TK, weight_NK, bias_N))
    return None


def _linear(x_TK: Tensor, weight_NK: Tensor, bias_N: Tensor | None) -> Tensor:
    """In float32, as the kernels compute: the twin is for comparison, not for speed."""
    return F.linear(x_TK.float(), weight_NK.float(), None if bias_N is None else bias_N.float())


def reference_project(x_TK: Tensor, weight_NK: Tensor) -> tuple[Tensor]:
    return (_product(x_TK.float(), weight_NK, None),)


def reference_norm_linear(
    stream_TK: Tensor, norm_K: Tensor, eps: float, weight_NK: Tensor, bias_N: Tensor | None = None
) -> tuple[Tensor]:
    (x_TK,) = reference_rms_norm(stream_TK, norm_K, eps)
    return (_product(x_TK, weight_NK, bias_N),)


def reference_norm_gated(stream_TK: Tensor, norm_K: Tensor, eps: float, weight_2FK: Tensor, gelu: bool = False) -> tuple[Tensor]:
    (gate_up_T2F,) = reference_norm_linear(stream_TK, norm_K, eps, weight_2FK)
    return (reference_gelu_tanh_mul if gelu else reference_silu_mul)(gate_up_T2F)


def reference_linear_add(x_TK: Tensor, weight_NK: Tensor, stream_TN: Tensor, bias_N: Tensor | None = None) -> tuple[Tensor]:
    return (stream_TN + _product(x_TK.float(), weight_NK, bias_N),)


def _product(x_TK: Tensor, weight_NK: Tensor, bias_N: Tensor | None) -> Tensor:
    product_TN = x_TK.double() @ weight_NK.double().T
    return (product_TN if bias_N is None else product_TN + bias_N.double()).float()


def _norm_inputs(axes: Mapping[str, int], dtype: torch.dtype, device: torch.device, seed: int) -> Inputs:
    return {
        "stream_TK": 3 * random_tensor((axes["T"], axes["K"]), torch.float32, device, seed),
        "norm_K": 1 + random_tensor((axes["K"],), torch.float32, device, seed + 1) / 10,
        "eps": 1e-5,
    }


def _weight(axes: Mapping[str, int], rows: int, dtype: torch.dtype, device: torch.device, seed: int) -> Tensor:
    return random_tensor((rows, axes["K"]), dtype, device, seed) / axes["K"] ** 0.5


def _project_inputs(axes: Mapping[str, int], dtype: torch.dtype, device: torch.device, seed: int) -> Inputs:
    return {
        "x_TK": random_tensor((axes["T"], axes["K"]), dtype, device, seed),
        "weight_NK": _weight(axes, axes["N"], dtype, device, seed + 2),
    }


def _norm_linear_inputs(axes: Mapping[str, int], dtype: torch.dtype, device: torch.device, seed: int) -> Inputs:
    return _norm_inputs(axes, dtype, device, seed) | {
        "weight_NK": _weight(axes, axes["N"], dtype, device, seed + 2),
        "bias_N": random_tensor((axes["N"],), dtype, device, seed + 3) if axes.get("BIAS") else None,
    }


def _norm_gated_inputs(axes: Mapping[str, int], dtype: torch.dtype, device: torch.device, seed: int) -> Inputs:
    return _norm_inputs(axes, dtype, device, seed) | {
        "weight_2FK": 3 * _weight(axes, 2 * axes["F"], dtype, device, seed + 2),
        "gelu": bool(axes.get("GELU")),
    }


def _linear_add_inputs(axes: Mapping[str, int], dtype: torch.dtype, device: torch.device, seed: int) -> Inputs:
    return {
        "x_TK": random_tensor((axes["T"], axes["K"]), dtype, device, seed),
        "weight_NK": _weight(axes, axes["N"], dtype, device, seed + 2),
        "stream_TN": random_tensor((axes["T"], axes["N"]), torch.float32, device, seed + 4),
        "bias_N": random_tensor((axes["N"],), dtype, device, seed + 3) if axes.get("BIAS") else None,
    }


_SIZES = tuple({"T": t, "N": n, "K": k} for t, n, k in ((1, 1, 1), (1, 257, 576), (1, 33, 1025), (1, 64, 96), (1, 31, 9000)))
_BIASED = ({"T": 1, "N": 70, "K": 130, "BIAS": 1},)

PROJECT = OpSpec(
    op=OPS["project"],
    reference=reference_project,
    run=project,
    make_inputs=_project_inputs,
    cases=_SIZES,
    tolerance="product",
    triton="redline.kernels.gemv_triton:project",
)

NORM_LINEAR = OpSpec(
    op=OPS["norm_linear"],
    reference=reference_norm_linear,
    run=norm_linear,
    make_inputs=_norm_linear_inputs,
    cases=_SIZES + _BIASED,
    tolerance="product",
    triton="redline.kernels.gemv_triton:norm_linear",
)

NORM_GATED = OpSpec(
    op=OPS["norm_gated"],
    reference=reference_norm_gated,
    run=norm_gated,
    make_inputs=_norm_gated_inputs,
    cases=(
        {"T": 1, "F": 5, "K": 1},
        {"T": 1, "F": 129, "K": 576},
        {"T": 1, "F": 31, "K": 1025, "GELU": 1},
        {"T": 1, "F": 64, "K": 5000},
    ),
    tolerance="product",
    triton="redline.kernels.gemv_triton:norm_gated",
)

LINEAR_ADD = OpSpec(
    op=OPS["linear_add"],
    reference=reference_linear_add,
    run=linear_add,
    make_inputs=_linear_add_inputs,
    cases=_SIZES + _BIASED,
    tolerance="product",
    triton="redline.kernels.gemv_triton:linear_add",
    mutates=("stream_TN",),
)
