"""The dense feed-forward layer: gate and up in one product, a gated activation, down.

Knows nothing of experts (`moe.py`). Open `Mlp` first. Shapes: T tokens, D model size, F ffn size of this rank.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from redline.kernels.activation import gelu_tanh_mul, silu_mul
from redline.kernels.gated_linear import gated_linear, is_faster, is_trusted
from redline.kernels.gemv import linear_add, norm_gated
from redline.layers.linear import ColumnLinear, RowLinear
from redline.layers.norm import RMSNorm
from redline.layers.weights import Place, Slots
from redline.shapes import ModelShape

GATED: dict[str, Callable[[Tensor], Tensor]] = {"silu": silu_mul, "gelu_tanh": gelu_tanh_mul}


class Mlp:
    """down(act(gate(x)) * up(x)) (Shazeer, 2020)."""

    def __init__(self, shape: ModelShape, place: Place):
        widths = {"gate_proj": shape.intermediate_size, "up_proj": shape.intermediate_size}
        self.gate_up = ColumnLinear(shape.hidden_size, widths, shape.mlp_bias, place)
        self.down = RowLinear(shape.intermediate_size, shape.hidden_size, shape.mlp_bias, place)
        self._activate = GATED[shape.activation]
        self._has_kernel = not shape.mlp_bias and not place.invariant and is_trusted(place.device, place.dtype)

    def __call__(self, x_TD: Tensor) -> Tensor:
        return self.down(self.inner(x_TD))

    def inner(self, x_TD: Tensor) -> Tensor:
        """[T, F]: what is projected back."""
        if self.takes(len(x_TD)):
            return gated_linear(x_TD, self.gate_up.weight_NK, self.is_gelu)
        return self._activate(self.gate_up(x_TD))

    def takes(self, rows: int) -> bool:
        """Whether so many rows take the kernel that multiplies and gates in one."""
        return self._has_kernel and is_faster(self.gate_up.weight_NK, rows)

    @property
    def fuses(self) -> bool:
        """Whether `decode` can be used: the fused gate takes no bias."""
        return self.gate_up.bias_N is None

    @property
    def is_gelu(self) -> bool:
        """Whether the gate is GELU's tanh form rather than SiLU."""
        return self._activate is gelu_tanh_mul

    def decode(self, stream_TD: Tensor, norm: RMSNorm) -> None:
        """Add the feed-forward of the normalised stream to it, in two kernels: one row, one rank."""
        inner_TF = norm_gated(stream_TD, norm.weight_D, norm.eps, self.gate_up.weight_NK, self.is_gelu)
        linear_add(inner_TF, self.down.weight_NK, stream_TD, self.down.bias_N)

    def slots(self, prefix: str) -> Slots:
        yield from self.gate_up.slots(prefix)
        yield from self.down.slots(f"{prefix}.down_proj")
