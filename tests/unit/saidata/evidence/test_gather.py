"""Evidence spans the packages of a software, keeps each fact's source, and puts the most telling fact first."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import small_archive
from saidata.evidence import gather, opened
from saidata.index import Index, apt


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    return small_archive.make(tmp_path_factory.mktemp("home"), base="https://archive.example.org")


def test_the_family_is_the_software_and_not_its_parts(index: Index) -> None:
    evidence = gather("lantern", index)
    assert evidence.values("package") == ("lantern", "lantern-common")
    assert evidence.snapshot == index.version and evidence.not_checked == {}


def test_the_most_telling_path_is_first(index: Index) -> None:
    evidence = gather("lantern", index)
    assert evidence.values("unit") == ("lantern.service", "lantern-clean.timer")
    assert evidence.values("config") == (
        "/etc/lantern/lantern.conf",
        "/etc/lantern/mime types",
        "/etc/default/lantern",
        "/etc/init.d/lantern",
        "/etc/logrotate.d/lantern",
    )
    assert evidence.values("command") == ("/usr/sbin/lantern", "/usr/bin/lanternctl")


def test_every_fact_says_where_it_was_read(index: Index) -> None:
    evidence = gather("lantern", index)
    (unit, _) = evidence.of("unit")
    assert (unit.package, unit.source, unit.date) == ("lantern-common", "tinylinux one main Contents", "2026-07-11")
    assert unit.detail == "/lib/systemd/system/lantern.service"
    assert [fact.detail for fact in evidence.of("command")] == ["", "has shell completion"]
    assert all(fact.source and fact.package for fact in evidence.facts)


def test_a_metapackage_stands_for_the_software(index: Index) -> None:
    evidence = gather("tabledb", index)
    assert set(evidence.values("package")) == {"tabledb", "tabledb-common", "tabledb-15"}
    assert evidence.values("version")[0] == "15.4-1"  # of the database, not of the metapackage
    assert evidence.values("homepage") == ("https://tabledb.example.org",)
    assert evidence.values("command") == ("/usr/bin/tabledb-admin",)


def test_a_library_is_itself_and_its_headers(index: Index) -> None:
    assert gather("liblantern1", index).values("package") == ("liblantern1",)
    assert gather("liblantern-dev", index).values("package") == ("liblantern-dev", "liblantern1")


def test_a_transitional_package_does_not_speak_for_the_software(index: Index) -> None:
    evidence = gather("dock", index)
    assert evidence.values("package") == ("dock.io",)
    assert evidence.values("command") == ("/usr/bin/dock",)


def test_a_name_that_nothing_is_called_has_no_facts_and_says_why(index: Index) -> None:
    for name in ("quarrelfish", "../../etc/passwd", "x" * 1_000_000, "", "lantern-proxy-manager"):
        evidence = gather(name, index)
        assert evidence.facts == () and "saidata search" in evidence.not_checked["apt"]


def test_a_binding_is_a_candidate_and_gives_no_facts(tmp_path: Path) -> None:
    only_binding = "Package: python3-beacon\nVersion: 1\nDescription: client of beacon\nSection: python\n"
    with small_archive.make(tmp_path, only_binding) as index:
        evidence = gather("beacon", index)
    assert evidence.facts == () and [candidate.package for candidate in evidence.candidates] == ["python3-beacon"]


def test_the_digest_changes_with_a_fact_and_not_with_the_date(index: Index, tmp_path: Path) -> None:
    with (
        small_archive.make(tmp_path / "same") as same,
        small_archive.make(tmp_path / "other", small_archive.PACKAGES.replace("lantern.example.org", "new.example.org")) as other,
    ):
        here = gather("lantern", index).digest()
        assert gather("lantern", same).digest() == here
        assert gather("lantern", other).digest() != here
        assert gather("lantern", other).digest(["unit"]) == gather("lantern", index).digest(["unit"])


COMMON = {"control": "Package: x\nVersion: 1\nArchitecture: all\nMaintainer: A <a@example.org>\nDescription: x\n"}
CONFIG = "listen 8080;\n# listen 9999;\n"


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Answers for packages by name: apt's download is replaced, the reading is real."""
    if shutil.which("dpkg-deb") is None:
        pytest.skip("needs dpkg-deb, which this machine has not")
    monkeypatch.setenv("SAIDATA_HOME", str(tmp_path))
    monkeypatch.setattr(apt, "available", lambda: "")
    asked: dict[str, str] = {}

    def download(address: str, sha256: str, to: Path) -> str:
        name = address.rpartition("/")[2].split("_")[0]
        asked[name] = address
        copyright = "Format: https://example.org/copyright-format/1.0/\n\nFiles: *\nLicense: GPL-2+\n"
        members = {
            "lantern": {"usr/share/doc/lantern/copyright": copyright},
            "lantern-common": {
                "etc/lantern/lantern.conf": CONFIG,
                "lib/systemd/system/lantern.service": "[Service]\nUser=light\n",
            },
        }
        if name not in members:
            return f"no file {name}"
        scripts = {
            "conffiles": "/etc/lantern/lantern.conf\n",
            "postinst": "ucf /usr/share/x /etc/lantern/made.conf\nmkdir -p /var/lib/lantern\n",
        }
        small_archive.deb(to, COMMON | (scripts if name == "lantern-common" else {}), members[name])
        return ""

    monkeypatch.setattr(apt, "download", download)
    return asked


def test_opened_packages_add_what_lists_do_not_say(index: Index, archive: dict[str, str]) -> None:
    evidence = gather("lantern", index, deep=True)
    assert archive["lantern"] == "https://archive.example.org/pool/main/l/lantern/lantern_2.4.1-3_amd64.deb"
    assert evidence.values("licence") == ("GPL-2.0-or-later",)
    assert evidence.values("port") == ("8080/tcp",)  # the one in a comment is an example
    assert evidence.values("user") == ("light",)
    assert evidence.values("directory") == ("/var/lib/lantern",)
    assert evidence.values("config", "conffile")[:2] == ("/etc/lantern/lantern.conf", "/etc/lantern/made.conf")
    assert {fact.detail for fact in evidence.of("config") if fact.value.endswith("made.conf")} == {"made at install"}
    assert evidence.not_checked == {}


def test_what_could_not_be_fetched_is_said_and_the_rest_stands(index: Index, archive: dict[str, str]) -> None:
    evidence = gather("tabledb", index, deep=True)
    assert evidence.values("licence") == ()
    assert "index" in evidence.not_checked["deb"]
    assert evidence.values("unit") == ("tabledb.service",)


def test_without_dpkg_the_index_still_answers(index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAIDATA_HOME", str(tmp_path))
    monkeypatch.setattr(opened.deb, "available", lambda: "this machine has no dpkg-deb")
    evidence = gather("lantern", index, deep=True)
    assert evidence.not_checked == {"deb": "this machine has no dpkg-deb"} and evidence.values("unit")


def test_what_was_opened_before_needs_no_apt(index: Index, archive: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    before = gather("lantern", index, deep=True)
    monkeypatch.setattr(apt, "available", lambda: "this machine has no apt")
    monkeypatch.delattr(apt, "download")
    assert gather("lantern", index, deep=True).values("licence") == before.values("licence") != ()


def test_after_one_failed_download_no_other_is_tried(
    index: Index, archive: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[str] = []

    def download(address: str, sha256: str, to: Path) -> str:
        tried.append(address)
        return "no network"

    monkeypatch.setattr(apt, "download", download)
    evidence = gather("lantern", index, deep=True)
    assert len(tried) == 1 and "no network" in evidence.not_checked["deb"]
