"""What the engine takes of a machine that has more than torch can use."""

from __future__ import annotations

import pytest
import torch

from redline import log
from redline.config import EngineConfig
from redline.engine.build import usable
from redline.errors import ConfigError
from redline.hardware import Cpu, Gpu, Machine
from redline.plan.resolve import choose_device, resolve
from redline.shapes import known

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
