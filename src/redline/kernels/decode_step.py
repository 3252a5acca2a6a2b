"""The two ends of a captured decode step: from a few words per row to what the layers read, and from tokens to memory.

    begin:  record[slot, b] -> the row's newest token and position, its KV slot, context and page table, how it samples
    end:    token[b] -> token table[row[b], position[b] + 1] and output[slot, b];  step += 1        slot = step mod Z

A captured step has fixed addresses, and the host writes the next step's records while one runs. So records and outputs
are rings of Z slots in pinned host memory, and a counter on the device says which slot is read: no copy stands between
two steps. A record of position -1 is padding: context 0, slot -1, the last row of both tables.

Knows nothing of requests. Open `Rows`, then `begin_decode`. The kernels are in decode_step_triton.py.

B rows of the step, Z slots, W words of a record, R rows of the tables, L positions, C pages of a row, P of them used here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from redline.kernels.op import Inputs, OpSpec, use_triton
from redline.kernels.skinny import Chosen, keys_of
from redline.ops import OPS

RECORD_WORDS = 16
"""int32 words of a record: 64 bytes, two sectors of host memory. Those not named below are free."""

ROW, POSITION, PATCH_COLUMN, PATCH_PAGE, TEMPERATURE, TOP_K, TOP_P, MIN_P, SEED = range(9)
"""What the words are. A patch goes into the row's page table first (column -1: none). Temperature, top_p and min_p are the bits
of float32 numbers; the seed is 64 bits wide, its lower half first."""


class Rows(NamedTuple):
    """What one decode step reads, row by row."""

    tokens_B: Tensor  # int64
    positions_B: Tensor  # int64; 0 of padding
    slots_B: Tensor  # int64; -1 of padding
    context_B: Tensor  # int32; 0 of padding
    page_table_BP: Tensor  # int32
    rows_B: Tensor  # int64
    columns_B: Tensor  # int64: where the next token goes, which is its position
    temperature_B: Tensor  # float32
    top_k_B: Tensor  # int32
    top_p_B: Tensor  # float32
    min_p_B: Tensor  # float32
    seed_B: Tensor  # int64

    @classmethod
    def empty(cls, rows: int, pages: int, device: torch.device) -> Rows:
        """Unwritten memory."""

        def vector(dtype: torch.dtype) -> Tensor:
            return torch.empty(rows, dtype=dtype, device=device)

        wide, narrow, real = torch.int64, torch.int32, torch.float32
        return cls(
            tokens_B=vector(wide),
            positions_B=vector(wide),
            slots_B=vector(wide),
            context_B=vector(narrow),
            page_table_BP=torch.empty((rows, pages), dtype=narrow, device=device),
            rows_B=vector(wide),
            columns_B=vector(wide),
            temperature_B=vector(real),
            top_k_B=vector(narrow),
            top_p_B=vector(real),
            min_p_B=vector(real),
            seed_B=vector(wide),
        )


def begin_decode(
    records_ZBW: Tensor, step: Tensor, table_RL: Tensor, pages_RC: Tensor, rows: int, pages: int, page_size: int
) -> Rows:
    """The first `rows` records of the slot, with the first `pages` columns of their page tables; writes patches into `pages_RC`.

    `records` is int32, on the host in pinned memory where the tables are on a GPU; `step` int64 [1]; `table` and `pages_RC`
    int32. A row that is patched occurs once.
    """
    if use_triton(table_RL):
        from redline.kernels import decode_step_triton

        return decode_step_triton.begin_decode(records_ZBW, step, table_RL, pages_RC, rows, pages, page_size)
    records_BW = records_ZBW[int(step) % len(records_ZBW), :rows].clone()
    rows_B, signed_B = records_BW[:, ROW].long(), records_BW[:, POSITION].long()
    patched = records_BW[:, PATCH_COLUMN] >= 0
    pages_RC[rows_B[patched], records_BW[patched, PATCH_COLUMN].long()] = records_BW[patched, PATCH_PAGE]
    positions_B = signed_B.clamp(min=0)
    slots_B = pages_RC[rows_B, positions_B // page_size].long() * page_size + positions_B % page_size
    floats_BW = records_BW.view(torch.float32)
    return Rows(
        tokens_B=table_RL[rows_B, positions_B].long(),
        positions_B=positions_B,
        slots_B=slots_B.masked_fill_(signed_B < 0, -1),
        context_B=(signed_B + 1).to(torch.int32),
        page_table_BP=pages_RC[rows_B, :pages],
        rows_B=rows_B,
        columns_B=signed_B + 1,
        temperature_B=floats_BW[:, TEMPERATURE].contiguous(),
        top_k_B=records_BW[:, TOP_K].contiguous(),
        top_p_B=floats_BW[:, TOP_P].contiguous(),
        min_p_B=floats_BW[:, MIN_P].contiguous(),
        seed_B=records_BW[:, SEED : SEED + 2].contiguous().view(torch.int64).squeeze(1),
    )


def end_decode(
    tokens_B: Tensor | Chosen, rows_B: Tensor, columns_B: Tensor, table_RL: Tensor, output_ZB: Tensor, step: Tensor
) -> None:
    """Hand the sampled tokens (int64), or those that the head chose, to the next step and to the host, and count the step. `output` is
    int32, as `records`."""
    if use_triton(table_RL):
        from redline.kernels import decode_step_triton

        return decode_step_triton.end_decode(tokens_B, rows_B, columns_B, table_RL, output_ZB, step)
    tokens = (tokens_B.take() if isinstance(tokens_B, Chosen) else tokens_B).to(torch.int32)
    table_RL[rows_B, columns_B] = tokens
    output_ZB[int(step) % len(output_ZB), : len(tokens)] = tokens
    step += 1


def reference_begin(
    records_ZBW: Tensor, step: Tensor, table_RL: Tensor, pages_RC: Tensor, rows: int, pages: int, page_size: int
) -> tuple[Tensor, ...]:
    """Record by record. The last result is the page table as it is afterwards."""
    after_RC = pages_RC.clone()
    records = records_ZBW[int(step) % len(records_ZBW), :rows].cpu()
    for record in records:
        if record[PATCH_COLUMN] >= 0:
            after_RC[record[ROW], record[PATCH_COLUMN]] = record[PATCH_PAGE]
    columns: list[list[float]] = []
    for record in records:
        row, position = int(record[ROW]), int(record[POSITION])
        at = max(0, position)
        slot = int(after_RC[row, at // page_size]) * page_size + at % page_size if position >= 0 else -1
        reals = record.view(torch.float32)
        columns.append([int(table_RL[row, at]), at, slot, position + 1, row, position + 1])
        columns[-1] += [float(reals[TEMPERATURE]), int(record[TOP_K]), float(reals[TOP_P]), float(reals[MIN_P])]
    wide, narrow, real = torch.int64, torch.int32, torch.float32
    kinds = (wide, wide, wide, narrow, wide, wide, real, narrow, real, real)
    found = [torch.tensor(values, dtype=kind) for values, kind in zip(zip(*columns, strict=True), kinds, strict=True)]
    seed_B = torch.tensor([(int(r[SEED + 1]) << 32) | (int(r[SEED]) & 0xFFFFFFFF) for r in records])
    table_BP = after_RC[records[:, ROW].long(), :pages].cpu()
    results = (*found[:4], table_BP, *found[4:], seed_B)
    return (*(result.to(table_RL.device) for result in results), after_RC)


def reference_end(
    tokens_B: Tensor | Chosen, rows_B: Tensor, columns_B: Tensor, table_RL: Tensor, output_ZB: Tensor, step: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    table_RL, output_ZB = table_RL.clone(), output_ZB.clone()
    tokens_B = Chosen(tokens_B.keys_T.clone()).take() if isinstance(tokens_B, Chosen) else tokens_B
    for b, (token, row, column) in enumerate(zip(tokens_B.tolist(), rows_B.tolist(), columns_B.tolist(), strict=True)):
        table_RL[row, column] = token
        output_ZB[int(step) % len(output_ZB), b] = token
    return table_RL, output_ZB, step + 1


def _begin_inputs(axes: Mapping[str, int], dtype: torch.dtype, device: torch.device, seed: int) -> Inputs:
    """Rows in no order at random positions, every other one patched where it writes, the last ones padding."""
    rows, pages, page_size, padding = axes["B"], axes["P"], axes["S"], axes.get("PAD", 0)
    generator = torch.Generator().manual_seed(seed)
    table_rows = rows + 3
    records = torch.randint(-(2**31), 2**31, (2, rows + 2, RECORD_WORDS), generator=generator).to(torch.int32)
    reals = records.view(torch.float32)
    for word in (TEMPERATURE, TOP_P, MIN_P):
        reals[:, :, word] = torch.rand((2, rows + 2), generator=generator)
    for z in range(2):
        records[z, :rows, ROW] = torch.randperm(table_rows - 1, generator=generator)[:rows].to(torch.int32)
        records[z, :rows, POSITION] = torch.randint(pages * page_size, (rows,), generator=generator).to(torch.int32)
        records[z, :rows, PATCH_COLUMN] = -1
        records[z, :rows:2, PATCH_COLUMN] = records[z, :rows:2, POSITION] // page_size
        records[z, :rows, PATCH_PAGE] = torch.randint(1 << 20, (rows,), generator=generator).to(torch.int32)
        records[z, rows - padding : rows, ROW] = table_rows - 1
        records[z, rows - padding : rows, POSITION] = -1
        records[z, rows - padding : rows, PATCH_COLUMN] = -1
    tables = torch.randint(1 << 20, (table_rows, max(pages * page_size, pages + 1) + 1), generator=generator).to(torch.int32)
    return {
        "records_ZBW": records.pin_memory() if device.type == "cuda" else records,
        "step": torch.tensor([seed], device=device),
        "table_RL": tables.to(device),
        "pages_RC": tables.flip(1)[:, : pages + 1].contiguous().to(device),
        "rows": rows,
        "pages": pages,
        "page_size": page_size,
    }


def _end_inputs(axes: Mapping[str, int], dtype: torch.dtype, device: torch.device, seed: int) -> Inputs:
    rows = axes["B"]
    generator = torch.Generator().manual_seed(seed)
    tokens_B = torch.randint(1 << 18, (rows,), generator=generator)
    keys_B = keys_of(torch.randn(rows, generator=generator), tokens_B).masked_fill(tokens_B % 5 == 0, 0)
    return {
        "tokens_B": Chosen(keys_B.to(device)) if axes.get("CHOSEN") else tokens_B.to(device),
        "rows_B": torch.randperm(rows + 2, generator=generator)[:rows].to(device),
        "columns_B": torch.randint(40, (rows,), generator=generator).to(device),
        "table_RL": torch.zeros((rows + 2, 40), dtype=torch.int32, device=device),
        "output_ZB": torch.zeros((2, rows + 1), dtype=torch.int32, device=device),
        "step": torch.tensor([seed], device=device),
    }


BEGIN = OpSpec(
    op=OPS["begin_decode"],
    reference=reference_begin,
    run=begin_decode,
    make_inputs=_begin_inputs,
    cases=(
        {"B": 1, "P": 1, "S": 1},
        {"B": 1, "P": 16, "S": 64},
        {"B": 5, "P": 3, "S": 16, "PAD": 2},
        {"B": 33, "P": 1100, "S": 2, "PAD": 1},
    ),
    tolerance="exact",
    triton="redline.kernels.decode_step_triton:begin_decode",
    mutates=("pages_RC",),
)

END = OpSpec(
    op=OPS["end_decode"],
    reference=reference_end,
    run=end_decode,
    make_inputs=_end_inputs,
    cases=({"B": 1}, {"B": 7}, {"B": 1500}, {"B": 7, "CHOSEN": 1}, {"B": 1500, "CHOSEN": 1}),
    tolerance="exact",
    triton="redline.kernels.decode_step_triton:end_decode",
    mutates=("table_RL", "output_ZB", "step"),
)
