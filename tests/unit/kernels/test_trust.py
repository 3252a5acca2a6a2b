"""What is tried before a kernel is used: a wrong result, a NaN and a kernel that cannot be had are all told; a right one is not."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from redline import log
from redline.errors import InternalError
from redline.kernels import prepare, skinny
from redline.kernels.trust import wrong_result

CPU = torch.device("cpu")


def test_right_results_pass() -> None:
    specs = (skinny.LINEAR, skinny.GATED, skinny.PROJECT, skinny.CHOOSE, skinny.ADD)
    assert wrong_result([(spec, case) for spec in specs for case in (spec.cases[2], spec.cases[-1])], CPU) is None


@pytest.mark.parametrize("factor", [1.1, float("nan")])
@pytest.mark.parametrize("spec", [skinny.GATED, skinny.CHOOSE], ids=lambda spec: spec.name)
def test_wrong_results_are_told(spec: skinny.OpSpec, factor: float) -> None:
    def run(**inputs: Tensor) -> Tensor:
        result = spec.run(**inputs)
        return result + 1 if spec.tolerance == "exact" else result * factor

    reason = wrong_result([(dataclasses.replace(spec, run=run), spec.cases[2])], CPU)
    assert reason is not None and spec.name in reason


def test_a_kernel_that_cannot_be_had_is_told() -> None:
    def run(**inputs: Tensor) -> Tensor:
        raise InternalError("no compiler")

    assert "no compiler" in str(wrong_result([(dataclasses.replace(skinny.LINEAR, run=run), skinny.LINEAR.cases[2])], CPU))


@pytest.mark.parametrize("factor", [1.0, 1.1])
def test_heads_own_kernel_is_tried_once_and_never_under_capture(factor: float, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def by_own(*args: Any, **kwargs: Any) -> tuple[Tensor, ...]:
        calls.append(1)
        return tuple(part * factor for part in prepare.prepare_heads(*args, **kwargs))

    monkeypatch.setattr(prepare, "_by_own", by_own)
    monkeypatch.setattr(prepare, "_right", {})
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    assert not prepare._own_is_right(CPU) and not calls, "a check waits for the device"
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    log.FALLBACKS.clear()
    assert prepare._own_is_right(CPU) == (factor == 1.0)
    tried = len(calls)
    assert prepare._own_is_right(CPU) == (factor == 1.0) and len(calls) == tried
    assert sum(log.FALLBACKS.values()) == (factor != 1.0)
    log.FALLBACKS.clear()
