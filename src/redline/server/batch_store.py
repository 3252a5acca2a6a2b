"""Batches and their lines as rows: what was asked, what is done, and who works on it.

Every change is one transaction, so that a process which ends at any moment leaves a state that the next one can go on from:
a line has a result or it has none. Lines that were under way in a process that is gone begin anew. Knows nothing of how a
line is answered. Open `BatchStore.claim`.
"""

from __future__ import annotations

import sqlite3
import time
import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import msgspec

from redline.errors import InvalidRequest, NotFound, RateLimited
from redline.server.database import Database
from redline.server.file_store import UNFINISHED, StoredFile, add_row, find_row, new_file_id
from redline.server.lease import Lease
from redline.server.schema import quoted

MAX_OPEN = 100  # unfinished batches of one caller
KEPT_S = 90 * 24 * 3600  # how long an ended batch can be asked for

Outcome = Literal["completed", "expired", "cancelled"]


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One row; times are Unix seconds."""

    seq: int
    id: str
    owner: str
    model: str
    endpoint: str
    input_file: str
    window: str
    metadata: str | None
    output_expires_s: int | None
    status: str
    outcome: Outcome | None  # decided, from the moment that the results are written out
    errors: str | None
    output_file: str | None
    error_file: str | None
    total: int
    completed: int
    failed: int
    input_tokens: int
    output_tokens: int
    cached_tokens: int
    reasoning_tokens: int
    created_at: int
    expires_at: int
    in_progress_at: int | None
    finalizing_at: int | None
    completed_at: int | None
    failed_at: int | None
    expired_at: int | None
    cancelling_at: int | None
    cancelled_at: int | None


class Line(NamedTuple):
    """A line of the input that has no result: where it lies in the file, and how often it was begun."""

    number: int
    custom_id: str
    start: int
    size: int
    attempts: int = 0


class Tokens(NamedTuple):
    """What a line used; the last two are parts of the first two."""

    input: int = 0
    output: int = 0
    cached: int = 0
    reasoning: int = 0


class Result(NamedTuple):
    """The end of a line: `text` is its line of the output or, where it is not `good`, of the error file."""

    number: int
    good: bool
    text: bytes
    tokens: Tokens = Tokens()


class BatchStore:
    def __init__(self, database: Database, lease: Lease) -> None:
        self._database = database
        self._lease = lease

    async def create(self, **asked: Any) -> Batch:
        """A new batch, to be validated; `asked` are its columns. Raises NotFound for its file, RateLimited for too many."""

        def work(connection: sqlite3.Connection) -> Batch:
            file = find_row(connection, asked["input_file"], asked["owner"])
            if file.purpose != "batch":
                raise InvalidRequest(f"the purpose of {file.id} is {file.purpose}, not batch", param="input_file_id")
            (count,) = connection.execute(
                f"SELECT COUNT(*) FROM batches WHERE owner = ? AND status IN {UNFINISHED}", (asked["owner"],)
            ).fetchone()
            if count >= MAX_OPEN:
                raise RateLimited(f"{count} batches are under way", hint="wait for one to end", retry_after_s=60)
            row = {**asked, "id": f"batch_{uuid.uuid4().hex}", "status": "validating", "created_at": int(time.time())}
            places = ", ".join("?" * len(row))
            connection.execute(f"INSERT INTO batches ({', '.join(row)}) VALUES ({places})", list(row.values()))
            return _find(connection, row["id"], asked["owner"])

        return await self._database.do(work)

    async def find(self, id: str, owner: str) -> Batch:
        """Raises NotFound."""
        return await self._database.read(lambda connection: _find(connection, id, owner))

    async def page(self, owner: str, *, limit: int, after: str | None) -> tuple[list[Batch], bool]:
        """At most `limit` batches, the newest first, and whether there are more. Raises NotFound for an unknown `after`."""

        def work(connection: sqlite3.Connection) -> list[Batch]:
            before = 2**62 if after is None else _find(connection, after, owner).seq
            rows = connection.execute(
                "SELECT * FROM batches WHERE owner = ? AND seq < ? ORDER BY seq DESC LIMIT ?", (owner, before, limit + 1)
            )
            return [_batch(row) for row in rows]

        found = await self._database.read(work)
        return found[:limit], len(found) > limit

    async def cancel(self, id: str, owner: str) -> Batch:
        """Ask for the end of a batch. Raises NotFound, and InvalidRequest where it has ended or is about to."""

        def work(connection: sqlite3.Connection) -> Batch:
            batch = _find(connection, id, owner)
            if batch.status not in ("validating", "in_progress", "cancelling"):
                raise InvalidRequest(f"a batch that is {batch.status} cannot be cancelled", param="batch_id")
            if batch.status != "cancelling":
                _set(connection, batch, status="cancelling", cancelling_at=int(time.time()))
            return _find(connection, id, owner)

        return await self._database.do(work)

    async def claim(self, models: frozenset[str], most: int) -> Batch | None:
        """The next batch that nobody works on and this server can: one of its models, or one that needs no model any more.

        Of several the oldest of the caller that has the fewest under way, and fewer than `most`. Lines that were begun begin anew.
        """

        def work(connection: sqlite3.Connection) -> Batch | None:
            rows = connection.execute(f"SELECT * FROM batches WHERE status IN {UNFINISHED} ORDER BY seq").fetchall()
            held = [row["holder"] is not None and self._lease.is_held(row["holder"]) for row in rows]
            busy = Counter(row["owner"] for row, taken in zip(rows, held, strict=True) if taken)
            free = [
                row
                for row, taken in zip(rows, held, strict=True)
                if not taken and _is_for(row, models) and busy[row["owner"]] < most
            ]
            if not free:
                return None
            row = min(free, key=lambda row: (busy[row["owner"]], row["seq"]))
            connection.execute("UPDATE batches SET holder = ? WHERE seq = ?", (self._lease.id, row["seq"]))
            connection.execute("UPDATE lines SET state = 'waiting' WHERE batch = ? AND state = 'running'", (row["seq"],))
            return _batch(row)

        return await self._database.do(work)

    async def release(self, batch: Batch | None = None) -> None:
        """Give a batch back, or all that this server has, for another one or for later. What was begun counts as not begun."""

        def work(connection: sqlite3.Connection) -> None:
            held = connection.execute("SELECT seq FROM batches WHERE holder = ?", (self._lease.id,))
            given = [(row["seq"],) for row in held if batch is None or row["seq"] == batch.seq]
            connection.executemany(
                "UPDATE lines SET state = 'waiting', attempts = attempts - 1 WHERE batch = ? AND state = 'running'", given
            )
            connection.executemany("UPDATE batches SET holder = NULL WHERE seq = ?", given)

        await self._database.do(work)

    async def again(self, batch: Batch) -> Batch:
        """The batch as it is by now."""
        return await self._database.read(lambda connection: _again(connection, batch))

    async def forget_lines(self, batch: Batch) -> None:
        """Begin with the lines anew: a validation that was cut short left some."""
        await self._database.do(lambda connection: connection.execute("DELETE FROM lines WHERE batch = ?", (batch.seq,)))

    async def add_lines(self, batch: Batch, lines: Sequence[Line]) -> None:
        rows = [(batch.seq, line.number, line.custom_id, line.start, line.size) for line in lines]
        insert = "INSERT INTO lines (batch, number, custom_id, start, size, state) VALUES (?, ?, ?, ?, ?, 'waiting')"
        await self._database.do(lambda connection: connection.executemany(insert, rows))

    async def begin(self, batch: Batch, total: int) -> Batch:
        """Every line is valid: they may run, unless somebody cancelled meanwhile."""

        def work(connection: sqlite3.Connection) -> Batch:
            _set(connection, batch, total=total)
            if _again(connection, batch).status == "validating":
                _set(connection, batch, status="in_progress", in_progress_at=int(time.time()))
            return _again(connection, batch)

        return await self._database.do(work)

    async def fail(self, batch: Batch, errors: list[dict[str, Any]]) -> None:
        """The input is not valid, and why. Its end."""
        told = msgspec.json.encode(errors).decode()

        def work(connection: sqlite3.Connection) -> None:
            connection.execute("DELETE FROM lines WHERE batch = ?", (batch.seq,))
            _set(connection, batch, status="failed", failed_at=int(time.time()), errors=told, holder=None)

        await self._database.do(work)

    async def take(self, batch: Batch, count: int) -> list[Line]:
        """The next lines to answer, at most `count`; none when all are under way or done."""

        def work(connection: sqlite3.Connection) -> list[Line]:
            rows = connection.execute(
                "SELECT * FROM lines WHERE batch = ? AND state = 'waiting' ORDER BY number LIMIT ?", (batch.seq, count)
            ).fetchall()
            lines = [Line(row["number"], row["custom_id"], row["start"], row["size"], row["attempts"] + 1) for row in rows]
            connection.executemany(
                "UPDATE lines SET state = 'running', attempts = attempts + 1 WHERE batch = ? AND number = ?",
                [(batch.seq, line.number) for line in lines],
            )
            return lines

        return await self._database.do(work)

    async def finish(self, batch: Batch, results: Sequence[Result]) -> None:
        """Keep results. A line that has one already keeps that."""

        def work(connection: sqlite3.Connection) -> None:
            for result in results:
                kept = connection.execute(
                    "UPDATE lines SET state = 'done', good = ?, result = ? WHERE batch = ? AND number = ? AND result IS NULL",
                    (int(result.good), result.text, batch.seq, result.number),
                )
                if kept.rowcount:
                    connection.execute(
                        """UPDATE batches SET completed = completed + ?, failed = failed + ?,
                           input_tokens = input_tokens + ?, output_tokens = output_tokens + ?,
                           cached_tokens = cached_tokens + ?, reasoning_tokens = reasoning_tokens + ? WHERE seq = ?""",
                        (int(result.good), int(not result.good), *result.tokens, batch.seq),
                    )

        await self._database.do(work)

    async def decide(self, batch: Batch, outcome: Outcome) -> Batch:
        """No line runs any more: how it ended, and the names of the files that its results will be written to."""

        def work(connection: sqlite3.Connection) -> Batch:
            now = _again(connection, batch)
            if now.outcome is None:
                assert outcome != "completed" or not _unanswered(connection, batch), "a line was lost"
                status = "cancelling" if outcome == "cancelled" else "finalizing"
                files = {"output_file": new_file_id(), "error_file": new_file_id()}
                _set(connection, batch, status=status, outcome=outcome, finalizing_at=int(time.time()), **files)
            return _again(connection, batch)

        return await self._database.do(work)

    async def results(self, batch: Batch, past: int, count: int) -> list[tuple[int, str, bool, bytes | None]]:
        """Number, custom id, whether it is good, and the text (None: it never got one) of the lines past number `past`."""

        def work(connection: sqlite3.Connection) -> list[tuple[int, str, bool, bytes | None]]:
            rows = connection.execute(
                "SELECT number, custom_id, good, result FROM lines WHERE batch = ? AND number > ? ORDER BY number LIMIT ?",
                (batch.seq, past, count),
            )
            return [(row["number"], row["custom_id"], bool(row["good"]), row["result"]) for row in rows]

        return await self._database.read(work)

    async def end(self, batch: Batch, files: Sequence[StoredFile]) -> None:
        """The files are on the disk: they and the end of the batch become visible together, and its lines go."""
        names = {file.id for file in files}

        def work(connection: sqlite3.Connection) -> None:
            for file in files:
                add_row(connection, file)
            assert batch.outcome is not None
            changes: dict[str, Any] = {"status": batch.outcome, f"{batch.outcome}_at": int(time.time()), "holder": None}
            changes |= {name: None for name in ("output_file", "error_file") if getattr(batch, name) not in names}
            _set(connection, batch, **changes, failed=_again(connection, batch).failed + _unanswered(connection, batch))
            connection.execute("DELETE FROM lines WHERE batch = ?", (batch.seq,))

        await self._database.do(work)

    async def sweep(self) -> None:
        """Forget batches that ended long ago."""
        before = int(time.time()) - KEPT_S
        await self._database.do(
            lambda connection: connection.execute(
                f"DELETE FROM batches WHERE created_at < ? AND expires_at < ? AND status NOT IN {UNFINISHED}", (before, before)
            )
        )


def _is_for(row: sqlite3.Row, models: frozenset[str]) -> bool:
    return (
        row["model"] in models or row["outcome"] is not None or row["status"] == "cancelling" or row["expires_at"] <= time.time()
    )


def _find(connection: sqlite3.Connection, id: str, owner: str) -> Batch:
    row = connection.execute("SELECT * FROM batches WHERE id = ? AND owner = ?", (id, owner)).fetchone()
    if row is None:
        raise NotFound(f"there is no batch {quoted(id)}", param="batch_id")
    return _batch(row)


def _again(connection: sqlite3.Connection, batch: Batch) -> Batch:
    return _batch(connection.execute("SELECT * FROM batches WHERE seq = ?", (batch.seq,)).fetchone())


def _unanswered(connection: sqlite3.Connection, batch: Batch) -> int:
    count: int = connection.execute("SELECT COUNT(*) FROM lines WHERE batch = ? AND result IS NULL", (batch.seq,)).fetchone()[0]
    return count


def _set(connection: sqlite3.Connection, batch: Batch, **changes: Any) -> None:
    columns = ", ".join(f"{name} = ?" for name in changes)
    connection.execute(f"UPDATE batches SET {columns} WHERE seq = ?", [*changes.values(), batch.seq])


def _batch(row: sqlite3.Row) -> Batch:
    return Batch(**{name: row[name] for name in Batch.__dataclass_fields__})
