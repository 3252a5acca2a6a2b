"""Packed token ids are the ids, and whatever is none of a vocabulary is told from them."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from redline.token_ids import TokenIds, are_within, of_bytes, of_values, packed, to_bytes


def test_ids_come_back_as_they_were() -> None:
    draw = random.Random(0)
    tokens = [draw.randrange(200_000) for _ in range(5000)]
    assert of_bytes(to_bytes(tokens)) == tokens and of_bytes(to_bytes([])) == []
    assert packed(tokens).dtype == np.int32 and packed(tokens).tolist() == tokens
    assert packed(np.array(tokens)).tolist() == tokens, "of an array as of a list"  # type: ignore[arg-type]


@pytest.mark.parametrize("values", [[], ["a"], [1, "a"], [1, [2]], [1.0], [2**31], [None]])
def test_what_are_no_ids(values: Any) -> None:
    assert of_values(values) is None and not are_within(values, 1 << 40)


def test_ids_are_within_a_vocabulary() -> None:
    assert of_values([-1, 0, 2**31 - 1]) == [-1, 0, 2**31 - 1]
    assert are_within([0, 511, 3], 512)
    assert not are_within([0, 512], 512) and not are_within([5, -1], 512)


def test_a_prompt_is_packed_once_and_anew_where_it_may_have_been_changed() -> None:
    prompt = of_bytes(to_bytes([3, 4, 5]))
    assert to_bytes(prompt) is prompt.block and packed(prompt).tolist() == [3, 4, 5]
    prompt.append(6)  # as whoever was given one may do
    again = of_values(prompt)
    assert isinstance(again, TokenIds) and packed(again).tolist() == [3, 4, 5, 6]
    assert type(prompt[1:]) is list and type(prompt + [7]) is list
