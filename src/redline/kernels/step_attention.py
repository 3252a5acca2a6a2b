"""Attention of a decode step as a Hopper card serves it: which kernel takes a step, what its layers share, and the op's record.

Three kinds, by the number of sequences and the longest context: clusters of blocks and a list of chunks (cuda/attention.cu), keys dealt to the
processors (cuda/batch_attention.cu). The formula is decode_attention.py's, and so are the other cards' kernels, which `step_attention` falls back to.
Open `share`, then `attend`. Legend as in decode_attention.py.
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from redline.kernels import decode_attention
from redline.kernels.heads import HeadPreparation
from redline.kernels.op import OpSpec, is_hopper
from redline.kernels.ragged import Ragged
from redline.ops import OPS

if TYPE_CHECKING:
    from redline.kernels.batch_attention_cuda import Deal
    from redline.kernels.begin_cuda import Order

LEAST_DEALT = ((1024, 40, 40), (4096, 8, 4), (math.inf, 3, 1))
"""Longest context, and from how many sequences on attention reads several heads' keys together and deals them evenly to the processors: of heads of
64 columns, and of 128. Fewer and shorter ones are read by clusters or by a list of chunks (H200: one sequence of 8,000 tokens 4.33 to 4.11 ms a step
of an 8B, four 5.27 to 4.87, one of 3,000 3.89 to 3.95; a 1B's four 1.09 to 0.99, its two 0.86 to 0.89)."""

MOST_GROUP = 16
"""Query heads of a key-value head: two matrix instructions of eight."""


class Shared(NamedTuple):
    """What all layers of a step read of it: either the order of its keys or how they are dealt."""

    order: Order | None
    deal: Deal | None


def has_heads(heads: int, kv_heads: int, size: int) -> bool:
    """Whether Hopper's kernels exist for these heads."""
    return size % 16 == 0 and size <= 256 and heads // kv_heads <= MOST_GROUP


def takes(device: torch.device, dtype: torch.dtype, heads: int, kv_heads: int, size: int, page_size: int) -> bool:
    """Whether Hopper's kernels serve steps of such heads, of this type and over such pages, on this device."""
    return is_hopper(device, dtype) and has_heads(heads, kv_heads, size) and page_size % 16 == 0


def is_dealt(rows: int, max_context: int, heads: int, kv_heads: int, size: int, page_size: int) -> bool:
    """Whether a step of so many sequences, none longer, is one whose keys are dealt."""
    small, large = next(least for longest, *least in LEAST_DEALT if max_context <= longest)
    if rows < (small if size <= 64 else large):
        return False
    from redline.kernels import batch_attention_cuda

    return rows * max_context <= batch_attention_cuda.MOST_KEYS and batch_attention_cuda.takes(
        rows, heads, kv_heads, size, page_size
    )


def share(ragged: Ragged, heads: int, kv_heads: int, size: int, page_size: int) -> Shared:
    """Made once for all layers. `attend` may start before the kernel before it has ended, and that must not be the one that makes this."""
    from redline.kernels import batch_attention_cuda, begin_cuda

    if is_dealt(len(ragged.context_B), ragged.max_context, heads, kv_heads, size, page_size):
        return Shared(None, batch_attention_cuda.deal(ragged, heads, kv_heads, size, page_size))
    return Shared(begin_cuda.order(ragged.context_B, kv_heads), None)


def attend(
    qkv_BM: Tensor,
    k_cache_PSKH: Tensor,
    v_cache_PSKH: Tensor,
    ragged: Ragged,
    prepare: HeadPreparation,
    scale: float,
    shared: Shared,
) -> Tensor:
    """[B, N H] on a Hopper card; see decode_attention.decode_attention, without a window. A padding row's output is not written."""
    from redline.kernels import batch_attention_cuda, decode_attention_cuda

    if shared.deal is not None:
        return batch_attention_cuda.batch_attention(qkv_BM, k_cache_PSKH, v_cache_PSKH, ragged, prepare, scale, shared.deal)
    assert shared.order is not None
    return decode_attention_cuda.decode_attention(qkv_BM, k_cache_PSKH, v_cache_PSKH, ragged, prepare, scale, shared.order)


def step_attention(
    qkv_BM: Tensor,
    k_cache_PSKH: Tensor,
    v_cache_PSKH: Tensor,
    ragged: Ragged,
    prepare: HeadPreparation,
    scale: float,
    window: int = 0,
    shared: Shared | None = None,
) -> Tensor:
    """[B, N, H] as the card serves it; for measurements and checks: layers call `attend`. `shared` is made here unless it is given."""
    page_size, kv_heads, size = k_cache_PSKH.shape[1:]
    heads, device = qkv_BM.shape[1] // size - 2 * kv_heads, qkv_BM.device
    if window or not takes(device, qkv_BM.dtype, heads, kv_heads, size, page_size):
        return decode_attention.decode_attention(qkv_BM, k_cache_PSKH, v_cache_PSKH, ragged, prepare, scale, window)
    shared = shared or share(ragged, heads, kv_heads, size, page_size)
    # What the kernel may overlap is a product in a step; here it must not be itself, nor what makes `shared`.
    _between(device).add_(1)
    o_BM = attend(qkv_BM, k_cache_PSKH, v_cache_PSKH, ragged, prepare, scale, shared)
    return o_BM.view(len(o_BM), heads, size)


@functools.cache
def _between(device: torch.device) -> Tensor:
    return torch.zeros(1, device=device)


SPEC = OpSpec(
    op=OPS["step_attention"],
    reference=decode_attention.reference,
    run=step_attention,
    make_inputs=decode_attention.make_inputs,
    cases=(
        decode_attention.case(1, 1, (1, 1), 64),
        decode_attention.case(3, 131, (14, 2), 64, NORM=1),  # clusters
        decode_attention.case(1, 1300, (8, 4), 128, NORM=1),
        decode_attention.case(2, 90, (4, 1), 256),
        decode_attention.case(2, 4200, (4, 2), 64),  # a list: no four heads to read together
        decode_attention.case(1, 4200, (8, 4), 128),  # dealt to all processors
        decode_attention.case(5, 4100, (4, 4), 64, NORM=1),
        decode_attention.case(43, 70, (8, 8), 128, NORM=1),
    ),
    tolerance="attention",
    mutates=("k_cache_PSKH", "v_cache_PSKH"),
)
