"""What is done to queries and keys before they meet: `HeadPreparation`. Data only; decode_attention.py reads it.

H head size, L positions of the table.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class HeadPreparation:
    """What happens to q and k before they meet: the norms' weights (float32 [H], or None where the model has none), their
    epsilon, and the table of cosines and sines by position."""

    q_norm_H: Tensor | None
    k_norm_H: Tensor | None
    eps: float
    cos_sin_LH: Tensor
