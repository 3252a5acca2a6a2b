"""Completion as a shell asks for it: commands, options and models, quickly and without torch."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.shell_completion import get_completion_class
from click.testing import CliRunner

from redline.cli.main import COMMANDS, redline

SOURCE = str(Path(__file__).parents[3] / "src")
WITHOUT_TORCH = f"import sys; sys.path.insert(0, {SOURCE!r}); sys.modules['torch'] = None; from redline.cli.main import main; sys.exit(main())"


def offered(words: str) -> list[str]:
    """What is offered at the end of `words`."""
    *before, last = words.split(" ")
    kind = get_completion_class("bash")
    assert kind is not None
    return [f"{item.type},{item.value}" for item in kind(redline, {}, "redline", "_X").get_completions(before, last)]


def test_commands_options_choices_and_models_are_offered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDLINE_CACHE", str(tmp_path))
    assert offered("") == [f"plain,{name}" for name in COMMANDS]
    assert "plain,--max-model-len" in offered("serve --max-")
    assert offered("serve --dtype f") == ["plain,float32", "plain,float16"]
    assert offered("serve qwen2.5-") == ["plain,qwen2.5-coder-0.5b"]
    assert "plain,random:tiny-llama" in offered("generate random:tiny")
    assert "plain,smollm2-135m" in offered("run-batch in out --model sm")
    assert offered("serve ./") == ["file,./"]


def test_a_shell_is_answered_without_torch(tmp_path: Path) -> None:
    environment = {**os.environ, "_REDLINE_COMPLETE": "bash_complete", "REDLINE_CACHE": str(tmp_path)}
    environment |= {"COMP_WORDS": "redline serve smol", "COMP_CWORD": "2"}
    answer = subprocess.run([sys.executable, "-c", WITHOUT_TORCH], env=environment, capture_output=True, text=True, timeout=30)
    assert (answer.stdout, answer.stderr, answer.returncode) == ("plain,smollm2-135m\n", "", 0)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_is_one_that_the_shell_can_read(shell: str) -> None:
    script = CliRunner().invoke(redline, ["completion", shell]).output
    assert f"_REDLINE_COMPLETE={shell}_complete" in script and script.startswith("# ")
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed, so only the text was looked at")
    check = subprocess.run([shell, "-n"], input=script, text=True, capture_output=True, timeout=10)
    assert check.returncode == 0, check.stderr


def test_an_unknown_shell_is_a_usage_error() -> None:
    assert CliRunner().invoke(redline, ["completion", "tcsh"]).exit_code == 2
