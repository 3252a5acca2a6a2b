"""The ledger: what is counted is written once a second, survives the process, and a broken disk stops no request."""

from __future__ import annotations

import asyncio
import csv
import io
import sqlite3
import time
from pathlib import Path

import pytest

from redline.server import usage
from redline.server.budgets import DAY_S, DAY_SLOT_S
from redline.server.database import Database
from redline.server.usage import Count, Ledger, Row, as_csv, rows_of

HOUR = 1_800_000_000 // 3600 * 3600


def opened(path: Path | str) -> Database:
    return Database(path, usage.MIGRATIONS)


def count(prompt: int = 3, completion: int = 2) -> Count:
    return Count(requests=1, prompt_tokens=prompt, cached_tokens=1, completion_tokens=completion)


def test_hours_keys_and_models_are_kept_apart_and_added_up(tmp_path: Path) -> None:
    async def test() -> None:
        database = opened(tmp_path / "usage.sqlite")
        ledger = Ledger(database)
        for key, model, at in (("a", "m", 0), ("a", "m", 3599), ("a", "m", 3600), ("b", "m", 0), ("a", "n", 0)):
            ledger.add(key, model, count(), HOUR + at)
        rows = await ledger.read(HOUR, HOUR + 7200)
        assert [(r.key, r.model, r.hour - HOUR, r.requests, r.prompt_tokens) for r in rows] == [
            ("a", "m", 3600, 1, 3),
            ("a", "m", 0, 2, 6),
            ("a", "n", 0, 1, 3),
            ("b", "m", 0, 1, 3),
        ]
        ledger.add("a", "m", count(), HOUR)
        assert (await ledger.read(HOUR, HOUR + 1, "a"))[0].requests == 3, "what is in the file is added to"
        assert await ledger.read(HOUR + 1, HOUR + 3600) == [] and await ledger.read(HOUR, HOUR + 1, "c") == []
        ledger.close()
        database.close()

    asyncio.run(test())


def test_counting_writes_nothing_itself_and_one_write_takes_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        monkeypatch.setattr(usage, "WRITE_S", 0.05)
        database = opened(tmp_path / "usage.sqlite")
        writes = []
        done = database.do

        async def counted(work):  # type: ignore[no-untyped-def]
            writes.append(1)
            return await done(work)

        monkeypatch.setattr(database, "do", counted)
        ledger = Ledger(database)
        now = time.time()
        for _ in range(5000):
            ledger.add("a", "m", count(), now)
        assert writes == []
        await asyncio.sleep(0.3)
        assert len(writes) == 1
        with sqlite3.connect(tmp_path / "usage.sqlite") as other:
            assert other.execute("SELECT requests, prompt_tokens FROM usage").fetchall() == [(5000, 15000)]
        other.close()
        ledger.close()
        database.close()

    asyncio.run(test())


def test_a_disk_that_fails_is_told_once_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        monkeypatch.setattr(usage, "WRITE_S", 0.01)
        database = opened(tmp_path / "usage.sqlite")
        ledger = Ledger(database)

        async def full(work: object) -> object:
            raise sqlite3.OperationalError("database or disk is full")

        with monkeypatch.context() as patched:
            patched.setattr(database, "do", full)
            for i in range(200):
                ledger.add(f"k{i % 3}", "m", count(), HOUR)
                await asyncio.sleep(0.001)
        assert len([r for r in caplog.records if "usage cannot be written" in r.message]) == 1
        assert len(ledger._counts) <= 3 and len(ledger._spent) <= 3, "what waits does not grow with the requests"
        assert sum(row.requests for row in await ledger.read(HOUR, HOUR + 1)) == 200
        assert sum(tokens for _, _, tokens in ledger.spent(HOUR + 60)) == 200 * 5
        ledger.close()
        database.close()

    caplog.set_level("ERROR", logger="redline")
    asyncio.run(test())


def test_closing_writes_the_rest_and_a_day_is_read_again(tmp_path: Path) -> None:
    async def test() -> None:
        database = opened(tmp_path / "usage.sqlite")
        ledger = Ledger(database)
        now = time.time()
        for age_s in (2 * DAY_S, DAY_S + 2 * DAY_SLOT_S, DAY_S - DAY_SLOT_S, 0):
            ledger.add("a", "m", count(), now - age_s)
        ledger.add("", "m", count(), now)  # without a key there is no budget
        ledger.close()
        database.close()
        database = opened(tmp_path / "usage.sqlite")
        spent = Ledger(database).spent(now)
        assert [(key, tokens) for key, _, tokens in spent] == [("a", 5), ("a", 5)]
        assert [int((now - at) // DAY_SLOT_S) for _, at, _ in spent] in ([1439, 0], [1438, 0])
        stored = database.run(lambda connection: connection.execute("SELECT COUNT(*) FROM spent").fetchone()[0])
        assert stored <= 3, "older slots go"
        assert len(database.run(lambda connection: rows_of(connection, 0, now + 1))) >= 3, "usage is kept for good"
        database.close()

    asyncio.run(test())


def test_csv_reads_back_and_holds_no_formula() -> None:
    rows = [
        Row(key="a", model='x,"y', hour=HOUR, requests=1, prompt_tokens=2, cached_tokens=0, completion_tokens=3),
        Row(key="", model="=cmd|' /C calc'!A0", hour=HOUR, requests=1, prompt_tokens=2, cached_tokens=0, completion_tokens=3),
    ]
    head, first, second = csv.reader(io.StringIO(as_csv(rows)))
    assert head == ["key", "model", "hour", "requests", "prompt_tokens", "cached_tokens", "completion_tokens"]
    assert first == ["a", 'x,"y', str(HOUR), "1", "2", "0", "3"]
    assert second[1].startswith("'=")
