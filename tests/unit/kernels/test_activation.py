"""Gated activations against torch's own, and at their flat ends."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F

from redline.kernels import activation
from redline.kernels.tolerance import check

Op = Callable[[torch.Tensor], torch.Tensor]


@pytest.mark.parametrize(
    ("run", "oracle"),
    [
        (activation.silu_mul, F.silu),
        (activation.gelu_tanh_mul, lambda x: F.gelu(x, approximate="tanh")),
    ],
)
def test_gate_is_the_first_half(run: Op, oracle: Op) -> None:
    x = torch.randn(3, 14, generator=torch.Generator().manual_seed(0))
    check("y", oracle(x[:, :7].double()) * x[:, 7:].double(), run(x), "activation", "f32")


@pytest.mark.parametrize("run", [activation.silu_mul, activation.gelu_tanh_mul])
def test_far_ends_are_zero_and_identity(run: Op) -> None:
    assert run(torch.tensor([[-1000.0, 1000.0, 2.0, 2.0]])).tolist() == [[0.0, 2000.0]]
