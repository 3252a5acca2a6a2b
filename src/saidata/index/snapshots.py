"""Keep snapshots of the index: make, list, choose, compare, carry. Open `current` to read one, `refresh` to make one.

A snapshot is a file `NAME.sqlite` in the index folder; the file `current` holds the name in use. A new one is built beside
the old and `current` is swapped at the end, so a reader sees the old or the new one, whole. An export is a tar.gz of a
manifest and the database, for machines without apt; import checks the hash before anything is swapped.
"""

from __future__ import annotations

import datetime
import hashlib
import os
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO

import msgspec

from saidata import places
from saidata.errors import BadIndex, Misuse, NotHere, Refused
from saidata.index import apt, build
from saidata.index.store import REBUILD, Index

KEPT = 3  # snapshots; older ones are removed after an update
LARGEST_IMPORT = 4 << 30
_MANIFEST, _DATABASE = "manifest.json", "index.sqlite"


class Manifest(msgspec.Struct, forbid_unknown_fields=True):
    """First member of an export: which snapshot it is, and what its database must hash to."""

    version: str
    sha256: str
    bytes: int
    exported: str


class Change(msgspec.Struct):
    """What differs between two snapshots."""

    added: list[str]
    removed: list[str]
    changed: dict[str, tuple[str, str]]  # name: old version, new version


def current(folder: Path | None = None) -> Index:
    """The index in use; BadIndex says what to do where there is none."""
    folder = folder or places.index_dir()
    try:
        name = (folder / "current").read_text(errors="replace").strip()
    except FileNotFoundError:
        raise BadIndex("there is no index yet", REBUILD) from None
    except OSError as error:
        raise Refused(error, f"{folder / 'current'}, which names the index in use, cannot be read") from None
    return Index(_file(folder, name))


def named(name: str | None, folder: Path | None = None) -> Index:
    """A kept snapshot; without a name the one in use."""
    folder = folder or places.index_dir()
    if name is None:
        return current(folder)
    if name not in names(folder):
        raise NotHere(f"there is no snapshot {name!r:.80}", f"here are: {', '.join(names(folder)) or 'none'}")
    return Index(_file(folder, name))


def names(folder: Path | None = None) -> list[str]:
    """The kept snapshots, newest first."""
    files = sorted(
        (folder or places.index_dir()).glob("*.sqlite"), key=lambda file: (file.stat().st_mtime_ns, file.name), reverse=True
    )
    return [file.stem for file in files]


def use(name: str, folder: Path | None = None) -> None:
    """Make a kept snapshot the one in use."""
    folder = folder or places.index_dir()
    named(name, folder).close()
    _swap(folder, name)


def refresh(*, fetch: bool = True, force: bool = False, progress: build.Progress = lambda stage, part: None) -> tuple[str, bool]:
    """Fetch apt's lists, build what they say beside the old index, and swap. Gives the name and whether it is new."""
    reason = apt.available()
    if reason:
        raise Misuse(reason)
    if fetch:
        progress("apt lists", 0.0)
        apt.update()
    targets = apt.targets()
    name = build.snapshot_name(targets)
    folder = places.index_dir()
    if not force and _sound(folder, name):
        _swap(folder, name)
        return name, False
    _place(folder, name, lambda file: build.build(targets, file, name, progress))
    return name, True


def export(to: Path, folder: Path | None = None) -> Manifest:
    """Write the index in use to the one file `to`."""
    with current(folder) as index:
        index.check()
        with index.path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        now = datetime.datetime.now(datetime.UTC).replace(microsecond=0).isoformat()
        manifest = Manifest(version=index.version, sha256=digest, bytes=index.path.stat().st_size, exported=now)
        part = to.with_name(to.name + ".part")
        try:
            with tarfile.open(part, "w:gz", compresslevel=6) as archive, tempfile.TemporaryFile() as text:
                text.write(msgspec.json.encode(manifest))
                text.seek(0)
                _add(archive, _MANIFEST, text)
                with index.path.open("rb") as file:
                    _add(archive, _DATABASE, file)
            os.replace(part, to)
        except OSError as error:
            raise Refused(error, f"{to} could not be written") from None
        finally:
            part.unlink(missing_ok=True)
    return manifest


def import_file(source: Path, folder: Path | None = None) -> Manifest:
    """Take an export in, check its hash and its pages, and put it in use. The old index stays until all is well."""
    folder = folder or places.index_dir()
    hint = "make a new one with `saidata index export FILE` on the machine it came from"
    try:
        with tarfile.open(source, "r|gz") as archive:
            manifest = msgspec.json.decode(_member(archive, _MANIFEST, 1 << 20).read(1 << 20), type=Manifest)
            _check_name(manifest.version)
            body = _member(archive, _DATABASE, LARGEST_IMPORT)
            _place(folder, manifest.version, lambda file: _unpack(body, file, manifest))
    except FileNotFoundError:
        raise NotHere(f"there is no file {source}", "check the path") from None
    except (tarfile.TarError, EOFError, msgspec.DecodeError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # the disk, and not what the file holds
            raise Refused(error, f"{source} could not be taken into {folder}") from None
        raise BadIndex(f"{source.name} is no index export, or a cut one: {error}", hint) from None
    return manifest


def compare(old: Index, new: Index) -> Change:
    """Packages that came, went or changed their version."""
    before, after = ({name: version for _, name, version in index.every()} for index in (old, new))
    return Change(
        added=sorted(after.keys() - before.keys()),
        removed=sorted(before.keys() - after.keys()),
        changed={
            name: (before[name], after[name]) for name in sorted(before.keys() & after.keys()) if before[name] != after[name]
        },
    )


def _file(folder: Path, name: str) -> Path:
    _check_name(name)
    return folder / f"{name}.sqlite"


def _check_name(name: str) -> None:
    if not name or len(name) > 200 or name[0] == "." or not all(c.isalnum() or c in "-_.+~:" for c in name):
        raise BadIndex(f"{name!r:.80} is no name of a snapshot", REBUILD)


def _sound(folder: Path, name: str) -> bool:
    try:
        Index(_file(folder, name)).close()
    except BadIndex:
        return False
    return True


def _place(folder: Path, name: str, write: Callable[[Path], None]) -> None:
    """Let `write` fill a new file, prove that it opens, then move it into place and swap `current`."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle, text = tempfile.mkstemp(prefix=".making-", dir=folder)
    except OSError as error:
        raise Refused(error, f"{folder} cannot be written") from None
    os.close(handle)
    made = Path(text)
    try:
        write(made)
        Index(made).close()
        os.replace(made, _file(folder, name))
    finally:
        made.unlink(missing_ok=True)
    _swap(folder, name)
    for old in names(folder)[KEPT:]:
        if old != name:
            _file(folder, old).unlink(missing_ok=True)


def _swap(folder: Path, name: str) -> None:
    places.put(folder / "current", f"{name}\n".encode(), mode=0o644)


def _add(archive: tarfile.TarFile, name: str, file: IO[bytes]) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = file.seek(0, os.SEEK_END)
    file.seek(0)
    archive.addfile(entry, file)


def _member(archive: tarfile.TarFile, name: str, most: int) -> IO[bytes]:
    entry = archive.next()
    file = (
        archive.extractfile(entry) if entry is not None and entry.isreg() and entry.name == name and entry.size <= most else None
    )
    if file is None:
        raise tarfile.ReadError(f"it has no {name} where one belongs")
    return file


def _unpack(body: IO[bytes], to: Path, manifest: Manifest) -> None:
    digest, size = hashlib.sha256(), 0
    with to.open("wb") as file:
        while chunk := body.read(1 << 20):
            digest.update(chunk)
            size += len(chunk)
            file.write(chunk)
    if (size, digest.hexdigest()) != (manifest.bytes, manifest.sha256):
        raise BadIndex("the export's database is not what its manifest says", "fetch the file again: its hash differs")
    with Index(to) as index:
        index.check()
        if index.version != manifest.version:
            raise BadIndex(
                f"the export holds snapshot {index.version}, its manifest says {manifest.version}", "fetch the file again"
            )
