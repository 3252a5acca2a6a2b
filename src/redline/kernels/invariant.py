"""A matrix product in which a row's result never depends, bit for bit, on how many rows there are or where it stands.

    y = x W^T + b

Libraries choose tiles, instructions and the order of the sums over K by the number of rows, so that a token's logits move
with whatever shares its batch. Here all of that follows from the matrix alone (He, Defeating Nondeterminism in LLM
Inference, 2025): the price is a product that is tuned for no number of rows. Knows nothing of layers. Open
`invariant_linear` first; the kernels are in invariant_triton.py.

T rows, N outputs, K inputs.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from redline.kernels.op import Inputs, OpSpec, random_tensor, use_triton
from redline.ops import OPS


def invariant_linear(x_TK: Tensor, weight_NK: Tensor, bias_N: Tensor | None = None, dtype: torch.dtype | None = None) -> Tensor:
    """x @ weight.T + bias, [T, N], of `dtype` or else of x's type; sums are float32 and rounded once.

    `x` and `weight` are of one type; `weight` is contiguous.
    """
    if use_triton(x_TK):
        from redline.kernels import invariant_triton

        return invariant_triton.invariant_linear(x_TK, weight_NK, bias_N, dtype)
    # A row at a time: the twin is for comparison, not for speed.
    weight_NK, bias_N = weight_NK.float(), None if bias_N is None else bias_N.float()
    rows = [F.linear(row_1K.float(), weight_NK, bias_N) for row_1K in x_TK.split(1)]
    return torch.cat(rows).to(dtype or x_TK.dtype) if rows else x_TK.new_empty((0, len(weight_NK)), dtype=dtype or x_TK.dtype)


def reference(x_TK: Tensor, weight_NK: Tensor, bias_N: Tensor | None = None, dtype: torch.dtype | None = None) -> tuple[Tensor]:
    product_TN = x_TK.double() @ weight_NK.double().T
    return ((product_TN if bias_N is None else product_TN + bias_N.double()).float(),)


def make_inputs(axes: Mapping[str, int], dtype: torch.dtype, device: torch.device, seed: int) -> Inputs:
    """`BIAS`: with one. `WIDE`: a float32 result, as the head has. `SLICED`: rows cut out of wider ones."""
    wide = axes["K"] + 3 * axes.get("SLICED", 0)
    return {
        "x_TK": random_tensor((axes["T"], wide), dtype, device, seed)[:, : axes["K"]],
        "weight_NK": random_tensor((axes["N"], axes["K"]), dtype, device, seed + 1) / axes["K"] ** 0.5,
        "bias_N": random_tensor((axes["N"],), dtype, device, seed + 2) if axes.get("BIAS") else None,
        "dtype": torch.float32 if axes.get("WIDE") else None,
    }


SPEC = OpSpec(
    op=OPS["invariant_linear"],
    reference=reference,
    run=invariant_linear,
    make_inputs=make_inputs,
    cases=(
        {"T": 1, "N": 1, "K": 1},
        {"T": 1, "N": 257, "K": 576},
        {"T": 3, "N": 33, "K": 1025, "BIAS": 1},
        {"T": 65, "N": 70, "K": 130, "BIAS": 1, "SLICED": 1},
        {"T": 2, "N": 129, "K": 800, "WIDE": 1},
        {"T": 131, "N": 300, "K": 640, "BIAS": 1},
        {"T": 257, "N": 300, "K": 1088},
    ),
    tolerance="product",
    triton="redline.kernels.invariant_triton:invariant_linear",
    batch_invariant=True,
)
