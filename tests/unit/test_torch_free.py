"""DESIGN's rule that whole rooms need no torch, for saidata; of redline's see test_door.py."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tree import modules

PROGRAM = """
import importlib, sys
sys.modules["torch"] = sys.modules["triton"] = sys.modules["transformers"] = None  # importing one of them raises
for name in sys.argv[1:]:
    importlib.import_module(name)
"""


def test_saidata_imports_without_torch() -> None:
    """Every module of saidata; what asks a model in this process imports redline when it is called."""
    names = [name for name in modules(Path("src")) if name.startswith("saidata")]
    assert len(names) > 20
    done = subprocess.run([sys.executable, "-c", PROGRAM, *names], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
