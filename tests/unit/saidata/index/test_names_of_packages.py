"""A name leads to the software that is meant, says why, and never to a binding or a transitional package first."""

from __future__ import annotations

from pathlib import Path

import pytest

import small_archive
from saidata.index import Index
from saidata.index.names import SAME_SOFTWARE, clean, resolve


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    return small_archive.make(tmp_path_factory.mktemp("home"))


@pytest.mark.parametrize(
    ("name", "package", "tier"),
    [
        ("lantern", "lantern", 0),
        ("Lantern ", "lantern", 0),
        ("tabledb-common", "tabledb-common", 0),
        ("rl", "finder", 2),  # a command
        ("lantern_common", "lantern-common", 0),
        ("table-db", "tabledb", 2),
        ("lantern-cli", "lantern", 3),
        ("dock", "dock.io", 2),  # the package called so only leads elsewhere
        ("fresh-lantern-common", None, 0),
    ],
)
def test_first_hit(index: Index, name: str, package: str | None, tier: int) -> None:
    hits = resolve(index, name)
    if package is None:
        assert [hit for hit in hits if hit.tier <= SAME_SOFTWARE] == []
    else:
        assert (hits[0].package.name, hits[0].tier) == (package, tier), hits[0].reason


def test_every_hit_says_why(index: Index) -> None:
    for hit in resolve(index, "dock"):
        assert hit.reason
    assert "only to lead to another" in resolve(index, "dock")[-1].reason


def test_a_binding_is_not_the_software(index: Index) -> None:
    binding = [hit for hit in resolve(index, "lantern") if hit.package.name == "python3-lantern"]
    assert binding and binding[0].tier > SAME_SOFTWARE


def test_nothing_is_found_for_nothing(index: Index) -> None:
    assert resolve(index, "") == resolve(index, "   ") == resolve(index, "x" * 1_000_000) == resolve(index, "quarrelfish") == []


def test_names_with_tricks_are_only_names(index: Index) -> None:
    for name in ("../../etc/passwd", "'; DROP TABLE package; --", "%", "*", "lantern\0", "\N{SNOWMAN}"):
        assert [hit for hit in resolve(index, name) if hit.tier == 0] == []


def test_clean() -> None:
    assert clean(" Apache HTTP_Server ") == "apache-http-server"


def test_package_file_stays_untouched(tmp_path: Path) -> None:
    with small_archive.make(tmp_path) as index:
        before = index.path.stat().st_mtime_ns
        resolve(index, "lantern")
        assert index.path.stat().st_mtime_ns == before
        assert sorted(path.suffix for path in index.path.parent.iterdir()) == ["", ".sqlite"]
