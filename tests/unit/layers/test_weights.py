"""Parameters cut from one piece of memory: aligned, apart from each other, and all there where the plan says how much they take."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from redline import checkpoint
from redline.engine.build import ALIGNMENT_BYTES
from redline.layers.batch import KVCache
from redline.layers.weights import Arena
from redline.models.load import load
from redline.models.registry import build
from redline.plan.memory import weights_bytes
from redline.shapes import known

CPU = torch.device("cpu")


def test_pieces_are_aligned_and_end_with_the_arena() -> None:
    arena = Arena(1024, CPU)
    first, second = arena.take((3, 5), torch.float32), arena.take((7,), torch.bfloat16)
    assert first is not None and second is not None and first.shape == (3, 5) and second.dtype is torch.bfloat16
    assert second.data_ptr() - first.data_ptr() == 256
    first.fill_(1.0)
    second.fill_(2.0)
    assert first.eq(1.0).all() and second.eq(2.0).all()
    assert arena.take((513,), torch.uint8) is None and arena.take((512,), torch.uint8) is not None


def test_all_weights_of_a_model_fit_what_the_plan_says() -> None:
    """Every parameter, none over another: the model loaded from it answers as one whose weights lie anywhere."""
    for name in ("tiny-llama", "tiny-qwen2", "tiny-gemma3", "tiny-qwen3-moe"):
        shape, size = known(name), weights_bytes(known(name), 4) + ALIGNMENT_BYTES
        made = build(shape, torch.float32, CPU, max_len=64, arena_bytes=size)
        plain = build(shape, torch.float32, CPU, max_len=64)
        targets = [slot.target for _, slot in made.slots()]
        begin = min(target.data_ptr() for target in targets)
        assert max(target.data_ptr() + target.nbytes for target in targets) - begin <= size
        for model in (made, plain):
            load(model, checkpoint.open(f"random:{name}"), seed=3)
        for (_, ours), (_, theirs) in zip(made.slots(), plain.slots(), strict=True):
            assert torch.equal(ours.target, theirs.target)


def test_pages_of_all_layers_lie_end_to_end() -> None:
    shape = {"num_layers": 3, "num_pages": 5, "page_size": 4, "num_kv_heads": 2, "head_size": 8}
    cache = KVCache.allocate(**shape, dtype=torch.float32, device=CPU)
    layers = [*cache.k, *cache.v]
    assert len(cache.k) == len(cache.v) == 3 and all(layer.is_contiguous() and not layer.any() for layer in layers)
    assert {after.data_ptr() - before.data_ptr() for before, after in zip(layers, layers[1:], strict=False)} == {
        5 * 4 * 2 * 8 * 4
    }
    cache.v[0].fill_(1.0)
    assert not cache.k[2].any() and not cache.v[1].any()


def test_pages_on_a_cpu_take_memory_as_they_are_written() -> None:
    """A GiB of them costs nothing, and a layer's first token a few kilobytes: numpy's zeroes come in pieces of 2 MiB where the system
    has such."""
    setting = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if setting.exists() and "[always]" in setting.read_text():
        pytest.skip("this system gives every program pages of 2 MiB")
    shape = {"num_layers": 32, "num_pages": 1 << 9, "page_size": 16, "num_kv_heads": 8, "head_size": 64}
    before = _resident_bytes()
    cache = KVCache.allocate(**shape, dtype=torch.float32, device=CPU)
    for layer in [*cache.k, *cache.v]:
        layer[100, 3] = 1.0
    assert _resident_bytes() - before < 16 << 20
    with pytest.raises(MemoryError):
        KVCache.allocate(**shape | {"num_pages": 1 << 38}, dtype=torch.float32, device=CPU)


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
