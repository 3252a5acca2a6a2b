"""Every version of every generated file: history, difference, and going back. Open `Archive`.

A version is new when the content changed; the block `saidata` with its date and seconds is no content. Texts are kept once.
"""

from __future__ import annotations

import difflib
import hashlib
import zlib
from collections.abc import Mapping
from typing import Any

import msgspec

from saidata.batch.store import Store, now
from saidata.errors import NotHere

EDITED = "edited by hand"


class Version(msgspec.Struct, frozen=True, kw_only=True):
    """One version of a file. Numbers count from 1 for each name."""

    name: str
    number: int
    at: str  # ISO 8601, UTC
    hash: str  # of the text
    content: str  # hash of the data without its origin
    model: str
    note: str  # "generated", "edited by hand", "back to 2"
    job: int | None
    evidence: str  # digest of what it rests on


_COLUMNS = "name, number, at, hash, content, model, note, job, evidence"


class Archive:
    """The versions in a store."""

    def __init__(self, store: Store):
        self._store = store

    def add(
        self, name: str, yaml: str, content: str, *, model: str = "", note: str, job: int | None = None, evidence: str = ""
    ) -> Version:
        """Keep a version; the newest one again where nothing but its origin changed. Call inside `Store.changes` to bind it to more."""
        newest = self.newest(name)
        if newest is not None and newest.content == content:
            return newest
        text_hash = _hash(yaml)
        at = now()
        number = 1 if newest is None else newest.number + 1
        self._store.run("INSERT OR IGNORE INTO texts VALUES (?, ?)", text_hash, zlib.compress(yaml.encode()))
        self._store.run(
            f"INSERT INTO versions ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            *(name, number, at, text_hash, content, model, note, job, evidence),
        )
        return Version(
            name=name, number=number, at=at, hash=text_hash, content=content, model=model, note=note, job=job, evidence=evidence
        )

    def newest(self, name: str) -> Version | None:
        """The newest version of a name."""
        rows = self._store.rows(f"SELECT {_COLUMNS} FROM versions WHERE name = ? ORDER BY number DESC LIMIT 1", name)
        return _version(rows[0]) if rows else None

    def generated(self, name: str, text: str) -> bool:
        """Whether this very text was generated for the name, now or earlier."""
        rows = self._store.rows("SELECT 1 FROM versions WHERE name = ? AND hash = ? AND note != ?", name, _hash(text), EDITED)
        return bool(rows)

    def history(self, name: str) -> list[Version]:
        """All versions of a name, the newest first. Raises NotHere where there is none."""
        rows = self._store.rows(f"SELECT {_COLUMNS} FROM versions WHERE name = ? ORDER BY number DESC", name)
        if not rows:
            raise NotHere(f"the archive has no file of {name[:80]!r}", hint="see `saidata archive list`")
        return [_version(row) for row in rows]

    def names(self) -> list[Version]:
        """The newest version of every name, by name."""
        newest = "SELECT name, max(number) FROM versions GROUP BY name"
        return [
            _version(r)
            for r in self._store.rows(f"SELECT {_COLUMNS} FROM versions WHERE (name, number) IN ({newest}) ORDER BY name")
        ]

    def version(self, name: str, number: int | None = None) -> Version:
        """One version; the newest without a number. Raises NotHere."""
        found = self.history(name)
        if number is None:
            return found[0]
        for each in found:
            if each.number == number:
                return each
        raise NotHere(f"{name} has no version {number}", hint=f"it has 1 to {found[0].number}")

    def text(self, version: Version) -> str:
        """The file of a version."""
        row = self._store.rows("SELECT yaml FROM texts WHERE hash = ?", version.hash)[0]
        return zlib.decompress(row[0]).decode()

    def diff(self, name: str, old: int | None = None, new: int | None = None) -> str:
        """A unified diff of two versions: the last two, or the one before `new`, where none is named. Empty where they are equal."""
        later = self.version(name, new)
        earlier = self.version(name, max(1, later.number - 1) if old is None else old)
        lines = difflib.unified_diff(
            self.text(earlier).splitlines(keepends=True),
            self.text(later).splitlines(keepends=True),
            f"{name} version {earlier.number} ({earlier.at})",
            f"{name} version {later.number} ({later.at})",
        )
        return "".join(lines)

    def back(self, name: str, number: int) -> Version:
        """Make an old version the newest one again, as a version of its own."""
        old = self.version(name, number)
        with self._store.changes():
            return self.add(
                name, self.text(old), old.content, model=old.model, note=f"back to {old.number}", evidence=old.evidence
            )


def content_of(data: Mapping[str, Any]) -> str:
    """A hash of what a file says, without how it came to be."""
    kept = {key: value for key, value in data.items() if key != "saidata"}
    return hashlib.sha256(msgspec.json.encode(kept, order="deterministic")).hexdigest()


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _version(row: Any) -> Version:
    return Version(**dict(zip(_COLUMNS.split(", "), row, strict=True)))
