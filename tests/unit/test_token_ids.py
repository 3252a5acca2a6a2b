"""Packed token ids are the ids, and whatever is none of a vocabulary is told from them."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from redline.token_ids import are_ids, are_within, of_bytes, packed, to_bytes


def test_ids_come_back_as_they_were() -> None:
    draw = random.Random(0)
    tokens = [draw.randrange(200_000) for _ in range(5000)]
    assert of_bytes(to_bytes(tokens)) == tokens and of_bytes(to_bytes([])) == []
    assert packed(tokens).dtype == np.int32 and packed(tokens).tolist() == tokens
    assert packed(np.array(tokens)).tolist() == tokens, "of an array as of a list"  # type: ignore[arg-type]


@pytest.mark.parametrize("values", [[], ["a"], [1, "a"], [1, [2]], [1.0], [2**31], [None]])
def test_what_are_no_ids(values: Any) -> None:
    assert not are_ids(values) and not are_within(values, 1 << 40)


def test_ids_are_within_a_vocabulary() -> None:
    assert are_ids([-1, 0, 2**31 - 1])
    assert are_within([0, 511, 3], 512)
    assert not are_within([0, 512], 512) and not are_within([5, -1], 512)
