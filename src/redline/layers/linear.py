"""Linear layers, cut over ranks by columns of the output (`ColumnLinear`) or of the input (`RowLinear`).

What reads the same input is one matrix: q, k and v, or gate and up, so a step makes one product where a checkpoint has
three tensors. Knows nothing of attention or experts. Open `ColumnLinear` first; how its product is made is `product`'s choice.
Shapes: T tokens, N output features, K input features of this rank.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from redline import log
from redline.kernels.invariant import invariant_linear
from redline.layers.weights import Place, Slot, Slots

FEW_ROWS = 4
"""Of float32, on a CPU with AVX2 (SmolLM2, two cores of an AMD EPYC, 18.7 tokens/s and not 15 with one row, 52 and not 40 with four; with 16 no more)."""

Product = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""`linear`, or what has its meaning."""


def product(place: Place) -> Product:
    """How a layer at `place` multiplies: as fast as the number of rows allows, or alike for every number of rows."""
    return invariant_linear if place.invariant else linear


def linear(x_TK: Tensor, weight_NK: Tensor, bias_N: Tensor | None = None) -> Tensor:
    """x @ weight.T + bias, [T, N], in the type of x."""
    if x_TK.device.type == "cpu":
        return _linear_cpu(x_TK, weight_NK, bias_N)
    return F.linear(x_TK, weight_NK, bias_N)


def _linear_cpu(x_TK: Tensor, weight_NK: Tensor, bias_N: Tensor | None) -> Tensor:
    """The same product by the fastest of what torch has for it.

    For float32 that is oneDNN: torch would take MKL, which on an AMD CPU needs 1.05 to 2 times as long at every number of
    rows; but without AVX-512 few rows are faster by MKL if each thread is given outputs of its own (`_by_threads`). For one row of
    bfloat16 it is torch's own matrix-vector loop, which reads memory twice as fast as oneDNN.
    """
    if x_TK.dtype is torch.float32:
        is_few = x_TK.shape[0] <= FEW_ROWS and _leaves_few_rows_to_mkl()
        if is_few and (parts := math.gcd(len(weight_NK), torch.get_num_threads())) > 1:
            return _by_threads(x_TK, weight_NK, bias_N, parts)
        if (onednn := _onednn_linear()) is not None:
            return onednn(x_TK, weight_NK, bias_N, "none", [], "")
    if x_TK.dtype is torch.bfloat16 and x_TK.shape[0] == 1:
        # The switch is the process's: another thread may meet it, which changes its speed and how its sums are rounded.
        enabled = torch._C._get_mkldnn_enabled()
        torch._C._set_mkldnn_enabled(False)
        try:
            return F.linear(x_TK, weight_NK, bias_N)
        finally:
            torch._C._set_mkldnn_enabled(enabled)
    return F.linear(x_TK, weight_NK, bias_N)


@functools.cache
def _leaves_few_rows_to_mkl() -> bool:
    return torch.backends.cpu.get_cpu_capability() == "AVX2" and torch.backends.mkl.is_available()


def _by_threads(x_TK: Tensor, weight_NK: Tensor, bias_N: Tensor | None, parts: int) -> Tensor:
    """As a batch of `parts` products with as many of the outputs each: a single one of few rows MKL leaves to one thread."""
    (rows, inputs), outputs = x_TK.shape, len(weight_NK)
    parts_PNK, x_PKT = weight_NK.view(parts, outputs // parts, inputs), x_TK.t().expand(parts, inputs, rows)
    product_TN = torch.bmm(parts_PNK, x_PKT).view(outputs, rows).t().contiguous()
    return product_TN if bias_N is None else product_TN.add_(bias_N)


@functools.cache
def _onednn_linear() -> Callable[..., Tensor] | None:
    """torch's own entry to oneDNN's linear, where this build has it."""
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        log.fallback("linear", "this build of torch has no oneDNN product: float32 takes torch's own, which may be slower")
        return None
    return torch.ops.mkldnn._linear_pointwise.default


class ColumnLinear:
    """Several projections of one input, side by side. Each rank holds its share of every projection's outputs."""

    def __init__(self, in_size: int, parts: dict[str, int], bias: bool, place: Place):
        """`parts`: the checkpoint's name of each projection and its number of outputs on all ranks together."""
        self._parts = {name: (size, place.ranks.part(size, f"outputs of {name}")) for name, size in parts.items()}
        self._rank = place.ranks.rank
        self._product = product(place)
        own = sum(mine for _, mine in self._parts.values())
        self.weight_NK = place.empty(own, in_size)
        self.bias_N = place.empty(own) if bias else None

    def __call__(self, x_TK: Tensor) -> Tensor:
        """[T, N]: this rank's outputs, projection after projection."""
        return self._product(x_TK, self.weight_NK, self.bias_N)

    def slots(self, prefix: str) -> Slots:
        begin = 0
        for name, (size, mine) in self._parts.items():
            start = self._rank * mine
            weight_NK = self.weight_NK[begin : begin + mine]
            yield f"{prefix}.{name}.weight", Slot(weight_NK, (size, weight_NK.shape[1]), 0, start)
            if self.bias_N is not None:
                yield f"{prefix}.{name}.bias", Slot(self.bias_N[begin : begin + mine], (size,), 0, start)
            begin += mine


class RowLinear:
    """One projection whose inputs are spread over the ranks; the partial outputs are summed."""

    def __init__(self, in_size: int, out_size: int, bias: bool, place: Place):
        self._in_size = in_size
        self._ranks = place.ranks
        self._product = product(place)
        self.weight_NK = place.empty(out_size, place.ranks.part(in_size, "inputs"))
        self.bias_N = place.empty(out_size) if bias else None

    def __call__(self, x_TK: Tensor) -> Tensor:
        """[T, N], the same on every rank."""
        bias_N = self.bias_N if self._ranks.rank == 0 else None  # it must be added once
        return self._ranks.all_reduce(self._product(x_TK, self.weight_NK, bias_N))

    def slots(self, prefix: str) -> Slots:
        out_size, mine = self.weight_NK.shape
        yield f"{prefix}.weight", Slot(self.weight_NK, (out_size, self._in_size), 1, self._ranks.rank * mine)
        if self.bias_N is not None:
            yield f"{prefix}.bias", Slot(self.bias_N, (out_size,))
