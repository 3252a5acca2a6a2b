"""Hopper's kernels of skinny.py: launchers of cuda/skinny.cu, and of cuda/begin.cu, which starts a step.

How a kernel cuts its work (`Form`) is chosen by `form_for`. Open `linear`, then `launch`. T rows, K inputs, N outputs, F half of the outputs of a gated layer, Z parts of a sum of squares.
"""

from __future__ import annotations

import ctypes
import functools
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from redline.kernels import one_row_cuda
from redline.kernels.cuda.compiler import machine_code
from redline.kernels.cuda.launcher import Argument, Kernel, gated_map, tensor_map
from redline.kernels.op import ceil_div, device_of
from redline.kernels.skinny import MOST_ROWS, Chosen, Gained

STORE, GATED, ADD, STORE_FLOAT, CHOOSE = range(5)
PADDED_ROWS = (8, 16, 32, 64, 96, 128, 256)
SHARED_BYTES = 216 * 1024  # of a block's stages


@dataclass(frozen=True)
class Form:
    """How a kernel cuts its work: rows it is padded to, 64-row and 64-input blocks of a tile of weights, tiles on their way into
    shared memory, blocks that share a tile's inputs."""

    rows: int
    blocks: int
    depth: int
    stages: int
    cluster: int = 1

    @property
    def stage_bytes(self) -> int:
        return self.depth * 128 * (64 * self.blocks + self.rows)

    @property
    def groups(self) -> int:
        """Warpgroups that multiply."""
        return max(2, self.blocks) if self.rows > 64 else 1

    @property
    def exchanged_bytes(self) -> int:
        """What the blocks of a cluster send to one of them: sums of the groups of eight rows that it finishes."""
        own_rows = self.rows // 2 if self.groups > self.blocks else self.rows
        own_blocks = 1 if self.groups > 1 else self.blocks
        return (self.cluster - 1) * own_blocks * ceil_div(own_rows // 8, self.cluster) * 128 * self.groups * 16

    @property
    def blocks_per_processor(self) -> int:
        return max(1, 220 * 1024 // (self.stages * self.stage_bytes))

    def tiles(self, kind: int, outputs: int) -> int:
        return ceil_div(outputs, (32 if kind == GATED else 64) * self.blocks)

    @property
    def threads(self) -> int:
        return 128 * self.groups + 32 + (96 if self.rows > 64 else max(32, self.rows))


def form_for(kind: int, outputs: int, inputs: int, rows: int, processors: int) -> Form:
    """As measured on an H200 inside chains of layers (docs/log.md): deep tiles, as many on their way as fit."""
    padded = next(size for size in PADDED_ROWS if size >= rows)
    if kind in (STORE_FLOAT, CHOOSE):
        blocks, cluster = 2 if padded >= 128 else 1, 1
    else:
        blocks, cluster = _cut(kind, outputs, inputs, padded, processors)
    deepest = 4 if padded <= 32 and cluster < 3 else 2 if padded <= 128 and blocks == 1 else 1
    depth = next(d for d in (deepest, 2, 1) if d == 1 or cluster <= ceil_div(inputs, 64 * d) and d <= ceil_div(inputs, 64))
    form = Form(padded, blocks, depth, 1, cluster)
    return replace(form, stages=min(24, (SHARED_BYTES - form.exchanged_bytes) // form.stage_bytes))


def _cut(kind: int, outputs: int, inputs: int, padded: int, processors: int) -> tuple[int, int]:
    """(blocks of a tile, blocks that share its inputs) of the cut that leaves the busiest processor the least to do. A cost is what its
    shared memory moves, in rows of 64 inputs: tiles of weights and of X are written there, and each warpgroup reads what it
    multiplies. With few rows that is proportional to the weights it reads."""
    costs = {}
    for blocks in (1, 2, 3) if 64 < padded <= 128 else (1,):
        weights, x = 64 * blocks, padded
        read = 2 * 64 + x if blocks == 1 and padded > 64 else weights + blocks * x
        tiles = Form(padded, blocks, 1, 1).tiles(kind, outputs)
        for cluster in (1, 2, 3):
            # Processors come in groups that clusters of three do not fill: 42 and not 44 of them were reckoned to run at once on an
            # H200's 132 (four-block clusters: 30 of 33, as the driver says), and as large a share is taken elsewhere.
            room = processors if cluster < 3 else processors * 42 // 44
            fits = tiles * cluster <= room and blocks * cluster <= 4 and cluster <= ceil_div(inputs, 64)
            # A gated layer has tiles enough, and few rows are read too fast for the sums to be worth joining.
            if cluster > 1 and (not fits or kind == GATED or (kind == STORE and padded <= 16)):
                continue
            flat = 1.2 if blocks > 1 else 1.0  # shallow tiles: memory is slower
            costs[blocks, cluster] = flat * (weights + x + read) * ceil_div(tiles * cluster, processors) / cluster
    return min(costs, key=lambda cut: costs[cut])


class _Arguments(ctypes.Structure):
    _fields_ = [
        ("squares", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("output", ctypes.c_void_p),
        ("stream", ctypes.c_void_p),
        ("gain", ctypes.c_void_p),
        ("squares_out", ctypes.c_void_p),
        ("rows", ctypes.c_int),
        ("outputs", ctypes.c_int),
        ("inputs", ctypes.c_int),
        ("parts", ctypes.c_int),
        ("inverse_size", ctypes.c_float),
        ("eps", ctypes.c_float),
        ("late", ctypes.c_int),
    ]


class _BeginArguments(ctypes.Structure):
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


def definitions(form: Form, kind: int, *, scaled: bool, biased: bool, gelu: bool) -> dict[str, int]:
    """What cuda/skinny.cu is compiled with."""
    cut = {"ROWS": form.rows, "BLOCKS": form.blocks, "DEPTH": form.depth, "STAGES": form.stages, "CLUSTER": form.cluster}
    return cut | {"KIND": kind, "SCALED": int(scaled), "BIASED": int(biased), "GELU": int(gelu)}


@functools.cache
def _kernel(form: Form, kind: int, scaled: bool, biased: bool, gelu: bool, device: torch.device) -> Kernel:
    code = machine_code("skinny.cu", definitions(form, kind, scaled=scaled, biased=biased, gelu=gelu))
    with torch.cuda.device(device):
        return Kernel(code, "skinny", threads=form.threads, shared_bytes=form.stages * form.stage_bytes + 1024)


_maps: dict[tuple[int, torch.Size, bool], Argument] = {}


def _weight_map(weight_NK: Tensor, gated: bool) -> Argument:
    """Kept: it says no more than where a matrix of some size lies."""
    key = weight_NK.data_ptr(), weight_NK.shape, gated
    if key not in _maps:
        _maps[key] = gated_map(weight_NK) if gated else tensor_map(weight_NK, 64)
    return _maps[key]


@dataclass(frozen=True)
class _Results:
    """Where the results go: a row each, or a key each to CHOOSE. The rest belongs to ADD."""

    output_T: Tensor
    stream_TN: Tensor | None = None
    gain_N: Tensor | None = None
    squares_ZT: Tensor | None = None


def _empty(x_TK: Tensor, columns: int, dtype: torch.dtype) -> Tensor:
    return torch.empty((len(x_TK), columns), dtype=dtype, device=x_TK.device)


def _pointer(tensor: Tensor | None) -> int | None:
    assert tensor is None or tensor.is_contiguous()
    return None if tensor is None else tensor.data_ptr()


def _launch(
    kind: int,
    x_TK: Tensor,
    weight_NK: Tensor,
    results: _Results,
    *,
    gained: Gained | None = None,
    bias_N: Tensor | None = None,
    gelu: bool = False,
    late: bool = False,
) -> None:
    """Queue one kernel; `gained` where its root is to be applied."""
    (rows, inputs), outputs = x_TK.shape, len(weight_NK) // (2 if kind == GATED else 1)
    device, processors = x_TK.device, device_of(x_TK.device).processors
    scaled, biased = gained is not None, bias_N is not None
    told: dict[str, Any] = {
        "squares": None if gained is None else _pointer(gained.squares_ZT),
        "bias": _pointer(bias_N),
        "output": _pointer(results.output_T),
        "stream": _pointer(results.stream_TN),
        "gain": _pointer(results.gain_N),
        "squares_out": _pointer(results.squares_ZT),
        "rows": rows,
        "outputs": outputs,
        "inputs": inputs,
        "parts": 0 if gained is None else len(gained.squares_ZT),
        "inverse_size": 1.0 / inputs,
        "eps": 0.0 if gained is None else gained.eps,
        "late": int(late),
    }
    if rows <= one_row_cuda.MOST_ROWS:
        own = one_row_cuda.Arguments(weight=_pointer(weight_NK), x=_pointer(x_TK), **told)
        return one_row_cuda.launch(kind, own, device, scaled=scaled, biased=biased, gelu=gelu)
    form = form_for(kind, outputs, inputs, rows, processors)
    tiles = form.tiles(kind, outputs)
    blocks = tiles * form.cluster if form.cluster > 1 else min(tiles, form.blocks_per_processor * processors)
    maps = [_weight_map(weight_NK, kind == GATED), tensor_map(x_TK, form.rows)]
    kernel = _kernel(form, kind, scaled, biased, gelu, device)
    kernel.launch(blocks, [*maps, _Arguments(**told)], dependent=True, cluster=form.cluster)


def linear(gained: Gained, weight_NK: Tensor, bias_N: Tensor | None = None, *, first: bool = False) -> Tensor:
    """See skinny.linear."""
    output_TN = _empty(gained.gained_TK, len(weight_NK), torch.bfloat16)
    _launch(STORE, gained.gained_TK, weight_NK, _Results(output_TN), gained=gained, bias_N=bias_N, late=first)
    return output_TN


def gated(gained: Gained, weight_2FK: Tensor, gelu: bool = False) -> Tensor:
    """See skinny.gated."""
    output_TF = _empty(gained.gained_TK, len(weight_2FK) // 2, torch.bfloat16)
    _launch(GATED, gained.gained_TK, weight_2FK, _Results(output_TF), gained=gained, gelu=gelu)
    return output_TF


def project(gained: Gained, weight_NK: Tensor) -> Tensor:
    """See skinny.project."""
    output_TN = _empty(gained.gained_TK, len(weight_NK), torch.float32)
    _launch(STORE_FLOAT, gained.gained_TK, weight_NK, _Results(output_TN), gained=gained)
    return output_TN


@functools.cache
def _keys(device: torch.device) -> Tensor:
    """int64 [MOST_ROWS], all zero between a step's end and the next one's head. Made like `arrivals`."""
    with torch.inference_mode(False):  # whoever reads them may be outside
        return torch.zeros(MOST_ROWS, dtype=torch.int64, device=device)


def choose(gained: Gained, weight_NK: Tensor) -> Chosen:
    """See skinny.choose."""
    chosen = Chosen(_keys(weight_NK.device)[: len(gained.gained_TK)])
    _launch(CHOOSE, gained.gained_TK, weight_NK, _Results(chosen.keys_T), gained=gained)
    return chosen


def add(x_TK: Tensor, weight_NK: Tensor, stream_TN: Tensor, gain_N: Tensor, eps: float, bias_N: Tensor | None = None) -> Gained:
    """See skinny.add."""
    output_TN = _empty(x_TK, len(weight_NK), torch.bfloat16)
    (outputs, inputs), processors = weight_NK.shape, device_of(x_TK.device).processors
    if len(x_TK) <= one_row_cuda.MOST_ROWS:
        parts = one_row_cuda.parts(ADD, outputs, inputs)
    else:
        parts = form_for(ADD, outputs, inputs, len(x_TK), processors).tiles(ADD, outputs)
    squares_ZT = torch.empty((parts, len(x_TK)), dtype=torch.float32, device=x_TK.device)
    _launch(ADD, x_TK, weight_NK, _Results(output_TN, stream_TN, gain_N, squares_ZT), bias_N=bias_N)
    return Gained(output_TN, squares_ZT, eps)


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
    arguments = _BeginArguments(
        *(tensor.data_ptr() for tensor in (tokens_T, embedding_VD, gain_D, *filled)),
        *(None,) * 5,
        len(tokens_T), embedding_VD.shape[1], embedding_VD.shape[0], 0, 0, 0, scale,
    )  # fmt: skip
    _begin_kernel(tokens_T.device).launch(len(tokens_T), [arguments], dependent=True)  # the block behind them makes the order


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
    arguments = _BeginArguments(
        *(tensor.data_ptr() for tensor in (tokens_T, embedding_VD, gain_D, *filled, context_T)),
        *(tensor.data_ptr() for tensor in (order.plan_2, order.pairs_P2, order.whole_first_T, order.remainder_T)),
        rows, size, embedding_VD.shape[0], kv_heads, slots, capacity, scale,
    )  # fmt: skip
    _begin_kernel(device).launch(rows + 1, [arguments], dependent=True)
    return order


@functools.cache
def _begin_kernel(device: torch.device) -> Kernel:
    with torch.cuda.device(device):
        return Kernel(machine_code("begin.cu", {}), "begin", threads=256)
