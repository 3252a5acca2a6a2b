"""The import check finds what the house forbids, and lets a clean tree pass."""

from __future__ import annotations

from pathlib import Path

import pytest

import layers

CLEAN = {
    "redline/__init__.py": '"""The door."""\n',
    "redline/errors.py": "import dataclasses\n",
    "redline/types.py": "import msgspec\nfrom redline.errors import X\n",
    "redline/chat/__init__.py": "",
    "redline/chat/template.py": "import jinja2\nfrom redline import errors\nfrom . import other\n",
    "redline/chat/other.py": "",
    "redline/kernels/__init__.py": "",
    "redline/kernels/norm.py": "import torch\nfrom redline.types import Request\n",
    "redline/kernels/cuda/__init__.py": "",
    "redline/engine/__init__.py": "",
    "redline/engine/client.py": "from redline.engine import pages\n",
    "redline/engine/pages.py": "",
    "redline/engine/runner.py": "import torch\n",
    "redline/llm.py": "from redline.engine.runner import Runner\n",
    "redline/server/app.py": "from redline.engine.client import EngineClient\nfrom redline.chat import template\n",
    "redline/cli/main.py": "def run():\n    from redline.llm import LLM\n",
}

BREACHES = {
    "uphill import": ("redline/chat/template.py", "from redline.engine import pages", "imports go downhill only"),
    "uphill inside a function": (
        "redline/chat/template.py",
        "def f():\n    import redline.plan.receipt",
        "imports go downhill only",
    ),
    "uphill for types only": (
        "redline/kernels/norm.py",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from redline.engine.runner import Runner",
        "imports go downhill only",
    ),
    "relative uphill": ("redline/chat/template.py", "from ..engine import pages", "imports go downhill only"),
    "by name": ("redline/chat/template.py", "import importlib\nimportlib.import_module('redline.engine.pages')", "downhill"),
    "same floor": ("redline/kernels/norm.py", "from redline.plan import receipt", "imports go downhill only"),
    "the door from below": ("redline/server/app.py", "from redline import LLM", "imports go downhill only"),
    "a room that may see only a part": (
        "redline/server/app.py",
        "def f():\n    from redline.engine import runner",
        "may see only",
    ),
    "torch in a torch-free room": ("redline/chat/template.py", "def f():\n    import torch", "torch-free, and imports torch"),
    "torch for types only": (
        "redline/engine/pages.py",
        "import typing\nif typing.TYPE_CHECKING:\n    import torch",
        "torch-free, and imports torch",
    ),
    "torch behind an import": ("redline/cli/main.py", "from redline.llm import LLM", "redline.engine.runner -> torch"),
    "a torch-free engine file": ("redline/engine/client.py", "from redline.engine import runner", "loads torch"),
    "a ground file with two libraries": ("redline/types.py", "import msgspec, numpy", "wraps one library"),
    "a name that says nothing": ("redline/engine/utils.py", "", "is called utils"),
    "three levels": ("redline/engine/deep/file.py", "", "two levels, never three"),
    "a module that is not there": ("redline/llm.py", "from redline.models.gone import build", "which does not exist"),
    "an unknown room": ("redline/attic/file.py", "", "has no floor"),
    "the application through a side door": ("saidata/cli.py", "from redline.engine import client", "only the public door"),
    "the application imports the door at once": ("saidata/cli/ask.py", "import redline", "imports redline at once"),
    "the application imports torch": ("saidata/cli/ask.py", "def f():\n    import torch", "imports torch"),
    "the application uphill": (
        "saidata/format/text.py",
        "from saidata.check import rules",
        "format (floor 1) imports saidata.check.rules",
    ),
    "the application uphill inside a function": (
        "saidata/format/text.py",
        "def f():\n    from saidata.check import rules",
        "downhill",
    ),
    "the application on one floor": ("saidata/index/store.py", "import saidata.format.text", "imports go downhill only"),
    "the application's unknown room": ("saidata/attic/file.py", "", "room attic of saidata has no floor"),
    "the application's three levels": ("saidata/format/deep/file.py", "", "two levels, never three"),
    "the application's name that says nothing": ("saidata/format/helpers.py", "", "is called helpers"),
    "redline knows the application": ("redline/cli/main.py", "def f():\n    import saidata", "redline knows nothing of it"),
}


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


BESIDE = {
    "redline/plan/receipt.py": "",
    "saidata/__init__.py": "",
    "saidata/facts.py": "import msgspec\n",
    "saidata/format/__init__.py": "",
    "saidata/format/text.py": "from saidata.facts import Fact\n",
    "saidata/check/__init__.py": "",
    "saidata/check/rules.py": "from saidata.format import text\n",
    "saidata/models/local.py": "def ask():\n    import redline\n",
}


def test_a_clean_tree_passes(tmp_path):
    assert layers.violations(write(tmp_path, CLEAN | BESIDE)) == []


@pytest.mark.parametrize("breach", BREACHES)
def test_a_breach_is_found_and_explained(tmp_path, breach):
    file, text, said = BREACHES[breach]
    found = layers.violations(write(tmp_path, CLEAN | BESIDE | {file: text}))
    assert any(line.startswith(file) and said in line for line in found), found


def test_exit_code_is_three_for_findings(tmp_path, capsys):
    assert layers.main([str(write(tmp_path, CLEAN | BESIDE))]) == 0
    write(tmp_path, {"redline/chat/template.py": "import torch\n"})  # and server/app.py, which imports it
    assert layers.main([str(tmp_path)]) == 3
    assert "2 violations" in capsys.readouterr().out
