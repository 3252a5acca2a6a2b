"""The size check counts what the house limits, and lets a tree at the ceiling pass."""

from __future__ import annotations

from pathlib import Path

import pytest

import size


def function(lines: int, *, decorator: str = "", params: str = "") -> str:
    body = "\n".join(["    pass"] * (lines - 1))
    return f"{decorator}\ndef f({params}):\n{body}\n"


def names(count: int) -> str:
    return ", ".join(f"p{i}" for i in range(count))


AT_THE_CEILING = {
    "src/redline/pages.py": "x = 1\n" * 500,
    "src/redline/kernels/norm.py": "x = 1\n" * 440 + function(150, decorator="@triton.jit", params=names(30)),
    "src/redline/kernels/late.py": "def load():\n    @triton.jit\n"
    + "\n".join(f"    {x}" for x in function(149).splitlines()[1:]),
    "src/redline/engine/loop.py": "class A:\n" + "    x = 1\n" * 299 + function(60, params=names(8)),
    "src/redline/engine/method.py": f"class A:\n    def f(self, {names(8)}): pass\n",
    "src/redline/env.py": "import os\nos.environ\n" + "Variable('NAME', '', 'Help.')\n" * 12,
    "src/redline/config.py": "class A:\n    x: int = option(1, 'What x is.')\nclass B:\n    a: A = A()\n",
}

BREACHES = {
    "a long file": ("src/redline/pages.py", "x = 1\n" * 501, "501 lines, at most 500"),
    "a long kernel file": ("src/redline/kernels/norm.py", "x = 1\n" * 601, "601 lines, at most 600"),
    "a long .cu file": ("src/redline/kernels/cuda/a.cu", "//\n" * 601, "601 lines, at most 600"),
    "a long test": ("tests/test_a.py", "x = 1\n" * 501, "at most 500"),
    "a long class": ("src/redline/a.py", "class A:\n" + "    x = 1\n" * 300, "class A has 301 lines"),
    "a long function": ("src/redline/a.py", function(61), "f has 61 lines, at most 60"),
    "a long kernel": ("src/redline/a.py", function(151, decorator="@triton.jit"), "at most 150"),
    "many parameters": ("src/redline/a.py", function(2, params=names(9)), "takes 9 parameters"),
    "keyword and star parameters": ("src/redline/a.py", function(2, params=f"{names(6)}, *a, k, **kw"), "takes 9 parameters"),
    "a thirteenth environment name": ("src/redline/env.py", "Variable('NAME', '', 'Help.')\n" * 13, "13 environment"),
    "the environment read elsewhere": ("src/redline/a.py", "import os\nos.environ['HOME']", "only env.py"),
    "getenv imported elsewhere": ("src/redline/a.py", "from os import getenv", "only env.py"),
    "a config field without help": ("src/redline/config.py", "class A:\n    x: int = 1\n", "A.x has no help"),
    "a config field with an empty help": ("src/redline/config.py", "class A:\n    x: int = option(1, ' ')\n", "A.x has no help"),
}


def write(top: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_text(text)
    return top


def test_a_tree_at_the_ceiling_passes(tmp_path):
    assert size.violations(write(tmp_path, AT_THE_CEILING)) == []


@pytest.mark.parametrize("breach", BREACHES)
def test_one_past_the_ceiling_is_found(tmp_path, breach):
    file, text, said = BREACHES[breach]
    found = size.violations(write(tmp_path, AT_THE_CEILING | {file: text}))
    assert len(found) == 1 and found[0].startswith(file) and said in found[0], found


def test_the_table_names_each_room_and_the_exit_code_says_findings(tmp_path, capsys):
    assert size.main([str(write(tmp_path, AT_THE_CEILING))]) == 0
    assert "redline/kernels" in capsys.readouterr().out
    write(tmp_path, {"src/redline/a.py": function(61)})
    assert size.main([str(tmp_path)]) == 3
