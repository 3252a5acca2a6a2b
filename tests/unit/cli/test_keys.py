"""`redline keys` on the files of a state folder: what it prints, what it refuses, and that a key is seen once."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from redline.cli.keys import command
from redline.cli.main import main
from redline.errors import InvalidRequest, NotFound
from redline.server import keys, usage
from redline.server.database import Database
from redline.server.keys import id_of
from redline.server.usage import Count, Ledger


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("REDLINE_DATA", str(tmp_path / "state"))
    return tmp_path / "state"


def run(*arguments: str) -> Result:
    return CliRunner().invoke(command, arguments)


def document(*arguments: str) -> Any:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_a_key_is_printed_once_and_alone(folder: Path) -> None:
    result = run("add", "Ada", "--scope", "inference", "--expires", "30d", "--tokens-per-day", "1000")
    assert result.exit_code == 0 and id_of(result.stdout.strip().encode()) is not None
    assert "not shown again" in result.stderr and result.stdout.strip() not in result.stderr
    for command_line in (("list",), ("list", "--json")):
        assert result.stdout.strip() not in run(*command_line).output
    (key,) = document("list")["keys"]
    assert (key["name"], key["scopes"], key["tokens_per_day"]) == ("Ada", ["inference"], 1000)
    assert abs(key["expires"] - time.time() - 30 * 86400) < 60
    assert (folder / keys.FILE).stat().st_mode & 0o077 == 0


def test_keys_are_changed_and_revoked(folder: Path) -> None:
    made = document(
        "add", "Ada", "--model", "m", "--concurrency", "2", "--priority", "3", "--weight", "2.5", "--expires", "2100-01-01"
    )
    assert made["expires"] == 4_102_444_800 and made["models"] == ["m"]
    changed = document("update", made["id"], "--name", "Bo", "--no", "model", "--no", "concurrency", "--tokens-per-minute", "9")
    assert (changed["name"], changed["models"], changed["concurrency"], changed["tokens_per_minute"]) == ("Bo", None, None, 9)
    assert changed["weight"] == 2.5 and "token" not in changed
    told = run("list").stdout
    assert "until 2100-01-01" in told and "9 tokens per minute; priority 3; weight 2.5" in told
    assert document("revoke", made["id"])["revoked"] == document("revoke", made["id"])["revoked"]
    assert "revoked" in run("list").stdout


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("add", ""), InvalidRequest),
        (("add", "a", "--expires", "soon"), InvalidRequest),
        (("add", "a", "--expires", "2001-01-01"), InvalidRequest),
        (("add", "a", "--tokens-per-minute", "0"), InvalidRequest),
        (("add", "a", "--weight", "nan"), InvalidRequest),
        (("revoke", "nope"), NotFound),
        (("update", "nope", "--name", "x"), NotFound),
        (("usage", "--since", "2001-13-01"), InvalidRequest),
    ],
)
def test_mistakes_are_sentences(folder: Path, arguments: tuple[str, ...], error: type) -> None:
    assert isinstance(run(*arguments).exception, error)
    assert main(["keys", *arguments]) == 2


@pytest.mark.parametrize(
    "arguments",
    [("add", "a", "--scope", "open"), ("update", "x", "--no", "name"), ("usage", "--csv", "--json"), ("add",), ("nope",)],
)
def test_a_wrong_command_line_is_a_usage_error(folder: Path, arguments: tuple[str, ...]) -> None:
    assert run(*arguments).exit_code == 2


def test_usage_is_told_as_a_table_json_and_csv(folder: Path) -> None:
    database = Database(folder / usage.FILE, usage.MIGRATIONS)
    now = time.time()
    counts: list[tuple[str, float, int]] = [("a", now, 5), ("b", now, 7), ("a", now - 10 * 86400, 11)]

    async def count() -> None:
        ledger = Ledger(database)
        for key, at, prompt in counts:
            ledger.add(key, "m", Count(requests=1, prompt_tokens=prompt), at)
        ledger.close()

    asyncio.run(count())
    database.close()
    assert [row["prompt_tokens"] for row in document("usage")["usage"]] == [5, 7]
    assert [row["prompt_tokens"] for row in document("usage", "--since", "30d", "--key", "a")["usage"]] == [5, 11]
    rows = list(csv.DictReader(io.StringIO(run("usage", "--csv").stdout)))
    assert [row["key"] for row in rows] == ["a", "b"]
    table = run("usage").stdout.splitlines()
    assert table[0].split() == ["HOUR", "(UTC)", "KEY", "MODEL", "REQUESTS", "PROMPT", "CACHED", "COMPLETION"] and len(table) == 3


def test_a_server_is_told_to_be_closed_only_where_there_are_keys(folder: Path) -> None:
    assert not keys.any_in(folder) and not folder.exists(), "looking makes no file"
    run("list")
    assert not keys.any_in(folder)
    key = document("add", "a")
    run("revoke", key["id"])
    assert keys.any_in(folder), "a revoked key still closes the server"
