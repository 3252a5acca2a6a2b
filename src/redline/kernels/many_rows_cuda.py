"""Hopper's kernels of skinny.py for many rows: the launcher of cuda/many_rows.cu.

How a kernel cuts its work (`Form`) is the cheapest of a few by `clocks`, a model of one processor with constants measured on an H200. Open
`launch`, then `form_for`. T rows, K inputs, N outputs.
"""

from __future__ import annotations

import ctypes
import functools
from dataclasses import dataclass

import torch
from torch import Tensor

from redline.kernels.cuda.compiler import machine_code
from redline.kernels.cuda.launcher import Argument, Kernel, grouped_map, tensor_map
from redline.kernels.op import ceil_div, device_of
from redline.kernels.product import ADD, GATED, HEADS, Arguments, Heads, Product, pointer

ROWS = 128
"""Of a tile."""

SHARED_BYTES = 226 * 1024  # of a block's stages

PRODUCTS = 2048
"""Of a processor in a clock."""

PRODUCT_CLOCKS, FETCHED_CLOCKS = 4.0, 1 / 186
"""Of a column of a tile and 64 inputs, and of a byte that they fetch: fitted to widths of tiles at 512 rows, where narrow ones lose by what they fetch."""

FETCHED_BYTES = 48
"""Of a processor in a clock at most, from the level-2 cache, where all fetch."""

END_CLOCKS, ADDED_CLOCKS = 12, 80
"""Of a column of a tile, at its end; the second where the stream is read and written."""

MEMORY_BYTES = 2600
"""Of the whole card in a clock."""


@dataclass(frozen=True)
class Form:
    """How a kernel cuts its work: rows of weights in a tile, blocks that share them."""

    columns: int
    cluster: int

    @property
    def step_bytes(self) -> int:
        """Of 64 inputs of a tile."""
        return 128 * (ROWS + self.columns)

    @property
    def stages(self) -> int:
        return SHARED_BYTES // self.step_bytes

    def column_tiles(self, kind: int, outputs: int) -> int:
        return ceil_div(outputs, self.columns // 2 if kind == GATED else self.columns)

    def tiles(self, kind: int, outputs: int, rows: int) -> int:
        """Of whole clusters."""
        return self.column_tiles(kind, outputs) * ceil_div(rows, ROWS * self.cluster)

    def clocks(self, kind: int, outputs: int, inputs: int, rows: int, processors: int) -> float:
        """Of the busiest processor, without the beginning and the end, which all forms have."""
        fetched = 128 * (ROWS + self.columns // self.cluster)
        step = max(PRODUCT_CLOCKS * self.columns + FETCHED_CLOCKS * fetched, fetched / FETCHED_BYTES)
        end = self.columns * (ADDED_CLOCKS if kind == ADD else END_CLOCKS)
        rounds = ceil_div(self.tiles(kind, outputs, rows), processors // self.cluster)
        return rounds * (ceil_div(inputs, 64) * step + end)


FORMS = (*(Form(columns, 2) for columns in (256, 192, 128, 96, 64)), Form(192, 1), Form(128, 1))


@functools.cache
def form_for(kind: int, outputs: int, inputs: int, rows: int, processors: int) -> Form:
    """The cheapest."""
    return min(FORMS, key=lambda form: form.clocks(kind, outputs, inputs, rows, processors))


@functools.cache
def efficiency(kind: int, outputs: int, inputs: int, rows: int, processors: int) -> float:
    """The share of what the card's rates allow that the kernel is reckoned to reach, its beginning aside."""
    products = (2 if kind == GATED else 1) * outputs * inputs
    least = max(products * rows / (PRODUCTS * processors), 2 * products / MEMORY_BYTES)
    return least / form_for(kind, outputs, inputs, rows, processors).clocks(kind, outputs, inputs, rows, processors)


def definitions(form: Form, kind: int, *, scaled: bool, biased: bool, gelu: bool) -> dict[str, int]:
    """What cuda/many_rows.cu is compiled with."""
    cut = {"COLS": form.columns, "STAGES": form.stages, "CLUSTER": form.cluster}
    return cut | {"KIND": kind, "SCALED": int(scaled), "BIASED": int(biased), "GELU": int(gelu)}


class _HeadArguments(ctypes.Structure):
    _fields_ = [
        ("product", Arguments),
        *((name, ctypes.c_void_p) for name in ("positions", "slots", "cos_sin", "q_norm", "k_norm")),
        *((name, ctypes.c_void_p) for name in ("keys", "values", "key_cache", "value_cache")),
        *((name, ctypes.c_int) for name in ("heads", "kv_heads")),
        ("head_eps", ctypes.c_float),
    ]


@functools.cache
def _kernel(form: Form, kind: int, scaled: bool, biased: bool, gelu: bool, device: torch.device) -> Kernel:
    code = machine_code("many_rows.cu", definitions(form, kind, scaled=scaled, biased=biased, gelu=gelu))
    return _loaded(form, code, device)


def _loaded(form: Form, code: bytes, device: torch.device) -> Kernel:
    with torch.cuda.device(device):
        return Kernel(code, "many_rows", threads=384, shared_bytes=form.stages * form.step_bytes + 1024)


HEAD_FORM = Form(256, 2)
"""Tiles hold whole heads."""


def head_definitions(size: int, normed: bool, biased: bool) -> dict[str, int]:
    """The same for heads of `size`."""
    return definitions(HEAD_FORM, HEADS, scaled=False, biased=biased, gelu=False) | {"SIZE": size, "NORMED": int(normed)}


@functools.cache
def _head_kernel(size: int, normed: bool, biased: bool, device: torch.device) -> Kernel:
    return _loaded(HEAD_FORM, machine_code("many_rows.cu", head_definitions(size, normed, biased)), device)


def wanted(kind: int, weight_NK: Tensor, rows: int, *, scaled: bool, biased: bool, gelu: bool) -> dict[str, int]:
    """What the kernel of such a product will be compiled with."""
    outputs, inputs = len(weight_NK) // (2 if kind == GATED else 1), weight_NK.shape[1]
    form = form_for(kind, outputs, inputs, rows, device_of(weight_NK.device).processors)
    return definitions(form, kind, scaled=scaled, biased=biased, gelu=gelu)


def form_of(product: Product) -> Form:
    """How `launch` cuts it."""
    return form_for(product.kind, product.outputs, product.inputs, product.rows, product.processors)


def launch(product: Product) -> None:
    """Queue one kernel."""
    form = form_of(product)
    kernel = _kernel(form, product.kind, **product.traits, device=product.device)
    _queue(kernel, form, product, product.arguments)


def launch_heads(product: Product, heads: Heads, kept: tuple[Tensor, Tensor] | None) -> None:
    """Queue one kernel of kind HEADS: its output has the queries, `kept` keys and values of all rows where they are wanted beside the caches."""
    prepare, (kv_heads, size) = heads.prepare, heads.k_cache_PSKH.shape[2:]
    assert heads.positions_T.dtype is heads.slots_T.dtype is torch.int64
    tensors = (heads.positions_T, heads.slots_T, prepare.cos_sin_LH, prepare.q_norm_H, prepare.k_norm_H)
    caches = (heads.k_cache_PSKH, heads.v_cache_PSKH)
    arguments = _HeadArguments(
        product.arguments,
        *(pointer(tensor) for tensor in (*tensors, *(kept or (None, None)), *caches)),
        product.outputs // size - 2 * kv_heads,
        kv_heads,
        prepare.eps,
    )
    kernel = _head_kernel(size, prepare.q_norm_H is not None, product.bias_N is not None, product.device)
    _queue(kernel, HEAD_FORM, product, arguments)


def _queue(kernel: Kernel, form: Form, product: Product, arguments: Argument) -> None:
    clusters = min(form.tiles(product.kind, product.outputs, product.rows), product.processors // form.cluster)
    maps = [grouped_map(product.weight_NK, form.columns // 2), tensor_map(product.x_TK, ROWS)]
    kernel.launch(clusters * form.cluster, [*maps, arguments], dependent=True, cluster=form.cluster)
