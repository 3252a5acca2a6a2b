"""From a plan to the device arrays of one step.

The host keeps one line of numbers per running row (rows.py); a step gathers the lines it needs and ships them to the
device in one copy. Token ids are not shipped for running rows: the device holds a token table that prompts are written
into once and the sampler writes into at every step, so a token that the host has not seen yet can be fed to the next step.

Where steps are captured (graphs.py), the page tables lie on the device too and such a step ships nothing but a record per
row, in place: its arrays are the records of its rows.

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

from redline import token_ids
from redline.engine.draft import Entry, Plan
from redline.engine.graphs import Replay, StepGraphs
from redline.engine.pooling import PoolInputs, pool_arrays, pool_inputs
from redline.engine.request import Sequence
from redline.engine.rows import Lines, RowState, uploads_from
from redline.engine.shipper import Shipper
from redline.kernels.attention_plan import DECODE_QUERIES
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
class Packed:
    """The packed tokens of a step that is computed op by op."""

    table_rows_T: torch.Tensor
    positions_T: torch.Tensor
    slots_T: torch.Tensor
    ragged: Ragged


@dataclass(frozen=True, slots=True)
class StepInputs:
    """Everything one step reads, on the device: what is `packed`, or a captured step to `replay`.

    `upload_*` go into the token table before tokens are gathered, `patch_*` into the page tables of captured steps: flat
    places and pages.
    """

    packed: Packed | None
    replay: Replay | None
    upload_rows_U: torch.Tensor | None = None
    upload_columns_U: torch.Tensor | None = None
    upload_tokens_U: torch.Tensor | None = None
    copy_source: torch.Tensor | None = None
    copy_target: torch.Tensor | None = None
    patch_places: torch.Tensor | None = None
    patch_pages: torch.Tensor | None = None
    sample: SampleInputs | None = None
    prompt_scores: tuple[PromptScores, ...] = ()
    pool: PoolInputs | None = None


class BatchFiller:
    """Fills the device record of one step from a plan. `graphs` has the steps that were captured, where any are."""

    def __init__(
        self,
        *,
        max_num_seqs: int,
        max_model_len: int,
        page_size: int,
        eos_ids: Seq[int],
        device: torch.device,
        graphs: StepGraphs | None = None,
    ):
        self._state = RowState(max_num_seqs, -(-max_model_len // page_size))
        self._page_size = page_size
        self._eos_ids = tuple(eos_ids)
        self._shipper = Shipper(device)
        self._graphs = graphs
        self._lines = Lines()

    def fill(self, plan: Plan) -> StepInputs:
        """The arrays of `plan`. Reads the sequences now, so the scheduler may go on planning afterwards.

        The views of the page table that it hands out on a CPU are copies, so a later step cannot change them.
        """
        entries = plan.entries
        touched = entries if plan.touched is None else plan.touched
        for entry in touched:
            self._state.update(entry)
        replay, uploaded, patched = self._captured(plan, touched)
        if replay is not None and replay.logits_RV is None and not (uploaded or patched or plan.copies):
            return StepInputs(None, replay)  # what most steps are
        arrays = self._layout(entries) if replay is None else {}
        arrays |= self._uploads(uploaded, entries, arrays)
        if self._graphs is not None:
            arrays |= self._patches(patched, self._graphs.num_columns)
        if plan.copies:
            pairs = np.array(plan.copies, np.int64)
            arrays |= {"copy_source": pairs[:, 0].copy(), "copy_target": pairs[:, 1].copy()}
        samples: list[tuple[int, Entry]] = []
        if replay is None or replay.logits_RV is not None:
            samples = [(i, entry) for i, entry in enumerate(entries) if entry.samples]
        if samples:
            arrays |= self._sampling(samples, arrays["query_start"] if replay is None else np.arange(len(entries) + 1))
        if replay is None:
            arrays |= pool_arrays(entries, arrays["query_start"])
        shipped = self._shipper.ship(arrays) if arrays else {}
        return StepInputs(
            packed=self._packed(arrays, shipped) if replay is None else None,
            replay=replay,
            upload_rows_U=shipped.get("upload_rows"),
            upload_columns_U=shipped.get("upload_columns"),
            upload_tokens_U=shipped.get("upload_tokens"),
            copy_source=shipped.get("copy_source"),
            copy_target=shipped.get("copy_target"),
            patch_places=shipped.get("patch_places"),
            patch_pages=shipped.get("patch_pages"),
            sample=self._sample_inputs(arrays, shipped, samples) if samples else None,
            prompt_scores=tuple(_prompt_scores(entries, arrays["query_start"])) if replay is None else (),
            pool=pool_inputs(arrays, shipped),
        )

    def _captured(self, plan: Plan, touched: Seq[Entry]) -> tuple[Replay | None, Seq[Entry], Seq[Entry]]:
        """A captured step for `plan`, its records written, or None where none fits; and those of the `touched` entries whose
        new tokens and new pages it does not bring itself."""
        found: tuple[Replay | None, Seq[Entry], Seq[Entry]] = (None, touched, touched)
        if self._graphs is None:
            return found
        if plan.by_one:
            rows, starts = self._lines.of(plan)
            kind = self._state.kind(rows, starts + 1) if plan.decodes else "logits"
            replay = self._graphs.take(len(rows), int(starts.max()) + 1, kind)
            if replay is not None:
                found = replay, touched, self._state.write_decode(replay.records, rows, starts, touched)
        elif len(plan.entries) == 1 and plan.step >= 0 and _is_plain(entry := plan.entries[0]):
            kind = self._state.kind_of(entry.row, entry.start + entry.count) if entry.samples else "none"
            replay = self._graphs.take_prompt(entry.count, kind)
            if replay is not None:
                brings = self._state.write_prompt(replay.records[0], entry)
                found = replay, () if brings.tokens else touched, () if brings.pages else touched
        return found

    @staticmethod
    def _patches(entries: Seq[Entry], num_columns: int) -> Arrays:
        """New pages of rows, as flat places in the device's page tables and what goes there."""
        parts = [(e.row * num_columns + e.first_new, e.pages[e.first_new :]) for e in entries if e.first_new < len(e.pages)]
        if not parts:
            return {}
        return {
            "patch_places": np.concatenate([np.arange(place, place + len(new), dtype=np.int64) for place, new in parts]),
            "patch_pages": np.concatenate([np.array(new, np.int32) for _, new in parts]),
        }

    @staticmethod
    def _packed(arrays: Arrays, shipped: Mapping[str, torch.Tensor]) -> Packed:
        counts, context = np.diff(arrays["query_start"]), arrays["context"]
        most = int(counts.max())
        lengths = tuple(zip(counts.tolist(), context.tolist(), strict=True)) if most > DECODE_QUERIES else None
        return Packed(
            table_rows_T=shipped["table_rows"],
            positions_T=shipped["positions"],
            slots_T=shipped["slots"],
            ragged=Ragged(
                query_start_B1=shipped["query_start"],
                context_B=shipped["context"],
                page_table_BP=shipped["page_table"],
                max_query=most,
                max_context=int(context.max()),
                lengths=lengths,
            ),
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
        columns = positions // self._page_size
        # By one flat index, and without a remainder: numpy takes twice as long for two indices, and as long again for that.
        pages = self._state.pages.take(table_rows * self._state.pages.shape[1] + columns)
        context = (starts + counts).astype(np.int32)
        widest = -(-int(context.max()) // self._page_size)
        return {
            "table_rows": table_rows,
            "positions": positions,
            "slots": (pages - columns) * self._page_size + positions,
            "query_start": query_start,
            "context": context,
            "page_table": self._state.pages[rows, :widest],
        }

    def _uploads(self, entries: Seq[Entry], step: Seq[Entry], layout: Arrays) -> Arrays:
        """Known tokens that the device does not have, as (row, column, token) triples of the token table.

        Prompts that the `step` computes from end to end lie there as in its `layout`, and nothing is reckoned or shipped twice.
        """
        parts = [
            (entry.row, begin, _known(entry.sequence, begin)) for entry in entries if (begin := uploads_from(entry)) is not None
        ]
        if not parts:
            return {}
        tokens = np.concatenate([new for _, _, new in parts])
        if layout and [(row, begin, len(new)) for row, begin, new in parts] == [(e.row, e.start, e.count) for e in step]:
            return {"upload_rows": layout["table_rows"], "upload_columns": layout["positions"], "upload_tokens": tokens}
        return {
            "upload_rows": np.repeat(np.array([row for row, _, _ in parts], np.int64), [len(new) for _, _, new in parts]),
            "upload_columns": np.concatenate([np.arange(begin, begin + len(new), dtype=np.int64) for _, begin, new in parts]),
            "upload_tokens": tokens,
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


def _known(sequence: Sequence, begin: int) -> np.ndarray:
    """The known tokens of a sequence from `begin` on, int32; those of a prompt are packed already."""
    whole = begin == 0 and not sequence.num_answer
    return token_ids.packed(sequence.request.prompt if whole else sequence.tokens[begin:])


def _is_plain(entry: Entry) -> bool:
    """Whether nothing but the next token is wanted of the step."""
    return entry.sequence.request.pooling is None and not entry.sequence.needs_prompt_logits


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
