"""The real apt client builds, updates and downloads from an archive in a folder: no network, no root, no lists of the machine's."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from pathlib import Path

import pytest

import small_archive
from saidata.cli.main import main
from saidata.index import apt

pytestmark = pytest.mark.skipif(bool(apt.available()) or shutil.which("dpkg-deb") is None, reason="needs apt and dpkg-deb")

CONTROL = {"control": "Package: lantern\nVersion: 2.4.1-3\nArchitecture: all\nMaintainer: A <a@example.org>\nDescription: x\n"}
DATA = {"usr/share/doc/lantern/copyright": "Format: https://example.org/copyright-format/1.0/\n\nFiles: *\nLicense: ISC\n"}


def publish(folder: Path, packages: str) -> None:
    """Write an archive of one suite that apt takes without a signature."""
    architecture = subprocess.run(["dpkg", "--print-architecture"], capture_output=True, text=True, check=True).stdout.strip()
    deb = folder / "pool/main/l/lantern/lantern_2.4.1-3_amd64.deb"
    deb.parent.mkdir(parents=True, exist_ok=True)
    small_archive.deb(deb, CONTROL, DATA)
    sha256 = hashlib.sha256(deb.read_bytes()).hexdigest()
    blocks = [block if "Architecture:" in block else f"{block}\nArchitecture: all" for block in packages.strip().split("\n\n")]
    listed = "\n\n".join(blocks).replace("SHA256: 00", f"SHA256: {sha256}\nSize: {deb.stat().st_size}") + "\n"
    suite = folder / "dists/one"
    texts = {
        f"main/binary-{architecture}/Packages": listed,
        "main/i18n/Translation-en": small_archive.TRANSLATION,
        f"main/Contents-{architecture}": small_archive.CONTENTS,
    }
    lines = ["Origin: Tinylinux", "Codename: one", "Suite: one", f"Architectures: {architecture} all", "Components: main"]
    lines += ["Date: Sat, 11 Jul 2026 10:00:00 UTC", "SHA256:"]
    for name, text in texts.items():
        (suite / name).parent.mkdir(parents=True, exist_ok=True)
        (suite / name).write_text(text)
        lines.append(f" {hashlib.sha256(text.encode()).hexdigest()} {len(text.encode())} {name}")
    (suite / "Release").write_text("\n".join(lines) + "\n")


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The archive's folder; apt is told of it alone."""
    publish(tmp_path / "archive", small_archive.PACKAGES)
    (tmp_path / "sources.list").write_text(f"deb [trusted=yes] file:{tmp_path}/archive one main\n")
    (tmp_path / "own.conf").write_text(
        f'Dir::Etc::sourcelist "{tmp_path}/sources.list";\nDir::Etc::sourceparts "/dev/null";\nAPT::Sandbox::User "root";\n'
    )
    monkeypatch.setenv("APT_CONFIG", str(tmp_path / "own.conf"))
    monkeypatch.setenv("SAIDATA_HOME", str(tmp_path / "home"))
    return tmp_path / "archive"


def test_build_update_and_open_a_package(archive: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["index", "build", "--json"]) == 0, capsys.readouterr().err
    first = json.loads(capsys.readouterr().out)
    assert first["new"] and first["counts"]["unit"] == 3
    assert main(["index", "update", "--json"]) == 0
    assert not json.loads(capsys.readouterr().out)["new"]

    assert main(["evidence", "lantern", "--deep", "--json"]) == 0
    evidence = json.loads(capsys.readouterr().out)
    facts = {(fact["kind"], fact["value"]) for fact in evidence["facts"]}
    assert ("licence", "ISC") in facts and ("unit", "lantern.service") in facts
    assert {fact["source"] for fact in evidence["facts"] if fact["kind"] == "unit"} == {"tinylinux one main Contents"}
    assert "lantern-common" in evidence["not_checked"]["deb"]  # the list has it, the folder has not

    publish(archive, small_archive.PACKAGES.replace("Version: 20.1-1", "Version: 20.2-1"))
    assert main(["index", "update", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["new"]
    assert main(["index", "diff", first["version"]]) == 3
    assert "~ dock.io 20.1-1 -> 20.2-1" in capsys.readouterr().out


def test_an_archive_that_does_not_answer_leaves_the_index(archive: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["index", "build"]) == 0
    shutil.rmtree(archive)
    assert main(["index", "update"]) == 1
    said = capsys.readouterr().err
    assert "apt could not fetch its lists" in said and "Traceback" not in said
    assert main(["search", "lantern"]) == 0
