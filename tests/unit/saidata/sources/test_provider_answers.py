"""Each provider's answer is read as that provider writes it: small answers written by hand in the providers' shapes."""

from __future__ import annotations

import gzip
import io
import json
import tarfile

import pytest

from saidata.errors import Misuse
from saidata.sources import containers, desktops, registries, systems
from saidata.sources.listing import PROVIDERS, find
from saidata.sources.provider import Absent, Reader, Said, Unreadable


def values(said: list[Said], kind: str) -> list[str]:
    return [one.value for one in said if one.kind == kind]


def test_pip_report() -> None:
    about = {
        "name": "Lantern",
        "version": "1.2",
        "summary": "Serves files.",
        "license": "MIT",
        "classifier": ["License :: OSI Approved :: MIT License"],
        "project_url": [
            "Homepage, https://lantern.example.org",
            "Bug Tracker, https://bugs.example.org/l",
            "Funding, https://x.example.org",
        ],
        "requires_dist": ["click>=8", "rich; extra == 'fancy'", "numpy (>1)"],
        "author": "Ann",
    }
    said = registries.read_pip(json.dumps({"install": [{"metadata": about}]}).encode(), "lantern")
    assert values(said, "package") == ["Lantern"] and values(said, "licence") == ["MIT"]
    assert values(said, "homepage") == ["https://lantern.example.org"]
    assert [(one.value, one.detail) for one in said if one.kind == "url"] == [("https://bugs.example.org/l", "issues")]
    assert values(said, "depends") == ["click", "numpy"]


@pytest.mark.parametrize(
    ("about", "licence"),
    [
        ({"license_expression": "MIT OR Apache-2.0", "license": "BSD"}, "Apache-2.0 OR MIT"),
        ({"classifier": ["License :: OSI Approved :: BSD License"], "license": "BSD-3-Clause"}, "BSD-3-Clause"),
        ({"classifier": ["License :: OSI Approved :: BSD License"], "license": "BSD"}, ""),  # of which form is not said
        ({"license": "Permission is hereby granted, free of charge, to any person " * 10}, ""),
        ({"license": None, "classifier": None}, ""),
    ],
)
def test_pip_licences(about: dict[str, object], licence: str) -> None:
    report = {"install": [{"metadata": {"name": "l", "version": "1", **about}}]}
    assert "".join(values(registries.read_pip(json.dumps(report).encode(), "l"), "licence")) == licence


def test_npm_view() -> None:
    about = {
        "name": "lantern",
        "version": "5.0.0",
        "description": "Web framework",
        "license": "ISC",
        "repository": {"type": "git", "url": "git+ssh://git@code.example.org/a/lantern.git"},
        "bin": {"lantern": "bin/l.js"},
        "maintainers": ["ann <ann@example.org>"],
        "dependencies": {"accepts": "^2"},
    }
    for answer in (about, [{"name": "lantern", "version": "4"}, about]):
        said = registries.read_npm(json.dumps(answer).encode(), "lantern")
        assert values(said, "version") == ["5.0.0"] and values(said, "licence") == ["ISC"]
        assert values(said, "url") == ["https://code.example.org/a/lantern"] and values(said, "command") == ["lantern"]


def test_conda() -> None:
    builds = [
        {"name": "lantern", "version": "1", "timestamp": 1, "license": "MIT"},
        {"name": "lantern", "version": "2", "timestamp": 2, "license": "BSD-3-Clause", "depends": ["python >=3"]},
    ]
    said = registries.read_conda(json.dumps({"lantern": builds}).encode(), "lantern")
    assert (
        values(said, "version") == ["2"] and values(said, "licence") == ["BSD-3-Clause"] and values(said, "depends") == ["python"]
    )


def test_dnf_rows() -> None:
    said = systems.read_dnf(b"lantern\t1.0-1.f\tGPLv2+ and ASL 2.0\thttps://l.example.org\tSmall server\n", "lantern")
    assert values(said, "licence") == ["Apache-2.0 AND GPL-2.0-or-later"] and values(said, "version") == ["1.0-1.f"]
    assert values(systems.read_dnf(b"lantern\t1\tBSD\t(none)\tx\n", "lantern"), "licence") == []
    with pytest.raises(Absent):
        systems.read_dnf(b"", "lantern")


PRIMARY = b"""<?xml version="1.0"?><metadata xmlns="http://linux.duke.edu/metadata/common" xmlns:rpm="http://linux.duke.edu/metadata/rpm">
<package type="rpm"><name>other</name></package>
<package type="rpm"><name>lantern</name><version epoch="0" ver="1.0" rel="2"/><summary>Small server</summary><url>https://l.example.org</url>
<format><rpm:license>LGPLv2+</rpm:license><file>/usr/sbin/lantern</file><file>/etc/lantern.conf</file><file type="dir">/etc/lantern</file></format>
</package></metadata>"""


def test_rpm_repository() -> None:
    repomd = b'<repomd xmlns="http://linux.duke.edu/metadata/repo"><data type="primary"><location href="repodata/p.xml.gz"/></data></repomd>'
    asked = []

    def get(path: str) -> bytes:
        asked.append(path)
        return repomd if path.endswith("repomd.xml") else gzip.compress(PRIMARY)

    said = systems.read_rpm(systems.fetch_rpm("lantern", get), "lantern")
    assert asked == ["repodata/repomd.xml", "repodata/p.xml.gz"]
    assert values(said, "licence") == ["LGPL-2.0-or-later"] and values(said, "command") == ["/usr/sbin/lantern"]
    assert values(said, "config") == ["/etc/lantern.conf"]
    with pytest.raises(Unreadable, match="outside"):
        systems.fetch_rpm("lantern", lambda path: repomd.replace(b"repodata/p", b"../../p"))
    with pytest.raises(Unreadable, match="zst"):
        systems.unpacked(b"x", "repodata/p.xml.zst")
    with pytest.raises(Unreadable, match="damaged"):
        systems.unpacked(b"x", "repodata/p.xml.gz")


def test_apk() -> None:
    said = systems.read_apk_search(b"lantern-1.24-r7 - Small server\nlantern-doc-1.24-r7 - x\n", "lantern")
    assert values(said, "version") == ["1.24-r7"] and values(said, "summary") == ["Small server"]
    text = b"P:other\nV:1\n\nP:lantern\nV:1.24-r7\nT:Small server\nU:https://l.example.org\nL:BSD-2-Clause\np:cmd:lantern=1 so:x=1\n\n"
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        entry = tarfile.TarInfo("APKINDEX")
        entry.size = len(text)
        archive.addfile(entry, io.BytesIO(text))
    said = systems.read_apk_index(packed.getvalue(), "lantern")
    assert values(said, "licence") == ["BSD-2-Clause"] and values(said, "provides") == ["cmd:lantern"]
    with pytest.raises(Absent):
        systems.read_apk_index(packed.getvalue(), "lanter")


def test_pacman() -> None:
    text = b"Repository      : extra\nName            : lantern\nVersion         : 1.2-1\nDescription     : Small: server\nURL             : https://l.example.org\nLicenses        : MIT  GPL-2.0-or-later\nDepends On      : glibc>=2  zlib\n"
    said = systems.read_pacman(text, "lantern")
    assert values(said, "summary") == ["Small: server"] and values(said, "licence") == ["MIT AND GPL-2.0-or-later"]
    assert values(said, "depends") == ["glibc", "zlib"]
    row = {
        "pkgname": "lantern",
        "pkgbase": "lantern",
        "repo": "extra",
        "pkgver": "1.2",
        "pkgrel": "1",
        "licenses": ["ISC"],
        "depends": ["glibc"],
    }
    assert values(systems.read_arch(json.dumps({"results": [row]}).encode(), "lantern"), "version") == ["1.2-1"]
    with pytest.raises(Absent):
        systems.read_arch(b'{"results": []}', "lantern")


def test_nix() -> None:
    meta = {
        "name": "lantern-1.2",
        "description": "Small server",
        "homepage": ["https://l.example.org"],
        "license": {"spdxId": "MIT"},
        "mainProgram": "lantern",
    }
    said = systems.read_nix(json.dumps(meta).encode(), "lantern")
    assert values(said, "version") == ["1.2"] and values(said, "licence") == ["MIT"] and values(said, "command") == ["lantern"]


def test_brew() -> None:
    formula = {
        "name": "lantern",
        "desc": "Small server",
        "license": "Apache-2.0 WITH LLVM-exception",
        "homepage": "https://l.example.org",
        "versions": {"stable": "1.2"},
        "service": {"run": ["lantern"]},
        "dependencies": ["pcre2"],
    }
    for answer in ({"formulae": [formula], "casks": []}, formula):
        said = desktops.read_brew(json.dumps(answer).encode(), "lantern")
        assert values(said, "licence") == ["Apache-2.0 WITH LLVM-exception"] and values(said, "unit") == ["homebrew.mxcl.lantern"]
    with pytest.raises(Absent):
        desktops.read_brew(b'{"formulae": [], "casks": []}', "lantern")


def test_winget() -> None:
    text = "\ufeffFound Lantern [Example.Lantern]\r\nVersion: 1.2\r\nPublisher: Example\r\nDescription: Small server\r\nHomepage: https://l.example.org\r\nLicense: MIT\r\n"
    said = desktops.read_winget(text.encode(), "Lantern")
    assert values(said, "package") == ["Example.Lantern"] and values(said, "licence") == ["MIT"]
    assert values(said, "summary") == ["Small server"]


def test_choco() -> None:
    text = b"Chocolatey v2\nlantern 1.2 [Approved]\n Title: Lantern | Published: 1/1/2026\n Software Site: https://l.example.org\n Software License: https://l.example.org/LICENSE\n Tags: web server\n Summary: Small server\n"
    said = desktops.read_choco(text, "lantern")
    assert values(said, "version") == ["1.2"] and values(said, "tag") == ["web", "server"] and values(said, "licence") == []
    feed = b"""<feed xmlns="http://www.w3.org/2005/Atom" xmlns:d="http://schemas.microsoft.com/ado/2007/08/dataservices"><entry><title>lantern</title>
    <summary>Small server</summary><d:Version>1.2</d:Version><d:ProjectUrl>https://l.example.org</d:ProjectUrl></entry></feed>"""
    assert values(desktops.read_choco_feed(feed, "Lantern"), "homepage") == ["https://l.example.org"]
    with pytest.raises(Absent):
        desktops.read_choco_feed(b'<feed xmlns="http://www.w3.org/2005/Atom"/>', "lantern")


def test_containers() -> None:
    image = {
        "Name": "registry.example.org/lantern",
        "RepoTags": ["latest", "1.9", "1.10", "1.10-slim", "v2"],
        "Labels": {"org.opencontainers.image.licenses": "MIT", "org.opencontainers.image.source": "https://code.example.org/l"},
    }
    said = containers.read_image(json.dumps(image).encode(), "lantern")
    assert values(said, "version") == ["v2", "1.10", "1.9"] and values(said, "licence") == ["MIT"]
    assert values(containers.read_tags(b'{"name": "lantern", "tags": ["1.0"]}', "lantern"), "version") == ["1.0"]
    with pytest.raises(Absent):
        containers.read_tags(b'{"name": "lantern", "tags": null}', "lantern")


@pytest.mark.parametrize("provider", sorted(PROVIDERS))
@pytest.mark.parametrize("answer", [b"", b"{}", b"[]", b"null", b"garbage\0\xff", b"{" * 500])
def test_no_answer_makes_a_reader_fail_otherwise_than_by_a_sentence(provider: str, answer: bytes) -> None:
    readers: set[Reader | None] = {PROVIDERS[provider].read, PROVIDERS[provider].read_answer}
    for reader in readers - {None}:
        assert reader is not None
        try:
            assert values(reader(answer, "lantern"), "package") == []
        except (Absent, Unreadable, ValueError, KeyError, TypeError, AttributeError, IndexError, SyntaxError):
            pass  # those that `ask` turns into a reason


def test_an_unknown_provider_lists_the_known() -> None:
    with pytest.raises(Misuse) as error:
        find("yum")
    assert "brew" in error.value.hint
