"""Hopper's kernels of skinny.py, chosen by the number of rows: one_row_cuda.py, skinny_cuda.py, many_rows_cuda.py.

Open `linear`, then `_launch`. T rows, K inputs, N outputs, F half of the outputs of a gated layer, Z parts of a sum of squares.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from redline.kernels import many_rows_cuda, one_row_cuda, skinny_cuda
from redline.kernels.product import ADD, CHOOSE, GATED, STORE, STORE_FLOAT, Product
from redline.kernels.skinny import FEW_ROWS, Chosen, Gained


def _launch(product: Product) -> None:
    if product.rows <= one_row_cuda.MOST_ROWS:
        one_row_cuda.launch(product)
    elif product.rows <= FEW_ROWS:
        skinny_cuda.launch(product)
    else:
        many_rows_cuda.launch(product)


def _empty(x_TK: Tensor, columns: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return torch.empty((x_TK.shape[0], columns), dtype=dtype, device=x_TK.device)


def linear(gained: Gained, weight_NK: Tensor, bias_N: Tensor | None = None, *, first: bool = False) -> Tensor:
    """See skinny.linear."""
    x_TK = gained.gained_TK
    output_TN = _empty(x_TK, weight_NK.shape[0])
    _launch(Product(STORE, x_TK, weight_NK, output_TN, gained=gained, bias_N=bias_N, late=first))
    return output_TN


def gated(gained: Gained, weight_2FK: Tensor, gelu: bool = False) -> Tensor:
    """See skinny.gated."""
    x_TK = gained.gained_TK
    output_TF = _empty(x_TK, weight_2FK.shape[0] // 2)
    _launch(Product(GATED, x_TK, weight_2FK, output_TF, gained=gained, gelu=gelu))
    return output_TF


def gated_linear(x_TD: Tensor, weight_2FD: Tensor, gelu: bool = False) -> Tensor:
    """See gated_linear.gated_linear."""
    output_TF = _empty(x_TD, weight_2FD.shape[0] // 2)
    _launch(Product(GATED, x_TD.contiguous(), weight_2FD, output_TF, gelu=gelu))
    return output_TF


def project(gained: Gained, weight_NK: Tensor) -> Tensor:
    """See skinny.project."""
    x_TK = gained.gained_TK
    output_TN = _empty(x_TK, weight_NK.shape[0], torch.float32)
    _launch(Product(STORE_FLOAT, x_TK, weight_NK, output_TN, gained=gained))
    return output_TN


@functools.cache
def _keys(device: torch.device) -> Tensor:
    """int64 [FEW_ROWS], all zero between a step's end and the next one's head. Made at the first launch, which must not be under capture: what
    is allocated under capture is the graph's."""
    with torch.inference_mode(False):  # whoever reads them may be outside
        return torch.zeros(FEW_ROWS, dtype=torch.int64, device=device)


def choose(gained: Gained, weight_NK: Tensor) -> Chosen:
    """See skinny.choose."""
    chosen = Chosen(_keys(weight_NK.device)[: gained.gained_TK.shape[0]])
    _launch(Product(CHOOSE, gained.gained_TK, weight_NK, chosen.keys_T, gained=gained))
    return chosen


def add(x_TK: Tensor, weight_NK: Tensor, stream_TN: Tensor, gain_N: Tensor, eps: float, bias_N: Tensor | None = None) -> Gained:
    """See skinny.add."""
    output_TN = _empty(x_TK, weight_NK.shape[0])
    product = Product(ADD, x_TK, weight_NK, output_TN, stream_TN, gain_N, bias_N=bias_N)
    squares_ZT = torch.empty((_parts(product), product.rows), dtype=torch.float32, device=product.device)
    _launch(Product(ADD, x_TK, weight_NK, output_TN, stream_TN, gain_N, squares_ZT, bias_N=bias_N))
    return Gained(output_TN, squares_ZT, eps)


def _parts(product: Product) -> int:
    """In which the kernel leaves a row's sum of squares."""
    if product.rows <= one_row_cuda.MOST_ROWS:
        return one_row_cuda.parts(product.kind, product.outputs, product.inputs)
    if product.rows <= FEW_ROWS:
        form = skinny_cuda.form_of(product)
        return form.tiles(product.kind, product.outputs) * form.blocks
    return many_rows_cuda.form_of(product).column_tiles(product.kind, product.outputs)
