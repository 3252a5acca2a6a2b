"""Hopper's kernel of prepare.py: the launcher of cuda/heads.cu. Open `prepare_heads`. Legend as in prepare.py."""

from __future__ import annotations

import ctypes
import functools

import torch
from torch import Tensor

from redline.kernels.cuda.compiler import machine_code
from redline.kernels.cuda.launcher import Kernel
from redline.kernels.heads import HeadPreparation

WARPS = 8


class _Arguments(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("qkv", "positions", "slots", "q_norm", "k_norm", "cos_sin")),
        *((name, ctypes.c_void_p) for name in ("q", "k", "v", "k_cache", "v_cache")),
        ("tokens", ctypes.c_int),
        ("eps", ctypes.c_float),
    ]


def definitions(size: int, heads: int, kv_heads: int, normed: bool) -> dict[str, int]:
    """What cuda/heads.cu is compiled with."""
    return {"HEAD": size, "HEADS": heads, "KV_HEADS": kv_heads, "NORMED": int(normed)}


def prepare_heads(
    qkv_TM: Tensor,
    positions_T: Tensor,
    slots_T: Tensor,
    k_cache_PSKH: Tensor,
    v_cache_PSKH: Tensor,
    prepare: HeadPreparation,
    tail: int | None = None,
) -> tuple[Tensor, ...]:
    """See prepare.prepare_heads. One launch, which may overlap the kernel before."""
    tokens, device = qkv_TM.shape[0], qkv_TM.device
    kv_heads, size = k_cache_PSKH.shape[2:]
    heads = qkv_TM.shape[1] // size - 2 * kv_heads
    assert qkv_TM.is_contiguous() and k_cache_PSKH.is_contiguous() and v_cache_PSKH.is_contiguous()
    rows = tokens + (tail or 0)
    counts = (heads,) if tail is None else (heads, kv_heads, kv_heads)
    parts = tuple(qkv_TM.new_empty((rows, count, size)) for count in counts)
    q_norm_H, k_norm_H = prepare.q_norm_H, prepare.k_norm_H
    kept = (None, None) if tail is None else (parts[1].data_ptr(), parts[2].data_ptr())
    arguments = _Arguments(
        qkv_TM.data_ptr(), positions_T.data_ptr(), slots_T.data_ptr(),
        None if q_norm_H is None else q_norm_H.data_ptr(), None if k_norm_H is None else k_norm_H.data_ptr(), prepare.cos_sin_LH.data_ptr(),
        parts[0].data_ptr(), *kept, k_cache_PSKH.data_ptr(), v_cache_PSKH.data_ptr(), tokens, prepare.eps,
    )  # fmt: skip
    if rows:
        _kernel(size, heads, kv_heads, q_norm_H is not None, device).launch(rows, [arguments], dependent=True)
    return parts


@functools.cache
def _kernel(size: int, heads: int, kv_heads: int, normed: bool, device: torch.device) -> Kernel:
    code = machine_code("heads.cu", definitions(size, heads, kv_heads, normed))
    with torch.cuda.device(device):
        return Kernel(code, "prepare_heads", threads=32 * WARPS)
