"""The gated half of a feed-forward layer in one pass: what is multiplied never reaches memory.

    y = act(x G^T) * (x U^T)        G the first half of the weights' rows, U the second; act as in activation.py

Many rows of bf16 on a Hopper card take cuda/many_rows.cu. Whoever asks `is_trusted` and `is_faster` first gets that, and takes a product and an
activation where they say no; without, it is right everywhere and slow. Knows nothing of layers. Open `gated_linear` first.

T rows, D model size, F half of the outputs.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from redline import log
from redline.kernels.activation import reference_gelu_tanh_mul, reference_silu_mul
from redline.kernels.op import Inputs, OpSpec, device_of, is_hopper, random_tensor
from redline.kernels.skinny import FEW_ROWS, on_hopper
from redline.kernels.trust import wrong_result
from redline.ops import OPS

LEAST_EFFICIENCY, FEWER_ROWS, FEWER_EFFICIENCY = 0.75, 256, 0.65
"""Of the kernel, by `many_rows_cuda.efficiency`: with a number of rows that leaves processors idle, cuBLAS's choice of tiles is faster. Up to `FEWER_ROWS` that has
idle ones, too. As graphs of a step on an H200: 256 rows of an 8B 12.66 ms and not 12.87, of a 1B 2.73 and not 2.78; 8,192 tokens 194.9 and not 198.8, 30.3 and not 31.4."""


def gated_linear(x_TD: Tensor, weight_2FD: Tensor, gelu: bool = False) -> Tensor:
    """[T, F] in the type of x."""
    if len(x_TD) > FEW_ROWS and on_hopper(x_TD, weight_2FD, len(weight_2FD) // 2):
        from redline.kernels import product_cuda

        return product_cuda.gated_linear(x_TD, weight_2FD, gelu)
    gate_TF, up_TF = F.linear(x_TD.float(), weight_2FD.float()).chunk(2, -1)  # for comparison, not for speed
    return ((F.gelu(gate_TF, approximate="tanh") if gelu else F.silu(gate_TF)) * up_TF).to(x_TD.dtype)


@functools.cache
def is_trusted(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the kernel may be used: on its card, in its type, and if its results are right there, which is tried once. Not under capture."""
    if not is_hopper(device, dtype):
        return False
    reason = wrong_result([(SPEC, SPEC.cases[-1])], device)
    if reason is not None:
        log.fallback("gated_linear", f"{reason}: a product and an activation instead")
    return reason is None


def is_faster(weight_2FD: Tensor, rows: int) -> bool:
    """Whether the kernel takes less time for so many rows than a product and an activation, on a Hopper card."""
    if rows <= FEW_ROWS or len(weight_2FD) % 32 or weight_2FD.shape[1] % 8:
        return False
    from redline.kernels import many_rows_cuda
    from redline.kernels.product import GATED

    outputs, inputs = len(weight_2FD) // 2, weight_2FD.shape[1]
    least = FEWER_EFFICIENCY if rows <= FEWER_ROWS else LEAST_EFFICIENCY
    return many_rows_cuda.efficiency(GATED, outputs, inputs, rows, device_of(weight_2FD.device).processors) >= least


def reference(x_TD: Tensor, weight_2FD: Tensor, gelu: bool = False) -> tuple[Tensor]:
    return (reference_gelu_tanh_mul if gelu else reference_silu_mul)((x_TD.double() @ weight_2FD.double().T).float())


def _make_inputs(axes: Mapping[str, int], dtype: torch.dtype, device: torch.device, seed: int) -> Inputs:
    weight_2FD = random_tensor((2 * axes["F"], axes["D"]), dtype, device, seed + 1) / axes["D"] ** 0.5
    return {
        "x_TD": random_tensor((axes["T"], axes["D"]), dtype, device, seed),
        "weight_2FD": weight_2FD,
        "gelu": bool(axes.get("GELU")),
    }


SPEC = OpSpec(
    op=OPS["gated_linear"],
    reference=reference,
    run=gated_linear,
    make_inputs=_make_inputs,
    cases=(
        {"T": 1, "F": 8, "D": 8},
        {"T": 5, "F": 5, "D": 64},
        {"T": 129, "F": 16, "D": 72},
        {"T": 257, "F": 528, "D": 328, "GELU": 1},
        {"T": 300, "F": 144, "D": 200},
    ),
    tolerance="product",
)
