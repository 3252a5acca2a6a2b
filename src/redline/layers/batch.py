"""The frozen device records of one step: what the layers read (`Batch`) and the KV pages they write (`KVCache`).

Filled by the engine, read by the layers; knows nothing of requests or sampling. Open `Batch` first.
Shapes: T packed tokens, P pages, S page size, K key-value heads, H head size.
"""

from __future__ import annotations

import math
import mmap
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from redline.kernels.ragged import Ragged

if TYPE_CHECKING:
    from redline.kernels.batch_attention_cuda import Deal


@dataclass(frozen=True, slots=True)
class Batch:
    """The packed tokens of one step, sequence after sequence as `ragged` says.

    `slots_T` is where each token's key and value go: page * S + offset; a negative slot is not written.
    """

    tokens_T: torch.Tensor  # int64
    positions_T: torch.Tensor  # int64
    slots_T: torch.Tensor  # int64
    ragged: Ragged
    rows_R: torch.Tensor | None = None  # int64: the tokens, at least one, whose final states are wanted; None: all
    deal: Deal | None = None  # of a decode step's keys, where that kernel attends
    is_captured: bool = False  # whether the step becomes a graph, so that the host does not launch its kernels one by one


@dataclass(frozen=True, slots=True)
class KVCache:
    """Keys and values of all pages: one [P, S, K, H] tensor each per layer, in the model's dtype."""

    k: list[torch.Tensor]
    v: list[torch.Tensor]
    page_size: int

    @classmethod
    def allocate(
        cls,
        *,
        num_layers: int,
        num_pages: int,
        page_size: int,
        num_kv_heads: int,
        head_size: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> KVCache:
        """Zeroed pages, so that a masked read of one never written meets no NaN.

        On a GPU all layers' lie in one piece: each by itself would be rounded up to what the driver gives out. On a CPU the system
        gives zeroes page by page as they are first written, where torch would write gigabytes of them before the first request.
        Raises MemoryError.
        """
        shape = (2 * num_layers, num_pages, page_size, num_kv_heads, head_size)
        if device.type != "cpu":
            pages = torch.zeros(shape, dtype=dtype, device=device)
        else:
            pages = _zeroes(math.prod(shape) * dtype.itemsize).view(dtype).view(shape)
        layers = [pages[i] for i in range(2 * num_layers)]
        return cls(layers[:num_layers], layers[num_layers:], page_size)


def _zeroes(nbytes: int) -> torch.Tensor:
    """Bytes [nbytes] of the host, uint8, that take memory as they are written. Raises MemoryError.

    Not numpy's, which asks for pages of 2 MiB: of each layer one is cleared for the first token.
    """
    try:
        return torch.frombuffer(mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS), dtype=torch.uint8)
    except OSError as error:
        raise MemoryError(f"{nbytes} bytes") from error
