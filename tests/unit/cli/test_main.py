"""The command line: it answers at once, and every failure is one sentence with a stable exit code."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
from pathlib import Path

import click
import pytest

from redline import __version__, errors
from redline.cli import main as cli

HEAVY = ("torch", "starlette", "uvicorn", "tokenizers", "numpy", "rich", "huggingface_hub", "httpx2", "jinja2")


def test_help_imports_nothing_heavy_and_answers_within_a_second():
    """`redline --help` is promised in 0.3 s; the bound here is loose because test machines are busy."""
    script = (
        "import sys; from redline.cli.main import main; code = main(['--help']);"
        f"sys.exit(code or ' '.join(name for name in {HEAVY} if name in sys.modules) or None)"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=_environment())
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert run.returncode == 0, run.stderr
    assert all(command in run.stdout for command in cli.COMMANDS)
    assert (after.ru_utime - before.ru_utime) + (after.ru_stime - before.ru_stime) < 1.0


@pytest.mark.parametrize("command", sorted(cli.COMMANDS))
def test_the_help_of_a_command_needs_no_torch(command):
    script = f"import sys; from redline.cli.main import main; code = main(['{command}', '--help']); sys.exit(code or 'torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=_environment())
    assert run.returncode == 0, run.stderr
    assert f"Usage: redline {command}" in run.stdout


def test_version(capsys):
    assert cli.main(["--version"]) == 0
    assert __version__ in capsys.readouterr().out


@pytest.mark.parametrize(
    ("raised", "code", "said"),
    [
        (errors.NotFound("no model x", hint="did you mean y?"), 2, "redline: no model x (did you mean y?)\n"),
        (errors.EngineDead("the engine ended"), 1, "redline: the engine ended\n"),
        (KeyboardInterrupt(), 130, "redline: interrupted\n"),
        (click.UsageError("no such option"), 2, "redline: no such option. See redline fails --help\n"),
        (OSError(errno.ENOSPC, "No space left on device"), 2, "redline: No space left on device\n"),
        (OSError(errno.EACCES, "Permission denied", "x"), 2, "redline: Permission denied: x\n"),
        (ZeroDivisionError("by zero"), 1, "redline: internal error: ZeroDivisionError: by zero"),
    ],
)
def test_failures_are_sentences_with_exit_codes(monkeypatch, capsys, raised, code, said):
    @click.command("fails")
    def fails() -> None:
        raise raised

    monkeypatch.setattr(cli.LazyGroup, "get_command", lambda self, ctx, name: fails)
    assert cli.main(["fails"]) == code
    captured = capsys.readouterr()
    assert said in captured.err
    assert captured.out == ""
    assert ("Traceback" in captured.err) == isinstance(raised, ZeroDivisionError)


def test_an_unknown_command_is_the_users_mistake(capsys):
    assert cli.main(["srve"]) == 2
    said = capsys.readouterr().err
    assert said == "redline: No such command 'srve'. Did you mean 'serve'? See redline --help\n"
    assert cli.main(["show"]) == 2
    assert capsys.readouterr().err == "redline: Missing argument 'MODEL'. See redline show --help\n"


@pytest.mark.parametrize(("closed", "code"), [("0<&-", 0), ("1>&-", 0), ("2>&-", 0), (">/dev/full", 2)])
def test_standard_streams_that_are_closed_or_full_end_in_no_traceback(closed, code):
    line = f"exec {sys.executable} -m redline.cli.main --version {closed}"
    run = subprocess.run(["sh", "-c", line], capture_output=True, text=True, env=_environment())
    assert run.returncode == code
    assert ("could not be written" in run.stderr or "No space left" in run.stderr) == bool(code)
    assert "Traceback" not in run.stderr and "Exception ignored" not in run.stderr


def test_a_reader_that_leaves_is_no_error():
    """`redline list | head -1` must not end in a traceback."""
    script = (
        "import sys, redline.cli.main as cli, click\n"
        "@click.command()\n"
        "def long():\n"
        "    for i in range(100000): click.echo('x' * 100)\n"
        "cli.LazyGroup.get_command = lambda self, ctx, name: long\n"
        "sys.exit(cli.main(['long']))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=_environment()
    )
    assert process.stdout is not None and process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    said = process.stderr.read()
    process.stderr.close()
    assert process.wait() == 0
    assert said == ""


def _environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(Path(cli.__file__).parents[2])}
