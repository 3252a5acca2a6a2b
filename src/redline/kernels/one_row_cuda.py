"""Hopper's kernels of skinny.py for one row, or very few: the launcher of cuda/one_row.cu. Open `launch`.

T rows, K inputs, N outputs.
"""

from __future__ import annotations

import ctypes
import functools
from dataclasses import dataclass, replace

import torch

from redline.kernels.cuda.compiler import machine_code
from redline.kernels.cuda.launcher import Kernel
from redline.kernels.op import ceil_div
from redline.kernels.product import GATED, Arguments, Product, pointer

MOST_ROWS = 1
"""With two rows and more, tensor cores are faster (measured on an H200)."""

MOST_THREADS = 512

SHARED_PERCENT = 4
"""All but 8 KiB of a processor's memory are left to its level-1 cache, through which weights are read: a step of a 0.6B is 5 % shorter than by the driver's choice, of
a 1B 1 %, of an 8B 1 % behind 8,000 and 32,000 tokens (H200)."""


@dataclass(frozen=True)
class Form:
    """How a kernel cuts its work: rows of W of a block, eights of columns of a thread, threads; 1 turn where the compiler may count on it,
    2 for any number; of a thread's eights of columns, the last so many are asked for behind X."""

    outputs: int
    chunks: int
    threads: int
    turns: int
    held: int = 0

    def results(self, kind: int) -> int:
        return self.outputs // 2 if kind == GATED else self.outputs


class _Arguments(ctypes.Structure):
    """cuda/one_row.cu's."""

    _fields_ = [("weight", ctypes.c_void_p), ("x", ctypes.c_void_p), ("others", Arguments)]


def form_for(kind: int, outputs: int, inputs: int) -> Form:
    """As measured on an H200 inside chains of layers (docs/log.md): many rows of W for each reading of x, as long as every
    processor has several blocks, and everything a thread needs on its way at once."""
    if kind == GATED:
        form = _form(4, 4 if inputs > 2048 else 2, inputs)
        # A quarter of the weights held back: 8B 0.3 % less a step, 1 % behind long contexts, a 3B 1.4 %. Half or an eighth, or a quarter where the last is
        # not whole or where a thread has two, is slower, and so is any of it in other products.
        return replace(form, held=int(form.chunks == 4 and inputs == form.threads * form.chunks * 8))
    if inputs > 6144 and outputs < 4096:
        return _form(4, 4, inputs)
    if inputs > 12288:  # more would not fit into a processor's registers
        return _form(8, 2, inputs, turns=2)
    return _form(8, 4 if inputs > 6144 else 2, inputs)


def _form(outputs: int, chunks: int, inputs: int, turns: int = 1) -> Form:
    """One turn alone needs a fifth fewer registers. Only where those are short is the compiler told: with three blocks on a processor and
    not two, attention, which they wait for, takes longer than they gain (docs/log.md)."""
    threads = min(MOST_THREADS, 32 * ceil_div(inputs, turns * 32 * 8 * chunks))
    is_short = outputs * chunks >= 32 and inputs <= threads * chunks * 8
    return Form(outputs, chunks, threads, 1 if is_short else 2)


def definitions(form: Form, kind: int, rows: int, *, scaled: bool, biased: bool, gelu: bool) -> dict[str, int]:
    """What cuda/one_row.cu is compiled with."""
    padded = next(size for size in (1, 2, 4) if size >= rows)
    cut = {
        "ROWS": padded,
        "OUTPUTS": form.outputs,
        "CHUNKS": form.chunks,
        "THREADS": form.threads,
        "TURNS": form.turns,
        "HELD": form.held,
    }
    return cut | {"KIND": kind, "SCALED": int(scaled), "BIASED": int(biased), "GELU": int(gelu)}


@functools.cache
def _kernel(form: Form, kind: int, rows: int, scaled: bool, biased: bool, gelu: bool, device: torch.device) -> Kernel:
    code = machine_code("one_row.cu", definitions(form, kind, rows, scaled=scaled, biased=biased, gelu=gelu))
    with torch.cuda.device(device):
        return Kernel(code, "one_row", threads=form.threads, shared_percent=SHARED_PERCENT)


def parts(kind: int, outputs: int, inputs: int) -> int:
    """Blocks, each of which leaves a part of a row's sum of squares."""
    return ceil_div(outputs, form_for(kind, outputs, inputs).results(kind))


def launch(product: Product) -> None:
    """Queue one kernel."""
    kind, outputs, inputs = product.kind, product.outputs, product.inputs
    kernel = _kernel(form_for(kind, outputs, inputs), kind, product.rows, **product.traits, device=product.device)
    arguments = _Arguments(pointer(product.weight_NK), pointer(product.x_TK), product.arguments)
    kernel.launch(parts(kind, outputs, inputs), [arguments], dependent=True)
