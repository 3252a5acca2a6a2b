"""The probes measure what they say: rates are positive, repeats are few, and the read covers its whole buffer."""

from __future__ import annotations

import math
import os
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from redline.errors import ConfigError, InternalError
from redline.hardware import Cpu, Machine, ceilings, identify, survey
from redline.hardware.machine import Storage
from redline.kernels import probes as module
from redline.kernels import probes_attention, probes_launch, probes_linear, timing
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
    """By each of the two ways to read it, of which the faster counts."""
    sizes: list[int] = []

    def timed(run: Any, repeats: int) -> list[float]:
        sizes.extend([run.__self__.nbytes] if hasattr(run, "__self__") else [])
        return [2.0] if hasattr(run, "__self__") else [1.0]

    monkeypatch.setattr(module, "_timed_on_host", timed)
    monkeypatch.setattr(module, "_CPU_MOST_BYTES", 64 << 20)
    for cache_bytes in (None, 1 << 20, 8 << 20, 1 << 40):
        assert probes(torch.device("cpu"), (), cache_bytes=cache_bytes).read() == [sizes[-1]]
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


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """A survey that takes a second."""
    monkeypatch.setattr(probes_linear, "CPU", probes_linear.Size(48, 64, (2, 5)))
    monkeypatch.setattr(probes_attention, "CPU", probes_attention.Size(4, 2, 16, 64, 3, 16, 40))
    monkeypatch.setattr(probes_launch, "_CPU_COPY_BYTES", 4 << 20)


def test_everything_a_cpu_can_do_is_measured(tiny: None) -> None:
    made = {probe.name: probe for probe in module.survey_probes(torch.device("cpu"), torch.bfloat16, cache_bytes=1 << 16)}
    missing = {name for name, probe in made.items() if probe.run is None}
    assert missing == {"host to device", "device to host", "kernel launch", "graph launch", "graph node"}
    assert all(made[name].reason for name in missing)
    for name, probe in made.items():
        if probe.run is not None:
            samples = probe.run(0.01)
            assert samples.values and all(math.isfinite(value) and value > 0 for value in samples.values), name
    sizes = {f"matmul {dtype} {rows} rows" for dtype in ("bfloat16", "float32") for rows in (2, 5)}
    assert sizes | {"gemv bfloat16", "gemv float32", "copy", "decode attention", "prefill attention"} == made.keys() - missing


def test_a_survey_of_this_machine_is_kept_with_its_disk(tiny: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDLINE_CACHE", str(tmp_path))
    machine = Machine(Cpu("a cpu", 1), (), 1 << 30, 1 << 30, storage=Storage(str(tmp_path), "tmpfs", None, 1 << 40, 1 << 40))
    taken = module.survey(machine, "cpu", "float32", time.monotonic() + 30)
    assert taken == survey.load(identify(machine, "cpu")) and taken.value("gemv float32") and taken.despite == ""
    assert taken.figures[0].name == "disk read" and "memory" in str(taken.figures[0].reason)
    late = module.survey(machine, "cpu", "float32", time.monotonic())
    assert all(figure.value is None and figure.reason for figure in late.figures)


def test_rates_are_of_the_bytes_and_flops_of_the_sizes(tiny: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every call is said to take a second: what is left is what was counted."""
    for file in (probes_linear, probes_attention, probes_launch):
        monkeypatch.setattr(file.timing, "on_host", lambda run, seconds: (run(), [1.0])[1])
    made = {probe.name: probe for probe in module.survey_probes(torch.device("cpu"), torch.float32, cache_bytes=1 << 16)}
    counted = {name: probe.run(1.0).values[0] for name, probe in made.items() if probe.run is not None}
    assert counted["copy"] == 2 * (4 << 20)
    assert counted["gemv float32"] == 4 * (48 * 64 + 48 + 64)
    assert counted["matmul float32 5 rows"] == 2 * 5 * 48 * 64
    assert counted["decode attention"] == 3 * 64 * 2 * (2 * 16) * 4  # sequences, tokens, keys and values, of two heads
    assert counted["prefill attention"] == 4 * 4 * 16 * (40 * 41 / 2)


def test_few_rows_are_bound_by_memory_and_many_by_the_rate() -> None:
    made = probes_linear.probes(torch.device("cpu"), (torch.bfloat16,), 1 << 20, torch.nn.functional.linear)
    factors = {probe.name: dict(probe.limits)["read"] for probe in made}
    few, many = factors["matmul bfloat16 16 rows"], factors["matmul bfloat16 1024 rows"]
    assert factors["gemv bfloat16"] == 1.0 and few == pytest.approx(16, rel=0.02) and many > 400  # FLOPs a byte


def test_weights_taking_turns_do_not_fit_into_the_cache() -> None:
    size = probes_linear.Size(64, 64, ())
    for cache_bytes in (0, 1 << 14, 1 << 20):
        weights = probes_linear._weights(torch.device("cpu"), torch.float32, size, cache_bytes)
        assert len(weights) >= 2 and weights.nbytes >= probes_linear.CACHES * cache_bytes
        assert torch.equal(weights[0], weights[-1]) and weights[0].data_ptr() != weights[-1].data_ptr()


def test_a_product_of_one_row_that_is_wrong_is_not_timed() -> None:
    size = probes_linear.Size(32, 16, ())

    def wrong(x_TK: torch.Tensor, weight_NK: torch.Tensor) -> torch.Tensor:
        return 1.1 * torch.nn.functional.linear(x_TK, weight_NK)

    with pytest.raises(InternalError, match="wrong results"):
        probes_linear.one_row(torch.device("cpu"), torch.float32, size, 0, wrong, 0.01)


def test_a_slow_call_is_sampled_once_and_a_quick_one_often() -> None:
    calls = []
    assert len(timing.on_host(lambda: (calls.append(1), time.sleep(0.05)), 0.01)) == 1 and len(calls) == 2
    quick = timing.on_host(lambda: None, 0.05)
    assert 1 < len(quick) <= timing.MOST_SAMPLES and max(quick) < 1e-3


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch) -> None:
    """The card's probes on the CPU: every call runs once and is said to take a second, graphs replay what they were made of."""
    real = torch.empty
    monkeypatch.setattr(timing, "captured", lambda run, device: (run(), (run, True))[1])
    monkeypatch.setattr(timing, "on_device", lambda run, device, seconds: (run(), [1.0])[1])
    monkeypatch.setattr(probes_launch, "free_bytes", lambda device: 1 << 24)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device=None: None)
    monkeypatch.setattr(torch, "empty", lambda *shape, pin_memory=False, **more: real(*shape, **more))


def test_a_cards_copies_and_launches_count_what_they_say(pretended: None, monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    assert probes_launch._copy(cpu, 1.0).values == [2 << 21]  # an eighth of what is free, read and written
    for to_device in (True, False):
        assert probes_launch._host_copy(cpu, to_device, 1.0).values == [1 << 21]
    calls = []
    monkeypatch.setattr(probes_launch, "_additions", lambda device, count: lambda: calls.append(count))
    monkeypatch.setattr(timing, "on_host", lambda run, seconds: (run(), [20.0 * calls[-1]])[1])  # a second a node
    assert probes_launch._graph_launch(cpu, 1.0).values == [1.0]
    assert probes_launch._graph_node(cpu, 1.0).values == [pytest.approx(1.0)]
    monkeypatch.setattr(timing, "on_host", lambda run, seconds: (run(), [500.0])[1])
    assert probes_launch._kernels(cpu, 1.0).values == [1.0]


def test_a_driver_without_graphs_is_a_reason(pretended: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "captured", lambda run, device: (run, False))
    with pytest.raises(ConfigError, match="captures no CUDA graphs"):
        probes_launch._graph_launch(torch.device("cpu"), 1.0)


def test_a_small_card_holds_fewer_sequences(monkeypatch: pytest.MonkeyPatch) -> None:
    size, card = probes_attention.GPU, torch.device("cuda", 0)
    one = size.kv_bytes(torch.bfloat16)
    assert one == 2 * 32768 * 8 * 128 * 2
    for free, rows in ((140 << 30, 8), (9 * one, 2), (one, 1)):
        monkeypatch.setattr(probes_attention, "free_bytes", lambda device, free=free: free)
        assert probes_attention._sequences(card, torch.bfloat16, size) == rows
