"""One SQLite file: opened once, migrated by number, used from one thread of its own.

The rooms that keep something (keys, responses, files and batches) each have a file and a list of migrations. WAL, so that
a command line may read and write while the server runs. Knows nothing of what is kept. Open `Database`.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from redline.errors import ConfigError

T = TypeVar("T")

BUSY_S = 5.0  # how long a write waits for another process's


class Database:
    """`work(connection)` runs in one transaction: committed when it returns, rolled back when it raises."""

    def __init__(self, path: str | Path, migrations: Sequence[str]) -> None:
        """Open or make `path` (":memory:" for tests), readable by its owner alone, and bring its tables up to date.

        `migrations[i]` is the SQL script from version i to i + 1. Raises ConfigError where the file cannot be used or was
        written by a newer redline.
        """
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="sqlite")
        self._connection = self._thread.submit(_open, str(path), tuple(migrations)).result()

    def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Do `work` and wait for it: for command lines and tests."""
        return self._thread.submit(self._transaction, work).result()

    async def do(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Do `work` without holding up the event loop. It is finished even if the caller is cancelled meanwhile."""
        return await asyncio.shield(asyncio.wrap_future(self._thread.submit(self._transaction, work)))

    async def read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Like `do` for work that changes nothing: it never waits for another process that writes."""
        return await asyncio.wrap_future(self._thread.submit(self._transaction, work, "BEGIN"))

    def close(self) -> None:
        """Finish what was asked for and close the file. Safe to repeat."""
        if not self._thread._shutdown:
            self._thread.submit(self._connection.close).result()
            self._thread.shutdown()

    def _transaction(self, work: Callable[[sqlite3.Connection], T], begin: str = "BEGIN IMMEDIATE") -> T:
        connection = self._connection
        connection.execute(begin)
        try:
            result = work(connection)
        except BaseException:
            connection.rollback()
            raise
        connection.commit()
        return result


def _open(path: str, migrations: tuple[str, ...]) -> sqlite3.Connection:
    try:
        if path != ":memory:":
            file = Path(path)
            file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            file.touch(mode=0o600)
        connection = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None)
        connection.row_factory = sqlite3.Row
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA foreign_keys=ON")
        _migrate(connection, migrations)
    except (sqlite3.Error, OSError) as error:
        raise ConfigError(f"{path} cannot be used: {error}", hint="name another --state-dir", param="state_dir") from error
    return connection


def _migrate(connection: sqlite3.Connection, migrations: tuple[str, ...]) -> None:
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > len(migrations):
        raise sqlite3.DatabaseError(f"it has version {version} of its tables, this redline knows {len(migrations)}")
    for number in range(version, len(migrations)):
        connection.executescript(f"BEGIN IMMEDIATE; {migrations[number]}; PRAGMA user_version = {number + 1}; COMMIT;")
