"""The public door and the torch-free promise: importing costs nothing, and no torch-free room needs torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import layers
import redline
import tree
from redline import config, errors, types

SOURCE = Path(redline.__file__).parents[1]


def python(script: str) -> str:
    """The output of a fresh interpreter that must end well."""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=SOURCE)
    assert run.returncode == 0, run.stderr
    return run.stdout


def test_the_door_names_what_it_promises():
    assert redline.EngineConfig is config.EngineConfig
    assert redline.SamplingParams is types.SamplingParams
    assert redline.errors is errors
    assert dir(redline) == sorted(redline.__all__)
    with pytest.raises(AttributeError, match="LLLM"):
        _ = redline.LLLM


def test_importing_the_door_imports_nothing_else():
    loaded = python(
        "import sys, redline; print(*[name for name in sys.modules if name.startswith('redline.') or name == 'torch'])"
    )
    assert loaded.split() == []


def test_torch_free_modules_import_with_torch_blocked():
    """The list is the one of tools/layers.py; the check there is static, this one runs the imports."""
    names = [name for name in tree.modules(SOURCE) if name.startswith("redline") and layers.is_torch_free(name)]
    assert {"redline.engine.scheduler", "redline.server.app", "redline.cli.main"} <= set(names)
    blocked = sorted(layers.HEAVY)
    python(
        f"import sys, importlib\nfor name in {blocked}: sys.modules[name] = None\nfor name in {names}: importlib.import_module(name)"
    )
