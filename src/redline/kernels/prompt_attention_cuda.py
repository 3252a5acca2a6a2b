"""Hopper's kernel for attention of prompts: the launcher of cuda/prompt_attention.cu.

`attend` takes whole prompts with keys and values beside the queries, `attend_run` sequences of any kind through the cache. Open these.

R rows of tokens, N query heads, K key-value heads, H head size, P pages, S tokens per page.
"""

from __future__ import annotations

import ctypes
import functools

import torch
from torch import Tensor

from redline.kernels.attention_plan import Run, Whole
from redline.kernels.attention_triton import LOG2_E
from redline.kernels.begin_cuda import arrivals
from redline.kernels.cuda.compiler import machine_code
from redline.kernels.cuda.launcher import Kernel, heads_map, tensor_map
from redline.kernels.op import ceil_div, device_of
from redline.kernels.ragged import Ragged

TILE = 128  # rows of queries, and keys
STAGES = 2  # of keys, and of values: with three, attention of long prompts takes a fiftieth longer (H200)
CONSUMERS = 256  # threads that multiply
LEAST_PAGE = 8  # tokens: a box of as many keys is the smallest that can be swizzled

MOST_PARTS = 8
"""That the keys of an item are cut into where there are few items: the sums of more take longer to join."""


class _Arguments(ctypes.Structure):
    _fields_ = [
        ("output", ctypes.c_void_p),
        *((name, ctypes.c_int) for name in ("first_row", "length", "count", "heads", "group")),
        ("scale_log2", ctypes.c_float),
    ]


class _PagedArguments(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("output", "query_start", "context", "page_table", "sums", "arrivals")),
        *((name, ctypes.c_int) for name in ("sequences", "base", "blocks", "table_stride", "heads", "group", "parts")),
        ("scale_log2", ctypes.c_float),
    ]


def definitions(size: int) -> dict[str, int]:
    """What cuda/prompt_attention.cu is compiled with for whole prompts."""
    return {"SIZE": size, "COLS": TILE, "STAGES": STAGES, "PAGED": 0}


def paged_definitions(size: int, group: int, page_size: int) -> dict[str, int]:
    """The same for keys in pages, of heads in groups of `group`."""
    return {"SIZE": size, "COLS": TILE, "STAGES": STAGES, "PAGED": 1, "PACK": packed(group), "PAGE": page_size}


def packed(group: int) -> int:
    """Query heads whose rows share a tile: a group's, where they fill it."""
    return group if TILE % group == 0 else 1


def takes_pages(page_size: int) -> bool:
    """Whether keys in such pages can be copied."""
    return page_size >= LEAST_PAGE and page_size & (page_size - 1) == 0


@functools.cache
def _kernel(definitions: tuple[tuple[str, int], ...], device: torch.device) -> Kernel:
    code = machine_code("prompt_attention.cu", dict(definitions))
    with torch.cuda.device(device):
        return Kernel(
            code, "prompt_attention", threads=384, shared_bytes=(1 + 2 * STAGES) * TILE * dict(definitions)["SIZE"] * 2 + 1024
        )


def attend(whole: Whole, q_RNH: Tensor, k_RKH: Tensor, v_RKH: Tensor, scale: float, output_RNH: Tensor) -> None:
    """Write the rows of `whole`. What lies behind them is read and has no weight: it must be finite."""
    _, heads, size = q_RNH.shape
    group = heads // k_RKH.shape[1]
    maps = [tensor_map(x.flatten(1), TILE) for x in (q_RNH, k_RKH, v_RKH)]
    arguments = _Arguments(output_RNH.data_ptr(), whole.start, whole.length, whole.count, heads, group, scale * LOG2_E)
    items = ceil_div(whole.length, TILE) * whole.count * heads
    blocks = min(items, device_of(q_RNH.device).processors)
    kernel = _kernel(tuple(definitions(size).items()), q_RNH.device)
    kernel.launch(blocks, [*maps, arguments], dependent=False)


def attend_run(
    run: Run, q_RNH: Tensor, k_cache_PSKH: Tensor, v_cache_PSKH: Tensor, ragged: Ragged, scale: float, output_RNH: Tensor
) -> None:
    """Write the rows of the run's tokens, of which `q` and `output`, contiguous, begin with the first; no window."""
    rows, heads, size = q_RNH.shape
    page_size, kv_heads = k_cache_PSKH.shape[1:3]
    group, sequences = heads // kv_heads, run.last - run.first
    defined = paged_definitions(size, group, page_size)
    pack = defined["PACK"]
    caches = (tensor_map(cache.view(-1, kv_heads * size), min(page_size, TILE)) for cache in (k_cache_PSKH, v_cache_PSKH))
    tokens = TILE // pack
    blocks = ceil_div(rows, tokens) if sequences == 1 else rows // tokens + sequences
    items, processors = blocks * (heads // pack), device_of(q_RNH.device).processors
    parts = max(1, min(MOST_PARTS, processors // items, ceil_div(run.max_context, 2 * TILE)))
    sums = torch.empty(items * parts * CONSUMERS * (size // 2 + 4) if parts > 1 else 0, dtype=torch.float32, device=q_RNH.device)
    table_BP = ragged.page_table_BP[run.first : run.last]
    arguments = _PagedArguments(
        output_RNH.data_ptr(), ragged.query_start_B1[run.first :].data_ptr(), ragged.context_B[run.first :].data_ptr(), table_BP.data_ptr(),
        sums.data_ptr(), arrivals(q_RNH.device).data_ptr(),
        sequences, run.start, blocks, table_BP.stride(0), heads, group, parts, scale * LOG2_E,
    )  # fmt: skip
    kernel = _kernel(tuple(defined.items()), q_RNH.device)
    kernel.launch(min(items * parts, processors), [heads_map(q_RNH, pack, tokens), *caches, arguments], dependent=True)
