"""Linear layers of few rows with what surrounds them in a decoder block, where the norm before a layer is split in two.

The stream s is float32. Whoever adds to it leaves s * gain in the model's type and the row's sum of squares in parts; whoever
reads these multiplies its finished sums by the root that is still missing:

    root            = 1 / sqrt(sum_z squares[z] / K + eps)
    linear(g, W)    y = root * (g W^T) + b                                     in the type of g
    gated(g, W)     y = act(a) * u              a | u = root * (g W^T)         in the type of g
    project(g, W)   y = root * (g W^T)                                         float32
    choose(g, W)    argmax of project(g, W), as a key                          int64
    add(x, W, s)    s = s + x W^T + b           in place; gives s * gain and the squares of s

So no kernel waits for a norm and none takes it twice. On a Hopper card in bf16 cuda/one_row.cu runs one row and cuda/skinny.cu
up to 128, cuda/many_rows.cu more; everywhere else plain torch. Knows nothing of layers. Open `Gained` first, then `linear`.

T rows, K inputs, N outputs, F half of the outputs of a gated layer, Z parts of a sum of squares.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from redline.kernels.activation import reference_gelu_tanh_mul, reference_silu_mul
from redline.kernels.op import Inputs, OpSpec, is_hopper, random_tensor
from redline.kernels.sample import finite_or_minus_inf
from redline.ops import OPS

FEW_ROWS = 128
"""With more, other kernels are faster (measured on an H200)."""


@dataclass(frozen=True)
class Gained:
    """Rows whose norm is half done: the stream times the norm's weights, and its squares, of which `eps` still is to be
    added to the mean."""

    gained_TK: Tensor
    squares_ZT: Tensor  # float32
    eps: float

    @property
    def root_T1(self) -> Tensor:
        return torch.rsqrt(self.squares_ZT.sum(0) / self.gained_TK.shape[1] + self.eps)[:, None]


@dataclass(frozen=True)
class Chosen:
    """The place of the largest product of each row, in keys [T] (int64) of which `keys_of` says the formula; 0 where all are minus infinity.

    They lie in memory that is used again: whoever reads them sets them to zero.
    """

    keys_T: Tensor

    def take(self) -> Tensor:
        """The places, int64 [T]."""
        places_T = torch.where(self.keys_T == 0, 0, 0xFFFFFFFF - (self.keys_T & 0xFFFFFFFF))
        self.keys_T.zero_()
        return places_T


def keys_of(values_T: Tensor, places_T: Tensor) -> Tensor:
    """float32 values in the order of unsigned integers, above the complement of their places: the largest key is the first of the largest."""
    bits_T = values_T.view(torch.int32).long() & 0xFFFFFFFF
    ordered_T = torch.where(bits_T >> 31 == 1, 0xFFFFFFFF - bits_T, bits_T | 0x80000000)
    return (ordered_T << 32) | (0xFFFFFFFF - places_T)


def on_hopper(x_TK: Tensor, weight_NK: Tensor, outputs: int | None = None) -> bool:
    """Whether a Hopper card's own kernels can run this product: in bf16, with whole groups of 16 bytes; many rows only where there are `outputs`
    (of a row, not of the weights of a gated layer), in groups of 16."""
    return (
        is_hopper(x_TK.device, x_TK.dtype)
        and weight_NK.dtype is x_TK.dtype
        and x_TK.shape[1] % 8 == 0
        and (x_TK.shape[0] <= FEW_ROWS or (outputs is not None and outputs % 16 == 0))
    )


def linear(gained: Gained, weight_NK: Tensor, bias_N: Tensor | None = None, *, first: bool = False) -> Tensor:
    """[T, N]. `first`: the kernel before is no part of a chain whose kernels wait for each other; see cuda/skinny.cu, `late`."""
    if on_hopper(gained.gained_TK, weight_NK, weight_NK.shape[0]):
        from redline.kernels import product_cuda

        return product_cuda.linear(gained, weight_NK, bias_N, first=first)
    product_TN = _product(gained.gained_TK, weight_NK) * gained.root_T1
    return (product_TN if bias_N is None else product_TN + bias_N.float()).to(gained.gained_TK.dtype)


def gated(gained: Gained, weight_2FK: Tensor, gelu: bool = False) -> Tensor:
    """[T, F]; gate rows first, then value rows. F is a multiple of 8 on a Hopper card's own kernel."""
    if on_hopper(gained.gained_TK, weight_2FK, weight_2FK.shape[0] // 2) and weight_2FK.shape[0] % 16 == 0:
        from redline.kernels import product_cuda

        return product_cuda.gated(gained, weight_2FK, gelu)
    gate_TF, up_TF = (_product(gained.gained_TK, weight_2FK) * gained.root_T1).chunk(2, -1)
    return ((F.gelu(gate_TF, approximate="tanh") if gelu else F.silu(gate_TF)) * up_TF).to(gained.gained_TK.dtype)


def project(gained: Gained, weight_NK: Tensor) -> Tensor:
    """[T, N] float32: the head."""
    if on_hopper(gained.gained_TK, weight_NK):
        from redline.kernels import product_cuda

        return product_cuda.project(gained, weight_NK)
    return _product(gained.gained_TK, weight_NK) * gained.root_T1


def choose(gained: Gained, weight_NK: Tensor) -> Chosen:
    """The largest result of each row of the head, the first of several: greedy tokens without logits in memory."""
    if on_hopper(gained.gained_TK, weight_NK):
        from redline.kernels import product_cuda

        return product_cuda.choose(gained, weight_NK)
    best_T, places_T = finite_or_minus_inf(project(gained, weight_NK)).max(-1)
    return Chosen(keys_of(best_T + 0.0, places_T))


def add(x_TK: Tensor, weight_NK: Tensor, stream_TN: Tensor, gain_N: Tensor, eps: float, bias_N: Tensor | None = None) -> Gained:
    """Add the projection of `x` to the stream, in place; the stream with the gain (float32) of the norm that follows."""
    if on_hopper(x_TK, weight_NK, weight_NK.shape[0]):
        from redline.kernels import product_cuda

        return product_cuda.add(x_TK, weight_NK, stream_TN, gain_N, eps, bias_N)
    product_TN = _product(x_TK, weight_NK)
    stream_TN.add_(product_TN if bias_N is None else product_TN + bias_N.float())
    return gain(stream_TN, gain_N, eps, x_TK.dtype)


def gain(stream_TN: Tensor, gain_N: Tensor, eps: float, dtype: torch.dtype) -> Gained:
    """The stream as the next layer reads it."""
    return Gained((stream_TN * gain_N).to(dtype), stream_TN.square().sum(-1)[None], eps)


def _product(x_TK: Tensor, weight_NK: Tensor) -> Tensor:
    """In float32, as the kernels compute: the twin is for comparison, not for speed."""
    return F.linear(x_TK.float(), weight_NK.float())


def _reference(gained: Gained, weight_NK: Tensor, bias_N: Tensor | None = None) -> Tensor:
    mean_T = gained.squares_ZT.double().sum(0) / gained.gained_TK.shape[1]
    product_TN = gained.gained_TK.double() @ weight_NK.double().T / (mean_T + gained.eps).sqrt()[:, None]
    return (product_TN if bias_N is None else product_TN + bias_N.double()).float()


def reference_linear(gained: Gained, weight_NK: Tensor, bias_N: Tensor | None = None) -> tuple[Tensor]:
    return (_reference(gained, weight_NK, bias_N),)


def reference_choose(gained: Gained, weight_NK: Tensor) -> tuple[Tensor]:
    return (finite_or_minus_inf(_reference(gained, weight_NK)).argmax(-1),)


def reference_gated(gained: Gained, weight_2FK: Tensor, gelu: bool = False) -> tuple[Tensor]:
    return (reference_gelu_tanh_mul if gelu else reference_silu_mul)(_reference(gained, weight_2FK))


def reference_add(
    x_TK: Tensor, weight_NK: Tensor, stream_TN: Tensor, gain_N: Tensor, eps: float, bias_N: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """The gained stream, its squares, the stream."""
    product_TN = x_TK.double() @ weight_NK.double().T
    total_TN = stream_TN.double() + (product_TN if bias_N is None else product_TN + bias_N.double())
    return (total_TN * gain_N.double()).float(), total_TN.square().sum(-1).float(), total_TN.float()


def _gained_inputs(axes: Mapping[str, int], dtype: torch.dtype, device: torch.device, seed: int) -> Gained:
    gained_TK = 2 * random_tensor((axes["T"], axes["K"]), dtype, device, seed)
    squares_ZT = axes["K"] * random_tensor((axes.get("Z", 1), axes["T"]), torch.float32, device, seed + 1).square()
    return Gained(gained_TK, squares_ZT, 1e-5)


def _weight(axes: Mapping[str, int], rows: int, dtype: torch.dtype, device: torch.device, seed: int) -> Tensor:
    return random_tensor((rows, axes["K"]), dtype, device, seed) / axes["K"] ** 0.5


def _bias(axes: Mapping[str, int], dtype: torch.dtype, device: torch.device, seed: int) -> Tensor | None:
    return random_tensor((axes["N"],), dtype, device, seed) if axes.get("BIAS") else None


def _linear_inputs(axes: Mapping[str, int], dtype: torch.dtype, device: torch.device, seed: int) -> Inputs:
    return {
        "gained": _gained_inputs(axes, dtype, device, seed),
        "weight_NK": _weight(axes, axes["N"], dtype, device, seed + 2),
        "bias_N": _bias(axes, dtype, device, seed + 3),
    }


def _project_inputs(axes: Mapping[str, int], dtype: torch.dtype, device: torch.device, seed: int) -> Inputs:
    return {
        "gained": _gained_inputs(axes, dtype, device, seed),
        "weight_NK": _weight(axes, axes["N"], dtype, device, seed + 2),
    }


def _gated_inputs(axes: Mapping[str, int], dtype: torch.dtype, device: torch.device, seed: int) -> Inputs:
    return {
        "gained": _gained_inputs(axes, dtype, device, seed),
        "weight_2FK": _weight(axes, 2 * axes["F"], dtype, device, seed + 2),
        "gelu": bool(axes.get("GELU")),
    }


def _add_inputs(axes: Mapping[str, int], dtype: torch.dtype, device: torch.device, seed: int) -> Inputs:
    return {
        "x_TK": random_tensor((axes["T"], axes["K"]), dtype, device, seed),
        "weight_NK": _weight(axes, axes["N"], dtype, device, seed + 2),
        "stream_TN": random_tensor((axes["T"], axes["N"]), torch.float32, device, seed + 4),
        "gain_N": 1 + random_tensor((axes["N"],), torch.float32, device, seed + 5) / 10,
        "eps": 1e-5,
        "bias_N": _bias(axes, dtype, device, seed + 3),
    }


def _run_choose(gained: Gained, weight_NK: Tensor) -> Tensor:
    return choose(gained, weight_NK).take()


def _run_add(**inputs: Tensor) -> tuple[Tensor, Tensor]:
    gained = add(**inputs)  # type: ignore[arg-type]
    return gained.gained_TK, gained.squares_ZT.sum(0)


_SIZES = tuple(
    {"T": t, "N": n, "K": k, "Z": z}
    for t, n, k, z in ((1, 1, 8, 1), (1, 257, 576, 9), (7, 33, 1032, 40), (16, 64, 64, 1), (33, 100, 96, 3), (100, 130, 520, 70))
)
_BIASED = ({"T": 3, "N": 70, "K": 136, "BIAS": 1},)
_MANY = ({"T": 400, "N": 1040, "K": 328, "BIAS": 1}, {"T": 300, "N": 272, "K": 200, "Z": 7})

LINEAR = OpSpec(
    op=OPS["gained_linear"],
    reference=reference_linear,
    run=linear,
    make_inputs=_linear_inputs,
    cases=_SIZES + _BIASED + _MANY,
    tolerance="product",
)

GATED = OpSpec(
    op=OPS["gained_gated"],
    reference=reference_gated,
    run=gated,
    make_inputs=_gated_inputs,
    cases=(
        {"T": 1, "F": 8, "K": 8},
        {"T": 1, "F": 136, "K": 576, "Z": 9},
        {"T": 5, "F": 5, "K": 64},
        {"T": 1, "F": 70, "K": 3072, "Z": 3},
        {"T": 17, "F": 40, "K": 1032, "GELU": 1},
        {"T": 130, "F": 72, "K": 512},
        {"T": 400, "F": 528, "K": 328, "GELU": 1},
        {"T": 300, "F": 144, "K": 200, "Z": 7},
    ),
    tolerance="product",
)

PROJECT = OpSpec(
    op=OPS["gained_project"],
    reference=reference_linear,
    run=project,
    make_inputs=_project_inputs,
    cases=_SIZES,
    tolerance="product",
)

CHOOSE = OpSpec(
    op=OPS["gained_choose"],
    reference=reference_choose,
    run=_run_choose,
    make_inputs=_project_inputs,
    cases=_SIZES,
    tolerance="exact",
)

ADD = OpSpec(
    op=OPS["add_gained"],
    reference=reference_add,
    run=_run_add,
    make_inputs=_add_inputs,
    cases=_SIZES + _BIASED + _MANY,
    tolerance="product",
    mutates=("stream_TN",),
)
