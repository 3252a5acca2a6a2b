"""Probes of products with a layer's weight: matrix rates by type and number of rows, and the read rate of one row.

Weights take turns that together do not fit into the last cache, as a layer's never do. On a GPU the calls are replayed from a
CUDA graph, so that launches do not count. Open `probes`, then `one_row`. T rows, K inputs, N outputs.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from redline.errors import InternalError, RedlineError
from redline.hardware.survey import Probe, Samples
from redline.kernels import gemv, skinny, timing
from redline.kernels.tolerance import rms_ratio

Linear = Callable[[Tensor, Tensor], Tensor]
"""x [T, K] times weight [N, K]."""

Multiply = Callable[[Tensor], Tensor]
"""The same with x given."""

CACHES = 4  # the weights fill the last cache so many times
_MOST_BYTES = 1 << 30
_WRONG = 0.02  # RMS error over RMS: more is no rounding


@dataclass(frozen=True)
class Size:
    """The weight, [outputs, inputs], and the rows that it is multiplied with."""

    outputs: int
    inputs: int
    rows: tuple[int, ...]

    def __str__(self) -> str:
        return f"a weight of {self.outputs} x {self.inputs}"


GPU = Size(14336, 4096, (16, 64, 256, 1024, 8192))  # gate or value of an 8B model
CPU = Size(2048, 2048, (16, 64, 256, 1024))  # about a layer of a 1B model


def probes(device: torch.device, dtypes: tuple[torch.dtype, ...], cache_bytes: int, linear: Linear) -> Iterator[Probe]:
    """One row first, then more of them. `linear` is the layers' own product."""
    size = GPU if device.type == "cuda" else CPU
    for dtype in dtypes:
        name = _name(dtype)
        run = functools.partial(one_row, device, dtype, size, cache_bytes, linear)
        yield Probe(f"gemv {name}", "bytes/s", run, 0.2, (("read", 1.0),))
    for dtype in dtypes:
        for rows in size.rows:
            # Bytes that move for each FLOP say how fast memory lets the product be.
            flops, moved = 2.0 * rows * size.outputs * size.inputs, _bytes(size, rows, dtype)
            limits = ((f"matmul {_name(dtype)}", 1.0), ("read", flops / moved))
            some_rows = functools.partial(many_rows, device, dtype, size, rows, cache_bytes, linear)
            yield Probe(f"matmul {_name(dtype)} {rows} rows", "FLOP/s", some_rows, 0.15, limits)


def many_rows(
    device: torch.device, dtype: torch.dtype, size: Size, rows: int, cache_bytes: int, linear: Linear, seconds: float
) -> Samples:
    """FLOP/s of `rows` rows of activations times the weight."""
    x_TK = torch.randn(rows, size.inputs, device=device).to(dtype)
    taken, how = _turns(functools.partial(linear, x_TK), _weights(device, dtype, size, cache_bytes), seconds)
    flops = 2.0 * rows * size.outputs * size.inputs
    return Samples([flops / each for each in taken], f"{size}{how}")


def one_row(device: torch.device, dtype: torch.dtype, size: Size, cache_bytes: int, linear: Linear, seconds: float) -> Samples:
    """bytes/s of one row times the weight, by redline's own kernels where they run, each tried on the weight first."""
    weights_CNK = _weights(device, dtype, size, cache_bytes)
    x_TK = torch.randn(1, size.inputs, device=device).to(dtype)
    want_TN = torch.nn.functional.linear(x_TK.float(), weights_CNK[0].float())
    complaints = []
    for name, multiply in _paths(x_TK, linear):
        try:
            error = rms_ratio(want_TN, multiply(weights_CNK[0]))
        except (RedlineError, ImportError, RuntimeError) as failure:
            complaints.append(f"{name} cannot ({str(failure).partition(chr(10))[0]})")
            continue
        if not error < _WRONG:  # a NaN is not
            complaints.append(f"{name} gives wrong results")
            continue
        taken, how = _turns(multiply, weights_CNK, seconds)
        return Samples([_bytes(size, 1, dtype) / each for each in taken], "; ".join((f"{size}, {name}{how}", *complaints)))
    raise InternalError("no product of one row is right: " + "; ".join(complaints))


def _paths(x_TK: Tensor, linear: Linear) -> Iterator[tuple[str, Multiply]]:
    """Ways to multiply the row, the best first: those of the engine's decode step."""
    if x_TK.is_cuda:
        if skinny.on_hopper(x_TK, x_TK):
            # Its squares add up to the number of inputs, so that its norm is 1.
            gained = skinny.Gained(x_TK, torch.full((1, 1), float(x_TK.shape[1]), device=x_TK.device), 0.0)
            yield "redline's CUDA kernel for one row", functools.partial(skinny.project, gained)
        yield "redline's Triton kernel for one row", functools.partial(gemv.project, x_TK)
    yield "the layers' product", functools.partial(linear, x_TK)


def _weights(device: torch.device, dtype: torch.dtype, size: Size, cache_bytes: int) -> Tensor:
    """[copies, N, K]: the same values in so many places."""
    own = size.outputs * size.inputs * dtype.itemsize
    copies = max(2, min(-(-CACHES * cache_bytes // own), _MOST_BYTES // own))
    weight_NK = torch.randn(size.outputs, size.inputs, device=device).mul_(size.inputs**-0.5).to(dtype)
    return weight_NK.repeat(copies, 1, 1)


def _turns(multiply: Multiply, weights_CNK: Tensor, seconds: float) -> tuple[list[float], str]:
    """Seconds of a product, the weights taking turns, and how they were launched."""
    device, count = weights_CNK.device, len(weights_CNK)
    weights = itertools.cycle(weights_CNK.unbind())
    if device.type == "cpu":
        return timing.on_host(lambda: multiply(next(weights)), seconds), ""

    def once() -> None:
        for _ in range(count):
            multiply(next(weights))

    replay, graph = timing.captured(once, device)
    taken = timing.on_device(replay, device, seconds)
    return [each / count for each in taken], ", in a graph" if graph else ", launched one by one"


def _bytes(size: Size, rows: int, dtype: torch.dtype) -> float:
    """That must move at the least: the weight, the rows and their products."""
    return dtype.itemsize * float(size.outputs * size.inputs + rows * (size.inputs + size.outputs))


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
