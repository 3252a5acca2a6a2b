"""The beginning of a captured step for new tokens of one sequence: from words in host memory to what the layers read.

    page table[row, patch column + i] = patches[i],  token table[row, upload column + i] = uploads[i]
    token t of `count`:  position = start + t,  token table[row, position],  KV slot through the page table

As in decode_step.py the addresses are fixed and the host writes the next step's words while one runs: a ring of Z slots in
pinned host memory, of which a counter on the device says which is read. What the tables lack comes with the words, so that
a prompt on an idle engine needs no copy. Tokens past `count` are padding: token 0, position 0, slot -1, in no sequence.

The step ends as one of decoding does (`decode_step.end_decode`), with one row. Knows nothing of requests. Open `Prompt`, then
`begin_prompt`. The kernel is in prompt_step_triton.py.

T tokens with padding, B = 1 sequence, Z slots, W words of one, R rows of the tables, L positions, C pages of a row, P of
them used here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from redline.kernels.decode_step import (
    MIN_P,
    PATCH_COLUMN,
    POSITION,
    RECORD_WORDS,
    ROW,
    SEED,
    TEMPERATURE,
    TOP_K,
    TOP_P,
)
from redline.kernels.op import Inputs, OpSpec, use_triton
from redline.ops import OPS

COUNT, PATCHES, UPLOAD_COLUMN, UPLOADS = range(10, 14)
"""Words of a prompt's record beyond those of decode_step.py, whose position is the first token's here, and whose patch is the
first of `PATCHES` consecutive ones."""

MOST_PATCHES, MOST_UPLOADS = 64, 512
PATCHES_AT = RECORD_WORDS
UPLOADS_AT = PATCHES_AT + MOST_PATCHES
PROMPT_WORDS = UPLOADS_AT + MOST_UPLOADS


class Prompt(NamedTuple):
    """What one step reads of a sequence's new tokens, and how it samples; names as in `decode_step.Rows`."""

    tokens_T: Tensor  # int64
    positions_T: Tensor  # int64
    slots_T: Tensor  # int64
    query_start_B1: Tensor  # int32: 0 and the number of tokens that are no padding
    context_B: Tensor  # int32
    page_table_BP: Tensor  # int32
    last_B: Tensor  # int64: the token whose logits count
    rows_B: Tensor  # int64
    columns_B: Tensor  # int64: where the next token goes, which is its position
    temperature_B: Tensor  # float32
    top_k_B: Tensor  # int32
    top_p_B: Tensor  # float32
    min_p_B: Tensor  # float32
    seed_B: Tensor  # int64

    @classmethod
    def empty(cls, tokens: int, pages: int, device: torch.device) -> Prompt:
        """Unwritten memory."""

        def vector(dtype: torch.dtype, size: int = 1) -> Tensor:
            return torch.empty(size, dtype=dtype, device=device)

        wide, narrow, real = torch.int64, torch.int32, torch.float32
        return cls(
            tokens_T=vector(wide, tokens),
            positions_T=vector(wide, tokens),
            slots_T=vector(wide, tokens),
            query_start_B1=vector(narrow, 2),
            context_B=vector(narrow),
            page_table_BP=torch.empty((1, pages), dtype=narrow, device=device),
            last_B=vector(wide),
            rows_B=vector(wide),
            columns_B=vector(wide),
            temperature_B=vector(real),
            top_k_B=vector(narrow),
            top_p_B=vector(real),
            min_p_B=vector(real),
            seed_B=vector(wide),
        )


def begin_prompt(
    prompts_ZW: Tensor, step: Tensor, table_RL: Tensor, pages_RC: Tensor, tokens: int, pages: int, page_size: int
) -> Prompt:
    """The slot's prompt, padded to `tokens`, with the first `pages` columns of its page table; writes what came with it into
    both tables.

    `prompts` is int32, on the host in pinned memory where the tables are on a GPU; `step` int64 [1]; `table` and `pages_RC`
    int32. `tokens` is at least the slot's `COUNT`.
    """
    if use_triton(table_RL):
        from redline.kernels import prompt_step_triton

        return prompt_step_triton.begin_prompt(prompts_ZW, step, table_RL, pages_RC, tokens, pages, page_size)
    words_W = prompts_ZW[int(step) % len(prompts_ZW)].clone()
    row, start, count = int(words_W[ROW]), int(words_W[POSITION]), int(words_W[COUNT])
    column, patches = int(words_W[PATCH_COLUMN]), int(words_W[PATCHES])
    pages_RC[row, column : column + patches] = words_W[PATCHES_AT : PATCHES_AT + patches]
    column, uploads = int(words_W[UPLOAD_COLUMN]), int(words_W[UPLOADS])
    table_RL[row, column : column + uploads] = words_W[UPLOADS_AT : UPLOADS_AT + uploads]
    found = Prompt.empty(tokens, pages, table_RL.device)
    positions_T = torch.arange(start, start + count)
    found.tokens_T[:count], found.tokens_T[count:] = table_RL[row, start : start + count], 0
    found.positions_T[:count], found.positions_T[count:] = positions_T, 0
    slots_T = pages_RC[row, positions_T // page_size].long() * page_size + positions_T % page_size
    found.slots_T[:count], found.slots_T[count:] = slots_T, -1
    found.query_start_B1[0], found.query_start_B1[1] = 0, count
    found.context_B[0] = found.columns_B[0] = start + count
    found.page_table_BP[0] = pages_RC[row, :pages]
    found.last_B[0], found.rows_B[0] = max(0, count - 1), row
    reals_W = words_W.view(torch.float32)
    found.temperature_B[0], found.top_k_B[0] = reals_W[TEMPERATURE], words_W[TOP_K]
    found.top_p_B[0], found.min_p_B[0] = reals_W[TOP_P], reals_W[MIN_P]
    found.seed_B[0] = words_W[SEED : SEED + 2].view(torch.int64)[0]
    return found


def reference(
    prompts_ZW: Tensor, step: Tensor, table_RL: Tensor, pages_RC: Tensor, tokens: int, pages: int, page_size: int
) -> tuple[Tensor, ...]:
    """Token by token. The last results are the tables as they are afterwards."""
    table, after = table_RL.cpu().clone(), pages_RC.cpu().clone()
    words = prompts_ZW[int(step) % len(prompts_ZW)].cpu()
    row, start, count = int(words[ROW]), int(words[POSITION]), int(words[COUNT])
    for i in range(int(words[PATCHES])):
        after[row, int(words[PATCH_COLUMN]) + i] = words[PATCHES_AT + i]
    for i in range(int(words[UPLOADS])):
        table[row, int(words[UPLOAD_COLUMN]) + i] = words[UPLOADS_AT + i]
    columns: list[list[int]] = [[], [], []]
    for t in range(tokens):
        at = start + t
        slot = int(after[row, at // page_size]) * page_size + at % page_size if t < count else -1
        for column, value in zip(columns, (int(table[row, at]), at, slot) if t < count else (0, 0, -1), strict=True):
            column.append(value)
    reals = words.view(torch.float32)
    wide, narrow, real = torch.int64, torch.int32, torch.float32
    seed = (int(words[SEED + 1]) << 32) | (int(words[SEED]) & 0xFFFFFFFF)
    results = (
        *(torch.tensor(column, dtype=wide) for column in columns),
        torch.tensor([0, count], dtype=narrow),
        torch.tensor([start + count], dtype=narrow),
        after[row : row + 1, :pages],
        *(torch.tensor([value], dtype=wide) for value in (max(0, count - 1), row, start + count)),
        torch.tensor([float(reals[TEMPERATURE])], dtype=real),
        torch.tensor([int(words[TOP_K])], dtype=narrow),
        *(torch.tensor([float(reals[word])], dtype=real) for word in (TOP_P, MIN_P)),
        torch.tensor([seed], dtype=wide),
        table,
        after,
    )
    return tuple(result.to(table_RL.device) for result in results)


def _make_inputs(axes: Mapping[str, int], dtype: torch.dtype, device: torch.device, seed: int) -> Inputs:
    """A prompt of `Q` tokens (default: T), behind `OLD` others, whose pages from `HAVE` on come with it, and its tokens but
    for the first `KNOWN` of all."""
    tokens, pages, page_size = axes["T"], axes["P"], axes["S"]
    count, start = axes.get("Q", tokens), axes.get("OLD", 0)
    generator = torch.Generator().manual_seed(seed)

    def integers(most: int, *shape: int) -> Tensor:
        return torch.randint(most, shape, generator=generator).to(torch.int32)

    words = torch.randint(-(2**31), 2**31, (2, PROMPT_WORDS), generator=generator).to(torch.int32)
    used = -(-(start + count) // page_size)
    have, known = axes.get("HAVE", 0), axes.get("KNOWN", start)
    for word, value in (
        (ROW, 3),
        (POSITION, start),
        (COUNT, count),
        (PATCH_COLUMN, have),
        (PATCHES, used - have),
        (UPLOAD_COLUMN, known),
        (UPLOADS, start + count - known),
    ):
        words[:, word] = value
    words[:, PATCHES_AT:UPLOADS_AT] = integers(1 << 20, 2, MOST_PATCHES)
    words[:, UPLOADS_AT:] = integers(1 << 18, 2, MOST_UPLOADS)
    reals = words.view(torch.float32)
    for word in (TEMPERATURE, TOP_P, MIN_P):
        reals[:, word] = torch.rand(2, generator=generator)
    return {
        "prompts_ZW": words.pin_memory() if device.type == "cuda" else words,
        "step": torch.tensor([seed], device=device),
        "table_RL": integers(1 << 18, 5, pages * page_size + 1).to(device),
        "pages_RC": integers(1 << 20, 5, pages + 1).to(device),
        "tokens": tokens,
        "pages": pages,
        "page_size": page_size,
    }


SPEC = OpSpec(
    op=OPS["begin_prompt"],
    reference=reference,
    run=begin_prompt,
    make_inputs=_make_inputs,
    cases=(
        {"T": 1, "P": 1, "S": 1},
        {"T": 16, "P": 40, "S": 64, "Q": 7},
        {"T": 32, "P": 3, "S": 16, "Q": 0, "OLD": 3},
        {"T": 384, "P": 1500, "S": 16, "Q": 383, "OLD": 301, "HAVE": 9, "KNOWN": 200},
        {"T": 512, "P": 130, "S": 64, "Q": 512, "OLD": 7000, "HAVE": 118, "KNOWN": 7400},
    ),
    tolerance="exact",
    triton="redline.kernels.prompt_step_triton:begin_prompt",
    mutates=("table_RL", "pages_RC"),
)
