"""Where weights live (`Place`) and how a layer says which checkpoint tensor fills which part of them (`Slot`).

A layer allocates its parameters for one rank, merged the way it computes (q, k and v in one matrix), and yields a slot
per tensor of the checkpoint. Knows nothing of files. Open `Slot` first.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from redline.parallel.ranks import Ranks

Slots = Iterator[tuple[str, "Slot"]]


@dataclass(frozen=True, slots=True)
class Place:
    """The type and device of a model's weights, and this device's rank among those that share it.

    `invariant`: what is made here computes a token alike, bit for bit, whatever shares the step with it.
    """

    dtype: torch.dtype
    device: torch.device
    ranks: Ranks
    invariant: bool = False

    def empty(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        """Uninitialised memory for a parameter; float32 where the model's own type is not wanted."""
        return torch.empty(shape, dtype=dtype or self.dtype, device=self.device)


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
