"""Keys by which a head chooses: their order is that of the numbers, and of equal numbers the first wins."""

from __future__ import annotations

import math

import torch

from redline.kernels.skinny import Chosen, keys_of

VALUES = [-math.inf, -3.4e38, -1.0, -1e-45, 0.0, 1e-45, 1e-30, 1.0, 1.0000001, 3.4e38]


def unsigned(keys: torch.Tensor) -> list[int]:
    return [key & 0xFFFFFFFFFFFFFFFF for key in keys.tolist()]


def test_larger_numbers_have_larger_keys_wherever_they_stand() -> None:
    values = torch.tensor(VALUES, dtype=torch.float32)
    for places in (torch.arange(len(VALUES)), torch.arange(len(VALUES)).flip(0), torch.full((len(VALUES),), 2**31)):
        keys = unsigned(keys_of(values, places))
        assert keys == sorted(keys) and len(set(keys)) == len(keys) and keys[0] > 0


def test_of_equal_numbers_the_first_has_the_largest_key_and_its_place_comes_back() -> None:
    for value in VALUES:
        places = torch.tensor([0, 1, 7, 151_935])
        keys = keys_of(torch.full((4,), value), places)
        assert unsigned(keys) == sorted(unsigned(keys), reverse=True)
        chosen = Chosen(keys.clone())
        assert chosen.take().tolist() == places.tolist()
        assert not chosen.keys_T.any() and chosen.take().tolist() == [0] * 4, "nothing was chosen yet: the first"
