"""Make an index file from apt's lists: `build`. Reads lists, writes one SQLite file; knows nothing of where it will lie.

Three passes: Translation into memory, Packages into rows (the highest version of each name wins), Contents into paths; then
what needs all of them: reverse dependencies, priors and the full text.
"""

from __future__ import annotations

import datetime
import hashlib
import sqlite3
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from debian.debian_support import Version

from saidata.errors import Misuse
from saidata.index import apt
from saidata.index.lists import contents, long_description, names, stanzas
from saidata.index.prior import prior
from saidata.index.schema import APPLICATION_ID, INDEXES, SCHEMA_VERSION, TABLES

PROVIDER = "apt"
BUILDER = 2  # raised when the same lists give other rows: the snapshot then has another name
MOST_COMMANDS = 40  # of one package that the full text knows
Progress = Callable[[str, float], None]  # what is done now, and how much of all that is (0 to 1)


def snapshot_name(targets: Sequence[apt.Target]) -> str:
    """Date, release and a hash of the lists: the same lists give the same name on every machine."""
    digest = hashlib.sha256(f"{SCHEMA_VERSION} {BUILDER}".encode())
    for target in sorted(targets, key=lambda target: target.file.name):
        digest.update(target.file.name.encode())
        with target.file.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    main = next(target for target in targets if target.kind == "Packages")
    date = max(target.date for target in targets) or "undated"
    release = "-".join(main.label.split()[:2]) or "archive"
    return f"{date}-{release}-{digest.hexdigest()[:8]}"


def build(targets: Sequence[apt.Target], to: Path, version: str, progress: Progress = lambda stage, part: None) -> None:
    """Write the index of `targets` to the new file `to`."""
    base = sqlite3.connect(to)
    try:
        # The file is worth nothing before it is whole: no journal, no waiting for the disk.
        base.executescript(f"PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA cache_size = -200000; {TABLES}")
        base.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        base.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        _Build(base, targets, progress).run()
        now = datetime.datetime.now(datetime.UTC).replace(microsecond=0).isoformat()
        base.executemany("INSERT INTO meta VALUES (?, ?)", [("version", version), ("built", now)])
        base.executescript(INDEXES)
        base.commit()
        base.execute("ANALYZE")
        base.commit()
    except sqlite3.OperationalError as error:  # a full disk, mostly
        raise Misuse(f"the index could not be written to {to.parent}: {error}", "see that the disk has 400 MB free") from None
    finally:
        base.close()


class _Build:
    def __init__(self, base: sqlite3.Connection, targets: Sequence[apt.Target], progress: Progress):
        self.base = base
        self.targets = targets
        self.progress = progress
        self.number: dict[str, int] = {}  # a package's row
        self.stanza: dict[str, tuple[dict[str, str], int]] = {}  # its best stanza and where that was read
        self.kinds: dict[int, set[str]] = defaultdict(set)
        self.commands: dict[int, list[str]] = defaultdict(list)

    def run(self) -> None:
        """All passes in order."""
        self.progress("translations", 0.0)
        long = self._translations()
        self.progress("packages", 0.1)
        self._packages()
        self.progress("file lists", 0.3)
        self._contents()
        self.progress("reverse dependencies", 0.75)
        needed = self._needed()
        self.progress("full text", 0.8)
        self._write(long, needed)
        self.progress("done", 1.0)

    def _source(self, target: apt.Target) -> int:
        row = (PROVIDER, f"{target.label} {target.kind}", target.date, target.base)
        found = self.base.execute(
            "SELECT id FROM source WHERE provider = ? AND label = ? AND base = ?", (row[0], row[1], row[3])
        ).fetchone()
        if found:
            return int(found[0])
        return int(self.base.execute("INSERT INTO source VALUES (NULL, ?, ?, ?, ?, 0)", row).lastrowid or 0)

    def _count(self, source: int, entries: int) -> None:
        self.base.execute("UPDATE source SET entries = entries + ? WHERE id = ?", (entries, source))

    def _each(self, kind: str) -> Iterator[tuple[apt.Target, int]]:
        for target in self.targets:
            if target.kind == kind:
                yield target, self._source(target)

    def _translations(self) -> dict[tuple[str, str], str]:
        texts = {}
        for target, source in self._each("Translation"):
            with apt.opened(target) as lines:
                count = 0
                for count, fields in enumerate(stanzas(lines), 1):  # noqa: B007  (the last count is wanted)
                    text = long_description(fields.get("Description-en", ""))
                    texts[fields.get("Package", ""), fields.get("Description-md5", "")] = text
            self._count(source, count)
        return texts

    def _packages(self) -> None:
        for target, source in self._each("Packages"):
            with apt.opened(target) as lines:
                count = 0
                for count, fields in enumerate(stanzas(lines), 1):  # noqa: B007
                    name = fields.get("Package", "")
                    if name:
                        self._stanza(name, fields, source)
            self._count(source, count)
        self.number = {name: number for number, name in enumerate(self.stanza, 1)}

    def _stanza(self, name: str, fields: dict[str, str], source: int) -> None:
        """Keep the highest version. An update's list has no debtags: those of the release still hold."""
        other = self.stanza.get(name)
        if other is None:
            self.stanza[name] = (fields, source)
        elif Version(fields["Version"]) > Version(other[0]["Version"]):
            fields.setdefault("Tag", other[0].get("Tag", ""))
            self.stanza[name] = (fields, source)
        else:
            other[0].setdefault("Tag", fields.get("Tag", ""))

    def _contents(self) -> None:
        for target, source in self._each("Contents"):
            with apt.opened(target) as lines:
                before = self.base.total_changes
                self.base.executemany("INSERT OR IGNORE INTO file VALUES (?, ?, ?, ?)", self._files(lines, source))
            self._count(source, self.base.total_changes - before)

    def _files(self, lines: Iterator[bytes] | object, source: int) -> Iterator[tuple[int, str, str, int]]:
        for package, kind, path in contents(lines):  # type: ignore[arg-type]
            number = self.number.get(package)
            if number is None:
                continue
            self.kinds[number].add(kind)
            if kind == "command" and len(self.commands[number]) < MOST_COMMANDS:
                self.commands[number].append(path.rpartition("/")[2])
            yield number, kind, path, source

    def _needed(self) -> dict[str, int]:
        """How many other source packages need or recommend each package, by its name or one that it alone provides."""
        needing: dict[str, set[str]] = defaultdict(set)
        providers: dict[str, list[str]] = defaultdict(list)
        for name, (fields, _) in self.stanza.items():
            source = _source_package(name, fields)
            for field in ("Pre-Depends", "Depends", "Recommends"):
                for needed in names(fields.get(field, "")):
                    needing[needed].add(source)
            for virtual in names(fields.get("Provides", "")):
                providers[virtual].append(name)
        for virtual, by in providers.items():
            if len(by) == 1 and virtual in needing:
                needing[by[0]] |= needing[virtual]
        return {
            name: len(needing.get(name, set()) - {_source_package(name, fields)}) for name, (fields, _) in self.stanza.items()
        }

    def _write(self, long: dict[tuple[str, str], str], needed: dict[str, int]) -> None:
        rows, words, provided = [], [], []
        for name, (fields, source) in self.stanza.items():
            number = self.number[name]
            row = _row(name, fields, long)
            tags, section = row[10], row[5]
            score = prior(name, section, tags, needed[name], frozenset(self.kinds[number]))
            rows.append((number, PROVIDER, *row[2:], source, needed[name], score))
            commands = " ".join(self.commands[number])
            words.append((number, name, row[6], row[7], tags.replace("::", " "), commands))
            provided += [(virtual, number) for virtual in names(row[12])]
        self.base.executemany(f"INSERT INTO package VALUES ({', '.join('?' * 18)})", rows)
        self.base.executemany("INSERT OR IGNORE INTO provided VALUES (?, ?)", provided)
        self.base.executemany(
            "INSERT INTO words (rowid, name, summary, description, tags, commands) VALUES (?, ?, ?, ?, ?, ?)", words
        )


def _source_package(name: str, fields: dict[str, str]) -> str:
    return fields.get("Source", name).split(" ")[0]


def _row(name: str, fields: dict[str, str], long: dict[tuple[str, str], str]) -> tuple[str, ...]:
    """The text columns of a package; two empty ones stand for its number and provider."""
    summary, _, rest = fields.get("Description", "").partition("\n")
    text = long.get((name, fields.get("Description-md5", "")), "") or (long_description("\n" + rest) if rest else "")
    depends = ", ".join(part for part in (fields.get("Pre-Depends", ""), fields.get("Depends", "")) if part)
    tags = ", ".join(part.strip() for part in fields.get("Tag", "").replace("\n", " ").split(",") if part.strip())
    return (
        *("", ""),
        name,
        _source_package(name, fields),
        fields.get("Version", ""),
        *(fields.get("Section", ""), summary, text, fields.get("Homepage", ""), fields.get("Maintainer", ""), tags, depends),
        fields.get("Provides", ""),
        fields.get("Filename", ""),
        fields.get("SHA256", ""),
    )
