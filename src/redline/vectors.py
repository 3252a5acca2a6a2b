"""Embeddings as arrays: from the engine's bytes to what the doors hand out. Wraps numpy; knows nothing of models or HTTP.

Lengths are computed in float64, so that a vector of large numbers has one. Open `of_bytes` first.
Shapes: N vectors, D their size.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]


def of_bytes(found: Sequence[bytes]) -> Vectors:
    """[N, D] of vectors of one size, each as little-endian float32; N must not be 0."""
    return np.frombuffer(b"".join(found), "<f4").reshape(len(found), -1)


def are_finite(vectors_ND: Vectors) -> bool:
    """Whether every number is one."""
    return bool(np.isfinite(vectors_ND).all())


def shortened(vectors_ND: Vectors, size: int) -> Vectors:
    """The first `size` numbers of each: for models that were trained for it (Matryoshka), whose lengths are then not 1."""
    assert 0 < size <= vectors_ND.shape[1]
    return vectors_ND[:, :size]


def normalized(vectors_ND: Vectors) -> Vectors:
    """Each at length 1; one of length 0 stays as it is."""
    lengths_N1 = np.sqrt(np.square(vectors_ND.astype(np.float64)).sum(1, keepdims=True))
    scaled = vectors_ND / np.where(lengths_N1 > 0, lengths_N1, 1)
    return scaled.astype(np.float32)


def cosines(first_ND: Vectors, second_ND: Vectors) -> list[float]:
    """The cosine of each pair, in [-1, 1]; with one vector in `first_ND`, of it and each of the others."""
    products = normalized(first_ND).astype(np.float64) * normalized(second_ND)
    return [float(cosine) for cosine in np.clip(products.sum(1), -1.0, 1.0)]


def packed(vector_D: Vectors) -> bytes:
    """A vector as little-endian float32, which is what base64 embeddings hold."""
    return vector_D.astype("<f4", copy=False).tobytes()
