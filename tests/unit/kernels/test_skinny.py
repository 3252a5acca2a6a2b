"""Keys by which a head chooses: their order is that of the numbers, of equal numbers the first wins, and keys that were read are zero."""

from __future__ import annotations

import math

import pytest
import torch

from redline.kernels.decode_step import END
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


@pytest.mark.usefixtures("interpreter")
@pytest.mark.parametrize("case", [case for case in END.cases if "CHOSEN" in case], ids=str)
def test_a_step_that_ends_leaves_no_keys_to_the_next(case: dict[str, int]) -> None:
    """By the kernel: a key that stayed would win against every later one that is smaller."""
    inputs = END.make_inputs(case, torch.float32, torch.device("cpu"), 3)
    chosen = inputs["tokens_B"]
    assert chosen.keys_T.any()
    END.triton_launcher()(**inputs)
    assert not chosen.keys_T.any()
