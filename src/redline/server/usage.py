"""What every key used, hour by hour and model by model, in a file that outlives the server.

Requests are counted in memory and written together once a second, never on their own path. Two tables: `usage` for people
and bills, kept for good, and `spent` in short slots, kept for a day, from which the day's budgets are read again after a
restart. A server that is killed loses the last second. Knows nothing of keys or limits. Open `Ledger`.
"""

from __future__ import annotations

import asyncio
import csv
import io
import sqlite3
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

import msgspec

from redline import log
from redline.server.budgets import DAY_S, DAY_SLOT_S
from redline.server.database import Database

FILE = "usage.sqlite"
MIGRATIONS = (
    """CREATE TABLE usage (
        key TEXT NOT NULL, model TEXT NOT NULL, hour INTEGER NOT NULL,
        requests INTEGER NOT NULL, prompt_tokens INTEGER NOT NULL, cached_tokens INTEGER NOT NULL,
        completion_tokens INTEGER NOT NULL, PRIMARY KEY (key, model, hour)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE spent (
        key TEXT NOT NULL, slot INTEGER NOT NULL, tokens INTEGER NOT NULL, PRIMARY KEY (key, slot)
    ) STRICT, WITHOUT ROWID""",
)

HOUR_S = 3600
WRITE_S = 1.0  # how much a server that is killed forgets
MAX_ROWS = 10_000  # of one answer

_ADD_USAGE = """INSERT INTO usage VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET
    requests = requests + excluded.requests, prompt_tokens = prompt_tokens + excluded.prompt_tokens,
    cached_tokens = cached_tokens + excluded.cached_tokens, completion_tokens = completion_tokens + excluded.completion_tokens"""
_ADD_SPENT = "INSERT INTO spent VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET tokens = tokens + excluded.tokens"
_READ = """SELECT key, model, hour, requests, prompt_tokens, cached_tokens, completion_tokens FROM usage
    WHERE hour >= ? AND hour < ? AND (? IS NULL OR key = ?) ORDER BY hour DESC, key, model LIMIT ?"""


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One hour of one key and model. `hour` is the Unix time of its beginning."""

    key: str
    model: str
    hour: int
    requests: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int


@dataclass
class Count:
    """What is added up."""

    requests: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0

    def add(self, other: Count) -> None:
        self.requests += other.requests
        self.prompt_tokens += other.prompt_tokens
        self.cached_tokens += other.cached_tokens
        self.completion_tokens += other.completion_tokens


class Ledger:
    """The file, and what is not in it yet: at most one count for each key, model and hour."""

    def __init__(self, database: Database, after_write: Callable[[], Awaitable[None]] | None = None) -> None:
        self._database = database
        self._after_write = after_write
        self._counts: dict[tuple[str, str, int], Count] = {}
        self._spent: dict[tuple[str, int], int] = {}
        self._writing: asyncio.Task[None] | None = None
        self._complained = False
        self._closed = False

    def add(self, key: str, model: str, count: Count, now: float) -> None:
        """Count one call that ended `now`."""
        hour = int(now // HOUR_S) * HOUR_S
        self._counts.setdefault((key, model, hour), Count()).add(count)
        tokens = count.prompt_tokens + count.completion_tokens
        if key and tokens:
            slot = int(now // DAY_SLOT_S)
            self._spent[key, slot] = self._spent.get((key, slot), 0) + tokens
        if self._writing is None or self._writing.done():
            self._writing = asyncio.ensure_future(self._write_soon())

    def spent(self, now: float) -> list[tuple[str, float, int]]:
        """Key, beginning of a slot of `DAY_SLOT_S`, and tokens used in it: of the last day, oldest first."""
        oldest = int((now - DAY_S) // DAY_SLOT_S)

        def read(connection: sqlite3.Connection) -> list[tuple[str, float, int]]:
            rows = connection.execute("SELECT key, slot, tokens FROM spent WHERE slot >= ? ORDER BY slot", (oldest,))
            return [(row["key"], row["slot"] * DAY_SLOT_S, row["tokens"]) for row in rows]

        return self._database.run(read)

    async def read(self, since: float, until: float, key: str | None = None) -> list[Row]:
        """The newest `MAX_ROWS` hours that begin in the span, of one key or of all; what was counted until now is in them."""
        await asyncio.shield(asyncio.ensure_future(self._write()))
        return await self._database.read(lambda connection: rows_of(connection, since, until, key))

    def close(self) -> None:
        """Write what is left. Nothing is counted any more."""
        self._closed = True
        counts, spent = self._taken()
        try:
            self._database.run(lambda connection: _store(connection, counts, spent, time.time()))
        except (sqlite3.Error, OSError) as error:
            log.get("usage").error("the usage of the last second is lost: %s", error)

    async def _write_soon(self) -> None:
        while self._counts:
            await asyncio.sleep(WRITE_S)
            if self._closed:
                return
            await self._write()
            if self._after_write is not None:
                await self._after_write()

    async def _write(self) -> None:
        counts, spent = self._taken()
        if not counts:
            return
        try:
            await self._database.do(lambda connection: _store(connection, counts, spent, time.time()))
            self._complained = False
        except (sqlite3.Error, OSError) as error:
            # Kept for the next time: the requests go on, and the counts are few however many there are.
            for name, count in counts.items():
                self._counts.setdefault(name, Count()).add(count)
            for slot, tokens in spent.items():
                self._spent[slot] = self._spent.get(slot, 0) + tokens
            if not self._complained:
                log.get("usage").error("usage cannot be written, and is kept in memory: %s", error)
            self._complained = True

    def _taken(self) -> tuple[dict[tuple[str, str, int], Count], dict[tuple[str, int], int]]:
        taken = self._counts, self._spent
        self._counts, self._spent = {}, {}
        return taken


def rows_of(connection: sqlite3.Connection, since: float, until: float, key: str | None = None) -> list[Row]:
    """See `Ledger.read`; for command lines, which have a file and no server."""
    return [Row(**dict(row)) for row in connection.execute(_READ, (since, until, key, key, MAX_ROWS))]


def as_csv(rows: Iterable[Row]) -> str:
    """The rows with a head line. A text that a spreadsheet would take for a formula is quoted with an apostrophe."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(Row.__struct_fields__)
    for row in rows:
        cells = (getattr(row, name) for name in Row.__struct_fields__)
        writer.writerow([f"'{cell}" if isinstance(cell, str) and cell[:1] in "=+-@\t\r" and cell else cell for cell in cells])
    return out.getvalue()


def _store(
    connection: sqlite3.Connection, counts: dict[tuple[str, str, int], Count], spent: dict[tuple[str, int], int], now: float
) -> None:
    connection.executemany(
        _ADD_USAGE,
        [(*name, c.requests, c.prompt_tokens, c.cached_tokens, c.completion_tokens) for name, c in counts.items()],
    )
    connection.executemany(_ADD_SPENT, [(*name, tokens) for name, tokens in spent.items()])
    connection.execute("DELETE FROM spent WHERE slot < ?", (int((now - DAY_S) // DAY_SLOT_S) - 1,))
