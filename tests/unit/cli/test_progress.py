"""Progress away from a terminal: one plain line for each stage, and none where it must be quiet."""

from __future__ import annotations

import pytest

from redline.cli.progress import Progress


def test_each_stage_is_one_line_with_seconds(capsys):
    with Progress() as progress:
        progress("reading", 0.1)
        progress("reading", 1.0)
        progress("warming up")
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(" after ")[0] for line in lines] == ["reading done", "warming up done"]


def test_a_stage_that_failed_is_not_called_done(capsys):
    with pytest.raises(ValueError), Progress() as progress:
        progress("reading")
        raise ValueError
    assert capsys.readouterr().err.startswith("reading stopped after")


def test_quiet_says_nothing(capsys):
    with Progress(quiet=True) as progress:
        progress("reading", 0.5)
    assert capsys.readouterr().err == ""
