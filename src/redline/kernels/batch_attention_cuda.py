"""Hopper's kernel of decode_attention.py for many sequences: the launcher of cuda/batch_attention.cu. Open `batch_attention`.

B sequences, N query heads, K kv heads, H head size, P pages, S tokens per page, G blocks.
"""

from __future__ import annotations

import ctypes
import functools
from dataclasses import dataclass

import torch
from torch import Tensor

from redline.kernels.attention_triton import LOG2_E
from redline.kernels.begin_cuda import ARRIVALS, arrivals
from redline.kernels.cuda.compiler import machine_code
from redline.kernels.cuda.launcher import Argument, Kernel, cache_map
from redline.kernels.heads import HeadPreparation
from redline.kernels.op import device_of
from redline.kernels.ragged import Ragged

TILE = 16
DEALERS = 256
PREPARED_BYTES = 47 * 1024  # of the 48 KiB that a block has without asking; barriers take some
RING_BYTES = 96 * 1024
"""Of keys and values on their way to a block. With twice as much some processors get more of the memory's rate than others, which wait for
them at the end: 128 sequences of a 1B take 4 % longer (H200)."""


@dataclass(frozen=True)
class Deal:
    """How a step's keys are dealt to the blocks, the same in all layers; on the device (see cuda/batch_attention.cu)."""

    first_tile_B1: Tensor
    starts_G4: Tensor

    @property
    def blocks(self) -> int:
        return len(self.starts_G4)


class _Arguments(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("qkv", "q_norm", "k_norm", "cos_sin", "k_cache", "v_cache", "context")),
        *((name, ctypes.c_void_p) for name in ("page_table", "first_tile", "starts", "sums", "bests", "arrivals", "output")),
        *((name, ctypes.c_int) for name in ("rows", "kv_heads", "table_stride", "blocks")),
        *((name, ctypes.c_float) for name in ("scale_log2", "eps")),
    ]


class _DealArguments(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("context", "first_tile", "starts")),
        *((name, ctypes.c_int) for name in ("rows", "blocks")),
    ]


def takes(rows: int, heads: int, kv_heads: int, size: int, page_size: int) -> bool:
    """Whether the kernel exists for these heads, and has a counter for each of so many sequences' heads."""
    fits = rows * kv_heads <= ARRIVALS and heads // kv_heads <= 16
    return fits and size in (64, 128) and page_size % TILE == 0 and kv_heads % 4 == 0


def heads_of_block(heads: int, kv_heads: int, size: int) -> int:
    """Key-value heads that one block reads together: 8 if there are so many and what is prepared of each has room in a block's own memory."""
    prepared = (2 * heads // kv_heads + 3) * size * 2 + size * 4  # `Heads` in cuda/batch_attention.cu
    return 8 if kv_heads % 8 == 0 and 8 * prepared <= PREPARED_BYTES else 4


def definitions(heads: int, kv_heads: int, size: int, page_size: int, normed: bool) -> dict[str, int]:
    """What cuda/batch_attention.cu is compiled with."""
    own = heads_of_block(heads, kv_heads, size)
    cut = {"HEAD": size, "GROUP": heads // kv_heads, "PAGE": page_size, "NORMED": int(normed), "HEADS": own}
    return cut | {"UNITS": RING_BYTES // (own * size * 2 * TILE)}


@functools.cache
def _kernel(heads: int, kv_heads: int, size: int, page_size: int, normed: bool, device: torch.device) -> Kernel:
    defined = definitions(heads, kv_heads, size, page_size, normed)
    units = defined["UNITS"] * defined["HEADS"] * size * 2 * TILE
    with torch.cuda.device(device):
        code = machine_code("batch_attention.cu", defined)
        return Kernel(code, "batch_attention", threads=32 * defined["HEADS"] + 32, shared_bytes=units + 1024)


@functools.cache
def _deal_kernel(device: torch.device) -> Kernel:
    smallest = definitions(8, 8, 64, TILE, False)
    with torch.cuda.device(device):
        return Kernel(machine_code("batch_attention.cu", smallest), "deal", threads=DEALERS)


_maps: dict[tuple[int, torch.Size, int], Argument] = {}


def _cache_map(cache_PSKH: Tensor, own: int) -> Argument:
    """Kept: it says no more than where a cache of some size lies."""
    key = cache_PSKH.data_ptr(), cache_PSKH.shape, own
    if key not in _maps:
        _maps[key] = cache_map(cache_PSKH, TILE, own)
    return _maps[key]


def deal(context_B: Tensor, heads: int, kv_heads: int, size: int) -> Deal:
    """Deal the keys of sequences of these contexts (0: none), for kernels that start after this one has ended."""
    device = context_B.device
    blocks = max(1, device_of(device).processors // (kv_heads // heads_of_block(heads, kv_heads, size)))
    made = Deal(
        torch.empty(len(context_B) + 1, dtype=torch.int32, device=device),
        torch.empty((blocks, 4), dtype=torch.int32, device=device),
    )
    pointers = (tensor.data_ptr() for tensor in (context_B, made.first_tile_B1, made.starts_G4))
    _deal_kernel(device).launch(1, [_DealArguments(*pointers, len(context_B), blocks)], dependent=False)
    return made


def batch_attention(
    qkv_BM: Tensor,
    k_cache_PSKH: Tensor,
    v_cache_PSKH: Tensor,
    ragged: Ragged,
    prepare: HeadPreparation,
    scale: float,
    deal: Deal,
) -> Tensor:
    """See decode_attention.decode_attention, without a window; [B, N H]. `deal` must be made before the kernel before starts.
    A padding row's output is not written."""
    _, page_size, kv_heads, size = k_cache_PSKH.shape
    device, heads = qkv_BM.device, qkv_BM.shape[1] // size - 2 * kv_heads
    own, group = heads_of_block(heads, kv_heads, size), heads // kv_heads
    groups = kv_heads // own
    output_BM = torch.empty((len(qkv_BM), heads * size), dtype=qkv_BM.dtype, device=device)
    sums = torch.empty(groups * deal.blocks * own * group * size, dtype=torch.float32, device=device)
    bests = torch.empty(groups * deal.blocks * own * 2 * group, dtype=torch.float32, device=device)
    tensors = (
        qkv_BM,
        prepare.cos_sin_LH if prepare.q_norm_H is None else prepare.q_norm_H,
        prepare.cos_sin_LH if prepare.k_norm_H is None else prepare.k_norm_H,
        prepare.cos_sin_LH,
        k_cache_PSKH,
        v_cache_PSKH,
        ragged.context_B,
        ragged.page_table_BP,
        deal.first_tile_B1,
        deal.starts_G4,
        sums,
        bests,
        arrivals(device),
        output_BM,
    )
    arguments = _Arguments(
        *(tensor.data_ptr() for tensor in tensors),
        len(qkv_BM), kv_heads, ragged.page_table_BP.stride(0), deal.blocks, scale * LOG2_E, prepare.eps,
    )  # fmt: skip
    kernel = _kernel(heads, kv_heads, size, page_size, prepare.q_norm_H is not None, device)
    maps = [_cache_map(k_cache_PSKH, own), _cache_map(v_cache_PSKH, own)]
    kernel.launch(groups * deal.blocks, [*maps, arguments], dependent=True)
    return output_BM
