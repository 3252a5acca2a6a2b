"""Triton kernels of decode_step.py: one program a row at the beginning, one program in all at the end.

A row's record is read over the bus, once: its words lie side by side, and all of them are on their way before the first is
used. Open `begin_decode` first. Legend as in decode_step.py; X columns of a tile.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from redline.kernels.decode_step import RECORD_WORDS, Rows
from redline.kernels.op import dependent_launch, next_power_of_two
from redline.kernels.skinny import Chosen

MAX_BLOCK = 1024


def begin_decode(
    records_ZBW: Tensor, step: Tensor, table_RL: Tensor, pages_RC: Tensor, rows: int, pages: int, page_size: int
) -> Rows:
    """See decode_step.begin_decode. One launch, no synchronisation."""
    assert records_ZBW.is_contiguous() and table_RL.stride(1) == 1 and pages_RC.stride(1) == 1
    found = Rows.empty(rows, pages, table_RL.device)
    block = min(MAX_BLOCK, max(32, next_power_of_two(pages)))
    _begin[(rows,)](
        records_ZBW,
        step,
        table_RL,
        pages_RC,
        *found,
        len(records_ZBW),
        records_ZBW.shape[1],
        table_RL.stride(0),
        pages_RC.stride(0),
        pages,
        WORDS=RECORD_WORDS,
        PAGE_SIZE=page_size,
        BLOCK=block,
        num_warps=max(1, block // 256),
        **dependent_launch(table_RL),
    )
    return found


def end_decode(
    tokens_B: Tensor | Chosen, rows_B: Tensor, columns_B: Tensor, table_RL: Tensor, output_ZB: Tensor, step: Tensor
) -> None:
    """See decode_step.end_decode. One launch, no synchronisation."""
    are_keys = isinstance(tokens_B, Chosen)
    found_B = tokens_B.keys_T if isinstance(tokens_B, Chosen) else tokens_B
    rows = len(found_B)
    assert found_B.is_contiguous() and output_ZB.is_contiguous() and table_RL.stride(1) == 1
    block = min(MAX_BLOCK, max(32, next_power_of_two(rows)))
    _end[(1,)](
        found_B,
        rows_B,
        columns_B,
        table_RL,
        output_ZB,
        step,
        rows,
        len(output_ZB),
        output_ZB.shape[1],
        table_RL.stride(0),
        KEYS=are_keys,
        BLOCK=block,
        num_warps=max(1, block // 256),
        **dependent_launch(table_RL),
    )


@triton.jit(do_not_specialize=["slots", "most_rows", "table_stride", "pages_stride", "pages"])
def _begin(
    records_ZBW,
    step,
    table_RL,
    pages_RC,
    tokens_B,
    positions_B,
    slots_B,
    context_B,
    page_table_BP,
    rows_B,
    columns_B,
    temperature_B,
    top_k_B,
    top_p_B,
    min_p_B,
    seed_B,
    slots,
    most_rows,
    table_stride,
    pages_stride,
    pages,
    WORDS: tl.constexpr,
    PAGE_SIZE: tl.constexpr,
    BLOCK: tl.constexpr,
    DEPENDENT: tl.constexpr,
):
    if DEPENDENT:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()
    b = tl.program_id(0).to(tl.int64)
    slot = tl.load(step) % slots
    record = records_ZBW + (slot * most_rows + b) * WORDS
    row = tl.load(record).to(tl.int64)
    signed = tl.load(record + 1)
    patch_column = tl.load(record + 2)
    patch_page = tl.load(record + 3)
    temperature = tl.load(record + 4).to(tl.float32, bitcast=True)
    top_k = tl.load(record + 5)
    top_p = tl.load(record + 6).to(tl.float32, bitcast=True)
    min_p = tl.load(record + 7).to(tl.float32, bitcast=True)
    low = tl.load(record + 8).to(tl.int64) & 0xFFFFFFFF
    high = tl.load(record + 9).to(tl.int64)

    position = tl.maximum(signed, 0)
    own_C = pages_RC + row * pages_stride
    column = position // PAGE_SIZE
    page = tl.where(column == patch_column, patch_page, tl.load(own_C + column)).to(tl.int64)
    token = tl.load(table_RL + row * table_stride + position)
    tl.store(tokens_B + b, token.to(tl.int64))
    tl.store(positions_B + b, position.to(tl.int64))
    tl.store(slots_B + b, tl.where(signed < 0, -1, page * PAGE_SIZE + position % PAGE_SIZE))
    tl.store(context_B + b, signed + 1)
    tl.store(rows_B + b, row)
    tl.store(columns_B + b, (signed + 1).to(tl.int64))
    tl.store(temperature_B + b, temperature)
    tl.store(top_k_B + b, top_k)
    tl.store(top_p_B + b, top_p)
    tl.store(min_p_B + b, min_p)
    tl.store(seed_B + b, (high << 32) | low)

    for first in range(0, pages, BLOCK):
        x = first + tl.arange(0, BLOCK)
        inside = x < pages
        page_X = tl.load(own_C + x, mask=inside, other=0)
        page_X = tl.where(x == patch_column, patch_page, page_X)
        tl.store(page_table_BP + b * pages + x, page_X, mask=inside)
    tl.debug_barrier()  # the patched entry has been read by all
    if patch_column >= 0:
        tl.store(own_C + patch_column, patch_page)


@triton.jit(do_not_specialize=["rows", "slots", "most_rows", "table_stride"])
def _end(
    tokens_B,
    rows_B,
    columns_B,
    table_RL,
    output_ZB,
    step,
    rows,
    slots,
    most_rows,
    table_stride,
    KEYS: tl.constexpr,
    BLOCK: tl.constexpr,
    DEPENDENT: tl.constexpr,
):
    if DEPENDENT:
        tl.extra.cuda.gdc_wait()
    number = tl.load(step)
    output_B = output_ZB + (number % slots) * most_rows
    for first in range(0, rows, BLOCK):
        b = first + tl.arange(0, BLOCK)
        inside = b < rows
        found_B = tl.load(tokens_B + b, mask=inside, other=0)
        if KEYS:  # see skinny.Chosen
            tl.store(tokens_B + b, tl.zeros_like(found_B), mask=inside)
            found_B = tl.where(found_B == 0, 0, 0xFFFFFFFF - (found_B & 0xFFFFFFFF))
        token_B = found_B.to(tl.int32)
        row_B = tl.load(rows_B + b, mask=inside, other=0)
        column_B = tl.load(columns_B + b, mask=inside, other=0)
        tl.store(output_B + b, token_B, mask=inside)
        tl.store(table_RL + row_B * table_stride + column_B, token_B, mask=inside)
    tl.debug_barrier()  # the count has been read by all
    tl.store(step, number + 1)
