"""The environment: one table, and nothing beside it can be read."""

from __future__ import annotations

from pathlib import Path

import pytest

from redline import env


def test_the_table_has_at_most_twelve_documented_names() -> None:
    names = [variable.name for variable in env.ENVIRONMENT]
    assert len(set(names)) == len(names) <= 12
    assert all(variable.help.endswith(".") for variable in env.ENVIRONMENT)


def test_a_name_that_is_not_in_the_table_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME_SWEET_HOME", "1")
    with pytest.raises(AssertionError, match="HOME_SWEET_HOME"):
        env.read("HOME_SWEET_HOME")


def test_the_cache_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/a")
    monkeypatch.delenv("REDLINE_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert env.cache_dir() == Path("/home/a/.cache/redline")
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert env.cache_dir() == Path("/x/redline")
    monkeypatch.setenv("REDLINE_CACHE", "~/models")
    assert env.cache_dir() == Path("/home/a/models")
    monkeypatch.setenv("REDLINE_CACHE", "")
    assert env.cache_dir() == Path("/x/redline"), "an empty value is no value"


def test_the_data_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/a")
    monkeypatch.delenv("REDLINE_DATA", raising=False)
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    assert env.data_dir() == Path("/home/a/.local/share/redline")
    monkeypatch.setenv("XDG_DATA_HOME", "/x")
    assert env.data_dir() == Path("/x/redline")
    monkeypatch.setenv("REDLINE_DATA", "~/state")
    assert env.data_dir() == Path("/home/a/state")


def test_defaults_and_values(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("REDLINE_LOG", "REDLINE_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    assert (env.log_level(), env.api_key()) == ("info", None)
    monkeypatch.setenv("REDLINE_LOG", "DEBUG")
    monkeypatch.setenv("REDLINE_API_KEY", "k")
    assert (env.log_level(), env.api_key()) == ("debug", "k")


def test_a_child_gets_this_environment_and_the_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDLINE_LOG", "debug")
    child = env.for_child(TMPDIR="/t")
    assert child["REDLINE_LOG"] == "debug" and child["TMPDIR"] == "/t"
