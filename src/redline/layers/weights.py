"""Where weights live (`Place`, `Arena`) and how a layer says which checkpoint tensor fills which part of them (`Slot`).

A layer allocates its parameters for one rank, merged the way it computes (q, k and v in one matrix), and yields a slot
per tensor of the checkpoint. Knows nothing of files. Open `Slot` first.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from redline.parallel.ranks import Ranks

Slots = Iterator[tuple[str, "Slot"]]

_ALIGNED = 256  # bytes: what a device's own allocations begin at


class Arena:
    """One piece of a device's memory that parameters are cut from, end to end.

    Taken one by one each would be rounded up to what a driver gives out, 2 MiB, which is a tenth of a small model.
    """

    def __init__(self, size: int, device: torch.device) -> None:
        """Raises what the device raises where `size` bytes are not there."""
        self._memory = torch.empty(size, dtype=torch.uint8, device=device)
        self._taken = 0

    def take(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor | None:
        """Uninitialised memory; None where there is no room left."""
        begin, size = self._taken, math.prod(shape) * dtype.itemsize
        if begin + size > len(self._memory):
            return None
        self._taken = begin + -(-size // _ALIGNED) * _ALIGNED
        return self._memory[begin : begin + size].view(dtype).view(shape)


@dataclass(frozen=True, slots=True)
class Place:
    """The type and device of a model's weights, and this device's rank among those that share it.

    `invariant`: what is made here computes a token alike, bit for bit, whatever shares the step with it. Parameters are cut from
    the `arena` as far as it goes.
    """

    dtype: torch.dtype
    device: torch.device
    ranks: Ranks
    invariant: bool = False
    arena: Arena | None = None

    def empty(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        """Uninitialised memory for a parameter; float32 where the model's own type is not wanted."""
        wanted = dtype or self.dtype
        taken = self.arena.take(shape, wanted) if self.arena is not None else None
        return torch.empty(shape, dtype=wanted, device=self.device) if taken is None else taken


@dataclass(frozen=True, slots=True)
class Slot:
    """The destination of one checkpoint tensor.

    `target` is a view of a parameter on this rank; `shape` is the tensor's shape in the checkpoint. Where they differ the
    rank takes the range of `target`'s length that begins at `start` of dimension `cut`. `offset` is added (norm weights).
    """

    target: Tensor
    shape: tuple[int, ...]
    cut: int = 0
    start: int = 0
    offset: float = 0.0

    def part(self, whole: Tensor) -> Tensor:
        """This rank's part of `whole`, which has `shape`: a view."""
        if self.target.shape == whole.shape:
            return whole
        return whole.narrow(self.cut, self.start, self.target.shape[self.cut])
