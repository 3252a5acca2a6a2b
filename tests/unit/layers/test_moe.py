"""Sparse feed-forward: routing and grouping against the plain loop over tokens and experts."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from redline.kernels.tolerance import check
from redline.layers.moe import Moe
from redline.layers.weights import Place
from redline.parallel.ranks import Ranks
from redline.shapes import MoeShape, known

SHAPE = dataclasses.replace(known("tiny-mixtral"), hidden_size=24)


def _moe(num_experts: int, chosen: int, norm_topk: bool) -> Moe:
    moe_shape = MoeShape(num_experts=num_experts, experts_per_token=chosen, intermediate_size=10, norm_topk=norm_topk)
    moe = Moe(dataclasses.replace(SHAPE, moe=moe_shape), Place(torch.float32, torch.device("cpu"), Ranks.single()))
    generator = torch.Generator().manual_seed(0)
    for weight in (moe.router_ED, moe.gate_up, moe.down):
        weight.normal_(generator=generator)
    return moe


def _token_by_token(moe: Moe, x_TD: torch.Tensor, chosen: int, norm_topk: bool) -> torch.Tensor:
    rows = []
    for x_D in x_TD:
        probabilities_E = torch.softmax(moe.router_ED @ x_D, 0)
        best = sorted(range(len(probabilities_E)), key=lambda e: -probabilities_E[e])[:chosen]
        total = probabilities_E[best].sum() if norm_topk else 1.0
        row = torch.zeros_like(x_D)
        for expert in best:
            gate_F, up_F = (moe.gate_up[expert] @ x_D).chunk(2)
            row += probabilities_E[expert] / total * (moe.down[expert] @ (F.silu(gate_F) * up_F))
        rows.append(row)
    return torch.stack(rows)


@pytest.mark.parametrize("norm_topk", [False, True])
@pytest.mark.parametrize(("num_tokens", "num_experts", "chosen"), [(1, 1, 1), (1, 7, 3), (13, 4, 2), (5, 64, 8), (3, 5, 5)])
def test_grouped_experts_equal_the_loop_over_tokens(num_tokens: int, num_experts: int, chosen: int, norm_topk: bool) -> None:
    """More experts than tokens, one expert, and all experts at once included."""
    moe = _moe(num_experts, chosen, norm_topk)
    x_TD = torch.randn(num_tokens, 24, generator=torch.Generator().manual_seed(1))
    check("moe", _token_by_token(moe, x_TD, chosen, norm_topk), moe(x_TD), "attention", "f32")


def test_tokens_that_all_choose_one_expert_are_all_served() -> None:
    """There is no capacity limit: nothing is dropped when one expert gets everything."""
    moe = _moe(4, 1, True)
    moe.router_ED.zero_()
    moe.router_ED[2] = 1.0
    x_TD = torch.rand(9, 24, generator=torch.Generator().manual_seed(2))
    assert moe.route(x_TD)[1].unique().tolist() == [2]
    check("one expert", _token_by_token(moe, x_TD, 1, True), moe(x_TD), "attention", "f32")
