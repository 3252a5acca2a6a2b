"""The error measure: what it must never let through."""

from __future__ import annotations

import math

import pytest
import torch

from redline.kernels.tolerance import TOLERANCES, check, rms_ratio


def test_ratio_is_rms_of_error_over_rms_of_reference() -> None:
    assert rms_ratio(torch.tensor([3.0, 4.0]), torch.tensor([3.0, 4.5])) == pytest.approx(0.1)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_no_number_never_passes(bad: float) -> None:
    reference = torch.ones(1000)
    got = reference.clone()
    got[17] = bad
    with pytest.raises(AssertionError, match="name"):
        check("name", reference, got, "model", "bf16")


def test_nan_in_the_reference_never_passes() -> None:
    with pytest.raises(AssertionError):
        check("name", torch.tensor([math.nan]), torch.tensor([math.nan]), "model", "bf16")


def test_equal_infinities_are_equal() -> None:
    values = torch.tensor([1.0, -math.inf, math.inf])
    assert check("name", values, values.clone(), "exact", "f32") == 0.0


def test_shape_and_zero_reference() -> None:
    assert rms_ratio(torch.zeros(3), torch.zeros(4)) == math.inf
    assert rms_ratio(torch.zeros(3), torch.full((3,), 1e-30)) == math.inf
    assert rms_ratio(torch.zeros(3), torch.zeros(3)) == 0.0


def test_exact_is_exact() -> None:
    with pytest.raises(AssertionError):
        check("name", torch.tensor([1, 2, 3]), torch.tensor([1, 2, 4]), "exact", "f32")


def test_a_type_with_fewer_bits_is_never_held_tighter() -> None:
    assert all(row["f32"] <= row["f16"] <= row["bf16"] for row in TOLERANCES.values())
