"""KV writes: exactly the slots named, and nothing else."""

from __future__ import annotations

import torch

from redline.kernels import kv_write


def test_negative_slots_write_nowhere() -> None:
    cache = torch.zeros(2, 4, 1, 2)
    ones = torch.ones(3, 1, 2)
    kv_write.write_kv(ones, 2 * ones, cache, cache.clone(), torch.tensor([-1, 6, -5]))
    assert cache.flatten(0, 1)[:, 0, 0].tolist() == [0, 0, 0, 0, 0, 0, 1, 0]


def test_no_token_at_all() -> None:
    cache = torch.zeros(2, 4, 1, 2)
    empty = torch.zeros(0, 1, 2)
    kv_write.write_kv(empty, empty, cache, cache, torch.zeros(0, dtype=torch.int64))
    assert not cache.any()


def test_a_page_may_be_source_and_target_of_one_call() -> None:
    """A swap: every page is read before any is written."""
    cache = torch.arange(3.0).view(3, 1, 1, 1).clone()
    kv_write.copy_pages([cache], torch.tensor([0, 1]), torch.tensor([1, 0]))
    assert cache.flatten().tolist() == [1, 0, 2]
