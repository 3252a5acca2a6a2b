"""Triton kernel of prompt_step.py: one program, a few microseconds. Open `begin_prompt` first.

Places that it writes in the two tables are never read there, so that nothing has to wait for a write. Legend as in
prompt_step.py; X columns of a tile.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from redline.kernels.op import next_power_of_two
from redline.kernels.prompt_step import MOST_PATCHES, MOST_UPLOADS, PATCHES_AT, PROMPT_WORDS, UPLOADS_AT, Prompt

MAX_BLOCK = 1024


def begin_prompt(
    prompts_ZW: Tensor, step: Tensor, table_RL: Tensor, pages_RC: Tensor, tokens: int, pages: int, page_size: int
) -> Prompt:
    """See prompt_step.begin_prompt. One launch, no synchronisation."""
    assert prompts_ZW.is_contiguous() and table_RL.stride(1) == 1 and pages_RC.stride(1) == 1
    found = Prompt.empty(tokens, pages, table_RL.device)
    _begin[(1,)](
        prompts_ZW,
        step,
        table_RL,
        pages_RC,
        *found,
        len(prompts_ZW),
        table_RL.stride(0),
        pages_RC.stride(0),
        tokens,
        pages,
        WORDS=PROMPT_WORDS,
        PATCHES_AT=PATCHES_AT,
        UPLOADS_AT=UPLOADS_AT,
        MOST_PATCHES=MOST_PATCHES,
        MOST_UPLOADS=MOST_UPLOADS,
        PAGE_SIZE=page_size,
        TOKENS=max(MOST_UPLOADS, next_power_of_two(tokens)),  # the same for all that are captured: compiled once
        BLOCK=min(MAX_BLOCK, max(32, next_power_of_two(pages))),
        num_warps=4,
    )
    return found


@triton.jit(do_not_specialize=["slots", "table_stride", "pages_stride", "tokens", "pages"])
def _begin(
    prompts_ZW,
    step,
    table_RL,
    pages_RC,
    tokens_T,
    positions_T,
    slots_T,
    query_start_B1,
    context_B,
    page_table_BP,
    last_B,
    rows_B,
    columns_B,
    temperature_B,
    top_k_B,
    top_p_B,
    min_p_B,
    seed_B,
    slots,
    table_stride,
    pages_stride,
    tokens,
    pages,
    WORDS: tl.constexpr,
    PATCHES_AT: tl.constexpr,
    UPLOADS_AT: tl.constexpr,
    MOST_PATCHES: tl.constexpr,
    MOST_UPLOADS: tl.constexpr,
    PAGE_SIZE: tl.constexpr,
    TOKENS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    record = prompts_ZW + (tl.load(step) % slots) * WORDS
    row = tl.load(record).to(tl.int64)
    start = tl.load(record + 1)
    patch_column = tl.load(record + 2)
    temperature = tl.load(record + 4).to(tl.float32, bitcast=True)
    top_k = tl.load(record + 5)
    top_p = tl.load(record + 6).to(tl.float32, bitcast=True)
    min_p = tl.load(record + 7).to(tl.float32, bitcast=True)
    low = tl.load(record + 8).to(tl.int64) & 0xFFFFFFFF
    high = tl.load(record + 9).to(tl.int64)
    count = tl.load(record + 10)
    patches = tl.load(record + 11)
    upload_column = tl.load(record + 12)
    uploads = tl.load(record + 13)
    own_L = table_RL + row * table_stride
    own_C = pages_RC + row * pages_stride

    u = tl.arange(0, MOST_UPLOADS)
    upload_U = tl.load(record + UPLOADS_AT + u, mask=u < uploads, other=0)
    p = tl.arange(0, MOST_PATCHES)
    patch_P = tl.load(record + PATCHES_AT + p, mask=p < patches, other=0)
    tl.store(own_L + upload_column + u, upload_U, mask=u < uploads)
    tl.store(own_C + patch_column + p, patch_P, mask=p < patches)

    t = tl.arange(0, TOKENS)
    real_T = t < count
    position_T = start + t
    upload_T = position_T - upload_column
    uploaded_T = (upload_T >= 0) & (upload_T < uploads)
    new_T = tl.load(record + UPLOADS_AT + upload_T, mask=real_T & uploaded_T, other=0)
    old_T = tl.load(own_L + position_T, mask=real_T & ~uploaded_T, other=0)
    column_T = position_T // PAGE_SIZE
    patch_T = column_T - patch_column
    patched_T = (patch_T >= 0) & (patch_T < patches)
    new_page_T = tl.load(record + PATCHES_AT + patch_T, mask=real_T & patched_T, other=0)
    old_page_T = tl.load(own_C + column_T, mask=real_T & ~patched_T, other=0)
    slot_T = (new_page_T + old_page_T).to(tl.int64) * PAGE_SIZE + position_T % PAGE_SIZE  # one of the two is 0
    tl.store(tokens_T + t, (new_T + old_T).to(tl.int64), mask=t < tokens)
    tl.store(positions_T + t, tl.where(real_T, position_T, 0).to(tl.int64), mask=t < tokens)
    tl.store(slots_T + t, tl.where(real_T, slot_T, -1), mask=t < tokens)

    for first in range(0, pages, BLOCK):
        x = first + tl.arange(0, BLOCK)
        patch_X = x - patch_column
        patched_X = (patch_X >= 0) & (patch_X < patches)
        new_X = tl.load(record + PATCHES_AT + patch_X, mask=(x < pages) & patched_X, other=0)
        old_X = tl.load(own_C + x, mask=(x < pages) & ~patched_X, other=0)
        tl.store(page_table_BP + x, new_X + old_X, mask=x < pages)

    tl.store(query_start_B1, 0)
    tl.store(query_start_B1 + 1, count)
    tl.store(context_B, start + count)
    tl.store(last_B, tl.maximum(count - 1, 0).to(tl.int64))
    tl.store(rows_B, row)
    tl.store(columns_B, (start + count).to(tl.int64))
    tl.store(temperature_B, temperature)
    tl.store(top_k_B, top_k)
    tl.store(top_p_B, top_p)
    tl.store(min_p_B, min_p)
    tl.store(seed_B, (high << 32) | low)
