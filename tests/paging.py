"""Drives a model the way the engine does: packed tokens of several sequences, random pages, chunks of any size.

`PagedSequences.run` is the one entry; tests say how many tokens of each sequence a step takes and get the logits of every
token back. Pages start as NaN, so that a read of a slot that was never written shows.
"""

from __future__ import annotations

import torch

from redline.kernels.ragged import Ragged
from redline.layers.batch import Batch, KVCache
from redline.models.registry import Model


class PagedSequences:
    """Sequences of known tokens that are fed to `model` bit by bit."""

    def __init__(self, model: Model, prompts: list[list[int]], *, page_size: int = 4, seed: int = 0, num_ranks: int = 1):
        shape, weight = model.shape, model.embed.weight_VD
        counts = [-(-len(prompt) // page_size) for prompt in prompts]
        num_pages = sum(counts) + 3
        order = torch.randperm(num_pages, generator=torch.Generator().manual_seed(seed)).tolist()
        self._pages = [[order.pop() for _ in range(count)] for count in counts]
        self._model = model
        self._prompts = prompts
        self._page_size = page_size
        self._done = [0] * len(prompts)
        size = (num_pages, page_size, shape.num_kv_heads // num_ranks, shape.head_size)

        def pages() -> list[torch.Tensor]:
            return [torch.full(size, torch.nan, dtype=weight.dtype, device=weight.device) for _ in range(shape.num_layers)]

        self._cache = KVCache(pages(), pages(), page_size)
        self._logits: list[list[torch.Tensor]] = [[] for _ in prompts]

    @torch.inference_mode()
    def run(self, steps: list[list[int]]) -> list[torch.Tensor]:
        """Logits [length, V] of each sequence. A step says how many tokens of each sequence it takes (0: none of it)."""
        for step in steps:
            hidden_TD = self._model.forward(self._batch(step), self._cache)
            for sequence, logits in enumerate(self._model.logits(hidden_TD).split(step)):
                self._logits[sequence].append(logits)
                self._done[sequence] += step[sequence]
        assert self._done == [len(prompt) for prompt in self._prompts], "the steps do not cover the prompts"
        return [torch.cat(parts) for parts in self._logits]

    def _batch(self, step: list[int]) -> Batch:
        device = self._model.embed.weight_VD.device
        tokens: list[int] = []
        positions: list[int] = []
        slots: list[int] = []
        running = [i for i, count in enumerate(step) if count]
        for i in running:
            for position in range(self._done[i], self._done[i] + step[i]):
                page = self._pages[i][position // self._page_size]
                tokens.append(self._prompts[i][position])
                positions.append(position)
                slots.append(page * self._page_size + position % self._page_size)
        contexts = [self._done[i] + step[i] for i in running]
        width = max(len(self._pages[i]) for i in running)
        table = [self._pages[i] + [1 << 30] * (width - len(self._pages[i])) for i in running]
        starts = [0, *torch.tensor([step[i] for i in running]).cumsum(0).tolist()]

        def on_device(values: object, dtype: torch.dtype) -> torch.Tensor:
            return torch.tensor(values, dtype=dtype, device=device)

        return Batch(
            tokens_T=on_device(tokens, torch.int64),
            positions_T=on_device(positions, torch.int64),
            slots_T=on_device(slots, torch.int64),
            ragged=Ragged(
                query_start_B1=on_device(starts, torch.int32),
                context_B=on_device(contexts, torch.int32),
                page_table_BP=on_device(table, torch.int32),
                max_query=max(step),
                max_context=max(contexts),
                lengths=tuple(zip([step[i] for i in running], contexts, strict=True)),
            ),
        )


def whole(prompts: list[list[int]]) -> list[list[int]]:
    """One step that takes every prompt whole."""
    return [[len(prompt) for prompt in prompts]]


def chunked(prompts: list[list[int]], chunk: int, decodes: int) -> list[list[int]]:
    """Sequences that join one step after another: chunks of `chunk` tokens each, the last `decodes` tokens one by one."""
    queues = [
        [0] * i + _chunks(len(prompt) - min(decodes, len(prompt)), chunk) + [1] * min(decodes, len(prompt))
        for i, prompt in enumerate(prompts)
    ]
    longest = max(map(len, queues))
    steps = [[queue[i] if i < len(queue) else 0 for queue in queues] for i in range(longest)]
    return [step for step in steps if any(step)]


def _chunks(total: int, size: int) -> list[int]:
    return [min(size, total - begin) for begin in range(0, total, size)]
