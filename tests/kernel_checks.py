"""What the kernel tests on a CPU, in Triton's interpreter and on a card share: one case of one op against its reference."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from redline.kernels import all_specs
from redline.kernels.op import DTYPES, Inputs, OpSpec
from redline.kernels.tolerance import check

CPU = torch.device("cpu")


@contextmanager
def poisoned() -> Iterator[None]:
    """Scratch memory starts as NaN (integers: far out of range), so that a lane nobody writes shows."""
    plain = torch.empty

    def poison(*args: Any, **kwargs: Any) -> Tensor:
        memory = plain(*args, **kwargs)
        return memory.fill_(torch.nan) if memory.is_floating_point() else memory.fill_(-(1 << 24))

    with mock.patch.object(torch, "empty", poison):
        yield


def every_case(*, triton: bool = False) -> list[Any]:
    """(spec name, dtype name, case) of every op and type, labelled."""
    import pytest

    return [
        pytest.param(spec.name, dtype, case, id=f"{spec.name}-{dtype}-{'-'.join(f'{k}{v}' for k, v in case.items())}")
        for spec in all_specs().values()
        if spec.triton or not triton
        for dtype in spec.op.dtypes
        for case in spec.cases
    ]


def check_case(spec: OpSpec, run: Callable[..., Any], dtype: str, case: Mapping[str, int], device: torch.device = CPU) -> None:
    """Run one case with poisoned scratch memory; results within tolerance, nothing changed that may not change."""
    inputs = spec.make_inputs(case, DTYPES[dtype], device, seed=1)
    expected = spec.reference(**inputs)
    before = {name: value.clone() for name, value in inputs.items() if isinstance(value, Tensor)}
    with poisoned():
        results = spec.results(run, inputs)
    assert len(results) == len(expected)
    for number, (want, got) in enumerate(zip(expected, results, strict=True)):
        assert got.device.type == device.type
        if spec.mutates:  # free slots of a cache stay NaN
            free = want.isnan() & got.isnan()
            want, got = want.masked_fill(free, 0.0), got.masked_fill(free, 0.0)
        check(f"{spec.name}[{number}] {dict(case)}", want, got, spec.tolerance, dtype)
    for name, value in before.items():
        if name not in spec.mutates:
            assert torch.equal(value.nan_to_num(), inputs[name].nan_to_num()), f"{spec.name} changed {name}"


def only_row(inputs: Inputs, row: int) -> Inputs:
    """The inputs of one row: tensors whose shape suffix starts with T or B are cut, and so are records of them."""
    picked: Inputs = {}
    for name, value in inputs.items():
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            value = dataclasses.replace(
                value, **only_row({f.name: getattr(value, f.name) for f in dataclasses.fields(value)}, row)
            )
        elif isinstance(value, Tensor) and name.rpartition("_")[2][0] in "TB":
            value = value[row : row + 1].clone()
        picked[name] = value
    return picked


def check_batch_invariant(spec: OpSpec, run: Callable[..., Any], axes: Mapping[str, int], device: torch.device = CPU) -> None:
    """Row by row alone, bit for bit what the whole batch gives."""
    dtype = DTYPES[spec.op.dtypes[0]]
    inputs = spec.make_inputs(axes, dtype, device, seed=3)
    rows = axes["T"] if "T" in axes else axes["B"]
    alone = [spec.results(run, only_row(inputs, row)) for row in range(0, rows, 9)]
    together = spec.results(run, inputs)
    for row, results in zip(range(0, rows, 9), alone, strict=True):
        for whole, single in zip(together, results, strict=True):
            assert torch.equal(whole[row : row + 1], single), f"{spec.name}: row {row} depends on its batch"


INVARIANT_AXES: dict[str, dict[str, int]] = {
    "rms_norm": {"T": 64, "D": 576},
    "add_rms_norm": {"T": 64, "D": 576},
    "rotate": {"T": 64, "N": 9, "K": 3, "H": 64, "L": 77},
    "silu_mul": {"T": 64, "F": 1537},
    "gelu_tanh_mul": {"T": 64, "F": 1537},
    "sample": {"B": 64, "V": 5000},
    "invariant_linear": {"T": 64, "N": 300, "K": 1100, "BIAS": 1},
}
"""A batch of 64 for each op that claims its rows do not depend on each other."""
