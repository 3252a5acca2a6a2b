"""The sparse feed-forward layer: a router picks experts for every token, each expert is a gated feed-forward.

Tokens are grouped by expert on the device and each chosen expert makes two products. How many tokens an expert got must
be known on the host, so this layer waits for the device once per call. Knows nothing of families. Open `Moe` first.
Shapes: T tokens, D model size, E experts, C experts per token, F ffn size of one expert on this rank.
"""

from __future__ import annotations

import torch
from torch import Tensor

from redline.layers.linear import linear
from redline.layers.mlp import GATED
from redline.layers.norm import RMSNorm
from redline.layers.weights import Place, Slot, Slots
from redline.shapes import ModelShape


class Moe:
    """Sum over the chosen experts of weight * expert(x) (Shazeer et al., 2017; no capacity limit, nothing is dropped)."""

    def __init__(self, shape: ModelShape, place: Place):
        assert shape.moe is not None
        moe, ranks = shape.moe, place.ranks
        self._moe = moe
        self._ranks = ranks
        self._size = ranks.part(moe.intermediate_size, "width of an expert")
        self._activate = GATED[shape.activation]
        self.router_ED = place.empty(moe.num_experts, shape.hidden_size)
        self.gate_up = place.empty(moe.num_experts, 2 * self._size, shape.hidden_size)
        self.down = place.empty(moe.num_experts, shape.hidden_size, self._size)

    def __call__(self, x_TD: Tensor) -> Tensor:
        weights_TC, experts_TC = self.route(x_TD)
        # Sorted by expert, every expert's tokens are one run.
        order = experts_TC.flatten().argsort(stable=True)
        counts = experts_TC.flatten().bincount(minlength=self._moe.num_experts).tolist()
        token_of = order // self._moe.experts_per_token
        x_sorted = x_TD.index_select(0, token_of)
        y_sorted = torch.empty_like(x_sorted)
        begin = 0
        for expert, count in enumerate(counts):
            if count:
                run = slice(begin, begin + count)
                inner = self._activate(linear(x_sorted[run], self.gate_up[expert]))
                y_sorted[run] = linear(inner, self.down[expert])
                begin += count
        y_sorted *= weights_TC.flatten()[order, None]
        # Back in token order the sum over a token's experts has a fixed order; index_add_ would have none on a GPU.
        y_TCD = torch.empty_like(y_sorted).index_copy_(0, order, y_sorted)
        return self._ranks.all_reduce(y_TCD.view(*experts_TC.shape, -1).sum(1))

    @property
    def fuses(self) -> bool:
        """Whether `decode` can be used."""
        return True

    def decode(self, stream_TD: Tensor, norm: RMSNorm) -> None:
        """Add the feed-forward of the normalised stream to it."""
        stream_TD += self(norm(stream_TD).to(self.router_ED.dtype))

    def route(self, x_TD: Tensor) -> tuple[Tensor, Tensor]:
        """(weights, experts), both [T, C], best first: softmax over all experts in float32, then the C best."""
        probabilities_TE = torch.softmax(linear(x_TD, self.router_ED).float(), dim=-1)
        weights_TC, experts_TC = probabilities_TE.topk(self._moe.experts_per_token, dim=-1)
        if self._moe.norm_topk:
            weights_TC = weights_TC / weights_TC.sum(-1, keepdim=True)
        return weights_TC.to(x_TD.dtype), experts_TC

    def slots(self, prefix: str) -> Slots:
        size, start = self._moe.intermediate_size, self._ranks.rank * self._size
        hidden = self.router_ED.shape[1]
        yield f"{prefix}.gate.weight", Slot(self.router_ED, tuple(self.router_ED.shape))
        for expert in range(self._moe.num_experts):
            gate_FD, up_FD = self.gate_up[expert].split(self._size)
            yield f"{prefix}.experts.{expert}.gate_proj.weight", Slot(gate_FD, (size, hidden), 0, start)
            yield f"{prefix}.experts.{expert}.up_proj.weight", Slot(up_FD, (size, hidden), 0, start)
            yield f"{prefix}.experts.{expert}.down_proj.weight", Slot(self.down[expert], (hidden, size), 1, start)
