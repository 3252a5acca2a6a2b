"""What files and batches are kept in: one SQLite file for what is known of them, and a folder for the files' bytes.

Open `Jobs`; the tables below are the whole state, and the source of truth after a crash.
"""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

from redline.server.batch_store import BatchStore
from redline.server.database import Database
from redline.server.file_store import FileStore
from redline.server.lease import Lease

FILE = "jobs.sqlite"
MIGRATIONS = (
    """
    CREATE TABLE files (
        seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, owner TEXT NOT NULL, purpose TEXT NOT NULL,
        filename TEXT NOT NULL, bytes INTEGER NOT NULL, created INTEGER NOT NULL, expires INTEGER
    ) STRICT;
    CREATE INDEX files_of_owner ON files (owner, seq);
    CREATE TABLE batches (
        seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, owner TEXT NOT NULL, model TEXT NOT NULL,
        endpoint TEXT NOT NULL, input_file TEXT NOT NULL, window TEXT NOT NULL, metadata TEXT, output_expires_s INTEGER,
        status TEXT NOT NULL, outcome TEXT, holder TEXT, errors TEXT, output_file TEXT, error_file TEXT,
        total INTEGER NOT NULL DEFAULT 0, completed INTEGER NOT NULL DEFAULT 0, failed INTEGER NOT NULL DEFAULT 0,
        input_tokens INTEGER NOT NULL DEFAULT 0, output_tokens INTEGER NOT NULL DEFAULT 0,
        cached_tokens INTEGER NOT NULL DEFAULT 0, reasoning_tokens INTEGER NOT NULL DEFAULT 0,
        created_at INTEGER NOT NULL, expires_at INTEGER NOT NULL, in_progress_at INTEGER, finalizing_at INTEGER,
        completed_at INTEGER, failed_at INTEGER, expired_at INTEGER, cancelling_at INTEGER, cancelled_at INTEGER
    ) STRICT;
    CREATE INDEX batches_of_owner ON batches (owner, seq);
    CREATE INDEX batches_by_status ON batches (status, seq);
    CREATE TABLE lines (
        batch INTEGER NOT NULL, number INTEGER NOT NULL, custom_id TEXT NOT NULL, start INTEGER NOT NULL, size INTEGER NOT NULL,
        state TEXT NOT NULL, attempts INTEGER NOT NULL DEFAULT 0, good INTEGER NOT NULL DEFAULT 0, result BLOB,
        PRIMARY KEY (batch, number)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX lines_by_state ON lines (batch, state, number)
    """,
)


class Jobs:
    """Files and batches of one state folder."""

    def __init__(self, database: Database, folder: Path | None) -> None:
        """`folder`: the state folder; None keeps files in a temporary one, for as long as this object lives."""
        self._temporary = tempfile.TemporaryDirectory(prefix="redline-") if folder is None else None
        root = Path(self._temporary.name) if self._temporary is not None else folder
        assert root is not None
        self.lease = Lease(None if folder is None else folder / "workers")
        self.files = FileStore(database, root / "files")
        self.batches = BatchStore(database, self.lease)
        self.changed = asyncio.Event()  # there may be work for the batch worker

    async def sweep(self) -> None:
        """Clear away what has expired and what servers left that were killed."""
        await self.files.sweep()
        await self.batches.sweep()
        await asyncio.to_thread(self.lease.sweep)

    def close(self) -> None:
        """Give up what is held. The database is its owner's to close."""
        self.lease.release()
        if self._temporary is not None:
            self._temporary.cleanup()
