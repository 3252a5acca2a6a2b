"""Every Triton kernel compiles for every chip within its limits, without a GPU."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from compile_matrix import Compiled
from redline.ops import TARGETS

TOOL = Path(__file__).parents[3] / "tools" / "compile_matrix.py"


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_every_kernel_fits_every_chip(effort: int) -> None:
    """One type and a case of each kind in `make test`, everything in `make soak`."""
    if importlib.util.find_spec("triton") is None:
        pytest.skip("needs Triton, which is not installed here")
    # The interpreter, where this run has it on, would compile nothing.
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    command = [sys.executable, str(TOOL), "--json", *(["--quick"] if effort == 1 else [])]
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stderr
    compiled = json.loads(result.stdout.splitlines()[-1])["compiled"]
    assert {one["capability"] for one in compiled} == set(TARGETS)
    attention = [one for one in compiled if one["kernel"] == "_attend"]
    assert all(one["has_dot"] for one in attention)
    # The fact that keeps sm_75 slow: Triton 3.6 makes no matrix instruction of `tl.dot` there.
    assert not any(one["matrix"] for one in attention if one["capability"] == 75)


def test_each_fault_is_named() -> None:
    good = Compiled(90, "op", "bf16", "case", "kernel", 1000, 64, 0, True, True)
    assert list(good.faults()) == []
    bad = Compiled(75, "op", "f16", "case", "kernel", 70_000, 255, 8, True, True)
    assert [fault.partition("kernel: ")[2][:5] for fault in bad.faults()] == ["70000", "8 byt", "a mat"]
    assert len(list(Compiled(90, "op", "bf16", "case", "kernel", 0, 128, 24, True, True).faults())) == 1
    assert not list(Compiled(90, "op", "bf16", "case", "kernel", 0, 128, 8, True, True).faults())
