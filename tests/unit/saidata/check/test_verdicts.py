"""What evidence says of each kind of value: confirmed, contradicted or not checkable, and why. "Not found" is not "wrong"."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from saidata.check import Known, licences, verdicts
from saidata.check.addresses import alike, wrong_with
from saidata.check.versions import compared
from saidata.facts import Evidence, Fact, FactKind, Verdict


def fact(kind: FactKind, value: str, package: str = "redis-server", provider: str = "apt", detail: str = "") -> Fact:
    return Fact(
        kind=kind,
        value=value,
        provider=provider,
        source="debian bookworm main Contents",
        date="2026-01-01",
        package=package,
        detail=detail,
    )


FACTS = (
    fact("package", "redis-server"),
    fact("package", "redis-tools", "redis-tools"),
    fact("provides", "key-value-store"),
    fact("version", "5:7.0.15-1~deb12u1"),
    fact("homepage", "https://redis.example.org/"),
    fact("url", "https://code.example.org/redis.git", detail="source"),
    fact("unit", "redis-server.service", detail="/lib/systemd/system/redis-server.service"),
    fact("unit", "redis-server@.service"),
    fact("config", "/etc/redis/redis.conf"),
    fact("config", "/etc/init.d/redis-server"),
    fact("command", "/usr/bin/redis-server"),
    fact("command", "/usr/bin/redis-cli", "redis-tools"),
    fact("command", "/usr/bin/nc.openbsd"),
    fact("manpage", "/usr/share/man/man1/redis-cli.1.gz", "redis-tools"),
    fact("directory", "/var/lib/redis"),
    fact("port", "6379/tcp"),
    fact("licence", "BSD-3-Clause AND MIT"),
    fact("tag", "implemented-in::c"),
)
EVIDENCE = Evidence(name="redis", snapshot="s1", facts=FACTS, not_checked={"brew": "no address for brew is set"})

PACKAGE = [{"name": "redis", "package_name": "redis-server"}]


def of(data: dict[str, Any], known: Known | None = None) -> Verdict:
    """The verdict on the last value besides the package."""
    found = verdicts({"packages": PACKAGE, **data}, EVIDENCE, known)
    return ([verdict for verdict in found if verdict.path != ("packages", 0, "package_name")] or found)[-1]


CASES: dict[str, tuple[dict[str, Any], str, str]] = {
    "a package": ({}, "confirmed", "debian bookworm main Contents has it"),
    "a virtual package": ({"packages": [{"name": "a", "package_name": "key-value-store"}]}, "confirmed", "virtual"),
    "no package of this software": (
        {"packages": [{"name": "a", "package_name": "redis-pro"}]},
        "contradicted",
        "none of the 2 packages",
    ),
    "the name where no real name is": ({"packages": [{"name": "redis-tools"}]}, "confirmed", ""),
    "another provider's package": (
        {"providers": {"brew": {"packages": [{"name": "redis"}]}}},
        "not_checkable",
        "no address for brew is set",
    ),
    "a provider nobody asked": (
        {"providers": {"dnf": {"packages": [{"name": "redis"}]}}},
        "not_checkable",
        "nothing was asked of dnf",
    ),
    "a unit": ({"services": [{"name": "redis", "service_name": "redis-server"}]}, "confirmed", "shipped by redis-server"),
    "a unit with its ending": ({"services": [{"name": "redis-server.service"}]}, "confirmed", ""),
    "an instance of a template": ({"services": [{"name": "redis-server@cache"}]}, "confirmed", ""),
    "a script of init": ({"services": [{"name": "redis-server", "type": "init"}]}, "confirmed", ""),
    "a unit that is not shipped": ({"services": [{"name": "redis-sentinel"}]}, "contradicted", "but redis-server.service"),
    "another name of a unit": ({"services": [{"name": "redis-serverd"}]}, "not_checkable", "another name"),
    "a service of another manager": (
        {"services": [{"name": "Redis", "type": "windows_service"}]},
        "not_checkable",
        "windows_service",
    ),
    "a config file": ({"files": [{"name": "c", "path": "/etc/redis/redis.conf"}]}, "confirmed", "shipped by"),
    "a config file of a service": (
        {"services": [{"name": "redis-server", "config_files": ["/etc/redis/redis.conf"]}]},
        "confirmed",
        "",
    ),
    "a config file elsewhere": (
        {"files": [{"name": "c", "path": "/etc/redis.conf"}]},
        "contradicted",
        "ships it as /etc/redis/redis.conf",
    ),
    "a config file in no list": ({"files": [{"name": "c", "path": "/etc/redis/users.acl"}]}, "not_checkable", "made at install"),
    "a log": ({"files": [{"name": "l", "path": "/var/log/redis/redis.log"}]}, "not_checkable", "no list"),
    "a file in a known folder": (
        {"files": [{"name": "d", "path": "/var/lib/redis/dump.rdb"}]},
        "not_checkable",
        "/var/lib/redis",
    ),
    "a folder": ({"directories": [{"name": "d", "path": "/var/lib/redis/"}]}, "confirmed", ""),
    "a folder of a file": ({"directories": [{"name": "d", "path": "/etc/redis"}]}, "confirmed", "/etc/redis/redis.conf"),
    "an unknown folder": ({"directories": [{"name": "d", "path": "/srv/redis"}]}, "not_checkable", ""),
    "a command": ({"commands": [{"name": "redis-cli"}]}, "confirmed", "shipped by redis-tools"),
    "a command by its path": ({"commands": [{"name": "r", "path": "/bin/redis-cli"}]}, "confirmed", ""),
    "a command elsewhere": ({"commands": [{"name": "r", "path": "/usr/sbin/redis-cli"}]}, "contradicted", "/usr/bin/redis-cli"),
    "a command that does not exist": ({"commands": [{"name": "redis-start"}]}, "contradicted", "no such command"),
    "a command set up at install": ({"commands": [{"name": "nc"}]}, "not_checkable", "nc.openbsd"),
    "a command of no distribution": ({"commands": [{"name": "r", "path": "/usr/local/bin/redis-cli"}]}, "not_checkable", ""),
    "a manual page": ({"commands": [{"name": "redis-cli", "man_page": "redis-cli(1)"}]}, "confirmed", ""),
    "a port": ({"ports": [{"port": 6379}]}, "confirmed", ""),
    "a port of another protocol": ({"ports": [{"port": 6379, "protocol": "udp"}]}, "not_checkable", "6379/tcp"),
    "no port": ({"ports": [{"port": 99999}]}, "contradicted", "65535"),
    "a licence in another order": ({"metadata": {"license": "MIT AND BSD-3-Clause"}}, "confirmed", ""),
    "a part of the licence": ({"metadata": {"license": "BSD-3-Clause"}}, "not_checkable", "shares a licence"),
    "another licence": ({"metadata": {"license": "GPL-3.0-only"}}, "contradicted", "BSD-3-Clause AND MIT"),
    "no licence of SPDX": ({"metadata": {"license": "Apache 2"}}, "contradicted", "SPDX knows no licence"),
    "the language": ({"metadata": {"language": "C"}}, "confirmed", ""),
    "another language": ({"metadata": {"language": "Rust"}}, "not_checkable", "implemented-in::c"),
    "the homepage": ({"metadata": {"urls": {"website": "http://www.redis.example.org"}}}, "confirmed", ""),
    "another homepage": (
        {"metadata": {"urls": {"website": "https://redis.example.com"}}},
        "not_checkable",
        "https://redis.example.org/",
    ),
    "the source": ({"metadata": {"urls": {"source": "https://code.example.org/redis"}}}, "confirmed", ""),
    "no address": ({"metadata": {"urls": {"website": "redis.example.org"}}}, "contradicted", "begins with https://"),
    "an image": ({"containers": [{"name": "r", "image": "redis"}]}, "not_checkable", "no registry"),
    "a prerequisite in no evidence": ({"providers": {"apt": {"prerequisites": ["curl"]}}}, "not_checkable", ""),
}


@pytest.mark.parametrize("case", CASES)
def test_each_kind_of_value(case: str) -> None:
    data, status, reason = CASES[case]
    verdict = of(data)
    assert (verdict.status, reason in verdict.reason) == (status, True), verdict
    if status == "confirmed":
        assert verdict.facts and all(isinstance(one, Fact) for one in verdict.facts)


def test_versions() -> None:
    def version(value: str) -> Verdict:
        return verdicts({"packages": [{"name": "r", "package_name": "redis-server", "version": value}]}, EVIDENCE)[-1]

    assert version("7.0.15").status == version("5:7.0.15-1~deb12u1").status == "confirmed"
    assert version("7.2.0").status == "not_checkable" and "5:7.0.15-1~deb12u1" in version("7.2.0").reason


def test_an_index_says_more_than_what_was_gathered() -> None:
    def known(kind: FactKind, value: str, provider: str) -> Sequence[Fact] | None:
        if provider != "apt":
            return None
        held = {"curl": fact("package", "curl", "curl"), "/usr/bin/pip3": fact("command", "/usr/bin/pip3", "python3-pip")}
        return [held[value]] if value in held else []

    assert of({"providers": {"apt": {"prerequisites": ["curl"]}}}, known=known).status == "confirmed"
    gone = of({"providers": {"apt": {"prerequisites": ["no-such-thing"]}}}, known=known)
    assert gone.status == "contradicted" and gone.reason == "debian bookworm has no package of this name"
    assert of({"commands": [{"name": "p", "path": "/usr/bin/pip3"}]}, known=known).status == "not_checkable"
    named = {
        "packages": [*PACKAGE, {"name": "pip", "package_name": "python3-pip"}],
        "commands": [{"name": "p", "path": "/usr/bin/pip3"}],
    }
    assert verdicts(named, EVIDENCE, known)[-1].status == "confirmed"
    assert of({"commands": [{"name": "redis-start"}]}, known=known).status == "contradicted"


def test_a_package_whose_files_were_not_read_makes_absence_say_nothing() -> None:
    data = {"packages": [*PACKAGE, {"name": "x", "package_name": "redis-extra"}], "commands": [{"name": "redis-start"}]}
    verdict = verdicts(data, EVIDENCE)[-1]
    assert verdict.status == "not_checkable" and "redis-extra" in verdict.reason


def test_what_comes_from_another_repository_is_not_held_against_the_distribution() -> None:
    repositories = [
        {
            "name": "upstream",
            "url": "https://pkg.example.org",
            "type": "upstream",
            "packages": [{"name": "redis", "package_name": "redis-server"}],
        }
    ]
    data = {"providers": {"apt": {"packages": [{"name": "r", "package_name": "redis-stack"}], "repositories": repositories}}}
    found = {verdict.path[2:4]: verdict for verdict in verdicts(data, EVIDENCE)}
    assert {verdict.status for verdict in found.values()} == {"not_checkable"}
    assert "upstream" in found["packages", 0].reason and "upstream" in found["repositories", 0].reason
    own = {
        "providers": {
            "apt": {
                "repositories": [
                    {"name": "debian", "type": "os-default", "packages": [{"name": "a", "package_name": "redis-stack"}]}
                ]
            }
        }
    }
    assert verdicts(own, EVIDENCE)[0].status == "contradicted"


def test_without_evidence_nothing_is_contradicted_but_what_contradicts_itself() -> None:
    data = {
        "metadata": {"license": "MIT", "language": "c", "urls": {"website": "https://a.example.org"}},
        "packages": [{"name": "a", "package_name": "b", "version": "1", "alternatives": ["c"]}],
        "services": [{"name": "a", "config_files": ["/etc/a"]}],
        "files": [{"name": "a", "path": "/usr/bin/a"}],
        "directories": [{"name": "a", "path": "/var/a"}],
        "commands": [{"name": "a", "path": "/usr/bin/a", "man_page": "a(1)"}],
        "ports": [{"port": 1}],
    }
    found = verdicts(data, Evidence(name="a", snapshot=""))
    assert len(found) == 13 and {verdict.status for verdict in found} == {"not_checkable"}
    assert all(verdict.reason for verdict in found)


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"metadata": 3},
        {"packages": "x"},
        {"packages": [1, None, []]},
        {"providers": []},
        {"providers": {"apt": None}},
        {"ports": [{"port": True}]},
    ]
    + [
        {"files": [{"path": 3}]},
        {"metadata": {"urls": ["x"]}},
        {"services": [{"config_files": "x"}]},
        {"commands": [{"name": ""}]},
    ],
    ids=str,
)
def test_data_of_any_shape_is_walked(data: Any) -> None:
    assert verdicts(data, EVIDENCE) == []


def test_sources_that_disagree_confirm_nothing() -> None:
    """A registry says another licence than the archive: what is written holds for one of them, and a person should look."""
    data = {"metadata": {"license": "MIT"}}
    for other, status in (("GPL-3.0-only", "not_checkable"), ("MIT OR Apache-2.0", "confirmed"), ("LicenseRef-x", "confirmed")):
        facts = (fact("licence", "MIT"), fact("licence", other, provider="pypi"))
        (said,) = verdicts(data, Evidence(name="redis", snapshot="s1", facts=facts))
        assert said.status == status and (status == "confirmed" or "sources disagree" in said.reason and other in said.reason)
        assert len(said.facts) == (2 if status == "not_checkable" else 1)


def test_an_image_is_confirmed_by_its_registry() -> None:
    facts = (fact("package", "registry.example.org/library/redis", provider="container"),)
    asked = Evidence(name="redis", snapshot="s1", facts=facts)
    not_asked = Evidence(name="redis", snapshot="s1", not_checked={"container": "not checked: this machine has no skopeo"})
    for image, evidence, status, why in (
        ("redis", asked, "confirmed", "has it"),
        ("library/redis", asked, "confirmed", "has it"),
        ("edis", asked, "not_checkable", "no registry was asked"),
        ("other/redis", asked, "not_checkable", ""),
        ("redis", not_asked, "not_checkable", "no skopeo"),
    ):
        (said,) = verdicts({"containers": [{"name": "r", "image": image}]}, evidence)
        assert said.status == status and why in said.reason


def test_licences() -> None:
    said = {
        text: licences.read(text)
        for text in ("GPL-2.0+", "(MIT OR Apache-2.0) AND BSD-3-Clause", "LicenseRef-own", "MIT AND", "", "(" * 5000)
    }
    assert [licence.text for licence in said.values()][:2] == ["GPL-2.0-or-later", "(MIT OR Apache-2.0) AND BSD-3-Clause"]
    assert [bool(licence.wrong) for licence in said.values()] == [False, False, False, True, True, True]
    assert [licence.known for licence in said.values()] == [True, True, False, False, False, False]
    assert (
        licences.near("Apache 2.0") == "Apache-2.0"
        and licences.near("bsd 3 clause") == "BSD-3-Clause"
        and licences.near("nothing") is None
    )


def test_addresses() -> None:
    good = [
        "https://a.example.org/x?y=z#w",
        "http://[2001:db8::1]:80/",
        "https://a.example.org/{{version}}/{{ platform }}.zip",
        "https://bücher.example.org",
    ]
    assert [wrong_with(address) for address in good] == [""] * 4
    bad = [
        "",
        "a.example.org",
        "ftp://a.example.org",
        "https://",
        "https://a b.example.org",
        "https://u:p@a.example.org",
        "https://a.example.org:x/",
    ]
    bad += [
        "https://a.example.org/{{arch}}",
        "https://a.example.org/{{version",
        "https://localhost",
        "https://a..example.org",
        "javascript:alert(1)",
    ]
    assert [address for address in bad if not wrong_with(address)] == []
    assert alike("http://www.example.org/a/", "https://example.org/a") and not alike(
        "https://example.org/a", "https://example.org/b"
    )


def test_versions_in_the_order_of_libversion() -> None:
    rising = ["0.9", "1.0alpha1", "1.0beta1", "1.0rc1", "1.0rc2", "1.0", "1.0post1", "1.0.1", "1.2", "1.10", "2"]
    for place, one in enumerate(rising):
        for other_place, other in enumerate(rising):
            assert compared(one, other) == (place > other_place) - (place < other_place), (one, other)
    assert compared("1.0", "1.0.0") == compared("v1.0", "1") == 0 and compared("1.0", "1.0a") < 0
