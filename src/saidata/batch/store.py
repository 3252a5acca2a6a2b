"""The one SQLite file that jobs, answers and the archive share: `Store`. Opening, shape, and what can be wrong with it.

Write-ahead log, so that a process that is killed at any moment leaves a sound file. Knows nothing of what the rows mean.
"""

from __future__ import annotations

import contextlib
import datetime
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

from saidata.errors import Misuse, Refused, SaidataError

SHAPE = 1
BUSY_S = 30.0

_TABLES = """
CREATE TABLE jobs (
    id INTEGER PRIMARY KEY, key TEXT NOT NULL, made_at TEXT NOT NULL, list_name TEXT NOT NULL, folder TEXT NOT NULL,
    settings TEXT NOT NULL, cancelled INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE items (
    job INTEGER NOT NULL REFERENCES jobs(id), place INTEGER NOT NULL, name TEXT NOT NULL, category TEXT NOT NULL,
    state TEXT NOT NULL DEFAULT 'waiting', reason TEXT NOT NULL DEFAULT '', tries INTEGER NOT NULL DEFAULT 0,
    figures TEXT NOT NULL DEFAULT '{}', PRIMARY KEY (job, name)
) WITHOUT ROWID;
CREATE INDEX items_by_state ON items (job, state, place);
CREATE TABLE answers (
    key TEXT NOT NULL, model TEXT NOT NULL, answer BLOB NOT NULL, PRIMARY KEY (key, model)
) WITHOUT ROWID;
CREATE TABLE texts (hash TEXT PRIMARY KEY, yaml BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE versions (
    name TEXT NOT NULL, number INTEGER NOT NULL, at TEXT NOT NULL, hash TEXT NOT NULL REFERENCES texts(hash),
    content TEXT NOT NULL, model TEXT NOT NULL, note TEXT NOT NULL, job INTEGER, evidence TEXT NOT NULL,
    PRIMARY KEY (name, number)
) WITHOUT ROWID;
"""


def now() -> str:
    """This second, ISO 8601 in UTC, as rows have it."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


class Store:
    """The open file. Used from one thread; other processes may use it too."""

    def __init__(self, path: Path):
        """Opens `path`, making it where it is not there. Raises Misuse for a file that is none of ours or is corrupt."""
        self.path = path
        with self.told():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            with self.changes():
                shape = self._db.execute("PRAGMA user_version").fetchone()[0]
                if shape == 0:
                    for statement in _TABLES.split(";")[:-1]:
                        self._db.execute(statement)
                    self._db.execute(f"PRAGMA user_version={SHAPE}")
        if shape not in (0, SHAPE):
            self._db.close()
            raise Misuse(
                f"{path} was written by another version of saidata (its shape is {shape}, this one reads {SHAPE})",
                hint="move it away, and a new one is made",
            )

    @contextlib.contextmanager
    def changes(self) -> Iterator[None]:
        """All changes inside happen together, or none does."""
        with self.told():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    def run(self, statement: str, *values: Any) -> sqlite3.Cursor:
        """One statement."""
        with self.told():
            return self._db.execute(statement, values)

    def rows(self, statement: str, *values: Any) -> list[Any]:
        """All rows of a query."""
        with self.told():
            return self._db.execute(statement, values).fetchall()

    @contextlib.contextmanager
    def told(self) -> Iterator[None]:
        """What SQLite and the disk complain of, as sentences."""
        try:
            yield
        except sqlite3.OperationalError as error:
            said = str(error)
            if "full" in said:
                raise Misuse(f"the disk is full: {self.path} cannot grow", hint="make room, then go on") from error
            if "locked" in said:
                raise SaidataError(f"{self.path} is held by another process", hint="wait for it, or end it") from error
            raise Misuse(f"{self.path} cannot be used: {said}", hint="is the folder there and writable?") from error
        except sqlite3.DatabaseError as error:
            raise Misuse(
                f"{self.path} is corrupt or no file of saidata: {error}", hint="move it away, and a new one is made"
            ) from error
        except OSError as error:
            raise Refused(error, f"{self.path} cannot be used") from error

    def close(self) -> None:
        """Safe to repeat."""
        self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
