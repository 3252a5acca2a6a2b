"""The search for a Python asks each candidate, so a shim that only fails is passed over, and says what to do when none fits."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import layers

SCRIPT = Path(layers.__file__).with_name("python.sh")


@pytest.fixture
def path(tmp_path):
    """A folder for fake programs; `path(name, shell text)` adds one."""

    def add(name: str, text: str) -> None:
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)

    add.folder = tmp_path
    return add


def search(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["/bin/sh", SCRIPT], env={"PATH": str(folder), **environment}, capture_output=True, text=True)


def test_a_shim_that_fails_and_a_version_that_is_not_supported_are_passed_over(path):
    path("python3.12", "exit 127")
    path("python3.11", "exit 1")  # what the question answers on another version
    path("python3", f'exec {sys.executable} "$@"')
    found = search(path.folder)
    assert (found.returncode, found.stdout.strip()) == (0, "python3")


def test_none_is_a_sentence_with_the_next_step(path):
    path("python3.12", "exit 127")
    missing = search(path.folder)
    assert missing.returncode == 1 and missing.stdout == ""
    assert "needs Python 3.11 or 3.12" in missing.stderr and "PYTHON=/path/to" in missing.stderr


def test_the_one_that_was_named_is_the_only_candidate(path):
    path("python3", f'exec {sys.executable} "$@"')
    path("mine", "exit 1")
    assert "PYTHON=mine is not" in search(path.folder, PYTHON="mine").stderr
    path("mine", f'exec {sys.executable} "$@"')
    assert search(path.folder, PYTHON="mine").stdout.strip() == "mine"
