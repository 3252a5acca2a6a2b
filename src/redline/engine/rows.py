"""What the host keeps of each running row, page table and sampling parameters, and the records that captured steps read.

Written when a row is new and patched when its pages change. Knows nothing of devices. Open `RowState` first.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq
from typing import NamedTuple

import numpy as np

from redline.engine.draft import Entry, Plan
from redline.engine.graphs import Kind
from redline.engine.request import Sequence
from redline.kernels import decode_step, prompt_step
from redline.types import SamplingParams

_FOREVER = 1 << 62

CHOOSING: tuple[Kind, ...] = ("greedy", "random", "truncated")
"""Each can do what those before it can."""


class Brings(NamedTuple):
    """What of a sequence's new tokens and pages has room in a captured step's record."""

    tokens: bool
    pages: bool


class RowState:
    """Per running row: its page table and sampling parameters, as arrays that a step can gather from.

    `records` are what a captured step reads of each row (kernels/decode_step.py); the parameters are views into them. The last
    record is padding. `plain_from` is the length from which nothing but temperature and limits decides a row's tokens, and
    `choosing` how they do then, as a place in `CHOOSING`.
    """

    def __init__(self, num_rows: int, max_pages: int):
        self.pages = np.zeros((num_rows, max_pages), np.int32)
        self.records = np.zeros((num_rows + 1, decode_step.RECORD_WORDS), np.int32)
        reals = self.records.view(np.float32)
        self.records[:, decode_step.ROW] = np.arange(num_rows + 1)
        self.records[:, decode_step.PATCH_COLUMN] = self.records[:, decode_step.POSITION] = -1
        self.temperature = reals[:, decode_step.TEMPERATURE]
        self.top_k = self.records[:, decode_step.TOP_K]
        self.top_p = reals[:, decode_step.TOP_P]
        self.min_p = reals[:, decode_step.MIN_P]
        self.seed = self.records.view(np.int64)[:, decode_step.SEED // 2]
        self.top_p[:] = 1.0
        self.plain_from = np.zeros(num_rows, np.int64)
        self.choosing = np.zeros(num_rows, np.int8)

    def update(self, entry: Entry) -> None:
        """Take over the pages that the row does not have yet, and the sampling parameters if the row is new."""
        row = entry.row
        if entry.first_new < len(entry.pages):
            self.pages[row, entry.first_new : len(entry.pages)] = entry.pages[entry.first_new :]
        if entry.fresh:
            sequence = entry.sequence
            sampling = sequence.request.sampling
            self.temperature[row] = sampling.temperature
            self.top_k[row] = sampling.top_k
            self.top_p[row] = sampling.top_p
            self.min_p[row] = sampling.min_p
            self.seed[row] = choice_seed(sampling.seed or 0, sequence.index)
            self.plain_from[row] = _plain_from(sequence)
            self.choosing[row] = CHOOSING.index(_choosing(sampling))

    def kind(self, rows: np.ndarray, lengths: np.ndarray) -> Kind:
        """What a captured step for the next tokens of `rows`, after `lengths` others, must be able to do."""
        if (lengths < self.plain_from[rows]).any():
            return "logits"
        return CHOOSING[int(self.choosing[rows].max())]

    def kind_of(self, row: int, length: int) -> Kind:
        """The same of one row, by plain numbers: arrays of one take many times as long after an idle moment, when somebody waits."""
        return "logits" if length < self.plain_from[row] else CHOOSING[int(self.choosing[row])]

    def write_decode(self, records: np.ndarray, rows: np.ndarray, starts: np.ndarray, touched: Seq[Entry]) -> list[Entry]:
        """Fill the records of a step that decodes, the last of them padding. The entries whose new pages have no room there."""
        count = len(rows)
        records[:count] = self.records[rows]
        records[:count, decode_step.POSITION] = starts
        records[count:] = self.records[-1]
        patched = {entry.row: entry for entry in touched if len(entry.pages) == entry.first_new + 1}
        if patched:
            for i, row in enumerate(rows.tolist()):
                if (entry := patched.get(row)) is not None:
                    records[i, decode_step.PATCH_COLUMN] = entry.first_new
                    records[i, decode_step.PATCH_PAGE] = entry.pages[entry.first_new]
        return [entry for entry in touched if len(entry.pages) != entry.first_new + 1]

    def write_prompt(self, record: np.ndarray, entry: Entry) -> Brings:
        """Fill the record of a step for new tokens of one sequence (kernels/prompt_step.py)."""
        record[: decode_step.RECORD_WORDS] = self.records[entry.row]
        record[decode_step.POSITION], record[prompt_step.COUNT] = entry.start, entry.count
        begin = uploads_from(entry)
        tokens = entry.sequence.tokens[begin:] if begin is not None else []
        brings = Brings(len(tokens) <= prompt_step.MOST_UPLOADS, len(entry.pages) - entry.first_new <= prompt_step.MOST_PATCHES)
        tokens, pages = tokens if brings.tokens else [], entry.pages[entry.first_new :] if brings.pages else []
        record[prompt_step.UPLOAD_COLUMN], record[prompt_step.UPLOADS] = begin or 0, len(tokens)
        record[prompt_step.UPLOADS_AT : prompt_step.UPLOADS_AT + len(tokens)] = tokens
        record[decode_step.PATCH_COLUMN], record[prompt_step.PATCHES] = entry.first_new, len(pages)
        record[prompt_step.PATCHES_AT : prompt_step.PATCHES_AT + len(pages)] = pages
        return brings


class Lines:
    """Rows and positions of the last plan of one token each, which a steady plan continues."""

    def __init__(self) -> None:
        self._step = -2
        self._rows = np.zeros(0, np.int64)
        self._starts = np.zeros(0, np.int64)

    def of(self, plan: Plan) -> tuple[np.ndarray, np.ndarray]:
        """(rows, positions), both int64 [entries], of a plan whose entries have one token each."""
        if plan.steady and self._step == plan.step - 1:
            self._starts = self._starts + 1
        else:
            self._rows = np.array([entry.row for entry in plan.entries], np.int64)
            self._starts = np.array([entry.start for entry in plan.entries], np.int64)
        self._step = plan.step
        return self._rows, self._starts


def uploads_from(entry: Entry) -> int | None:
    """The first of the known tokens that the device does not have; None: it has them all."""
    return 0 if entry.fresh else entry.upload_from


def _choosing(sampling: SamplingParams) -> Kind:
    if sampling.temperature <= 0:
        return "greedy"
    return "truncated" if sampling.top_k > 0 or sampling.top_p < 1 or sampling.min_p > 0 else "random"


def _plain_from(sequence: Sequence) -> int:
    sampling: SamplingParams = sequence.request.sampling
    if sequence.constrained or sampling.has_penalties or sampling.logit_bias or sampling.logprobs is not None:
        return _FOREVER
    return sequence.prompt_len + sampling.min_tokens


def choice_seed(seed: int, index: int) -> int:
    """Seed of choice `index` of a request, as a signed 64-bit integer; choice 0 keeps the request's own."""
    mixed = (seed + index * 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF  # the golden-ratio step of splitmix64
    return mixed - (1 << 64) if mixed >> 63 else mixed
