"""What is tried before a kernel is used: a wrong result, a NaN and a kernel that cannot be had are all told; a right one is not."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from redline.errors import InternalError
from redline.kernels import skinny
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
