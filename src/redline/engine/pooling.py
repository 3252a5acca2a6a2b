"""One vector per prompt, of the final hidden states of its tokens: the last one, or the mean over all of them.

A prompt may be computed in chunks over several steps. The last token's state needs no memory; for the mean, the sum so far is
kept per row in float32 on the device, and begins anew with the chunk that begins at position 0, so that nothing has to be
cleared when a sequence loses its row. Sums run token by token in the order of the prompt, whatever shares the batch.
Nothing here waits for the device. Open `Pooler.pool` first.

Shapes: T packed tokens, D model size, L vectors of last tokens, S chunks that are summed, M tokens of those, E sums that
become complete, R rows of the engine.
"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from redline.engine.scheduler import Entry


@dataclass(frozen=True, slots=True)
class PoolInputs:
    """What one step pools. `entries` are indices into plan.entries of the vectors that it completes, those of last tokens first."""

    entries: tuple[int, ...]
    last_rows_L: torch.Tensor | None  # into the T packed tokens
    sums: MeanInputs | None


@dataclass(frozen=True, slots=True)
class MeanInputs:
    """The chunks of prompts whose mean is asked for."""

    token_rows_M: torch.Tensor  # into the T packed tokens, chunk after chunk
    lengths_S: torch.Tensor
    rows_S: torch.Tensor  # of the engine, where the sums so far are
    goes_on_S: torch.Tensor  # bool: the row's sum is of this prompt's earlier chunks
    done_E: torch.Tensor  # into the S chunks: those that end their prompt
    sizes_E1: torch.Tensor  # tokens of those prompts, float32


class Pooler:
    """The sums of one device. Memory for them is taken when the first mean is asked for."""

    def __init__(self, num_rows: int) -> None:
        self._num_rows = num_rows
        self._sums_RD: torch.Tensor | None = None

    def pool(self, hidden_TD: torch.Tensor, inputs: PoolInputs) -> torch.Tensor:
        """The vectors that this step completes, float32 [L + E, D], in the order of `inputs.entries`."""
        parts = [hidden_TD.new_empty((0, hidden_TD.shape[1]), dtype=torch.float32)]
        if inputs.last_rows_L is not None:
            parts.append(hidden_TD.index_select(0, inputs.last_rows_L).float())
        if inputs.sums is not None:
            parts.append(self._add(hidden_TD, inputs.sums))
        return torch.cat(parts)

    def _add(self, hidden_TD: torch.Tensor, chunks: MeanInputs) -> torch.Tensor:
        """Take the chunks in; the means of the prompts that are complete, [E, D]."""
        if self._sums_RD is None:
            self._sums_RD = torch.zeros((self._num_rows, hidden_TD.shape[1]), dtype=torch.float32, device=hidden_TD.device)
        tokens_MD = hidden_TD.index_select(0, chunks.token_rows_M).float()
        # "unsafe" only leaves out the check of the lengths, for which the host would wait.
        new_SD = torch.segment_reduce(tokens_MD, "sum", lengths=chunks.lengths_S, unsafe=True)
        old_SD = self._sums_RD.index_select(0, chunks.rows_S)
        sums_SD = torch.where(chunks.goes_on_S[:, None], old_SD, 0.0) + new_SD
        self._sums_RD.index_copy_(0, chunks.rows_S, sums_SD)
        return sums_SD.index_select(0, chunks.done_E) / chunks.sizes_E1


def pool_arrays(entries: Seq[Entry], query_start: np.ndarray) -> dict[str, Any]:
    """The host arrays of what `entries` pool, named for `pool_inputs`; none where nothing pools."""
    pooling = [(i, entry) for i, entry in enumerate(entries) if entry.sequence.request.pooling is not None]
    if not pooling:
        return {}
    arrays: dict[str, Any] = {}
    last = [i for i, entry in pooling if entry.pools and entry.sequence.request.pooling == "last"]
    if last:
        arrays["pool_last"] = query_start[[i + 1 for i in last]].astype(np.int64) - 1
    mean = [(i, entry) for i, entry in pooling if entry.sequence.request.pooling == "mean"]
    done = [place for place, (_, entry) in enumerate(mean) if entry.pools]
    if mean:
        arrays["pool_tokens"] = np.concatenate([np.arange(query_start[i], query_start[i + 1], dtype=np.int64) for i, _ in mean])
        arrays["pool_lengths"] = np.array([entry.count for _, entry in mean], np.int64)
        arrays["pool_rows"] = np.array([entry.row for _, entry in mean], np.int64)
        arrays["pool_goes_on"] = np.array([entry.start > 0 for _, entry in mean], np.bool_)
        arrays["pool_done"] = np.array(done, np.int64)
        arrays["pool_sizes"] = np.array([[mean[place][1].sequence.prompt_len] for place in done], np.float32).reshape(-1, 1)
    arrays["pool_entries"] = np.array(last + [mean[place][0] for place in done], np.int64)
    return arrays


def pool_inputs(arrays: Mapping[str, Any], shipped: Mapping[str, torch.Tensor]) -> PoolInputs | None:
    """The arrays of `pool_arrays` as they lie on the device; None where nothing pools."""
    if "pool_entries" not in arrays:
        return None
    sums = None
    if "pool_rows" in arrays:
        sums = MeanInputs(
            token_rows_M=shipped["pool_tokens"],
            lengths_S=shipped["pool_lengths"],
            rows_S=shipped["pool_rows"],
            goes_on_S=shipped["pool_goes_on"],
            done_E=shipped["pool_done"],
            sizes_E1=shipped["pool_sizes"],
        )
    return PoolInputs(tuple(arrays["pool_entries"].tolist()), shipped.get("pool_last"), sums)


def vectors(inputs: PoolInputs, pooled_ND: torch.Tensor) -> dict[int, bytes]:
    """The vectors by index into plan.entries, as little-endian float32. `pooled_ND` is on the host."""
    rows = pooled_ND.numpy().astype("<f4", copy=False)
    return {entry: rows[i].tobytes() for i, entry in enumerate(inputs.entries)}
