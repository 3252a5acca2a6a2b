"""The arithmetic of embeddings, against sums written out."""

from __future__ import annotations

import math
import struct

import numpy as np
import pytest

from redline import vectors


def test_bytes_become_rows_and_go_back() -> None:
    packed = [struct.pack("<3f", 1.5, -2, 0.25), struct.pack("<3f", 0, 1e-30, 3e38)]
    made = vectors.of_bytes(packed)
    assert made.dtype == np.float32 and made.shape == (2, 3) and made[0].tolist() == [1.5, -2.0, 0.25]
    assert [vectors.packed(row) for row in made] == packed


def test_lengths_are_one_even_of_huge_and_tiny_vectors() -> None:
    """Squares of float32's largest numbers are too large for float32."""
    made = vectors.normalized(np.array([[3, 4], [3e38, 3e38], [1e-30, 0], [0, 0]], np.float32))
    assert made == pytest.approx(np.array([[0.6, 0.8], [math.sqrt(0.5)] * 2, [1, 0], [0, 0]]), abs=1e-6)
    assert made.dtype == np.float32


def test_cosines_of_one_with_many_and_of_pairs() -> None:
    one = np.array([[1, 0]], np.float32)
    others = np.array([[5, 0], [0, 2], [-3, 0], [1, 1]], np.float32)
    assert vectors.cosines(one, others) == pytest.approx([1, 0, -1, math.sqrt(0.5)], abs=1e-6)
    assert vectors.cosines(others, others) == pytest.approx([1, 1, 1, 1], abs=1e-6)
    assert all(abs(cosine) <= 1 for cosine in vectors.cosines(others / 3, others / 7))


def test_cut_vectors_keep_their_beginning() -> None:
    assert vectors.shortened(np.array([[1, 2, 3]], np.float32), 2).tolist() == [[1, 2]]


def test_what_is_no_number_is_seen() -> None:
    assert vectors.are_finite(np.ones((2, 2), np.float32))
    assert not vectors.are_finite(np.array([[1, math.nan]], np.float32)) and not vectors.are_finite(
        np.array([[math.inf]], np.float32)
    )
