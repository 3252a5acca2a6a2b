"""Stored responses: one SQLite file, every row the property of one caller, bounded in age and size.

A response has its document (without output) and its items: the input that came with it and the output it got. A chain of
`previous_response_id` is followed here. One that runs in the background names the lease of its server (lease.py): where
nobody holds that any more, the server died, and the response has failed. Knows nothing of models or HTTP. Open
`ResponseStore`.

What goes, oldest first, whenever something is stored: what is older than `MAX_AGE_S`, what exceeds `MAX_CALLER_BYTES` or
`MAX_CALLER_RESPONSES` of its caller, what exceeds `MAX_BYTES` of all callers. What still runs stays.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from redline.errors import InternalError, InvalidRequest, NotFound
from redline.server.database import Database
from redline.server.lease import Lease
from redline.server.paging import Page
from redline.server.schema import quoted

Json = dict[str, Any]
T = TypeVar("T")

MAX_AGE_S = 30 * 24 * 3600.0
MAX_CALLER_BYTES = 256 << 20
MAX_CALLER_RESPONSES = 20_000
MAX_BYTES = 2 << 30
MAX_CHAIN = 256  # responses that one answer may look back on
MAX_CHAIN_BYTES = 16 << 20

RUNNING = ("queued", "in_progress")

MIGRATIONS = (
    """
    CREATE TABLE responses (
        id TEXT PRIMARY KEY,
        tenant TEXT NOT NULL,
        previous TEXT,
        created REAL NOT NULL,
        status TEXT NOT NULL,
        runner TEXT,                      -- the lease of the server that runs it, while it runs
        bytes INTEGER NOT NULL,
        document BLOB NOT NULL            -- JSON, without output
    ) WITHOUT ROWID;
    CREATE INDEX responses_by_tenant ON responses (tenant, created);
    CREATE INDEX responses_by_age ON responses (created);
    CREATE INDEX responses_by_runner ON responses (runner) WHERE runner IS NOT NULL;
    CREATE TABLE totals (tenant TEXT PRIMARY KEY, number INTEGER NOT NULL, bytes INTEGER NOT NULL) WITHOUT ROWID;
    CREATE TRIGGER responses_came AFTER INSERT ON responses BEGIN
        INSERT INTO totals VALUES (NEW.tenant, 1, NEW.bytes)
            ON CONFLICT DO UPDATE SET number = number + 1, bytes = bytes + excluded.bytes;
    END;
    CREATE TRIGGER responses_grew AFTER UPDATE OF bytes ON responses BEGIN
        UPDATE totals SET bytes = bytes + NEW.bytes - OLD.bytes WHERE tenant = NEW.tenant;
    END;
    CREATE TRIGGER responses_went AFTER DELETE ON responses BEGIN
        UPDATE totals SET number = number - 1, bytes = bytes - OLD.bytes WHERE tenant = OLD.tenant;
        DELETE FROM totals WHERE tenant = OLD.tenant AND number = 0;
    END;
    CREATE TABLE items (
        response TEXT NOT NULL REFERENCES responses (id) ON DELETE CASCADE,
        kind TEXT NOT NULL,               -- input or output
        place INTEGER NOT NULL,
        id TEXT NOT NULL,
        body BLOB NOT NULL,
        PRIMARY KEY (response, kind, place)
    ) WITHOUT ROWID;
    CREATE INDEX items_by_id ON items (id);
    """,
)


class ResponseStore:
    """Every method takes the caller's id as `tenant` and sees nothing of other callers'."""

    def __init__(self, database: Database, lease: Lease) -> None:
        """`database` has been opened with `MIGRATIONS`; `lease` is this server's."""
        self._database = database
        self._lease = lease

    async def put(self, tenant: str, document: Json, items: list[Json]) -> None:
        """Keep a response and the input items that came with it."""
        await self._do(lambda connection: _put(connection, self._lease, tenant, document, items))

    async def change(self, tenant: str, document: Json) -> None:
        """Store a later state of a response that was running; one that ended meanwhile, or was deleted, stays as it is."""
        await self._do(lambda connection: _change(connection, tenant, document))

    def change_now(self, tenant: str, document: Json) -> None:
        """The same, at once: for work that is being cancelled and can wait for nothing."""
        self._database.run(lambda connection: _change(connection, tenant, document))

    async def get(self, tenant: str, id: str) -> Json:
        """The whole response. Raises NotFound."""

        def work(connection: sqlite3.Connection) -> Json:
            row = _row(connection, tenant, id)
            document: Json = msgspec.json.decode(row["document"])
            if self._is_abandoned(row):
                return _failed(document)
            return {**document, "output": _items(connection, id, "output")}

        return await self._do(work, writes=False)

    async def delete(self, tenant: str, id: str) -> None:
        """Forget a response and its items. Raises NotFound."""

        def work(connection: sqlite3.Connection) -> None:
            _row(connection, tenant, id)
            connection.execute("DELETE FROM responses WHERE id = ?", (id,))

        await self._do(work)

    async def input_items(self, tenant: str, id: str, page: Page) -> tuple[list[Json], bool]:
        """A page of what the model was asked, earlier turns first, and whether more follow. Raises NotFound."""

        def work(connection: sqlite3.Connection) -> tuple[list[Json], bool]:
            row = _row(connection, tenant, id)
            items = _chain(connection, tenant, row["previous"])
            items += _items(connection, id, "input")
            if page.newest_first:
                items.reverse()
            start = 0
            if page.after is not None:
                places = [place for place, item in enumerate(items) if item["id"] == page.after]
                if not places:
                    raise NotFound(f"there is no item {quoted(page.after)} in this response", param="after")
                start = places[0] + 1
            return items[start : start + page.limit], len(items) > start + page.limit

        return await self._do(work, writes=False)

    async def chain(self, tenant: str, previous: str | None, wanted: set[str]) -> tuple[list[Json], dict[str, Json]]:
        """The items of a chain that ends with `previous`, oldest first, and those of any response that are `wanted` by id.

        Raises NotFound where one was never there, is another's or is no longer kept; InvalidRequest for a chain that is
        too long or ends with a response that still runs.
        """
        if previous is None and not wanted:
            return [], {}

        def work(connection: sqlite3.Connection) -> tuple[list[Json], dict[str, Json]]:
            items = self._previous(connection, tenant, previous) if previous is not None else []
            found = {id: item for id in wanted if (item := _item(connection, tenant, id)) is not None}
            return items, found

        return await self._do(work, writes=False)

    async def ended(self, ids: list[str]) -> list[str]:
        """Those of these running responses that run no more, as someone cancelled or deleted them."""

        def work(connection: sqlite3.Connection) -> list[str]:
            query = "SELECT 1 FROM responses WHERE id = ? AND runner IS NOT NULL"
            return [id for id in ids if connection.execute(query, (id,)).fetchone() is None]

        return await self._do(work, writes=False)

    def _previous(self, connection: sqlite3.Connection, tenant: str, id: str) -> list[Json]:
        row = _row(connection, tenant, id, "previous_response_id")
        if row["runner"] is not None and not self._is_abandoned(row):
            raise InvalidRequest(f"response {quoted(id)} still runs", hint="wait for its end", param="previous_response_id")
        return _chain(connection, tenant, id)

    def _is_abandoned(self, row: sqlite3.Row) -> bool:
        return row["runner"] is not None and not self._lease.is_held(row["runner"])

    async def _do(self, work: Callable[[sqlite3.Connection], T], *, writes: bool = True) -> T:
        try:
            return await (self._database.do(work) if writes else self._database.read(work))
        except sqlite3.Error as error:
            raise InternalError(f"the stored responses cannot be used: {error}", hint="send store: false") from error


def _put(connection: sqlite3.Connection, lease: Lease, tenant: str, document: Json, items: list[Json]) -> None:
    head, output = _parts(document)
    bodies = [*_numbered("input", items), *_numbered("output", output)]
    size = len(head) + sum(len(body) for *_, body in bodies)
    runner = lease.id if document["status"] in RUNNING else None
    now = time.time()
    connection.execute(
        "INSERT INTO responses VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (document["id"], tenant, document["previous_response_id"], now, document["status"], runner, size, head),
    )
    connection.executemany("INSERT INTO items VALUES (?, ?, ?, ?, ?)", [(document["id"], *body) for body in bodies])
    _settle(connection, lease)
    _evict(connection, tenant, now)


def _change(connection: sqlite3.Connection, tenant: str, document: Json) -> None:
    """A running response as it is now."""
    head, output = _parts(document)
    bodies = _numbered("output", output)
    size = sum(len(body) for *_, body in bodies)
    changed = connection.execute(
        "UPDATE responses SET status = ?, runner = CASE WHEN ? THEN runner END, document = ?, bytes = bytes + ? "
        "WHERE id = ? AND tenant = ? AND runner IS NOT NULL",
        (document["status"], document["status"] in RUNNING, head, size, document["id"], tenant),
    )
    if changed.rowcount:
        connection.executemany("INSERT INTO items VALUES (?, ?, ?, ?, ?)", [(document["id"], *body) for body in bodies])


def _settle(connection: sqlite3.Connection, lease: Lease) -> None:
    """End as failed what servers ran that have died."""
    runners = connection.execute("SELECT DISTINCT runner FROM responses WHERE runner IS NOT NULL").fetchall()
    for (runner,) in runners:
        if not lease.is_held(runner):
            for row in connection.execute("SELECT * FROM responses WHERE runner = ?", (runner,)).fetchall():
                _change(connection, row["tenant"], _failed(msgspec.json.decode(row["document"])))


def _failed(document: Json) -> Json:
    error = {"code": "server_error", "message": "the server that ran this ended", "param": None, "type": "engine_dead"}
    return {**document, "status": "failed", "error": error, "output": []}


def _row(connection: sqlite3.Connection, tenant: str, id: str, param: str = "response_id") -> sqlite3.Row:
    row: sqlite3.Row | None = connection.execute("SELECT * FROM responses WHERE id = ? AND tenant = ?", (id, tenant)).fetchone()
    if row is None:
        raise NotFound(f"there is no response {quoted(id)}", param=param)
    return row


def _chain(connection: sqlite3.Connection, tenant: str, last: str | None) -> list[Json]:
    """The items of all responses up to `last`, oldest first."""
    turns: list[list[Json]] = []
    size, id = 0, last
    while id is not None:
        row = connection.execute("SELECT previous, bytes FROM responses WHERE id = ? AND tenant = ?", (id, tenant)).fetchone()
        if row is None:
            raise NotFound(
                f"response {quoted(id)}, which this one follows, is not kept any more",
                hint="send the whole conversation as input",
                param="previous_response_id",
            )
        size += row["bytes"]
        if len(turns) == MAX_CHAIN or size > MAX_CHAIN_BYTES:
            raise InvalidRequest(
                f"the chain of responses is longer than {MAX_CHAIN} or larger than {MAX_CHAIN_BYTES} bytes",
                hint="send what matters as input, without previous_response_id",
                param="previous_response_id",
            )
        turns.append([*_items(connection, id, "input"), *_items(connection, id, "output")])
        id = row["previous"]
    return [item for turn in reversed(turns) for item in turn]


def _items(connection: sqlite3.Connection, id: str, kind: str) -> list[Json]:
    rows = connection.execute("SELECT body FROM items WHERE response = ? AND kind = ? ORDER BY place", (id, kind))
    return [msgspec.json.decode(row["body"]) for row in rows]


def _item(connection: sqlite3.Connection, tenant: str, id: str) -> Json | None:
    row = connection.execute(
        "SELECT body FROM items JOIN responses ON responses.id = items.response WHERE items.id = ? AND tenant = ? LIMIT 1",
        (id, tenant),
    ).fetchone()
    return None if row is None else msgspec.json.decode(row["body"])


def _evict(connection: sqlite3.Connection, tenant: str, now: float) -> None:
    connection.execute("DELETE FROM responses WHERE created < ? AND runner IS NULL", (now - MAX_AGE_S,))
    own = connection.execute("SELECT number, bytes FROM totals WHERE tenant = ?", (tenant,)).fetchone()
    _drop(connection, own["number"] - MAX_CALLER_RESPONSES, own["bytes"] - MAX_CALLER_BYTES, "WHERE tenant = ?", (tenant,))
    every = connection.execute("SELECT SUM(bytes) FROM totals").fetchone()
    _drop(connection, 0, every[0] - MAX_BYTES, "", ())


def _drop(connection: sqlite3.Connection, count: int, size: int, where: str, values: tuple[str, ...]) -> None:
    """Delete the oldest until `count` of them and `size` bytes are gone."""
    if count <= 0 and size <= 0:
        return
    gone = []
    for row in connection.execute(f"SELECT id, bytes, runner FROM responses {where} ORDER BY created", values):
        if count <= 0 and size <= 0:
            break
        if row["runner"] is None:
            gone.append((row["id"],))
            count, size = count - 1, size - row["bytes"]
    connection.executemany("DELETE FROM responses WHERE id = ?", gone)


def _parts(document: Json) -> tuple[bytes, list[Json]]:
    return msgspec.json.encode({**document, "output": []}), document["output"]


def _numbered(kind: str, items: list[Json]) -> list[tuple[str, int, str, bytes]]:
    return [(kind, place, item["id"], msgspec.json.encode(item)) for place, item in enumerate(items)]
