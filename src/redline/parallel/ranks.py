"""The devices that share each layer (tensor parallelism), as one of them sees it.

A layer asks which part of a dimension is its own (`part`) and adds up partial sums (`all_reduce`). With one rank both
are the identity, so the layers have one code path. Knows nothing of layers. Open `Ranks` first.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from redline.errors import ConfigError


@dataclass(frozen=True)
class Ranks:
    """Rank `rank` of `size`. A subclass brings the collective of its transport."""

    rank: int = 0
    size: int = 1

    @classmethod
    def single(cls) -> Ranks:
        return cls()

    def part(self, whole: int, what: str) -> int:
        """Elements of a dimension of `whole` that each rank holds; ConfigError naming `what` where it does not divide."""
        if whole % self.size:
            raise ConfigError(f"{what} ({whole}) cannot be shared by {self.size} devices", param="tensor_parallel_size")
        return whole // self.size

    def all_reduce(self, partial: Tensor) -> Tensor:
        """The sum of every rank's `partial`; may reuse its memory."""
        if self.size > 1:
            raise NotImplementedError("more than one rank needs a transport")
        return partial
