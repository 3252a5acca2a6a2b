"""The beginning of a decode step on Hopper, and what its attention counts with: launchers of cuda/begin.cu.

Open `begin`. T rows with one new token each, D model size, V vocabulary.
"""

from __future__ import annotations

import ctypes
import functools
from dataclasses import dataclass

import torch
from torch import Tensor

from redline.kernels.cuda.compiler import machine_code
from redline.kernels.cuda.launcher import Kernel
from redline.kernels.op import ceil_div, device_of
from redline.kernels.skinny import Gained


class _Arguments(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("tokens", "embedding", "gain", "stream", "gained", "squares", "context")),
        *((name, ctypes.c_void_p) for name in ("plan", "pairs", "whole_first", "remainder")),
        *((name, ctypes.c_int) for name in ("rows", "size", "vocabulary", "heads", "slots", "capacity")),
        ("scale", ctypes.c_float),
    ]


ARRIVALS = 1 << 15
"""Counters there are; attention takes one for every sequence and key-value head."""


@functools.cache
def arrivals(device: torch.device) -> Tensor:
    """int32 [ARRIVALS] counters, all zero between launches. Made at the first launch, which must not be under capture: what is allocated under
    capture is the graph's."""
    return torch.zeros(ARRIVALS, dtype=torch.int32, device=device)


@dataclass(frozen=True)
class Order:
    """The order in which attention walks a step's keys (cuda/begin.cu), on the device."""

    plan_2: Tensor
    pairs_P2: Tensor
    whole_first_T: Tensor
    remainder_T: Tensor
    slots: int


@dataclass(frozen=True)
class Begun:
    """What `begin` fills: the stream [T, D] (float32), the same as the first layer reads it."""

    stream_TD: Tensor
    gained: Gained

    @classmethod
    def empty(cls, rows: int, size: int, eps: float, device: torch.device) -> Begun:
        stream_TD = torch.empty((rows, size), dtype=torch.float32, device=device)
        squares_1T = torch.empty((1, rows), dtype=torch.float32, device=device)
        return cls(stream_TD, Gained(torch.empty((rows, size), dtype=torch.bfloat16, device=device), squares_1T, eps))


def embed(tokens_T: Tensor, embedding_VD: Tensor, scale: float, gain_D: Tensor, begun: Begun) -> None:
    """Embed the tokens into `begun`."""
    filled = (begun.stream_TD, begun.gained.gained_TK, begun.gained.squares_ZT)
    arguments = _Arguments(
        *(tensor.data_ptr() for tensor in (tokens_T, embedding_VD, gain_D, *filled)),
        *(None,) * 5,
        len(tokens_T), embedding_VD.shape[1], embedding_VD.shape[0], 0, 0, 0, scale,
    )  # fmt: skip
    _kernel(tokens_T.device).launch(len(tokens_T), [arguments], dependent=True)  # the block behind them makes the order


def begin(
    tokens_T: Tensor, embedding_VD: Tensor, scale: float, gain_D: Tensor, context_T: Tensor, kv_heads: int, begun: Begun
) -> Order:
    """`embed`, and the order of attention, for kernels that start after this one has ended."""
    (rows,), size, device = tokens_T.shape, embedding_VD.shape[1], tokens_T.device
    slots = 2 * device_of(device).processors
    capacity = rows + 2 * ceil_div(slots, kv_heads)

    def integers(*shape: int) -> Tensor:
        return torch.empty(shape, dtype=torch.int32, device=device)

    order = Order(integers(2), integers(capacity, 2), integers(rows), integers(rows), slots)
    filled = (begun.stream_TD, begun.gained.gained_TK, begun.gained.squares_ZT)
    arguments = _Arguments(
        *(tensor.data_ptr() for tensor in (tokens_T, embedding_VD, gain_D, *filled, context_T)),
        *(tensor.data_ptr() for tensor in (order.plan_2, order.pairs_P2, order.whole_first_T, order.remainder_T)),
        rows, size, embedding_VD.shape[0], kv_heads, slots, capacity, scale,
    )  # fmt: skip
    _kernel(device).launch(rows + 1, [arguments], dependent=True)
    return order


def order(context_T: Tensor, kv_heads: int) -> Order:
    """The order alone, for who embeds nothing."""
    rows, device = len(context_T), context_T.device
    tokens_T = torch.zeros(rows, dtype=torch.int64, device=device)
    table_VD, gain_D = torch.zeros((1, 8), dtype=torch.bfloat16, device=device), torch.ones(8, device=device)
    return begin(tokens_T, table_VD, 1.0, gain_D, context_T, kv_heads, Begun.empty(rows, 8, 0.0, device))


@functools.cache
def _kernel(device: torch.device) -> Kernel:
    with torch.cuda.device(device):
        return Kernel(machine_code("begin.cu", {}), "begin", threads=256)
