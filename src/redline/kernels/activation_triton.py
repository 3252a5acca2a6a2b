"""Triton kernel of activation.py: one pass over gate and value, float32 inside. Open `silu_mul` first.

T tokens, F ffn size.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from redline.kernels.op import ceil_div

BLOCK = 1024


def silu_mul(gate_up_T2F: Tensor) -> Tensor:
    """See activation.silu_mul."""
    return _launch(gate_up_T2F, gelu=False)


def gelu_tanh_mul(gate_up_T2F: Tensor) -> Tensor:
    """See activation.gelu_tanh_mul."""
    return _launch(gate_up_T2F, gelu=True)


def _launch(gate_up_T2F: Tensor, gelu: bool) -> Tensor:
    assert gate_up_T2F.is_contiguous()
    tokens, size = gate_up_T2F.shape[0], gate_up_T2F.shape[1] // 2
    output_TF = torch.empty((tokens, size), dtype=gate_up_T2F.dtype, device=gate_up_T2F.device)
    _gated[(tokens, ceil_div(size, BLOCK))](gate_up_T2F, output_TF, size, GELU=gelu, BLOCK=BLOCK, num_warps=4)
    return output_TF


@triton.jit
def _gated(gate_up_T2F, output_TF, size, GELU: tl.constexpr, BLOCK: tl.constexpr):
    token = tl.program_id(0).to(tl.int64)
    f = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = f < size
    gate = tl.load(gate_up_T2F + token * 2 * size + f, mask=mask, other=0.0).to(tl.float32)
    up = tl.load(gate_up_T2F + token * 2 * size + size + f, mask=mask, other=0.0).to(tl.float32)
    if GELU:
        # (1 + tanh(x)) / 2 = sigmoid(2 x)
        gate = gate * tl.sigmoid(1.5957691216057308 * (gate + 0.044715 * gate * gate * gate))
    else:
        gate = gate * tl.sigmoid(gate)
    tl.store(output_TF + token * size + f, (gate * up).to(output_TF.dtype.element_ty), mask=mask)
