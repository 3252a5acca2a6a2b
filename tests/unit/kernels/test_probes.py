"""The probes measure what they say: rates are positive, repeats are few, and the read covers its whole buffer."""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest
import torch

from redline.hardware import Cpu, Machine, ceilings, identify
from redline.kernels import probes as module
from redline.kernels.probes import probes


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Probes that take milliseconds."""
    monkeypatch.setattr(module, "_CPU_READ_BYTES", 16 << 20)
    monkeypatch.setattr(module, "_CPU_MATMUL_MNK", (32, 64, 64))


def test_every_sample_is_a_rate(small: None) -> None:
    made = probes(torch.device("cpu"), (torch.float32, torch.bfloat16), cache_bytes=1 << 20)
    samples = [made.read(), *(probe() for probe in made.matmul.values())]
    assert list(made.matmul) == ["float32", "bfloat16"]
    assert [len(rates) for rates in samples] == [10, 6, 6]
    assert all(math.isfinite(rate) and rate > 0 for rates in samples for rate in rates)


def test_the_buffer_is_several_times_the_last_cache(small: None, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    monkeypatch.setattr(module, "_timed_on_host", lambda run, repeats: sizes.append(run.__self__.nbytes) or [1.0])
    monkeypatch.setattr(module, "_CPU_MOST_BYTES", 64 << 20)
    for cache_bytes in (None, 1 << 20, 8 << 20, 1 << 40):
        probes(torch.device("cpu"), (), cache_bytes=cache_bytes).read()
    assert sizes == [16 << 20, 16 << 20, 32 << 20, 64 << 20]


def test_a_measurement_of_this_machine_is_accepted(small: None, tmp_path: Path) -> None:
    identity = identify(Machine(Cpu("a cpu", 1), (), 1 << 30, 1 << 30), "cpu")
    measured = ceilings.measure(identity, probes(torch.device("cpu"), (torch.float32,)), tmp_path)
    assert measured.read_bytes_per_s > 1e8 and measured.matmul_flops["float32"] > 1e6


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") != "1", reason="needs TRITON_INTERPRET=1 before Triton is imported")
def test_the_gpu_read_reads_every_element() -> None:
    """The largest element decides its block's maximum wherever it lies."""
    from redline.kernels.probes_triton import ELEMENTS, tile_maxima

    x_E = torch.zeros(3 * ELEMENTS, dtype=torch.int32)
    for block, place in enumerate((0, ELEMENTS // 2 + 1, ELEMENTS - 1)):
        x_E[block * ELEMENTS + place] = block + 1
    assert tile_maxima(x_E).tolist() == [1, 2, 3]
