"""Reports in the formats that people and CI systems read: `FORMATS`, each a function from reports to text.

text for people; json with verdicts; sarif 2.1.0; github's workflow commands; GitLab's code quality; JUnit's XML. A path is written
relative to the folder the command runs in, with slashes, since that is how a CI system finds the line.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import msgspec

from saidata import __version__
from saidata.check.check import Report
from saidata.check.rule import RULES, SEVERITIES
from saidata.facts import Finding, Severity, Verdict

Output = Callable[[Sequence[Report]], str]

_SARIF_LEVEL: dict[Severity, str] = {"error": "error", "warning": "warning", "info": "note"}
_GITHUB_COMMAND: dict[Severity, str] = {"error": "error", "warning": "warning", "info": "notice"}
_GITLAB_SEVERITY: dict[Severity, str] = {"error": "critical", "warning": "minor", "info": "info"}


def text(reports: Sequence[Report]) -> str:
    """One line per finding, a line for what was not checked, and the sum."""
    lines = []
    for report in reports:
        name = shown(report.name)
        lines += [f"{name}{_line(f)}: {f.severity} {f.code}: {f.message}" for f in report.findings]
        lines += [f"{name}: not checked: {what}: {why}" for what, why in report.not_checked.items()]
    counts = [_number(sum(report.count(level) for report in reports), level) for level in SEVERITIES]
    lines.append(f"{_number(len(reports), 'file')}: {', '.join(counts)}{_judged(reports)}")
    return "\n".join(lines) + "\n"


def as_json(reports: Sequence[Report]) -> str:
    """Everything: findings, verdicts with their facts, what was not checked."""
    files = [
        {
            "file": shown(report.name),
            "findings": [_finding(finding) for finding in report.findings],
            "verdicts": [_verdict(verdict) for verdict in report.verdicts],
            "not_checked": report.not_checked,
            "suppressed": report.suppressed,
        }
        for report in reports
    ]
    summary = {level: sum(report.count(level) for report in reports) for level in SEVERITIES}
    return json.dumps({"files": files, "summary": summary}, indent=2, ensure_ascii=False) + "\n"


def sarif(reports: Sequence[Report]) -> str:
    """SARIF 2.1.0, as code scanning services take it."""
    codes = sorted(RULES)
    rules = [
        {
            "id": code,
            "name": RULES[code].name,
            "shortDescription": {"text": RULES[code].title},
            "fullDescription": {"text": " ".join((RULES[code].judge.__doc__ or "").split())},
            "defaultConfiguration": {"level": _SARIF_LEVEL[RULES[code].severity]},
        }
        for code in codes
    ]
    results = [
        {
            "ruleId": finding.code,
            "ruleIndex": codes.index(finding.code),
            "level": _SARIF_LEVEL[finding.severity],
            "message": {"text": finding.message},
            "locations": [{"physicalLocation": _physical(report, finding)}],
            "partialFingerprints": {"saidata/v1": _fingerprint(report, finding)},
        }
        for report in reports
        for finding in report.findings
    ]
    driver = {"name": "saidata", "version": __version__, "rules": rules}
    run = {"tool": {"driver": driver}, "columnKind": "unicodeCodePoints", "results": results}
    whole = {"version": "2.1.0", "$schema": "https://json.schemastore.org/sarif-2.1.0.json", "runs": [run]}
    return json.dumps(whole, indent=2, ensure_ascii=False) + "\n"


def github(reports: Sequence[Report]) -> str:
    """Workflow commands: lines that GitHub shows beside the lines of a change."""
    lines = []
    for report in reports:
        for finding in report.findings:
            place = f"file={_property(shown(report.name))},line={max(finding.line, 1)},col={max(finding.column, 1)}"
            title = _property(f"{finding.code} {RULES[finding.code].name}")
            lines.append(f"::{_GITHUB_COMMAND[finding.severity]} {place},title={title}::{_data(finding.message)}")
    return "".join(line + "\n" for line in lines)


def gitlab(reports: Sequence[Report]) -> str:
    """GitLab's code quality report."""
    entries = [
        {
            "description": finding.message,
            "check_name": finding.code,
            "fingerprint": _fingerprint(report, finding),
            "severity": _GITLAB_SEVERITY[finding.severity],
            "location": {"path": shown(report.name), "lines": {"begin": max(finding.line, 1)}},
        }
        for report in reports
        for finding in report.findings
    ]
    return json.dumps(entries, indent=2, ensure_ascii=False) + "\n"


def junit(reports: Sequence[Report]) -> str:
    """JUnit's XML: a test case per file, one failure in it for its errors and warnings; infos are its output."""
    failed = [report for report in reports if report.count("error") + report.count("warning")]
    counts = {"tests": str(len(reports)), "failures": str(len(failed)), "errors": "0"}
    root = ElementTree.Element("testsuites", counts)
    suite = ElementTree.SubElement(root, "testsuite", {"name": "saidata", **counts, "skipped": "0", "time": "0"})
    for report in reports:
        case = ElementTree.SubElement(suite, "testcase", {"classname": "saidata", "name": _xml(shown(report.name)), "time": "0"})
        bad = [finding for finding in report.findings if finding.severity != "info"]
        rest = [finding for finding in report.findings if finding.severity == "info"]
        if bad:
            head = f"{_number(len(bad), 'finding')}, first {bad[0].code}"
            failure = ElementTree.SubElement(case, "failure", {"type": bad[0].code, "message": head})
            failure.text = _xml("\n".join(f"{f.line}:{f.column}: {f.severity} {f.code}: {f.message}" for f in bad))
        if rest:
            ElementTree.SubElement(case, "system-out").text = _xml(
                "\n".join(f"{f.line}:{f.column}: {f.code}: {f.message}" for f in rest)
            )
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


FORMATS: Mapping[str, Output] = {
    "text": text,
    "json": as_json,
    "sarif": sarif,
    "github": github,
    "gitlab-codequality": gitlab,
    "junit": junit,
}


def shown(name: str) -> str:
    """A file's name as a CI system knows it: relative to the working folder where it lies in it."""
    path = Path(name).absolute()
    return (path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path).as_posix()


def _judged(reports: Sequence[Report]) -> str:
    """How many values were held against evidence, if any were."""
    found = [verdict.status for report in reports for verdict in report.verdicts]
    if not found:
        return ""
    counts = ", ".join(f"{found.count(status)} {said}" for status, said in _STATUS.items())
    return f"; {_number(len(found), 'value')}: {counts}"


def _number(count: int, word: str) -> str:
    return f"{count} {word}{'s' * (count != 1)}"


def _line(finding: Finding) -> str:
    """Where a finding stands in its file; nothing for one of the whole file."""
    return f":{finding.line}:{finding.column}" if finding.line else ""


_STATUS: dict[Any, str] = {"confirmed": "confirmed", "contradicted": "contradicted", "not_checkable": "not checkable"}


def _finding(finding: Finding) -> dict[str, Any]:
    return {**msgspec.to_builtins(finding), "rule": RULES[finding.code].name}


def _verdict(verdict: Verdict) -> dict[str, Any]:
    made: dict[str, Any] = msgspec.to_builtins(verdict)
    return made


def _physical(report: Report, finding: Finding) -> dict[str, Any]:
    place: dict[str, Any] = {"artifactLocation": {"uri": _uri(shown(report.name))}}
    if finding.line:
        place["region"] = {"startLine": finding.line, "startColumn": max(finding.column, 1)}
    return place


def _uri(name: str) -> str:
    return Path(name).as_uri() if name.startswith("/") else Path("/" + name).as_uri().removeprefix("file:///")


def _fingerprint(report: Report, finding: Finding) -> str:
    """Stays the same when lines above are added: file, rule, place in the document, message."""
    parts = [shown(report.name), finding.code, ".".join(map(str, finding.path)), finding.message]
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()


def _data(message: str) -> str:
    return message.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(value: str) -> str:
    return _data(value).replace(":", "%3A").replace(",", "%2C")


def _xml(value: str) -> str:
    """Without the characters that XML cannot hold."""
    return "".join(
        letter
        if letter in "\t\n" or letter >= " " and letter not in "\ufffe\uffff" and not "\ud800" <= letter <= "\udfff"
        else "?"
        for letter in value
    )
