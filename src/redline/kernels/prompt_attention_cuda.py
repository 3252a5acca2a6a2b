"""Hopper's kernel for attention of whole prompts: the launcher of cuda/prompt_attention.cu. Open `attend`.

R rows of tokens, N query heads, K key-value heads, H head size.
"""

from __future__ import annotations

import ctypes
import functools

import torch
from torch import Tensor

from redline.kernels.attention_plan import Whole
from redline.kernels.attention_triton import LOG2_E
from redline.kernels.cuda.compiler import machine_code
from redline.kernels.cuda.launcher import Kernel, tensor_map
from redline.kernels.op import ceil_div, device_of

TILE = 128  # queries, and keys


class _Arguments(ctypes.Structure):
    _fields_ = [
        ("output", ctypes.c_void_p),
        *((name, ctypes.c_int) for name in ("first_row", "length", "count", "heads", "group")),
        ("scale_log2", ctypes.c_float),
    ]


def definitions(size: int) -> dict[str, int]:
    """What cuda/prompt_attention.cu is compiled with."""
    return {"SIZE": size, "COLS": TILE}


@functools.cache
def _kernel(size: int, device: torch.device) -> Kernel:
    code = machine_code("prompt_attention.cu", definitions(size))
    with torch.cuda.device(device):
        return Kernel(code, "prompt_attention", threads=384, shared_bytes=5 * TILE * size * 2 + 1024)


def attend(whole: Whole, q_RNH: Tensor, k_RKH: Tensor, v_RKH: Tensor, scale: float, output_RNH: Tensor) -> None:
    """Write the rows of `whole`. What lies behind them is read and has no weight: it must be finite."""
    _, heads, size = q_RNH.shape
    group = heads // k_RKH.shape[1]
    maps = [tensor_map(x.flatten(1), TILE) for x in (q_RNH, k_RKH, v_RKH)]
    arguments = _Arguments(output_RNH.data_ptr(), whole.start, whole.length, whole.count, heads, group, scale * LOG2_E)
    items = ceil_div(whole.length, TILE) * whole.count * heads
    blocks = min(items, device_of(q_RNH.device).processors)
    _kernel(size, q_RNH.device).launch(blocks, [*maps, arguments], dependent=False)
