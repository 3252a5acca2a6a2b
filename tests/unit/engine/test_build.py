"""What the engine takes of a machine that has more than torch can use, and what it keeps for its next start."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from redline import log
from redline.config import EngineConfig
from redline.engine.build import build, usable
from redline.errors import ConfigError
from redline.hardware import Cpu, Gpu, Machine, Probes, ceilings
from redline.hardware.detect import detect
from redline.plan.contract import FEW
from redline.plan.resolve import choose_device, resolve
from redline.shapes import known
from redline.types import Request, SamplingParams

GPU = Gpu(0, "GPU-1", "NVIDIA H200", (9, 0), 140 << 30, 139 << 30, "580")
MACHINE = Machine(Cpu("a cpu", 2, ("avx2",)), (GPU,), 24 << 30, 24 << 30)


@pytest.fixture(autouse=True)
def torch_without_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(log, "FALLBACKS", type(log.FALLBACKS)())


def test_a_gpu_that_torch_cannot_use_is_a_fallback_with_its_reason() -> None:
    left = usable(MACHINE, EngineConfig.from_options(model="m"))
    device, why = choose_device(left)
    assert device == "cpu" and torch.__version__ in why and "NVIDIA H200" in why
    assert [name for name, _ in log.FALLBACKS] == ["device"]


def test_strict_and_an_explicit_gpu_are_refused_with_the_reason() -> None:
    with pytest.raises(ConfigError, match="cannot use the NVIDIA H200"):
        usable(MACHINE, EngineConfig.from_options(model="m", strict=True))
    asked = EngineConfig.from_options(model="m", device="cuda:0")
    with pytest.raises(ConfigError, match="cannot use the NVIDIA H200"):
        resolve(asked, known("tiny-llama"), usable(MACHINE, asked), stored_dtype="bf16")


def test_a_cpu_that_was_asked_for_is_no_fallback() -> None:
    assert usable(MACHINE, EngineConfig.from_options(model="m", device="cpu", strict=True)) is MACHINE
    assert not log.FALLBACKS


def test_an_engine_starts_with_what_the_one_before_it_learned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDLINE_CACHE", str(tmp_path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    machine = detect(visible="")
    ceilings.measure(ceilings.identify(machine, "cpu"), Probes(lambda: [1e10], {"float32": lambda: [1e11]}))
    options = {"model": "random:tiny-llama", "dtype": "float32", "num_pages": 16, "max_model_len": 64}
    first = build(EngineConfig.from_options(**options, num_threads=1))
    first.loop.submit(Request(id="a", prompt=[1, 2, 3], sampling=SamplingParams(max_tokens=20, ignore_eos=True)))
    while first.loop.has_work:
        first.loop.step()
    first.close()
    learned = {kind.doing: kind for kind in first.loop.meter.contract.learned()}
    assert learned["decode"].steps >= FEW
    for threads in range(1, min(2, machine.cpu.cores) + 1):
        second = build(EngineConfig.from_options(**options, num_threads=threads))
        kept = {kept.doing: kept for kept in second.loop.meter.contract.kept()}
        second.close()
        if threads > 1:
            assert kept == {}, "other threads, other times"
            continue
        assert kept["decode"].steps_before == learned["decode"].steps
        assert kept["decode"].correction == pytest.approx(learned["decode"].middle[0])
