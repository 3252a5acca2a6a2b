"""Token embedding and output head. A tied head shares the embedding's storage.

Every rank holds both whole. Knows nothing of sampling. Open `Embedding` first.
Shapes: T tokens, R rows whose logits are wanted, V vocabulary, D model size.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from redline.kernels.gemv import project
from redline.kernels.invariant import invariant_linear
from redline.layers.linear import linear
from redline.layers.weights import Place, Slot, Slots


class Embedding:
    """Rows of a table, times `scale` rounded to the model's type as Gemma was trained with."""

    def __init__(self, vocab_size: int, hidden_size: int, scale: float, place: Place):
        self.weight_VD = place.empty(vocab_size, hidden_size)
        self.scale = torch.tensor(scale, dtype=place.dtype).item()

    def __call__(self, tokens_T: Tensor) -> Tensor:
        hidden_TD = F.embedding(tokens_T, self.weight_VD)
        return hidden_TD if self.scale == 1.0 else hidden_TD.mul_(self.scale)

    def slots(self, prefix: str) -> Slots:
        yield f"{prefix}.weight", Slot(self.weight_VD, tuple(self.weight_VD.shape))


class Head:
    """Logits of hidden rows; `tied` takes the embedding's table as its own."""

    def __init__(self, vocab_size: int, hidden_size: int, place: Place, tied: Embedding | None):
        self.weight_VD = tied.weight_VD if tied is not None else place.empty(vocab_size, hidden_size)
        self._is_tied = tied is not None
        self._is_invariant = place.invariant

    def __call__(self, hidden_RD: Tensor) -> Tensor:
        """float32 [R, V], computed in the model's type."""
        if self._is_invariant:
            return invariant_linear(hidden_RD, self.weight_VD, dtype=torch.float32)
        if hidden_RD.is_cuda and len(hidden_RD) == 1:
            return project(hidden_RD, self.weight_VD)
        if (
            hidden_RD.is_cuda and hidden_RD.dtype is not torch.float32
        ):  # the sums as they are, and no pass over them to widen them
            return torch.mm(hidden_RD, self.weight_VD.T, out_dtype=torch.float32)
        return linear(hidden_RD, self.weight_VD).float()

    def slots(self, prefix: str) -> Slots:
        if not self._is_tied:
            yield f"{prefix}.weight", Slot(self.weight_VD, tuple(self.weight_VD.shape))
