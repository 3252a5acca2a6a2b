"""From host arrays to the device in one copy. Knows nothing of what the arrays mean. Open `Shipper.ship`."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch


class Shipper:
    """Moves named host arrays to the device in one copy.

    On a CPU the arrays are wrapped, not copied. On a GPU they are packed into one of two pinned blocks; two are enough
    because the engine launches step n+1 only after step n-1 has ended.
    """

    ALIGNMENT = 16

    def __init__(self, device: torch.device):
        self._device = device
        self._packs = device.type != "cpu"
        self._blocks: list[torch.Tensor] = [torch.empty(0, dtype=torch.uint8)] * 2
        self._turn = 0

    def ship(self, arrays: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """Device tensors of the same names, shapes and types. An array that has two names is copied once."""
        if not self._packs:
            return {name: torch.from_numpy(array) for name, array in arrays.items()}
        once = {id(array): array for array in arrays.values()}
        places, parts, total = {}, [], 0
        for key, array in once.items():
            padding = bytes(-array.nbytes % self.ALIGNMENT)
            places[key] = total
            total += array.nbytes + len(padding)
            parts += [array.tobytes(), padding]
        block = self._block(total)[:total]
        block.numpy()[:] = np.frombuffer(b"".join(parts), np.uint8)
        remote = block.to(self._device, non_blocking=True)
        typed = {kind: remote.view(_torch_type(kind)) for kind in {array.dtype for array in once.values()}}
        there = {}
        for key, array in once.items():
            first = places[key] // array.itemsize
            part = typed[array.dtype][first : first + array.size]
            there[key] = part if array.ndim == 1 else part.view(array.shape)
        return {name: there[id(array)] for name, array in arrays.items()}

    def _block(self, nbytes: int) -> torch.Tensor:
        self._turn ^= 1
        if self._blocks[self._turn].numel() < nbytes:
            self._blocks[self._turn] = torch.empty(
                max(2 * nbytes, 1 << 16), dtype=torch.uint8, pin_memory=self._device.type == "cuda"
            )
        return self._blocks[self._turn]


@functools.cache
def _torch_type(kind: np.dtype[Any]) -> torch.dtype:
    return torch.from_numpy(np.zeros(0, kind)).dtype
