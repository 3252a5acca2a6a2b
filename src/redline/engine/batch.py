"""From a plan to the device arrays of one step.

The host keeps one line of numbers per running row (page table, sampling parameters), written when a row is new and
patched when its pages change; a step gathers the lines it needs and ships them to the device in one copy. Token ids
are not shipped for running rows: the device holds a token table (`TokenTable`) that prompts are written into once and
the sampler writes into at every step, so a token that the host has not seen yet can be fed to the next step.

Knows nothing of models or of when a step runs. Open `BatchFiller.fill` first.
Shapes: T packed tokens, B sequences of the step, R sequences that sample, U uploaded prompt tokens, P pages.
"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from redline.engine.pooling import PoolInputs, pool_arrays, pool_inputs
from redline.engine.request import Sequence
from redline.engine.scheduler import Entry, Plan
from redline.kernels.ragged import Ragged
from redline.kernels.sample import SampleBatch
from redline.types import SamplingParams

Arrays = dict[str, Any]  # numpy arrays by name

NEVER = -1.0e30  # added to a logit that must not win; finite, so that no infinity meets another


@dataclass(frozen=True, slots=True)
class Penalties:
    """Rows of the logits that carry penalties, and what they look back on."""

    index_N: torch.Tensor  # into the R rows
    table_rows_N: torch.Tensor
    lengths_N: torch.Tensor
    prompt_lengths_N: torch.Tensor
    repetition_N: torch.Tensor
    frequency_N: torch.Tensor
    presence_N: torch.Tensor
    max_length: int


@dataclass(frozen=True, slots=True)
class Bias:
    """Numbers to add to single logits: logit_bias, and end tokens that are forbidden before min_tokens."""

    rows: torch.Tensor
    tokens: torch.Tensor
    values: torch.Tensor


@dataclass(frozen=True, slots=True)
class SampleInputs:
    """What the sampler needs for the R rows that sample in this step."""

    logit_rows_R: torch.Tensor  # into the T packed tokens
    table_rows_R: torch.Tensor
    columns_R: torch.Tensor  # where in the token table the sampled token goes
    choice: SampleBatch
    penalties: Penalties | None
    bias: Bias | None
    num_logprobs: int | None  # most alternatives that any row wants; None: no row wants log-probabilities


@dataclass(frozen=True, slots=True)
class PromptScores:
    """A chunk of a prompt whose tokens' log-probabilities were asked for."""

    entry: int  # index into plan.entries
    first_row: int  # of the chunk in the T packed tokens
    row: int
    start: int
    count: int  # positions whose next token is a prompt token too
    num_logprobs: int


@dataclass(frozen=True, slots=True)
class StepInputs:
    """Everything one step reads, on the device. `upload_*` go into the token table before tokens are gathered."""

    table_rows_T: torch.Tensor
    positions_T: torch.Tensor
    slots_T: torch.Tensor
    ragged: Ragged
    upload_rows_U: torch.Tensor | None
    upload_columns_U: torch.Tensor | None
    upload_tokens_U: torch.Tensor | None
    copy_source: torch.Tensor | None
    copy_target: torch.Tensor | None
    sample: SampleInputs | None
    prompt_scores: tuple[PromptScores, ...]
    pool: PoolInputs | None = None


class Shipper:
    """Moves named host arrays to the device in one copy.

    On a CPU the arrays are wrapped, not copied. On a GPU they are packed into one of two pinned blocks; two are enough
    because the engine launches step n+1 only after step n-1 has ended.
    """

    ALIGNMENT = 16

    def __init__(self, device: torch.device):
        self._device = device
        self._blocks: list[torch.Tensor] = [torch.empty(0, dtype=torch.uint8)] * 2
        self._turn = 0

    def ship(self, arrays: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """Device tensors of the same names, shapes and types."""
        if self._device.type == "cpu":
            return {name: torch.from_numpy(array) for name, array in arrays.items()}
        offsets, total = {}, 0
        for name, array in arrays.items():
            offsets[name] = total
            total += -(-array.nbytes // self.ALIGNMENT) * self.ALIGNMENT
        block = self._block(total)
        host = block.numpy()
        for name, array in arrays.items():
            host[offsets[name] : offsets[name] + array.nbytes] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        remote = block[:total].to(self._device, non_blocking=True)
        return {name: self._typed(remote, offsets[name], array) for name, array in arrays.items()}

    def _block(self, nbytes: int) -> torch.Tensor:
        self._turn ^= 1
        if self._blocks[self._turn].numel() < nbytes:
            self._blocks[self._turn] = torch.empty(max(2 * nbytes, 1 << 16), dtype=torch.uint8, pin_memory=True)
        return self._blocks[self._turn]

    @staticmethod
    def _typed(remote: torch.Tensor, offset: int, array: np.ndarray) -> torch.Tensor:
        kind = torch.from_numpy(array[:0].copy()).dtype
        return remote[offset : offset + array.nbytes].view(kind).view(array.shape)


class RowState:
    """Per running row: its page table and sampling parameters, as arrays that a step can gather from."""

    def __init__(self, num_rows: int, max_pages: int):
        self.pages = np.zeros((num_rows, max_pages), np.int32)
        self.temperature = np.zeros(num_rows, np.float32)
        self.top_k = np.zeros(num_rows, np.int32)
        self.top_p = np.ones(num_rows, np.float32)
        self.min_p = np.zeros(num_rows, np.float32)
        self.seed = np.zeros(num_rows, np.int64)

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


def choice_seed(seed: int, index: int) -> int:
    """Seed of choice `index` of a request, as a signed 64-bit integer; choice 0 keeps the request's own."""
    mixed = (seed + index * 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF  # the golden-ratio step of splitmix64
    return mixed - (1 << 64) if mixed >> 63 else mixed


class BatchFiller:
    """Fills the device record of one step from a plan."""

    def __init__(self, *, max_num_seqs: int, max_model_len: int, page_size: int, eos_ids: Seq[int], device: torch.device):
        self._state = RowState(max_num_seqs, -(-max_model_len // page_size))
        self._page_size = page_size
        self._eos_ids = tuple(eos_ids)
        self._shipper = Shipper(device)

    def fill(self, plan: Plan) -> StepInputs:
        """The arrays of `plan`. Reads the sequences now, so the scheduler may go on planning afterwards.

        The views of the page table that it hands out on a CPU are copies, so a later step cannot change them.
        """
        entries = plan.entries
        for entry in entries:
            self._state.update(entry)
        arrays = self._layout(entries)
        arrays |= self._uploads(entries)
        if plan.copies:
            pairs = np.array(plan.copies, np.int64)
            arrays |= {"copy_source": pairs[:, 0].copy(), "copy_target": pairs[:, 1].copy()}
        sampling = [(i, entry) for i, entry in enumerate(entries) if entry.samples]
        if sampling:
            arrays |= self._sampling(sampling, arrays["query_start"])
        arrays |= pool_arrays(entries, arrays["query_start"])
        shipped = self._shipper.ship(arrays)
        starts = arrays["query_start"]
        return StepInputs(
            table_rows_T=shipped["table_rows"],
            positions_T=shipped["positions"],
            slots_T=shipped["slots"],
            ragged=Ragged(
                query_start_B1=shipped["query_start"],
                context_B=shipped["context"],
                page_table_BP=shipped["page_table"],
                max_query=int(np.diff(starts).max()),
                max_context=int(arrays["context"].max()),
            ),
            upload_rows_U=shipped.get("upload_rows"),
            upload_columns_U=shipped.get("upload_columns"),
            upload_tokens_U=shipped.get("upload_tokens"),
            copy_source=shipped.get("copy_source"),
            copy_target=shipped.get("copy_target"),
            sample=self._sample_inputs(arrays, shipped, sampling) if sampling else None,
            prompt_scores=tuple(_prompt_scores(entries, starts)),
            pool=pool_inputs(arrays, shipped),
        )

    def _layout(self, entries: Seq[Entry]) -> Arrays:
        """Row, position and KV slot of every packed token, and where each sequence begins."""
        rows = np.array([entry.row for entry in entries], np.int64)
        starts = np.array([entry.start for entry in entries], np.int64)
        counts = np.array([entry.count for entry in entries], np.int64)
        query_start = np.zeros(len(entries) + 1, np.int32)
        np.cumsum(counts, out=query_start[1:])
        table_rows = np.repeat(rows, counts)
        positions = np.arange(int(query_start[-1]), dtype=np.int64) + np.repeat(starts - query_start[:-1], counts)
        pages = self._state.pages[table_rows, positions // self._page_size].astype(np.int64)
        context = (starts + counts).astype(np.int32)
        widest = -(-int(context.max()) // self._page_size)
        return {
            "table_rows": table_rows,
            "positions": positions,
            "slots": pages * self._page_size + positions % self._page_size,
            "query_start": query_start,
            "context": context,
            "page_table": self._state.pages[rows, :widest],
        }

    def _uploads(self, entries: Seq[Entry]) -> Arrays:
        """Known tokens that the device does not have, as (row, column, token) triples of the token table."""
        parts = [
            (entry.row, begin, entry.sequence.tokens[begin:])
            for entry in entries
            if (begin := 0 if entry.fresh else entry.upload_from) is not None
        ]
        if not parts:
            return {}
        return {
            "upload_rows": np.repeat(np.array([row for row, _, _ in parts], np.int64), [len(new) for _, _, new in parts]),
            "upload_columns": np.concatenate([np.arange(begin, begin + len(new), dtype=np.int64) for _, begin, new in parts]),
            "upload_tokens": np.concatenate([np.array(new, np.int32) for _, _, new in parts]),
        }

    def _sampling(self, sampling: Seq[tuple[int, Entry]], query_start: np.ndarray) -> Arrays:
        rows = np.array([entry.row for _, entry in sampling], np.int64)
        arrays = {
            "logit_rows": query_start[[i + 1 for i, _ in sampling]].astype(np.int64) - 1,
            "sample_rows": rows,
            "columns": np.array([entry.start + entry.count for _, entry in sampling], np.int64),
            "temperature": self._state.temperature[rows],
            "top_k": self._state.top_k[rows],
            "top_p": self._state.top_p[rows],
            "min_p": self._state.min_p[rows],
            "seed": self._state.seed[rows],
        }
        arrays |= _penalty_arrays(sampling)
        arrays |= _bias_arrays(sampling, self._eos_ids)
        return arrays

    @staticmethod
    def _sample_inputs(
        arrays: Mapping[str, Any], shipped: Mapping[str, torch.Tensor], sampling: Seq[tuple[int, Entry]]
    ) -> SampleInputs:
        wanted = [k for _, entry in sampling if (k := entry.sequence.request.sampling.logprobs) is not None]
        drawn = arrays["temperature"] > 0
        return SampleInputs(
            logit_rows_R=shipped["logit_rows"],
            table_rows_R=shipped["sample_rows"],
            columns_R=shipped["columns"],
            choice=SampleBatch(
                temperature_B=shipped["temperature"],
                top_k_B=shipped["top_k"],
                top_p_B=shipped["top_p"],
                min_p_B=shipped["min_p"],
                seed_B=shipped["seed"],
                position_B=shipped["columns"],
                all_greedy=not drawn.any(),
                any_top_k=bool((drawn & (arrays["top_k"] > 0)).any()),
                any_top_p=bool((drawn & (arrays["top_p"] < 1)).any()),
                any_min_p=bool((drawn & (arrays["min_p"] > 0)).any()),
            ),
            penalties=_penalties(arrays, shipped),
            bias=Bias(shipped["bias_rows"], shipped["bias_tokens"], shipped["bias_values"]) if "bias_rows" in shipped else None,
            num_logprobs=max(wanted) if wanted else None,
        )


def _penalty_arrays(sampling: Seq[tuple[int, Entry]]) -> Arrays:
    index = [i for i, (_, entry) in enumerate(sampling) if entry.sequence.request.sampling.has_penalties]
    if not index:
        return {}
    chosen = [sampling[i][1] for i in index]
    params = [entry.sequence.request.sampling for entry in chosen]
    return {
        "penalty_index": np.array(index, np.int64),
        "penalty_rows": np.array([entry.row for entry in chosen], np.int64),
        "penalty_lengths": np.array([entry.start + entry.count for entry in chosen], np.int64),
        "penalty_prompts": np.array([len(entry.sequence.request.prompt) for entry in chosen], np.int64),
        "repetition": np.array([p.repetition_penalty for p in params], np.float32),
        "frequency": np.array([p.frequency_penalty for p in params], np.float32),
        "presence": np.array([p.presence_penalty for p in params], np.float32),
    }


def _penalties(arrays: Mapping[str, Any], shipped: Mapping[str, torch.Tensor]) -> Penalties | None:
    if "penalty_index" not in shipped:
        return None
    return Penalties(
        index_N=shipped["penalty_index"],
        table_rows_N=shipped["penalty_rows"],
        lengths_N=shipped["penalty_lengths"],
        prompt_lengths_N=shipped["penalty_prompts"],
        repetition_N=shipped["repetition"],
        frequency_N=shipped["frequency"],
        presence_N=shipped["presence"],
        max_length=int(arrays["penalty_lengths"].max()),
    )


def _bias_arrays(sampling: Seq[tuple[int, Entry]], eos_ids: tuple[int, ...]) -> Arrays:
    triples = [
        (i, token, value)
        for i, (_, entry) in enumerate(sampling)
        for token, value in logit_changes(entry.sequence, entry.start + entry.count, eos_ids)
    ]
    if not triples:
        return {}
    rows, tokens, values = zip(*triples, strict=True)
    return {
        "bias_rows": np.array(rows, np.int64),
        "bias_tokens": np.array(tokens, np.int64),
        "bias_values": np.array(values, np.float32),
    }


def logit_changes(sequence: Sequence, length: int, eos_ids: tuple[int, ...]) -> list[tuple[int, float]]:
    """(token, number to add) for the token sampled after `length` tokens of prompt and answer."""
    sampling: SamplingParams = sequence.request.sampling
    changes = list(sampling.logit_bias.items()) if sampling.logit_bias else []
    if sampling.min_tokens and length - len(sequence.request.prompt) < sampling.min_tokens:
        ends = sampling.stop_token_ids if sampling.ignore_eos else (*eos_ids, *sampling.stop_token_ids)
        changes += [(token, NEVER) for token in set(ends)]
    return changes


def _prompt_scores(entries: Seq[Entry], query_start: np.ndarray) -> list[PromptScores]:
    found = []
    for i, entry in enumerate(entries):
        wanted = entry.sequence.request.sampling.prompt_logprobs
        if wanted is None or not entry.sequence.needs_prompt_logits:
            continue
        count = min(entry.count, len(entry.sequence.request.prompt) - 1 - entry.start)
        if count > 0:
            found.append(PromptScores(i, int(query_start[i]), entry.row, entry.start, count, wanted))
    return found
