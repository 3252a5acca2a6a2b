"""Jobs and their items: what is to be made, what is, what could not be. Open `Jobs`.

An item is waiting, done, kept (the file was edited by hand and stays) or failed. There is no state for "being made": whatever
ends the process, an item is waiting until its file lies on the disk, and done from then on.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import msgspec

from saidata.batch.names import Wanted
from saidata.batch.store import Store, now
from saidata.errors import Misuse, NotHere

State = Literal["waiting", "done", "kept", "failed"]
STATES: tuple[State, ...] = ("waiting", "done", "kept", "failed")


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What a job was started with, so that it goes on the same way."""

    model: str
    base_url: str | None = None
    providers: tuple[str, ...] = ("apt",)
    deep: bool = False
    options: dict[str, Any] = {}  # of generation
    engine: dict[str, Any] = {}  # redline's
    side_by_side: int = 32
    force: bool = False
    others: tuple[str, ...] = ()  # more models, and how they work together
    mode: str = "route"
    rules: tuple[str, ...] = ()
    sure: float = 0.5


class JobRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A job and how far it is."""

    id: int
    made_at: str
    list_name: str
    folder: str
    settings: Settings
    cancelled: bool
    counts: dict[str, int]

    @property
    def total(self) -> int:
        """Its items."""
        return sum(self.counts.values())

    @property
    def state(self) -> str:
        """In one word."""
        if self.counts["waiting"]:
            return "cancelled" if self.cancelled else "unfinished"
        return "done with failures" if self.counts["failed"] else "done"


class Item(msgspec.Struct, frozen=True, kw_only=True):
    """One name of a job."""

    name: str
    category: str
    state: State
    reason: str
    tries: int
    figures: dict[str, Any]


class Jobs:
    """The jobs in a store."""

    def __init__(self, store: Store):
        self._store = store

    def start(
        self, names: Sequence[Wanted], list_name: str, folder: Path, settings: Settings, *, anew: bool = False
    ) -> tuple[int, bool]:
        """The number of a job for these names, and whether it was there before: the same unfinished one goes on unless `anew`."""
        where = str(folder.absolute())
        parts = ([(each.name, each.category) for each in names], where, settings)
        key = hashlib.sha256(msgspec.json.encode(parts, order="deterministic")).hexdigest()
        with self._store.changes():
            if not anew:
                open_now = "SELECT 1 FROM items WHERE job = jobs.id AND state = 'waiting'"
                rows = self._store.rows(
                    f"SELECT id FROM jobs WHERE key = ? AND NOT cancelled AND EXISTS ({open_now}) ORDER BY id DESC", key
                )
                if rows:
                    return rows[0][0], True
            made = self._store.run(
                "INSERT INTO jobs (key, made_at, list_name, folder, settings) VALUES (?, ?, ?, ?, ?)",
                *(key, now(), list_name, where, msgspec.json.encode(settings).decode()),
            )
            job = made.lastrowid
            assert job is not None
            for place, each in enumerate(names):
                self._store.run(
                    "INSERT INTO items (job, place, name, category) VALUES (?, ?, ?, ?)", job, place, each.name, each.category
                )
            return job, False

    def all(self) -> list[JobRecord]:
        """Every job, the newest first."""
        return [self.job(row[0]) for row in self._store.rows("SELECT id FROM jobs ORDER BY id DESC")]

    def job(self, number: int) -> JobRecord:
        """One job. Raises NotHere."""
        rows = self._store.rows("SELECT made_at, list_name, folder, settings, cancelled FROM jobs WHERE id = ?", number)
        if not rows:
            raise NotHere(f"there is no job {number}", hint="see `saidata jobs list`")
        made_at, list_name, folder, settings, cancelled = rows[0]
        counted = dict(self._store.rows("SELECT state, count(*) FROM items WHERE job = ? GROUP BY state", number))
        return JobRecord(
            id=number,
            made_at=made_at,
            list_name=list_name,
            folder=folder,
            settings=msgspec.json.decode(settings, type=Settings),
            cancelled=bool(cancelled),
            counts={state: counted.get(state, 0) for state in STATES},
        )

    def items(self, number: int, state: State | None = None) -> list[Item]:
        """The items of a job in the order of the list, all or those in one state."""
        self.job(number)
        rows = self._store.rows(
            "SELECT name, category, state, reason, tries, figures FROM items WHERE job = ?1 AND (?2 IS NULL OR state = ?2) ORDER BY place",
            *(number, state),
        )
        return [
            Item(name=name, category=category, state=now, reason=reason, tries=tries, figures=msgspec.json.decode(figures))
            for name, category, now, reason, tries, figures in rows
        ]

    def ended(self, number: int, name: str, state: State, reason: str = "", figures: Mapping[str, Any] | None = None) -> None:
        """An item came to its end. Call inside `Store.changes` to bind it to more."""
        self._store.run(
            "UPDATE items SET state = ?, reason = ?, tries = tries + 1, figures = ? WHERE job = ? AND name = ?",
            *(state, reason, msgspec.json.encode(figures or {}).decode(), number, name),
        )

    def retry(self, number: int) -> int:
        """Let the failed items wait again; how many."""
        self.job(number)
        with self._store.changes():
            self._store.run("UPDATE jobs SET cancelled = 0 WHERE id = ?", number)
            return self._store.run("UPDATE items SET state = 'waiting' WHERE job = ? AND state = 'failed'", number).rowcount

    def cancel(self, number: int) -> None:
        """Begin no further item of this job; `retry` or `resume` takes it up again. A run sees it within a few files."""
        self.job(number)
        self._store.run("UPDATE jobs SET cancelled = 1 WHERE id = ?", number)

    def revive(self, number: int) -> None:
        """Take a cancelled job up again."""
        self.job(number)
        self._store.run("UPDATE jobs SET cancelled = 0 WHERE id = ?", number)

    def is_cancelled(self, number: int) -> bool:
        """Whether it was cancelled meanwhile."""
        return bool(self._store.rows("SELECT cancelled FROM jobs WHERE id = ?", number)[0][0])

    @contextmanager
    def held(self, number: int) -> Iterator[None]:
        """Only one process runs a job. The lock goes with the process, however that ends. Raises Misuse where another has it."""
        path = self._store.path.with_name(f"{self._store.path.name}.job{number}.lock")
        with self._store.told():
            file = open(path, "a+")
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                file.seek(0)
                raise Misuse(
                    f"job {number} is being run by process {file.read().strip() or 'unknown'}",
                    hint="wait for it, or end that process; the job can then be resumed",
                ) from error
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            yield
