"""Hopper's kernel of decode_attention.py: the launcher of cuda/attention.cu. Open `decode_attention`."""

from __future__ import annotations

import ctypes
import functools

import torch
from torch import Tensor

from redline.kernels.attention_triton import LOG2_E
from redline.kernels.begin_cuda import Order, arrivals
from redline.kernels.cuda.compiler import machine_code
from redline.kernels.cuda.launcher import Kernel
from redline.kernels.heads import HeadPreparation
from redline.kernels.op import ceil_div, device_of
from redline.kernels.ragged import Ragged

WARPS = 4
PIECE_BYTES = 16 * 128
"""Of 64 dims of a tile of 16 keys or values (`PIECE` in cuda/tile.cuh)."""


class Arguments(ctypes.Structure):
    """cuda/attention.cu's."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("qkv", "q_norm", "k_norm", "cos_sin", "k_cache", "v_cache", "context")),
        *((name, ctypes.c_void_p) for name in ("page_table", "plan", "pairs", "whole_first", "remainder")),
        *((name, ctypes.c_void_p) for name in ("sums", "bests", "arrivals", "output")),
        *((name, ctypes.c_int) for name in ("kv_heads", "table_stride")),
        *((name, ctypes.c_float) for name in ("scale_log2", "eps")),
    ]


SHORT_CONTEXT = 1024
"""Up to so many keys a cluster of blocks takes a head of a sequence: nothing is joined through memory."""

FEW_PAIRS_CONTEXT = 4096
"""The same where there are so few sequences that even the largest cluster leaves a processor to each block."""

MOST_CLUSTER = 8

SHARED_PERCENT, ALONE_PERCENT = 72, 44
"""Of a processor's 228 KiB: 164, room for two blocks, or 100 for one. The driver sees that three would fit, and takes the memory from the level-1 cache, through which the
products beside these blocks read their weights: 1 to 4 % of the steps of a 1B (H200). Where a block is alone on its processor, room for one is enough, 1 % of an 8B's steps
behind 1,000 to 4,000 tokens. With heads of 64 it was 1 % slower while the products' memory was the driver's choice, and 0.1 % with their own."""


def cluster_of(pairs: int, size: int, max_context: int, processors: int) -> int:
    """Blocks that share a head (of so many columns) of a sequence, `pairs` of both; 0 where a list of chunks is better. As measured on
    an H200 at 272 and 656 keys."""
    is_much = size > 64 or max_context > SHORT_CONTEXT  # else it is read before a large cluster has met
    if is_much and MOST_CLUSTER * pairs <= processors and max_context <= FEW_PAIRS_CONTEXT:
        return MOST_CLUSTER
    if max_context <= SHORT_CONTEXT:
        return 4 if 4 * pairs <= processors else 2 if pairs <= processors else 1
    return 0


def definitions(head: int, group: int, page: int, normed: bool, cluster: int) -> dict[str, int]:
    """What cuda/attention.cu is compiled with."""
    stages = 2 if head > 64 else 4
    return {"HEAD": head, "GROUP": group, "PAGE": page, "TILES": stages, "NORMED": int(normed), "CLUSTER": cluster}


@functools.cache
def _kernel(
    name: str, percent: int, head: int, group: int, page: int, normed: bool, cluster: int, device: torch.device
) -> Kernel:
    defined = definitions(head, group, page, normed, cluster)
    tiles = WARPS * defined["TILES"] * 2 * ceil_div(head, 64) * PIECE_BYTES + 4 * WARPS * group * head
    with torch.cuda.device(device):
        return Kernel(machine_code("attention.cu", defined), name, threads=32 * WARPS, shared_bytes=tiles, shared_percent=percent)


def decode_attention(
    qkv_BM: Tensor,
    k_cache_PSKH: Tensor,
    v_cache_PSKH: Tensor,
    ragged: Ragged,
    prepare: HeadPreparation,
    scale: float,
    order: Order,
) -> Tensor:
    """See decode_attention.decode_attention, without a window; [B, N H]. `order` must be made before the kernel before starts."""
    page_size, kv_heads, size = k_cache_PSKH.shape[1:]
    heads, device = qkv_BM.shape[1] // size - 2 * kv_heads, qkv_BM.device
    output_BM = torch.empty((len(qkv_BM), heads * size), dtype=qkv_BM.dtype, device=device)
    own, kept = arguments(qkv_BM, k_cache_PSKH, v_cache_PSKH, ragged, prepare, scale, order, output_BM)
    about = (size, heads // kv_heads, page_size, prepare.q_norm_H is not None)
    pairs, processors = len(qkv_BM) * kv_heads, device_of(device).processors
    if cluster := cluster_of(pairs, size, ragged.max_context, processors):
        percent = ALONE_PERCENT if size > 64 and pairs * cluster <= processors else SHARED_PERCENT
        kernel = _kernel("cluster_attention", percent, *about, cluster, device)
        kernel.launch(pairs * cluster, [own], dependent=True, cluster=cluster)
    else:
        kernel = _kernel("decode_attention", SHARED_PERCENT, *about, 1, device)
        kernel.launch(min(order.slots, len(kept[0])), [own], dependent=True)
    return output_BM


def arguments(
    qkv_BM: Tensor,
    k_cache_PSKH: Tensor,
    v_cache_PSKH: Tensor,
    ragged: Ragged,
    prepare: HeadPreparation,
    scale: float,
    order: Order,
    output_BM: Tensor,
) -> tuple[Arguments, tuple[Tensor, Tensor]]:
    """The kernel's arguments, and its scratch memory (sums and bests of every item), which must live until it has run."""
    _, _, kv_heads, size = k_cache_PSKH.shape
    device = qkv_BM.device
    group = output_BM.shape[1] // size // kv_heads
    items = len(order.pairs_P2) * kv_heads
    sums = torch.empty((items, group, size), dtype=torch.float32, device=device)
    bests = torch.empty((items, 2, group), dtype=torch.float32, device=device)
    q_norm_H, k_norm_H = prepare.q_norm_H, prepare.k_norm_H
    tensors = (
        qkv_BM,
        prepare.cos_sin_LH if q_norm_H is None else q_norm_H,
        prepare.cos_sin_LH if k_norm_H is None else k_norm_H,
        prepare.cos_sin_LH,
        k_cache_PSKH,
        v_cache_PSKH,
        ragged.context_B,
        ragged.page_table_BP,
        order.plan_2,
        order.pairs_P2,
        order.whole_first_T,
        order.remainder_T,
        sums,
        bests,
        arrivals(device),
        output_BM,
    )
    own = Arguments(
        *(tensor.data_ptr() for tensor in tensors),
        kv_heads, ragged.page_table_BP.stride(0), scale * LOG2_E, prepare.eps,
    )  # fmt: skip
    return own, (sums, bests)
