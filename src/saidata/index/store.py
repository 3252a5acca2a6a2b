"""Read an index file: `Index`. One object per file; it may be used from several threads, one at a time each.

A file that is cut, corrupt or of another version raises `BadIndex` with what to do. Ranking is not done here.
"""

from __future__ import annotations

import datetime
import sqlite3
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from saidata.errors import BadIndex
from saidata.index.schema import APPLICATION_ID, SCHEMA_VERSION

REBUILD = "run `saidata index build`, or `saidata index import FILE` on a machine without apt"
_COLUMNS = "id, provider, name, source_package, version, section, summary, description, homepage, maintainer, tags, depends, provides, file_name, sha256, source, reverse_depends, prior"


class Source(msgspec.Struct, frozen=True):
    """Where rows were read: `label` is what a person reads, `date` the source's own."""

    id: int
    provider: str
    label: str
    date: str
    base: str
    entries: int


class Package(msgspec.Struct, frozen=True):
    """One row of `package`; the columns are explained in schema.py."""

    id: int
    provider: str
    name: str
    source_package: str
    version: str
    section: str
    summary: str
    description: str
    homepage: str
    maintainer: str
    tags: str
    depends: str
    provides: str
    file_name: str
    sha256: str
    source: int
    reverse_depends: int
    prior: float


class File(msgspec.Struct, frozen=True):
    """A path that matters and the package that ships it."""

    package: str
    kind: str
    path: str
    source: int


class Index:
    """One snapshot, read only. Close it, or use it as a context manager."""

    def __init__(self, path: Path):
        """Raises BadIndex where `path` is no whole index of this version."""
        self.path = path
        self._lock = threading.Lock()
        _check_header(path)
        self._base = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True, check_same_thread=False)
        try:
            self.meta: dict[str, str] = dict(self._all("SELECT key, value FROM meta"))
            self.sources = {row[0]: Source(*row) for row in self._all("SELECT * FROM source ORDER BY id")}
            if "version" not in self.meta:
                raise BadIndex(f"the index {path.name} is not finished", REBUILD)
        except BaseException:
            self._base.close()
            raise

    def __enter__(self) -> Index:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the file."""
        self._base.close()

    @property
    def version(self) -> str:
        """The snapshot's name: date, release and a hash of the lists it was built from."""
        return self.meta["version"]

    @property
    def age_days(self) -> int:
        """Days since its newest source was made; 0 where no source has a date."""
        dates = [source.date for source in self.sources.values() if source.date]
        today = datetime.datetime.now(datetime.UTC).date()
        return max((today - datetime.date.fromisoformat(max(dates))).days, 0) if dates else 0

    def check(self) -> None:
        """Read every page; raises BadIndex at the first that is damaged. Takes about a second."""
        said = self._all("PRAGMA integrity_check(1)")[0][0]
        if said != "ok":
            raise BadIndex(f"the index {self.path.name} is damaged: {said}", REBUILD)

    def counts(self) -> dict[str, int]:
        """Packages, and paths by kind."""
        rows = self._all("SELECT kind, count(*) FROM file GROUP BY kind ORDER BY kind")
        return {"packages": int(self._all("SELECT count(*) FROM package")[0][0]), **{kind: int(count) for kind, count in rows}}

    def package(self, name: str, provider: str = "apt") -> Package | None:
        """The package of exactly this name."""
        return next(iter(self._packages("WHERE name = ? AND provider = ?", (name, provider))), None)

    def packages(self, names: Iterable[str], provider: str = "apt") -> list[Package]:
        """Those that exist, in the order of `names`."""
        wanted = list(dict.fromkeys(names))
        found = {
            p.name: p
            for chunk in _chunks(wanted)
            for p in self._packages(f"WHERE provider = ? AND name IN ({_marks(chunk)})", (provider, *chunk))
        }
        return [found[name] for name in wanted if name in found]

    def numbered(self, ids: Sequence[int]) -> list[Package]:
        """Packages by their row, in that order."""
        found = {p.id: p for chunk in _chunks(ids) for p in self._packages(f"WHERE id IN ({_marks(chunk)})", chunk)}
        return [found[number] for number in ids if number in found]

    def of_source(self, source_package: str) -> list[Package]:
        """The binary packages that are built from one source package."""
        return self._packages("WHERE source_package = ? ORDER BY name", (source_package,))

    def providing(self, virtual: str) -> list[Package]:
        """Packages that provide a virtual name."""
        return self._packages("WHERE id IN (SELECT package FROM provided WHERE name = ?) ORDER BY prior DESC", (virtual,))

    def beginning(self, prefix: str, limit: int = 50) -> list[Package]:
        """Packages whose names begin with `prefix`, likeliest first."""
        end = prefix[:-1] + chr(ord(prefix[-1]) + 1) if prefix else "\U0010ffff"
        return self._packages("WHERE name >= ? AND name < ? ORDER BY prior DESC LIMIT ?", (prefix, end, limit))

    def files(self, packages: Iterable[str], kinds: Iterable[str] | None = None, provider: str = "apt") -> list[File]:
        """The paths that these packages ship, in path order."""
        wanted = list(kinds) if kinds is not None else []
        more = f" AND kind IN ({_marks(wanted)})" if kinds is not None else ""
        query = f"SELECT name, kind, path, file.source FROM file JOIN package ON id = package WHERE provider = ? AND name IN ({{}}){more}"
        rows = [
            row
            for chunk in _chunks(list(packages))
            for row in self._all(query.format(_marks(chunk)), (provider, *chunk, *wanted))
        ]
        return [File(*row) for row in sorted(rows, key=lambda row: row[2])]

    def owners(self, paths: Iterable[str]) -> list[File]:
        """Which packages ship these paths."""
        query = (
            "SELECT name, kind, path, file.source FROM file JOIN package ON id = package WHERE path IN ({}) ORDER BY prior DESC"
        )
        return [File(*row) for chunk in _chunks(list(paths)) for row in self._all(query.format(_marks(chunk)), chunk)]

    def match(self, expression: str, limit: int) -> list[tuple[int, float]]:
        """Rows that an FTS5 expression finds and their BM25 score, best (lowest) first."""
        query = "SELECT rowid, bm25(words, 10, 5, 1, 2, 4) AS score FROM words WHERE words MATCH ? ORDER BY score LIMIT ?"
        return [(int(row), float(score)) for row, score in self._all(query, (expression, limit))]

    def every(self) -> list[tuple[str, str, str]]:
        """(provider, name, version) of every package, by name: what two snapshots are compared by."""
        return self._all("SELECT provider, name, version FROM package ORDER BY name")

    def _packages(self, clause: str, values: Sequence[Any]) -> list[Package]:
        return [Package(*row) for row in self._all(f"SELECT {_COLUMNS} FROM package {clause}", values)]

    def _all(self, query: str, values: Sequence[Any] = ()) -> list[Any]:
        try:
            with self._lock:
                return self._base.execute(query, tuple(values)).fetchall()
        except sqlite3.DatabaseError as error:
            raise BadIndex(f"the index {self.path.name} cannot be read: {error}", REBUILD) from None


def _check_header(path: Path) -> None:
    """Is it ours, of this version, and as long as its own first page says? Asked of the bytes, before SQLite sees the file."""
    try:
        with path.open("rb") as file:
            header = file.read(100)
    except FileNotFoundError:
        raise BadIndex(f"there is no index at {path}", REBUILD) from None
    except OSError as error:
        raise BadIndex(f"the index {path} cannot be read: {error.strerror}", REBUILD) from None

    def number(at: int, size: int = 4) -> int:
        return int.from_bytes(header[at : at + size], "big")

    if len(header) < 100 or not header.startswith(b"SQLite format 3\0") or number(68) != APPLICATION_ID:
        raise BadIndex(f"{path.name} is no saidata index", REBUILD)
    if number(60) != SCHEMA_VERSION:
        raise BadIndex(f"the index {path.name} has format {number(60)}; this saidata reads {SCHEMA_VERSION}", REBUILD)
    page = number(16, 2)
    if number(28) * (page if page > 1 else 65536) != path.stat().st_size:
        raise BadIndex(f"the index {path.name} is cut short", REBUILD)


def _marks(values: Sequence[Any]) -> str:
    return ", ".join("?" * len(values))


def _chunks(values: Sequence[Any], size: int = 500) -> Iterable[Sequence[Any]]:
    """SQLite takes a bounded number of values in one question."""
    return (values[start : start + size] for start in range(0, len(values), size))
