"""Hopper's kernel of decode_attention.py for many sequences: the launchers of cuda/batch_attention.cu and cuda/deal.cu. Open `batch_attention`.

What several sequences begin with is read once for a bundle of them. B sequences, N query heads, K kv heads, H head size, P pages, S tokens per
page, G blocks, E places in the line of keys: room for U bundles, then the sequences.
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
ROWS = 16
"""Queries of all members of a bundle, at the most: two matrix instructions of eight."""

MOST_KEYS = 1 << 28
"""Of all sequences together, shared ones counted for each: their tiles are dealt by 32-bit arithmetic (cuda/line.cuh)."""

SHARERS = 1024
"""With more sequences there are no bundles."""

LEAST_COMMON = 48
"""Tiles that sequences must have in common for a bundle: 512 keys (of 1,280, 256 sequences) the level-2 cache serves as well (H200)."""

MOST_HEADS, LEAST_HEADS = 8, 4  # that one block reads together
FEW_SEQUENCES = 3
"""Up to so many with heads of 128 columns, a block reads fewer of them: half as many blocks share a sequence, and each leaves room for blocks of the
projection behind it. One of 32,000 tokens takes an 8B 4.89 ms a step and not 5.29 (H200); from 4 on it is all one. Heads of 64 are too much work for so few warps."""

DEALERS = 256  # threads of cuda/deal.cu
PREPARED_BYTES = 47 * 1024  # of the 48 KiB that a block has without asking; barriers take some
RING_BYTES = 96 * 1024
"""Of keys and values on their way to a block. With twice as much some processors get more of the memory's rate than others, which wait for
them at the end: 128 sequences of a 1B take 4 % longer (H200)."""


@dataclass(frozen=True)
class Deal:
    """How a step's keys are dealt to the blocks, the same in all layers; on the device (see cuda/line.cuh)."""

    entries_E4: Tensor
    members_U32: Tensor
    first_tile_E1: Tensor
    starts_G8: Tensor
    room: int

    @property
    def blocks(self) -> int:
        return len(self.starts_G8)


class _Arguments(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("qkv", "q_norm", "k_norm", "cos_sin", "k_cache", "v_cache", "context")),
        *((name, ctypes.c_void_p) for name in ("page_table", "entries", "members", "first_tile", "starts")),
        *((name, ctypes.c_void_p) for name in ("sums", "bests", "bundle_sums", "bundle_bests", "first_sums", "first_bests")),
        *((name, ctypes.c_void_p) for name in ("arrivals", "pieces", "output")),
        *((name, ctypes.c_int) for name in ("rows", "room", "kv_heads", "table_stride", "blocks")),
        *((name, ctypes.c_float) for name in ("scale_log2", "eps")),
    ]


class _DealArguments(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("context", "page_table", "entries", "members", "first_tile", "starts")),
        *((name, ctypes.c_int) for name in ("rows", "room", "table_stride", "blocks", "page", "size")),
    ]


def takes(rows: int, heads: int, kv_heads: int, size: int, page_size: int) -> bool:
    """Whether the kernel exists for these heads, and has a counter for each of so many sequences' heads."""
    fits = rows * kv_heads <= ARRIVALS and heads // kv_heads <= 16
    return fits and size in (64, 128) and page_size % TILE == 0 and kv_heads % LEAST_HEADS == 0


def heads_of_block(rows: int, heads: int, kv_heads: int, size: int) -> int:
    """Key-value heads that one block reads together: 8 if there are so many and what is prepared of each has room in a block's own memory."""
    prepared = (2 * heads // kv_heads + 3) * size * 2 + size * 4  # `Heads` in cuda/batch_attention.cu
    fits = kv_heads % MOST_HEADS == 0 and MOST_HEADS * prepared <= PREPARED_BYTES
    return LEAST_HEADS if not fits or (rows <= FEW_SEQUENCES and size > 64) else MOST_HEADS


def definitions(heads: int, kv_heads: int, size: int, page_size: int, normed: bool, own: int, members: int) -> dict[str, int]:
    """What cuda/batch_attention.cu is compiled with, for blocks that read `own` heads together and bundles of `members`."""
    cut = {"HEAD": size, "GROUP": heads // kv_heads, "PAGE": page_size, "NORMED": int(normed), "HEADS": own, "MEMBERS": members}
    return cut | {"UNITS": RING_BYTES // (own * size * 2 * TILE)}


@functools.cache
def _kernel(
    heads: int, kv_heads: int, size: int, page_size: int, normed: bool, own: int, members: int, device: torch.device
) -> Kernel:
    defined = definitions(heads, kv_heads, size, page_size, normed, own, members)
    units = defined["UNITS"] * own * size * 2 * TILE
    shelf = size * (4 * (2 + members) + 2 * members * (heads // kv_heads))  # `Shelf` in cuda/batch_attention.cu
    shared = units + own * shelf + 1024
    with torch.cuda.device(device):
        code = machine_code("batch_attention.cu", defined)
        return Kernel(code, "batch_attention", threads=32 * own + 32, shared_bytes=shared)


def deal_definitions() -> dict[str, int]:
    """What cuda/deal.cu is compiled with."""
    return {"DEALERS": DEALERS, "SHARERS": SHARERS, "LEAST_COMMON": LEAST_COMMON}


@functools.cache
def _deal_kernel(device: torch.device) -> Kernel:
    with torch.cuda.device(device):
        return Kernel(machine_code("deal.cu", deal_definitions()), "deal", threads=DEALERS)


@functools.cache
def _pieces(group: int, size: int, device: torch.device) -> Tensor:
    """Parts that many blocks join (`Piece` in cuda/parts.cuh), two for each head of each block: EMPTY between launches, so one serves all of a process."""
    heads = device_of(device).processors * MOST_HEADS
    return torch.full((2 * heads, group, size // 4, 4), -1, dtype=torch.int32, device=device)


_maps: dict[tuple[int, torch.Size, int], Argument] = {}


def _cache_map(cache_PSKH: Tensor, own: int) -> Argument:
    """Kept: it says no more than where a cache of some size lies."""
    key = cache_PSKH.data_ptr(), cache_PSKH.shape, own
    if key not in _maps:
        _maps[key] = cache_map(cache_PSKH, TILE, own)
    return _maps[key]


def members_of_bundle(group: int) -> int:
    """Sequences for which one read of their keys suffices; 1: heads of one query have no registers left for more, those of many no rows."""
    return 1 if group == 1 else ROWS // group


def room_for_bundles(rows: int, group: int) -> int:
    """Bundles there can be: they are made for as many sequences as one has members, or more."""
    members = members_of_bundle(group)
    return 2 * rows // members if 1 < members <= rows <= SHARERS else 0


def deal(ragged: Ragged, heads: int, kv_heads: int, size: int, page_size: int) -> Deal:
    """Deal the keys of sequences of these contexts (0: none) and pages, for kernels that start after this one has ended."""
    context_B, device = ragged.context_B, ragged.context_B.device
    rows, group = len(context_B), heads // kv_heads
    blocks = max(1, device_of(device).processors // (kv_heads // heads_of_block(rows, heads, kv_heads, size)))
    room = room_for_bundles(rows, group)
    entries_E4, members_U32, first_tile_E1, starts_G8 = (
        torch.empty(shape, dtype=torch.int32, device=device)
        for shape in ((room + rows, 4), (max(1, room), 2 * ROWS), (room + rows + 1,), (blocks, 8))
    )
    tensors = (context_B, ragged.page_table_BP, entries_E4, members_U32, first_tile_E1, starts_G8)
    sizes = (rows, room, ragged.page_table_BP.stride(0), blocks, page_size, members_of_bundle(group))
    _deal_kernel(device).launch(1, [_DealArguments(*(tensor.data_ptr() for tensor in tensors), *sizes)], dependent=False)
    return Deal(entries_E4, members_U32, first_tile_E1, starts_G8, room)


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
    own, group = heads_of_block(len(qkv_BM), heads, kv_heads, size), heads // kv_heads
    groups = kv_heads // own
    output_BM = torch.empty((len(qkv_BM), heads * size), dtype=qkv_BM.dtype, device=device)
    bundled = kv_heads * (deal.room + deal.blocks) * ROWS if deal.room else 0
    kept_rows = (kv_heads * deal.blocks * group, bundled, len(qkv_BM) * heads)  # of sums: blocks', bundles', first blocks'
    scratch = [torch.empty(rows * each, dtype=torch.float32, device=device) for rows in kept_rows for each in (size, 2)]
    tensors = (
        qkv_BM,
        prepare.cos_sin_LH if prepare.q_norm_H is None else prepare.q_norm_H,
        prepare.cos_sin_LH if prepare.k_norm_H is None else prepare.k_norm_H,
        prepare.cos_sin_LH,
        k_cache_PSKH,
        v_cache_PSKH,
        ragged.context_B,
        ragged.page_table_BP,
        deal.entries_E4,
        deal.members_U32,
        deal.first_tile_E1,
        deal.starts_G8,
        *scratch,
        arrivals(device),
        _pieces(group, size, device),
        output_BM,
    )
    arguments = _Arguments(
        *(tensor.data_ptr() for tensor in tensors),
        len(qkv_BM), deal.room, kv_heads, ragged.page_table_BP.stride(0), deal.blocks, scale * LOG2_E, prepare.eps,
    )  # fmt: skip
    members = members_of_bundle(group) if deal.room else 1  # without bundles a block needs less memory and fewer registers
    kernel = _kernel(heads, kv_heads, size, page_size, prepare.q_norm_H is not None, own, members, device)
    maps = [_cache_map(k_cache_PSKH, own), _cache_map(v_cache_PSKH, own)]
    kernel.launch(groups * deal.blocks, [*maps, arguments], dependent=True)
    return output_BM
