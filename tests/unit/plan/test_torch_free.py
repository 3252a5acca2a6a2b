"""Planning needs no torch: the rooms import and work where it is missing."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import sys
for name in ("torch", "triton", "numpy"):
    sys.modules[name] = None  # an import of it raises
from redline.config import EngineConfig
from redline.hardware.detect import detect
from redline.hardware.doctor import examine
from redline.plan.resolve import resolve
from redline.plan.roofline import StepWork, cost
from redline.shapes import known

machine = detect(visible="")  # without GPUs, wherever this runs
resolved = resolve(EngineConfig(), known("tiny-llama"), machine, stored_dtype="bf16", free_bytes=8 << 30)
cost(known("llama-3.1-70b"), 2, 2, StepWork.of([(0, 1)], logit_rows=1))
assert examine(machine, {}).as_dict()
print(resolved.memory.num_pages > 0)
"""


def test_hardware_and_plan_work_without_torch() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60, env={"PYTHONPATH": ":".join(sys.path)}
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "True"
