"""Every op's record against its own reference, on a CPU in plain torch: the path a CPU engine runs."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch

import kernel_checks
from redline.kernels import all_specs, op
from redline.ops import OPS

SPECS = all_specs()


@pytest.mark.parametrize(("name", "dtype", "case"), kernel_checks.every_case())
def test_wrapper_matches_reference(name: str, dtype: str, case: Mapping[str, int]) -> None:
    """Tolerance, no unwritten output, no changed argument: every op, type and shape on a CPU."""
    kernel_checks.check_case(SPECS[name], SPECS[name].run, dtype, case)


@pytest.mark.parametrize("name", kernel_checks.INVARIANT_AXES)
def test_batch_invariance_holds_where_claimed(name: str) -> None:
    kernel_checks.check_batch_invariant(SPECS[name], SPECS[name].run, kernel_checks.INVARIANT_AXES[name])


def test_every_claim_of_batch_invariance_is_tested() -> None:
    claimed = {name for name, spec in SPECS.items() if spec.batch_invariant and not {"P", "S"} & set(spec.op.axes)}
    assert claimed == set(kernel_checks.INVARIANT_AXES)


@pytest.mark.parametrize("name", SPECS)
def test_records_agree(name: str) -> None:
    """The torch-free half and the other half speak of the same op, and its cases name its axes."""
    spec = SPECS[name]
    assert spec.op is OPS[name]
    for case in spec.cases:
        assert set(spec.op.axes) <= set(case)
        dtype = spec.op.dtypes[0]
        assert spec.op.total_bytes(case, dtype) > 0 and spec.op.flops(case) >= 0


def test_a_cpu_machine_never_imports_triton() -> None:
    """Importing Triton takes a third of a second of the start, and a CPU build of torch has none."""
    import subprocess
    import sys

    program = """
import sys, torch
sys.modules["triton"] = None
from redline.kernels import all_specs
for spec in all_specs().values():
    spec.run(**spec.make_inputs(spec.cases[0], torch.float32, torch.device("cpu"), 0))
"""
    subprocess.run([sys.executable, "-c", program], check=True, env={"PYTHONPATH": ":".join(sys.path)})


def test_unknown_chip_takes_the_nearest_older_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    class Properties:
        major, minor, multi_processor_count = 10, 3, 160

    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: Properties)
    device = op.device_of.__wrapped__(torch.device("cuda:0"))
    assert (device.target.capability, device.processors) == (100, 160)
