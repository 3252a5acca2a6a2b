"""A snapshot is swapped in whole or not at all, and travels as one file whose hash is checked."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

import small_archive
from saidata.errors import BadIndex, NotHere
from saidata.index import build, snapshots

ONE_MORE = small_archive.PACKAGES + "\nPackage: fresh\nVersion: 1\nDescription: new\nSection: utils\n"
CHANGED = ONE_MORE.replace("Version: 20.1-1", "Version: 20.2-1").replace("Package: othersite", "Package: renamed")


def test_without_an_index_the_next_step_is_said(tmp_path: Path) -> None:
    with pytest.raises(BadIndex) as error:
        snapshots.current(tmp_path)
    assert "saidata index build" in error.value.sentence() and "import" in error.value.sentence()


def test_the_same_lists_give_the_same_name(tmp_path: Path) -> None:
    one, two = small_archive.targets(tmp_path / "a"), small_archive.targets(tmp_path / "b")
    assert build.snapshot_name(one) == build.snapshot_name(two)
    assert build.snapshot_name(one).startswith("2026-07-11-tinylinux-one-")
    assert build.snapshot_name(small_archive.targets(tmp_path / "c", ONE_MORE)) != build.snapshot_name(one)


def test_a_reader_keeps_its_snapshot_while_another_is_swapped_in(tmp_path: Path) -> None:
    with small_archive.make(tmp_path) as old, small_archive.make(tmp_path, ONE_MORE) as new:
        assert old.package("fresh") is None
        assert new.package("fresh") is not None
        assert snapshots.names(tmp_path / "index")[0] == new.version


def test_a_build_that_fails_leaves_the_old_index_and_no_rest(tmp_path: Path) -> None:
    with small_archive.make(tmp_path) as index:
        name = index.version

    def fail(file: Path) -> None:
        file.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError):
        snapshots._place(tmp_path / "index", "new", fail)
    with snapshots.current(tmp_path / "index") as index:
        assert index.version == name
    assert sorted(path.name for path in (tmp_path / "index").iterdir()) == sorted([f"{name}.sqlite", "current"])


def test_what_is_not_whole_is_never_put_in_use(tmp_path: Path) -> None:
    with small_archive.make(tmp_path) as index:
        name = index.version
    with pytest.raises(BadIndex):
        snapshots._place(tmp_path / "index", "new", lambda file: file.write_bytes(b"x" * 9000))
    with snapshots.current(tmp_path / "index") as index:
        assert index.version == name


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    with small_archive.make(tmp_path) as index:
        body = index.path.read_bytes()
    for number in range(snapshots.KEPT + 2):
        snapshots._place(tmp_path / "index", f"made-{number}", lambda file: file.write_bytes(body))
    assert len(snapshots.names(tmp_path / "index")) == snapshots.KEPT
    assert (tmp_path / "index" / "current").read_text() == f"made-{snapshots.KEPT + 1}\n"


def test_an_export_is_taken_in_elsewhere(tmp_path: Path) -> None:
    with small_archive.make(tmp_path) as index:
        name = index.version
    sent = snapshots.export(tmp_path / "carried.tgz", tmp_path / "index")
    assert snapshots.import_file(tmp_path / "carried.tgz", tmp_path / "other").sha256 == sent.sha256
    with snapshots.current(tmp_path / "other") as index:
        assert index.version == name and index.package("lantern") is not None


def test_a_cut_export_changes_nothing(tmp_path: Path) -> None:
    small_archive.make(tmp_path).close()
    whole = tmp_path / "carried.tgz"
    snapshots.export(whole, tmp_path / "index")
    cut = tmp_path / "cut.tgz"
    for size in (0, 10, whole.stat().st_size // 2, whole.stat().st_size - 3000):
        cut.write_bytes(whole.read_bytes()[:size])
        with pytest.raises(BadIndex) as error:
            snapshots.import_file(cut, tmp_path / "other")
        assert "export" in error.value.sentence()
        assert not (tmp_path / "other" / "current").exists()


def _export_with(tmp_path: Path, version: str | None = None, flip: bool = False, name: str = "index.sqlite") -> Path:
    """An export that was tampered with."""
    small_archive.make(tmp_path).close()
    snapshots.export(tmp_path / "good.tgz", tmp_path / "index")
    with tarfile.open(tmp_path / "good.tgz") as archive:
        manifest, database = (archive.extractfile(member) for member in ("manifest.json", "index.sqlite"))
        assert manifest and database
        text, body = manifest.read().decode(), bytearray(database.read())
    if version is not None:
        text = text.replace(text.split('"version":"')[1].split('"')[0], version)
    if flip:
        body[len(body) // 2] ^= 1
    with tarfile.open(tmp_path / "bad.tgz", "w:gz") as archive:
        for member, content in (("manifest.json", text.encode()), (name, bytes(body))):
            entry = tarfile.TarInfo(member)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return tmp_path / "bad.tgz"


def test_a_changed_bit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadIndex, match="not what its manifest says"):
        snapshots.import_file(_export_with(tmp_path, flip=True), tmp_path / "other")


def test_a_name_that_leads_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    for number, version in enumerate(("../../evil", "/tmp/evil", ".hidden", "a" * 300)):
        with pytest.raises(BadIndex, match="no name of a snapshot"):
            snapshots.import_file(_export_with(tmp_path / str(number), version=version), tmp_path / "other")


def test_a_member_of_another_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadIndex, match="no index export"):
        snapshots.import_file(_export_with(tmp_path, name="../index.sqlite"), tmp_path / "other")


def test_a_missing_file_or_snapshot_says_so(tmp_path: Path) -> None:
    small_archive.make(tmp_path).close()
    with pytest.raises(NotHere, match="there is no file"):
        snapshots.import_file(tmp_path / "none.tgz", tmp_path / "index")
    with pytest.raises(NotHere) as error:
        snapshots.named("../../etc/passwd", tmp_path / "index")
    assert "2026-07-11-tinylinux" in error.value.hint


def test_two_snapshots_are_compared(tmp_path: Path) -> None:
    with small_archive.make(tmp_path) as old, small_archive.make(tmp_path / "later", CHANGED) as new:
        change = snapshots.compare(old, new)
    assert change.added == ["fresh", "renamed"]
    assert change.removed == ["othersite"]
    assert change.changed == {"dock.io": ("20.1-1", "20.2-1")}
