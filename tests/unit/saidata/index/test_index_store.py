"""An index holds what the lists say, and a file that is not a whole index of this version says so and what to do."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

import small_archive
from saidata.errors import BadIndex
from saidata.index import Index
from saidata.index.schema import APPLICATION_ID


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    return small_archive.make(tmp_path_factory.mktemp("home"))


def test_a_package_has_its_row(index: Index) -> None:
    package = index.package("lantern")
    assert package is not None
    assert (package.version, package.source_package, package.homepage) == ("2.4.1-3", "lantern", "https://lantern.example.org")
    assert package.description.startswith("Lantern serves files") and package.description.endswith("reverse proxy too.")
    assert package.tags == "implemented-in::c, role::program, network::server"
    assert index.sources[package.source].label == "tinylinux one main Packages"


def test_the_highest_version_wins_and_keeps_its_own_source(index: Index) -> None:
    package = index.package("finder")
    assert package is not None and package.version == "13-1+deb12u1"
    assert index.sources[package.source].label == "tinylinux one-updates main Packages"


def test_reverse_dependencies_count_other_sources_once(index: Index) -> None:
    packages = {name: index.package(name) for name in ("lantern", "lantern-common", "tabledb-15")}
    needed = {name: package.reverse_depends for name, package in packages.items() if package}
    assert needed == {
        "lantern": 2,
        "lantern-common": 0,
        "tabledb-15": 1,
    }  # webapp names lantern twice, lantern itself never counts


def test_a_program_that_others_need_is_likelier_than_a_library(index: Index) -> None:
    prior = {package.name: package.prior for package in index.of_source("lantern")}
    assert prior["lantern"] > prior["lantern-common"] > prior["liblantern1"] >= prior["liblantern-dev"]


def test_files_know_their_package_and_source(index: Index) -> None:
    files = index.files(["lantern-common"], ["unit"])
    assert [(file.path, file.package) for file in files] == [
        ("/lib/systemd/system/lantern-clean.timer", "lantern-common"),
        ("/lib/systemd/system/lantern.service", "lantern-common"),
    ]
    assert index.sources[files[0].source].label == "tinylinux one main Contents"
    assert {file.package for file in index.owners(["/var/lib/lantern"])} == {"lantern-common", "webapp"}


def test_virtual_names_and_beginnings(index: Index) -> None:
    assert [package.name for package in index.providing("httpd")] == ["lantern"]
    assert {package.name for package in index.beginning("tabledb")} == {"tabledb", "tabledb-common", "tabledb-15"}
    assert [package.name for package in index.packages(["finder", "nothing", "lantern"])] == ["finder", "lantern"]


def test_questions_of_more_names_than_sqlite_takes_at_once(index: Index) -> None:
    names = [f"none-{number}" for number in range(40_000)]
    assert [package.name for package in index.packages([*names, "lantern"])] == ["lantern"]


def test_counts_and_soundness(index: Index) -> None:
    assert index.counts()["packages"] == 15
    assert index.counts()["unit"] == 3
    index.check()


def _cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def _other_version(file: Path) -> None:
    with sqlite3.connect(file) as base:
        base.execute("PRAGMA user_version = 99")


def _not_ours(file: Path) -> None:
    with sqlite3.connect(file) as base:
        base.execute(f"PRAGMA application_id = {APPLICATION_ID + 1}")


def _no_database(file: Path) -> None:
    file.write_text("hello " * 5000)


def _unfinished(file: Path) -> None:
    with sqlite3.connect(file) as base:
        base.execute("DELETE FROM meta")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_cut, "cut short"),
        (_other_version, "has format 99"),
        (_not_ours, "no saidata index"),
        (_no_database, "no saidata index"),
        (_unfinished, "not finished"),
        (Path.unlink, "there is no index"),
    ],
)
def test_a_damaged_file_says_what_and_what_to_do(tmp_path: Path, damage: Callable[[Path], None], words: str) -> None:
    with small_archive.make(tmp_path) as index:
        file = index.path
    damage(file)
    with pytest.raises(BadIndex, match=words) as error:
        Index(file)
    assert "saidata index build" in error.value.hint


def test_a_damaged_page_is_found_by_check_and_never_answers_wrongly(tmp_path: Path) -> None:
    with small_archive.make(tmp_path) as index:
        file = index.path
    body = bytearray(file.read_bytes())
    for at in range(4096 * 2, len(body)):
        body[at] = 0xA5
    file.write_bytes(body)
    with pytest.raises(BadIndex), Index(file) as index:
        index.check()
