"""Reports are what their readers take: SARIF and JSON by their schemas, JUnit and GitHub's commands by reading them back."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote
from xml.etree import ElementTree

import jsonschema
import pytest

from saidata.check.check import Report
from saidata.check.outputs import FORMATS
from saidata.check.rule import RULES
from saidata.facts import Fact, Finding, Verdict

ODD = "100 % of <names>, \"quoted\" & 'so'\non two lines: ü\x01"

REPORTS = [
    Report(
        name="my files/ng, x/default.yaml",
        findings=(
            Finding(code="SD102", severity="error", message=ODD, path=("ports", 0, "port"), line=7, column=11),
            Finding(code="SD702", severity="warning", message="not encrypted", path=("metadata", "urls"), line=3, column=5),
            Finding(code="SD107", severity="info", message="older", path=("version",), line=1, column=10),
            Finding(code="SD101", severity="error", message="of the whole file"),
        ),
        verdicts=(
            Verdict(
                path=("packages", 0, "package_name"),
                value="nginx",
                status="confirmed",
                reason="debian has it",
                facts=(Fact(kind="package", value="nginx", provider="apt", source="debian", date="", package="nginx"),),
            ),
            Verdict(path=("ports", 0, "port"), value="80", status="not_checkable", reason="nothing names it"),
        ),
        not_checked={"brew": "no address for brew is set"},
        suppressed=2,
    ),
    Report(name="good.yaml"),
]

# What the SARIF 2.1.0 standard requires of the parts that are written (sections 3.13 to 3.52), for they come from its text.
TEXT = {"type": "object", "required": ["text"], "properties": {"text": {"type": "string", "minLength": 1}}}
POSITIVE = {"type": "integer", "minimum": 1}
SARIF = {
    "type": "object",
    "required": ["version", "runs"],
    "properties": {
        "version": {"const": "2.1.0"},
        "$schema": {"type": "string", "format": "uri"},
        "runs": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["tool", "results"],
                "additionalProperties": False,
                "properties": {
                    "columnKind": {"enum": ["utf16CodeUnits", "unicodeCodePoints"]},
                    "tool": {
                        "required": ["driver"],
                        "properties": {
                            "driver": {
                                "required": ["name"],
                                "properties": {
                                    "rules": {
                                        "uniqueItems": True,
                                        "items": {
                                            "required": ["id"],
                                            "additionalProperties": False,
                                            "properties": {
                                                "id": {"type": "string"},
                                                "name": {"type": "string"},
                                                "shortDescription": TEXT,
                                                "fullDescription": TEXT,
                                                "defaultConfiguration": {
                                                    "properties": {"level": {"enum": ["none", "note", "warning", "error"]}}
                                                },
                                            },
                                        },
                                    }
                                },
                            }
                        },
                    },
                    "results": {
                        "items": {
                            "required": ["message"],
                            "additionalProperties": False,
                            "properties": {
                                "ruleId": {"type": "string"},
                                "ruleIndex": {"type": "integer", "minimum": 0},
                                "level": {"enum": ["none", "note", "warning", "error"]},
                                "message": TEXT,
                                "partialFingerprints": {"additionalProperties": {"type": "string"}},
                                "locations": {
                                    "items": {
                                        "properties": {
                                            "physicalLocation": {
                                                "required": ["artifactLocation"],
                                                "additionalProperties": False,
                                                "properties": {
                                                    "artifactLocation": {
                                                        "properties": {"uri": {"type": "string", "pattern": "^[^ <>\\\\]+$"}}
                                                    },
                                                    "region": {"properties": {"startLine": POSITIVE, "startColumn": POSITIVE}},
                                                },
                                            }
                                        }
                                    }
                                },
                            },
                        }
                    },
                },
            },
        },
    },
}


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_text_is_one_line_per_finding() -> None:
    lines = FORMATS["text"]([REPORTS[0], Report(name=str(Path.cwd() / "deep" / "x.yaml"))]).splitlines()
    assert lines[2] == "my files/ng, x/default.yaml:3:5: warning SD702: not encrypted"
    assert "my files/ng, x/default.yaml: not checked: brew: no address for brew is set" in lines
    assert lines[-1] == "2 files: 2 errors, 1 warning, 1 info; 2 values: 1 confirmed, 0 contradicted, 1 not checkable"


def test_json_has_everything() -> None:
    made = json.loads(FORMATS["json"](REPORTS))
    first, second = made["files"]
    assert first["findings"][0]["message"] == ODD and first["findings"][0]["path"] == ["ports", 0, "port"]
    assert first["verdicts"][0]["facts"][0]["source"] == "debian" and first["not_checked"] == REPORTS[0].not_checked
    assert first["suppressed"] == 2 and second["findings"] == [] and made["summary"] == {"error": 2, "warning": 1, "info": 1}


def test_sarif_keeps_the_standard() -> None:
    made = json.loads(FORMATS["sarif"](REPORTS))
    jsonschema.validate(made, SARIF)
    (run,) = made["runs"]
    assert [rule["id"] for rule in run["tool"]["driver"]["rules"]] == sorted(RULES)
    for result, finding in zip(run["results"], REPORTS[0].findings, strict=True):
        assert run["tool"]["driver"]["rules"][result["ruleIndex"]]["id"] == result["ruleId"] == finding.code
        place = result["locations"][0]["physicalLocation"]
        assert unquote(place["artifactLocation"]["uri"]) == REPORTS[0].name
        assert ("region" in place) == bool(finding.line)
    assert [result["level"] for result in run["results"]] == ["error", "warning", "note", "error"]
    assert len({result["partialFingerprints"]["saidata/v1"] for result in run["results"]}) == 4


def test_github_reads_its_commands_back() -> None:
    lines = FORMATS["github"](REPORTS).splitlines()
    assert len(lines) == 4
    command = re.fullmatch(r"::(\w+) ([^:]*)::(.*)", lines[0])
    assert command is not None and command[1] == "error"
    values = dict(pair.split("=", 1) for pair in command[2].split(","))
    assert unquote(values["file"]) == REPORTS[0].name and (values["line"], values["col"]) == ("7", "11")
    assert unquote(command[3]) == ODD
    assert lines[2].startswith("::notice ") and "line=1,col=1" in lines[3]


def test_gitlab_has_what_its_documentation_asks_for() -> None:
    entries: list[dict[str, Any]] = json.loads(FORMATS["gitlab-codequality"](REPORTS))
    for entry in entries:
        assert set(entry) == {"description", "check_name", "fingerprint", "severity", "location"}
        assert entry["severity"] in ("info", "minor", "major", "critical", "blocker")
        assert entry["location"]["lines"]["begin"] >= 1 and not entry["location"]["path"].startswith("./")
    assert len({entry["fingerprint"] for entry in entries}) == len(entries) == 4


def test_fingerprints_outlive_lines_that_move() -> None:
    moved = Report(
        name=REPORTS[0].name, findings=tuple(Finding(**{**_fields(one), "line": one.line + 5}) for one in REPORTS[0].findings)
    )
    before, after = (json.loads(FORMATS["gitlab-codequality"]([report])) for report in (REPORTS[0], moved))
    assert [entry["fingerprint"] for entry in before] == [entry["fingerprint"] for entry in after]


def test_junit_is_xml_with_a_case_per_file() -> None:
    root = ElementTree.fromstring(FORMATS["junit"](REPORTS))
    assert root.attrib == {"tests": "2", "failures": "1", "errors": "0"}
    (suite,) = root
    bad, good = suite
    (failure,) = bad.findall("failure")
    assert failure.get("message") == "3 findings, first SD102" and failure.text is not None
    assert failure.text.startswith("7:11: error SD102: 100 % of <names>") and "\x01" not in failure.text
    assert bad.findtext("system-out") == "1:10: SD107: older"
    assert good.get("name") == "good.yaml" and list(good) == []


def test_nothing_to_report() -> None:
    assert json.loads(FORMATS["gitlab-codequality"]([])) == [] and FORMATS["github"]([]) == ""
    assert json.loads(FORMATS["sarif"]([]))["runs"][0]["results"] == []
    assert FORMATS["text"]([]) == "0 files: 0 errors, 0 warnings, 0 infos\n"


def _fields(finding: Finding) -> dict[str, Any]:
    return {name: getattr(finding, name) for name in finding.__struct_fields__}
