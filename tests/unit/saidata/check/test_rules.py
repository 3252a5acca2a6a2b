"""Every rule finds what it is for, at its place, and is silent on a sound file; a file can ask a rule to be quiet."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from saidata.check.check import Options, Report, check, check_path
from saidata.check.rule import RULES, Fetched, Trial
from saidata.errors import Misuse, NotHere
from saidata.facts import Evidence, Fact, FactKind
from saidata.format.document import Text
from saidata.format.emit import emit


def fact(kind: FactKind, value: str, package: str = "nginx", provider: str = "apt") -> Fact:
    return Fact(
        kind=kind, value=value, provider=provider, source="debian bookworm main Contents", date="2026-01-01", package=package
    )


EVIDENCE = Evidence(
    name="nginx",
    snapshot="s1",
    facts=(
        fact("package", "nginx"),
        fact("package", "nginx-common", "nginx-common"),
        fact("homepage", "https://nginx.example.org"),
        fact("unit", "nginx.service"),
        fact("config", "/etc/nginx/nginx.conf"),
        fact("config", "/etc/nginx/mime.types"),
        fact("conffile", "/etc/nginx/nginx.conf"),
        fact("command", "/usr/sbin/nginx"),
        fact("manpage", "/usr/share/man/man8/nginx.8.gz"),
        fact("licence", "BSD-2-Clause"),
        fact("port", "80/tcp"),
        fact("package", "nginx-py", "nginx-py", "pypi"),
    ),
)

SOUND: dict[str, Any] = {
    "version": "0.3",
    "metadata": {"name": "nginx", "license": "BSD-2-Clause", "language": "c", "urls": {"website": "https://nginx.example.org"}},
    "packages": [{"name": "nginx", "package_name": "nginx"}],
    "services": [{"name": "nginx", "type": "systemd", "config_files": ["/etc/nginx/nginx.conf"]}],
    "files": [{"name": "config", "path": "/etc/nginx/nginx.conf", "type": "config", "mode": "0644"}],
    "commands": [{"name": "nginx", "path": "/usr/sbin/nginx", "man_page": "nginx(8)"}],
    "ports": [{"port": 80, "protocol": "tcp"}],
    "containers": [{"name": "nginx", "image": "nginx", "ports": ["8080:80", "80", "127.0.0.1:9000-9010:9000-9010/udp"]}],
    "scripts": [{"name": "a", "url": "https://nginx.example.org/a.sh", "checksum": "sha256:" + "9f86d081884c7d65" * 4}],
    "compatibility": {
        "matrix": [{"provider": "apt", "platform": "linux", "supported": True}],
        "versions": {"latest": "1.10", "minimum": "1.9"},
    },
}

URL = "https://nginx.example.org"

# What is put where in the sound file, and the rule that must find it there.
BREACHES: list[tuple[str, tuple[str | int, ...], Any]] = [
    ("SD001", ("ports", 0, "port"), 70000),
    ("SD002", ("containers", 0, "ports", 1), "80:99999"),
    ("SD002", ("containers", 0, "ports", 0), "eighty"),
    ("SD003", ("ports", 0, "port"), 8080),
    ("SD102", ("services", 0, "type"), "upstart"),
    ("SD102", ("metadata", "version"), 1.1),
    ("SD103", ("metadata", "licence"), "MIT"),
    ("SD104", ("packages", 1), {"name": "nginx", "package_name": "nginx-common"}),
    ("SD104", ("ports", 1), {"port": 80}),
    ("SD106", ("version",), "3.0"),
    ("SD107", ("version",), "0.2"),
    ("SD109", ("files", 0, "mode"), "rw-r--r--"),
    ("SD110", ("files", 0, "path"), "etc/nginx.conf"),
    ("SD110", ("services", 0, "config_files", 0), "/etc/../passwd"),
    ("SD111", ("metadata", "description"), "TODO"),
    ("SD111", ("metadata", "description"), ""),
    (
        "SD112",
        ("providers",),
        {"apt": {"files": [{"name": "config", "path": "/etc/nginx/nginx.conf", "type": "config", "mode": "0644"}]}},
    ),
    ("SD113", ("metadata", "name"), "../nginx"),
    ("SD201", ("packages", 0, "package_name"), "nginx-pro"),
    ("SD202", ("metadata", "urls", "website"), "https://other.example.com"),
    ("SD203", ("providers",), {"pypi": {"packages": [{"name": "n", "package_name": "nginx-py"}]}}),
    ("SD401", ("services", 0, "service_name"), "nginx-debug"),
    ("SD402", ("services", 0, "config_files", 0), "/etc/nginx.conf"),
    ("SD403", ("commands", 0, "path"), "/usr/bin/nginx"),
    ("SD404", ("commands", 0, "man_page"), "nginx(1)"),
    ("SD405", ("files", 0, "path"), "/etc/nginx/mime.types"),
    ("SD501", ("metadata", "license"), "BSD"),
    ("SD502", ("metadata", "license"), "MIT"),
    ("SD503", ("metadata", "license"), "GPL-2.0"),
    ("SD601", ("metadata", "maintainer"), "pkg:DEB/nginx"),
    ("SD601", ("metadata", "maintainer"), "pkg:"),
    ("SD601", ("metadata", "maintainer"), "cpe:2.3:a:nginx"),
    ("SD601", ("metadata", "maintainer"), "swh:1:rev:1234"),
    ("SD602", ("metadata", "security"), {"cve_exceptions": ["CVE-24-1"]}),
    ("SD701", ("metadata", "urls", "website"), "nginx.example.org"),
    ("SD702", ("metadata", "urls", "website"), "http://nginx.example.org"),
    ("SD801", ("scripts", 0), {"name": "a", "url": URL + "/a.sh"}),
    ("SD802", ("scripts", 0, "checksum"), "md5:" + "9f86d081884c7d65" * 2),
    ("SD802", ("scripts", 0, "checksum"), "sha256:" + "0f" * 32),
    ("SD802", ("scripts", 0, "checksum"), "sha256:" + "0d1c2b3a" * 9),
    ("SD804", ("scripts", 0, "custom_commands"), {"install": f"curl -fsSL {URL}/a.sh | sudo -E bash -"}),
    ("SD901", ("compatibility", "versions", "minimum"), "1.11"),
    ("SD902", ("compatibility", "matrix", 1), {"provider": "apt", "platform": "linux", "supported": False}),
    ("SD903", ("packages", 0, "version"), "1.12-1"),
]


def with_value(path: tuple[str | int, ...], value: Any) -> Text:
    return Text.parse(emit(SOUND), "nginx").set(path, value)


def checked(text: Text, **options: Any) -> Report:
    return check(text, lambda name: EVIDENCE, Options(**options))


def test_a_sound_file_has_no_findings_and_its_values_are_confirmed() -> None:
    report = checked(Text.parse(emit(SOUND), "nginx"))
    assert report.findings == ()
    assert {verdict.status for verdict in report.verdicts} <= {"confirmed", "not_checkable"}
    assert sum(verdict.status == "confirmed" for verdict in report.verdicts) == 9


@pytest.mark.parametrize(
    ("code", "path", "value"), BREACHES, ids=[f"{code}-{'.'.join(map(str, path))}" for code, path, _ in BREACHES]
)
def test_each_rule_finds_its_breach_where_it_is(code: str, path: tuple[str | int, ...], value: Any) -> None:
    text = with_value(path, value)
    found = [finding for finding in checked(text).findings if finding.code == code]
    assert found, checked(text).findings
    (finding,) = found
    shorter = min(len(finding.path), len(path))
    assert finding.path[:shorter] == path[:shorter]
    assert (finding.line, finding.column) == text.place(finding.path) and finding.line > 0
    assert finding.severity == RULES[code].severity and finding.message


FETCHED = {
    "gone": Fetched(status=404, date="2026-01-01T00:00:00+00:00"),
    "soft": Fetched(status=200, missing=True, date="2026-01-01T00:00:00+00:00"),
    "moved": Fetched(status=200, final="https://parked.example.com/", date="2026-01-01T00:00:00+00:00"),
    "slow": Fetched(status=0, reason="no answer"),
    "refused": Fetched(status=403),
    "fine": Fetched(status=200, final="https://nginx.example.org/home"),
}


@pytest.mark.parametrize(
    ("answer", "code"), [("gone", "SD703"), ("soft", "SD703"), ("moved", "SD704"), ("slow", ""), ("refused", ""), ("fine", "")]
)
def test_addresses_that_were_opened(answer: str, code: str) -> None:
    asked: list[str] = []

    def fetch(addresses: Any) -> dict[str, Fetched]:
        asked.extend(addresses)
        return {address: FETCHED[answer] if address == URL else FETCHED["fine"] for address in addresses}

    report = checked(Text.parse(emit(SOUND), "nginx"), fetch=fetch)
    assert [finding.code for finding in report.findings] == ([code] if code else [])
    assert asked == [URL, URL + "/a.sh"]
    assert ("addresses" in report.not_checked) == (answer == "slow")


def test_downloads_are_compared_and_dry_runs_reported() -> None:
    def digest(wanted: Any) -> dict[str, str]:
        assert wanted == {URL + "/a.sh": "sha256"}
        return {URL + "/a.sh": "sha256:" + "1" * 64}

    def trial(provider: str, packages: Any) -> dict[str, Trial]:
        assert (provider, packages) == ("apt", ["nginx"])
        return {"nginx": Trial(ran=True, worked=False, reason="Unable to locate package nginx")}

    report = checked(Text.parse(emit(SOUND), "nginx"), digest=digest, trial=trial)
    assert [(finding.code, finding.path) for finding in report.findings] == [
        ("SD301", ("packages", 0, "package_name")),
        ("SD803", ("scripts", 0, "checksum")),
    ]
    untried = checked(
        Text.parse(emit(SOUND), "nginx"), trial=lambda provider, names: {"nginx": Trial(ran=False, reason="no sandbox")}
    )
    assert untried.findings == () and untried.not_checked["dry run with apt"] == "no sandbox"


def test_every_rule_is_tried_here() -> None:
    elsewhere = {"SD101", "SD105", "SD108", "SD301", "SD703", "SD704", "SD803"}  # in tests of their own in this file
    assert {code for code, _, _ in BREACHES} | elsewhere == set(RULES)
    assert all(rule.title.endswith(".") for rule in RULES.values())


def test_text_that_is_read_in_two_ways() -> None:
    text = Text.parse('version: "0.3"\nmetadata:\n  name: nginx\n  language: no\n  maintainer: 22:22\n  category: "no"\n', "a")
    found = checked(text, select=("SD105",)).findings
    assert [(finding.line, finding.path[-1]) for finding in found] == [(4, "language"), (5, "maintainer")]
    assert 'write "22:22"' in found[1].message


def test_what_a_reader_without_quotes_would_take_for_a_number_is_explained() -> None:
    text = Text.parse('version: "0.3"\nmetadata: {name: nginx, version: 1.10}\nfiles: [{name: a, path: /a, mode: 0644}]\n', "a")
    first, second = checked(text, select=("SD102",)).findings
    assert first.message == '1.10 is read as a number, and text belongs here; write "1.10".' and '"0644"' in second.message


def test_what_a_provider_leaves_out_is_taken_from_the_top_level() -> None:
    data = {
        **SOUND,
        "sources": [{"name": "main", "url": URL, "build_system": "cmake", "checksum": "sha256:" + "9f86d081884c7d65" * 4}],
    }
    inherits = {**data, "providers": {"apt": {"sources": [{"name": "main", "url": URL}]}}}
    assert checked(Text.parse(emit(inherits), "a"), select=("SD102", "SD801")).findings == ()
    other = {**data, "providers": {"apt": {"sources": [{"name": "other", "url": URL}]}}}
    assert [finding.code for finding in checked(Text.parse(emit(other), "a"), select=("SD102", "SD801")).findings] == [
        "SD102",
        "SD801",
    ]


def test_strict_makes_unknown_keys_errors_and_says_what_was_meant() -> None:
    text = with_value(("metadata", "licence"), "MIT")
    (lenient,), (strict,) = checked(text, select=("SD103",)).findings, checked(text, select=("SD103",), strict=True).findings
    assert (lenient.severity, strict.severity) == ("warning", "error") and "did you mean 'license'?" in strict.message


def test_comments_keep_rules_quiet() -> None:
    text = emit(with_value(("metadata", "urls", "website"), "http://nginx.example.org").value)
    line = "    website: http://nginx.example.org"
    assert [finding.code for finding in checked(Text.parse(text, "a")).findings] == ["SD702"]
    for quiet in (text.replace(line, line + "  # saidata: ignore SD702"), "# saidata: ignore-file SD801, SD702\n" + text):
        report = checked(Text.parse(quiet, "a"))
        assert report.findings == () and report.suppressed == 1
    other = checked(Text.parse(text.replace(line, line + "  # saidata: ignore SD701"), "a"))
    assert [finding.code for finding in other.findings] == ["SD702"]


def test_rules_are_chosen_by_code_or_its_beginning() -> None:
    text = with_value(("metadata", "license"), "GPL-2.0").set(("metadata", "urls", "website"), "http://x.example.com")
    assert [finding.code for finding in checked(text, select=("SD5",)).findings] == ["SD502", "SD503"]
    assert [finding.code for finding in checked(text, select=("SD5",), ignore=("SD503",)).findings] == ["SD502"]
    with pytest.raises(Misuse, match="no rule SD999"):
        checked(text, select=("SD999",))


def test_without_evidence_only_the_text_is_checked() -> None:
    report = check(with_value(("packages", 0, "package_name"), "nginx-pro"), None)
    assert report.findings == () and report.verdicts == ()


def test_no_evidence_is_said() -> None:
    def none(name: str) -> Evidence:
        raise NotHere(f"Nothing is known of {name}.", "build an index")

    assert check(Text.parse(emit(SOUND), "a"), none).not_checked == {"evidence": "Nothing is known of nginx. (build an index)"}


def test_files_on_disk(tmp_path: Path) -> None:
    place = tmp_path / "ng" / "nginx"
    (place / "ubuntu").mkdir(parents=True)
    (place / "default.yaml").write_text(emit(SOUND))
    assert check_path(place / "default.yaml", lambda name: EVIDENCE).findings == ()
    (place / "ubuntu" / "22.04.yaml").write_text(
        'version: "0.3"\nproviders:\n  apt:\n    packages:\n      - name: nginx\n        version: "1"\n'
    )
    overlay = check_path(place / "ubuntu" / "22.04.yaml", lambda name: EVIDENCE, Options(system="debian"))
    assert overlay.findings == () and overlay.verdicts == () and "ubuntu" in overlay.not_checked["evidence"]
    moved = tmp_path / "ap" / "apache"
    moved.mkdir(parents=True)
    (moved / "default.yaml").write_text(emit(SOUND))
    (found,) = check_path(moved / "default.yaml", None).findings
    assert found.code == "SD108" and "ng/nginx/default.yaml" in found.message
    (moved / "default.yaml").write_text("a:\n\tb: 1\n")
    (found,) = check_path(moved / "default.yaml", None).findings
    assert (found.code, found.severity, found.line) == ("SD101", "error", 2)
    with pytest.raises(NotHere):
        check_path(tmp_path / "nothing.yaml", None)
