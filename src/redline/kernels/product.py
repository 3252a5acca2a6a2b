"""One product of skinny.py as Hopper's kernels are told of it: `Product`. What each kind makes of its sums is said in skinny.py.

T rows, K inputs, N outputs of the product, Z parts of a sum of squares.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import torch
from torch import Tensor

from redline.kernels.heads import HeadPreparation
from redline.kernels.op import device_of
from redline.kernels.skinny import Gained

STORE, GATED, ADD, STORE_FLOAT, CHOOSE, HEADS = range(6)


class Arguments(ctypes.Structure):
    """What the kernels of cuda/skinny.cu and cuda/many_rows.cu read beside their maps."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("squares", "bias", "output", "stream", "gain", "squares_out")),
        *((name, ctypes.c_int) for name in ("rows", "outputs", "inputs", "parts")),
        *((name, ctypes.c_float) for name in ("inverse_size", "eps")),
        ("late", ctypes.c_int),
    ]


@dataclass(frozen=True)
class Heads:
    """Where heads belong and how they are prepared; as in prepare.prepare_heads."""

    positions_T: Tensor
    slots_T: Tensor
    k_cache_PSKH: Tensor
    v_cache_PSKH: Tensor
    prepare: HeadPreparation


@dataclass(frozen=True)
class Product:
    """Its operands, and where the results go: a row each, or a key each to CHOOSE. Stream, gain and squares belong to ADD."""

    kind: int
    x_TK: Tensor
    weight_NK: Tensor
    output_T: Tensor
    stream_TN: Tensor | None = None
    gain_N: Tensor | None = None
    squares_ZT: Tensor | None = None
    gained: Gained | None = None  # where its root is to be applied
    bias_N: Tensor | None = None
    gelu: bool = False
    late: bool = False

    @property
    def rows(self) -> int:  # by its shape: `len` of a tensor takes a microsecond, and a step asks a thousand times
        return self.x_TK.shape[0]

    @property
    def inputs(self) -> int:
        return self.x_TK.shape[1]

    @property
    def outputs(self) -> int:
        """Of a row."""
        return self.weight_NK.shape[0] // (2 if self.kind == GATED else 1)

    @property
    def device(self) -> torch.device:
        return self.x_TK.device

    @property
    def processors(self) -> int:
        return device_of(self.device).processors

    @property
    def traits(self) -> dict[str, bool]:
        """What changes a kernel's code."""
        return {"scaled": self.gained is not None, "biased": self.bias_N is not None, "gelu": self.gelu}

    @property
    def arguments(self) -> Arguments:
        gained = self.gained
        return Arguments(
            None if gained is None else pointer(gained.squares_ZT),
            pointer(self.bias_N),
            pointer(self.output_T),
            pointer(self.stream_TN),
            pointer(self.gain_N),
            pointer(self.squares_ZT),
            self.rows,
            self.outputs,
            self.inputs,
            0 if gained is None else gained.squares_ZT.shape[0],
            1.0 / self.inputs,
            0.0 if gained is None else gained.eps,
            int(self.late),
        )


def pointer(tensor: Tensor | None) -> int | None:
    assert tensor is None or tensor.is_contiguous()
    return None if tensor is None else tensor.data_ptr()
