"""RMS norm against float64 arithmetic of its own."""

from __future__ import annotations

import numpy as np
import torch

from redline.kernels import norm
from redline.kernels.tolerance import check


def test_rms_norm_is_the_papers_formula() -> None:
    x_TD = torch.randn(5, 33, generator=torch.Generator().manual_seed(0))
    weight_D = torch.linspace(0.5, 2.0, 33)
    x = x_TD.double().numpy()
    expected = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * weight_D.double().numpy()
    check("y", torch.from_numpy(expected), norm.rms_norm(x_TD, weight_D, 1e-6), "elementwise", "f32")


def test_epsilon_keeps_a_row_of_zeros_zero() -> None:
    assert torch.equal(norm.rms_norm(torch.zeros(1, 8), torch.ones(8), 1e-5), torch.zeros(1, 8))


def test_the_residual_is_rounded_before_it_is_normalised() -> None:
    """What the next layer adds to is what this one normalised; otherwise a half-precision model drifts from its reference."""
    x_TD, residual_TD = torch.full((1, 2), 256.0).bfloat16(), torch.tensor([[1.0, 3.0]]).bfloat16()
    y_TD, total_TD = norm.add_rms_norm(x_TD, residual_TD, torch.ones(2), 0.0)
    assert total_TD.tolist() == [[256.0, 260.0]]
    assert torch.equal(y_TD, norm.rms_norm(total_TD, torch.ones(2), 0.0))


def test_large_half_values_do_not_overflow_inside() -> None:
    y_TD = norm.rms_norm(torch.full((1, 4), 6e4).half(), torch.ones(4), 1e-5)
    assert torch.equal(y_TD, torch.ones(1, 4).half())
