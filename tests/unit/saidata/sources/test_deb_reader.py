"""A .deb is opened without running anything of it, remembered, and what is no package is a sentence."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import small_archive
from saidata.sources import deb

pytestmark = pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="needs dpkg-deb, which this machine has not")

CONTROL = {
    "control": "Package: lantern\nVersion: 1\nArchitecture: all\nMaintainer: Ann <ann@example.org>\nDescription: x\n",
    "conffiles": "/etc/lantern/lantern.conf\nremove-on-upgrade /etc/old\n",
    "postinst": "#!/bin/sh\nadduser --system --home /var/lib/lantern lantern\nmkdir -p /var/log/lantern\ntouch /tmp/saidata-was-here\n",
}
DATA = {
    "etc/lantern/lantern.conf": "listen 8080;\n",
    "lib/systemd/system/lantern.service": "[Service]\nUser=lantern\nExecStart=/usr/sbin/lantern\n[Install]\nAlias=light.service\n",
    "usr/share/doc/lantern/copyright": "Format: https://example.org/copyright-format/1.0/\n\nFiles: *\nLicense: ISC\n text\n",
    "usr/lib/tmpfiles.d/lantern.conf": "d /var/cache/lantern 0755\n",
    "var/lib/lantern/": "",
    "var/lib/": "",
}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SAIDATA_HOME", str(tmp_path))
    return tmp_path


def test_what_is_inside(tmp_path: Path) -> None:
    small_archive.deb(tmp_path / "a.deb", CONTROL, DATA)
    found = deb.inside(tmp_path / "a.deb", "lantern", "1")
    assert found.licence == "ISC"
    assert found.conffiles == ["/etc/lantern/lantern.conf", "/etc/old"]
    assert found.users == ["lantern"]
    assert found.aliases == ["light.service"]
    assert [port.value for port in found.ports] == ["8080/tcp"]
    assert dict(found.directories) == {"/var/lib/lantern": "root:root 0755", "/var/log/lantern": "", "/var/cache/lantern": ""}
    assert not Path("/tmp/saidata-was-here").exists()


def test_an_answer_is_remembered_and_read_again_by_a_newer_reader(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def fetch(to: Path) -> str:
        calls.append(to)
        small_archive.deb(to, CONTROL, DATA)
        return ""

    first, _ = deb.kept("lantern", "1", fetch)
    second, _ = deb.kept("lantern", "1", fetch)
    assert first == second and len(calls) == 1
    assert not calls[0].exists()  # the package itself is not kept
    deb.kept("lantern", "2:1~rc/../../x", fetch)
    assert all(home in path.parents for path in home.rglob("*.json")) and len(list(home.rglob("*.json"))) == 2
    monkeypatch.setattr(deb, "READER", deb.READER + 1)
    deb.kept("lantern", "1", fetch)
    assert len(calls) == 3


def test_a_damaged_memory_is_read_again(home: Path) -> None:
    def fetch(to: Path) -> str:
        small_archive.deb(to, CONTROL, DATA)
        return ""

    deb.kept("lantern", "1", fetch)
    (file,) = home.rglob("*.json")
    file.write_text("{half")
    found, reason = deb.kept("lantern", "1", fetch)
    assert found is not None and found.licence == "ISC" and reason == ""


def test_what_is_no_package_is_said(home: Path) -> None:
    small_archive.deb(home / "whole.deb", CONTROL, DATA)
    whole = (home / "whole.deb").read_bytes()
    for body in (b"", b"not a package", whole[: len(whole) // 2]):

        def fetch(to: Path, body: bytes = body) -> str:
            to.write_bytes(body)
            return ""

        found, reason = deb.kept("lantern", "1", fetch)
        assert found is None and "the package file of lantern cannot be read" in reason


def test_what_could_not_be_fetched_is_passed_on(home: Path) -> None:
    assert deb.kept("lantern", "1", lambda to: "no network") == (None, "no network")
