"""The files that callers keep here: their bytes in a folder, one row each in SQLite, and never one without the other for long.

A file's name on disk is its id, which is ours; what a caller calls it is a column. Writing is atomic: a file exists from the
moment its row does, and then it is whole and on the disk. Knows nothing of HTTP. Open `FileStore`.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import sqlite3
import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from redline.errors import InvalidRequest, NotFound, StorageFull, TooLarge
from redline.server.database import Database
from redline.server.schema import quoted

MAX_FILES = 1000  # of one caller
MAX_BYTES = 8 << 30  # of one caller's files together
ABANDONED_S = 24 * 3600.0  # after which a file without a row belongs to nobody who is still writing it
READ_BYTES = 1 << 18
UNFINISHED = "('validating', 'in_progress', 'finalizing', 'cancelling')"


@dataclass(frozen=True, kw_only=True)
class StoredFile:
    id: str
    owner: str
    purpose: str
    filename: str
    bytes: int
    created: int
    expires: int | None


class FileStore:
    """Every method that asks for an `owner` finds the files of that owner alone."""

    def __init__(self, database: Database, folder: Path) -> None:
        self._database = database
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def path(self, id: str) -> Path:
        """Where the bytes of a file lie. `id` must be one of ours, from a row or from `new_file_id`."""
        assert id.removeprefix("file-").isalnum()
        return self._folder / id

    async def check_room(self, owner: str) -> None:
        """Raise TooLarge where the owner keeps as much as one may."""
        count, size = await self._database.read(lambda connection: _kept(connection, owner))
        if count >= MAX_FILES or size >= MAX_BYTES:
            raise TooLarge(
                f"{count} files with {size} bytes are kept, which is as much as may be", hint="delete some", param="file"
            )

    async def add(self, file: StoredFile) -> None:
        """The row of a file whose bytes are complete."""
        await self._database.do(lambda connection: add_row(connection, file))

    async def find(self, id: str, owner: str) -> StoredFile:
        """Raises NotFound."""
        return await self._database.read(lambda connection: find_row(connection, id, owner))

    async def page(
        self, owner: str, *, limit: int, after: str | None = None, purpose: str | None = None, newest_first: bool = True
    ) -> tuple[list[StoredFile], bool]:
        """At most `limit` files past `after`, and whether there are more. Raises NotFound for an unknown `after`."""

        def work(connection: sqlite3.Connection) -> list[StoredFile]:
            where, values = "owner = ? AND (expires IS NULL OR expires > ?)", [owner, int(time.time())]
            if purpose is not None:
                where, values = f"{where} AND purpose = ?", [*values, purpose]
            if after is not None:
                find_row(connection, after, owner)
                compared = "<" if newest_first else ">"
                where, values = f"{where} AND seq {compared} (SELECT seq FROM files WHERE id = ?)", [*values, after]
            order = "DESC" if newest_first else "ASC"
            rows = connection.execute(f"SELECT * FROM files WHERE {where} ORDER BY seq {order} LIMIT ?", [*values, limit + 1])
            return [_file(row) for row in rows]

        found = await self._database.read(work)
        return found[:limit], len(found) > limit

    async def delete(self, id: str, owner: str) -> None:
        """Raises NotFound, and InvalidRequest for the input of a batch that has not ended."""

        def work(connection: sqlite3.Connection) -> None:
            find_row(connection, id, owner)
            used = connection.execute(f"SELECT id FROM batches WHERE input_file = ? AND status IN {UNFINISHED}", (id,)).fetchone()
            if used is not None:
                raise InvalidRequest(f"the file is the input of {used['id']}", hint="cancel that batch first", param="file_id")
            connection.execute("DELETE FROM files WHERE id = ?", (id,))

        await self._database.do(work)
        await asyncio.to_thread(self.path(id).unlink, missing_ok=True)

    async def sweep(self) -> None:
        """Remove what has expired, and bytes that a crash left without a row."""

        def work(connection: sqlite3.Connection) -> tuple[set[str], list[str]]:
            rows = connection.execute(
                f"""SELECT id FROM files WHERE expires <= ?
                    AND id NOT IN (SELECT input_file FROM batches WHERE status IN {UNFINISHED})""",
                (int(time.time()),),
            )
            expired = [row["id"] for row in rows]
            connection.executemany("DELETE FROM files WHERE id = ?", [(id,) for id in expired])
            return {row["id"] for row in connection.execute("SELECT id FROM files")}, expired

        known, expired = await self._database.do(work)
        await asyncio.to_thread(self._remove, known, expired)

    def _remove(self, known: set[str], expired: list[str]) -> None:
        for id in expired:
            self.path(id).unlink(missing_ok=True)
        now = time.time()
        for entry in os.scandir(self._folder):
            with contextlib.suppress(FileNotFoundError):
                if entry.name not in known and now - entry.stat().st_mtime > ABANDONED_S:
                    os.unlink(entry.path)

    async def content(self, id: str) -> AsyncIterator[bytes]:
        """The bytes of a file, piece by piece; goes on to its end even if it is deleted meanwhile. Raises NotFound."""
        try:
            file = self.path(id).open("rb")
        except FileNotFoundError as error:
            raise _missing(id) from error
        with file:
            while data := await asyncio.to_thread(file.read, READ_BYTES):
                yield data


class Writer:
    """Writes one file: `write`, then `commit`; leaving the `with` block without a commit leaves nothing behind.

    What it does blocks; but for opening, call it in a thread. Raises StorageFull where the disk has no room.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._part = path.with_name(path.name + ".part")
        self._file = open(self._part, "wb")  # noqa: SIM115  closed by __exit__
        self._committed = False
        self.size = 0

    def write(self, data: bytes | bytearray) -> None:
        try:
            self._file.write(data)
        except OSError as error:
            raise _told(error) from error
        self.size += len(data)

    def commit(self) -> None:
        """The bytes are on the disk, under their name, when this returns."""
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
            os.replace(self._part, self._path)
            folder = os.open(self._path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            raise _told(error) from error
        self._committed = True

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with contextlib.suppress(OSError):  # what could not be written is told already
            self._file.close()
        if not self._committed:
            self._part.unlink(missing_ok=True)


def new_file_id() -> str:
    return f"file-{uuid.uuid4().hex}"


def find_row(connection: sqlite3.Connection, id: str, owner: str) -> StoredFile:
    """Raises NotFound for a file that is not there, has expired or is somebody else's."""
    row = connection.execute(
        "SELECT * FROM files WHERE id = ? AND owner = ? AND (expires IS NULL OR expires > ?)", (id, owner, int(time.time()))
    ).fetchone()
    if row is None:
        raise _missing(id)
    return _file(row)


def add_row(connection: sqlite3.Connection, file: StoredFile) -> None:
    connection.execute(
        """INSERT INTO files (id, owner, purpose, filename, bytes, created, expires) VALUES (?, ?, ?, ?, ?, ?, ?)
           ON CONFLICT (id) DO NOTHING""",
        (file.id, file.owner, file.purpose, file.filename, file.bytes, file.created, file.expires),
    )


def _file(row: sqlite3.Row) -> StoredFile:
    return StoredFile(**{name: row[name] for name in StoredFile.__dataclass_fields__})


def _kept(connection: sqlite3.Connection, owner: str) -> tuple[int, int]:
    count, size = connection.execute("SELECT COUNT(*), COALESCE(SUM(bytes), 0) FROM files WHERE owner = ?", (owner,)).fetchone()
    return count, size


def _missing(id: str) -> NotFound:
    return NotFound(f"there is no file {quoted(id)}", param="file_id")


def _told(error: OSError) -> OSError | StorageFull:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return StorageFull("the server's disk has no room for the file", hint="delete files, or try later")
    return error
