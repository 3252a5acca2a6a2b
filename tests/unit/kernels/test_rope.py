"""Rotary embedding against complex multiplication."""

from __future__ import annotations

import torch

from redline.kernels import rope
from redline.kernels.tolerance import check


def test_rotation_is_multiplication_by_a_unit_complex_number() -> None:
    generator = torch.Generator().manual_seed(0)
    angles_LX = torch.rand((11, 8), generator=generator) * 6
    x_TNH = torch.randn((3, 5, 16), generator=generator)
    positions_T = torch.tensor([10, 0, 4])
    number = torch.complex(x_TNH[..., :8].double(), x_TNH[..., 8:].double())
    turned = number * torch.polar(torch.ones(3, 1, 8).double(), angles_LX[positions_T, None].double())
    q_TNH, k_TKH = x_TNH.clone(), x_TNH[:, :2].clone()
    rope.rotate(q_TNH, k_TKH, positions_T, torch.cat((angles_LX.cos(), angles_LX.sin()), 1))
    check("q", torch.cat((turned.real, turned.imag), -1), q_TNH, "elementwise", "f32")
    assert torch.equal(k_TKH, q_TNH[:, :2])


def test_neighbours_in_one_projection_are_left_alone() -> None:
    """q and k are slices: the v behind them must not turn."""
    qkv = torch.randn(4, 5 * 8, generator=torch.Generator().manual_seed(1))
    v = qkv[:, 32:].clone()
    table = torch.cat((torch.zeros(4, 4), torch.ones(4, 4)), 1)  # a quarter turn
    rope.rotate(qkv[:, :16].view(4, 2, 8), qkv[:, 16:32].view(4, 2, 8), torch.arange(4), table)
    assert torch.equal(qkv[:, 32:], v)
