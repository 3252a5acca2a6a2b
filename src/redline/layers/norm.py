"""RMS norm with its weight. Weights are float32 on every device, whatever the model's type.

Knows nothing of where in a block it stands. Open `RMSNorm` first. Shapes: T tokens, D normalised size.
"""

from __future__ import annotations

import torch
from torch import Tensor

from redline.kernels.norm import add_rms_norm, rms_norm
from redline.layers.weights import Place, Slot, Slots


class RMSNorm:
    """x * weight / rms(x), computed in float32 (Zhang and Sennrich, 2019). `offset` is added to stored weights."""

    def __init__(self, size: int, eps: float, offset: float, place: Place):
        self.weight_D = place.empty(size, dtype=torch.float32)
        self.eps = eps
        self._offset = offset

    def __call__(self, x_TD: Tensor) -> Tensor:
        return rms_norm(x_TD, self.weight_D, self.eps)

    def add(self, x_TD: Tensor, residual_TD: Tensor | None) -> tuple[Tensor, Tensor]:
        """(norm(x + residual), x + residual); no residual yet: (norm(x), x).

        The residual is float32 whatever the model's type: dozens of layers add to it, and what a half-precision sum would
        round away comes back as a third of the whole model's error.
        """
        if residual_TD is None:
            return rms_norm(x_TD, self.weight_D, self.eps), x_TD.float()
        return add_rms_norm(x_TD, residual_TD, self.weight_D, self.eps)

    def slots(self, prefix: str) -> Slots:
        yield f"{prefix}.weight", Slot(self.weight_D, tuple(self.weight_D.shape), offset=self._offset)
