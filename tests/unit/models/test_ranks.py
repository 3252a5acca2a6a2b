"""Two ranks in two threads compute the logits of one: every cut of every weight, and where sums are taken."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pytest
import torch

from paging import PagedSequences, chunked
from redline import checkpoint
from redline.kernels.tolerance import check
from redline.models.load import load
from redline.models.registry import build
from redline.parallel.ranks import Ranks

PROMPTS = [[5, 4, 3, 2, 1, 0, 9], [7]]


@dataclass(frozen=True)
class ThreadRanks(Ranks):
    """Ranks that meet at a barrier and read each other's partial sums."""

    barrier: threading.Barrier = field(default_factory=lambda: threading.Barrier(2))
    table: list[torch.Tensor] = field(default_factory=lambda: [torch.empty(0)] * 2)

    def all_reduce(self, partial: torch.Tensor) -> torch.Tensor:
        self.table[self.rank] = partial
        self.barrier.wait(timeout=30)
        total = self.table[0] + self.table[1]
        self.barrier.wait(timeout=30)
        return total


def _logits(name: str, ranks: Ranks) -> torch.Tensor:
    opened = checkpoint.open(f"random:{name}")
    model = build(opened.shape, torch.float32, "cpu", max_len=16, ranks=ranks)
    load(model, opened)
    return torch.cat(PagedSequences(model, PROMPTS, num_ranks=ranks.size).run(chunked(PROMPTS, chunk=4, decodes=1)))


@pytest.mark.parametrize("name", ["tiny-qwen2", "tiny-gemma3", "tiny-qwen3-moe"])
def test_two_ranks_give_the_logits_of_one(name: str) -> None:
    """Biases, q and k norms, experts: each rank loads its own part of the same checkpoint."""
    first = ThreadRanks(0, 2)
    second = ThreadRanks(1, 2, first.barrier, first.table)
    with ThreadPoolExecutor(2) as pool:
        got = list(pool.map(lambda ranks: _logits(name, ranks), (first, second)))
    check(name, _logits(name, Ranks.single()), got[0], "model", "f32")
    assert torch.equal(got[0], got[1])
