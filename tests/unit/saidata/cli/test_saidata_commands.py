"""The commands as they are called: exit codes, sentences, lazy imports, files that are written."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from saidata.cli.main import COMMANDS, main
from saidata.facts import Evidence, Fact

SOURCE = Path(__file__).parents[4] / "src"

GOOD = 'version: "0.3"\nmetadata:\n  name: nginx\npackages:\n  - name: nginx\n    package_name: nginx\n'
BAD = GOOD + "ports:\n  - port: 99999\n"


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of files: a sound one, a bad one, an overlay, and YAML that is no saidata."""
    files = {
        "ng/nginx/default.yaml": GOOD,
        "ng/nginx/debian/12.yaml": 'version: "0.3"\nmetadata:\n  license: null\n',
        "ba/bad/default.yaml": BAD.replace("name: nginx", "name: bad", 1),
        "deploy.yaml": "apiVersion: v1\nkind: Service\nmetadata: {name: a}\n",
        "other.yml": "just: data\n",
        "broken.yaml": "a: [\n",
        ".github/workflows/ci.yaml": "on: push\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SAIDATA_HOME", str(tmp_path / ".home"))
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(list(arguments))
    said = capsys.readouterr()
    return code, said.out, said.err


def test_a_folder_is_linted_and_what_is_no_saidata_is_left_out(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "lint", ".")
    assert (
        code == 3 and out.splitlines()[0] == "ba/bad/default.yaml:8:11: error SD001: 99999 is no port; ports go from 1 to 65535."
    )
    assert out.splitlines()[-1] == "3 files: 1 error, 0 warnings, 0 infos" and "3 YAML files that are no saidata" in err
    assert run(capsys, "lint", "ng")[0] == 0
    code, out, _ = run(capsys, "lint", "other.yml", "broken.yaml")
    assert code == 3 and "other.yml:1:1: error SD102: the file lacks 'version'." in out and "broken.yaml:2:1: error SD101" in out


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("--fail-on", "never"), 0),
        (("--ignore", "SD001"), 0),
        (("--select", "SD1,SD7"), 0),
        (("--select", "sd0"), 3),
    ],
)
def test_what_counts_is_chosen(tree: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], code: int) -> None:
    assert run(capsys, "lint", "ba", *arguments)[0] == code


def test_fail_on_takes_milder_findings_too(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tree / "old.yaml").write_text(GOOD.replace("0.3", "0.2"))
    assert [run(capsys, "lint", "old.yaml", "--fail-on", level)[0] for level in ("error", "warning", "info")] == [0, 0, 3]


def test_mistakes_of_the_caller_are_sentences(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, said in [
        (("lint",), "No file is named."),
        (("lint", "nowhere"), "There is no file nowhere."),
        (("lint", "ng", "--select", "SD999"), "There is no rule SD999."),
        (("lint", "ng", "--format", "xml"), "'xml' is not one of"),
        (("lnt",), "Did you mean 'lint'?"),
        (("check", "ng"), "saidata index build"),
        (("check", "ng", "--evidence", "nothing.json"), "cannot be read"),
        (("check", "ng", "--evidence", "other.yml"), "holds no evidence"),
        (("convert", "other.yml"), "of no version"),
        (("convert", "broken.yaml"), "saidata: 2:1: broken.yaml is not YAML"),
        (("merge", "ng/nginx", "--os", "debian"), "names no operating system and release"),
        (("merge", "ng/nginx", "--os", "beos/5"), "it has debian"),
    ]:
        code, out, err = run(capsys, *arguments)
        assert code == 2 and said in err and len(err.strip().splitlines()) == 1 and not out, (arguments, err)


def test_a_report_goes_to_a_file_and_the_sum_to_the_terminal(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "lint", "ba", "--json", "--output", "reports/lint.json")
    assert code == 3 and out == "" and err == "1 file: 1 error, 0 warnings, 0 infos\n"
    (entry,) = json.loads((tree / "reports/lint.json").read_text())["files"]
    assert entry["file"] == "ba/bad/default.yaml" and entry["findings"][0]["rule"] == "port-range"


def test_check_holds_files_against_evidence_from_a_file(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def evidence(*names: str) -> Evidence:
        facts = [
            Fact(kind="package", value=name, provider="apt", source="debian bookworm main", date="", package=name)
            for name in names
        ]
        return Evidence(name="nginx", snapshot="s", facts=tuple(facts))

    (tree / "evidence.json").write_bytes(msgspec.json.encode([evidence("nginx"), Evidence(name="bad", snapshot="s")]))
    code, out, _ = run(capsys, "check", "ng/nginx/default.yaml", "--evidence", "evidence.json", "--json")
    (entry,) = json.loads(out)["files"]
    assert code == 0 and [(verdict["status"], verdict["facts"][0]["package"]) for verdict in entry["verdicts"]] == [
        ("confirmed", "nginx")
    ]
    (tree / "evidence.json").write_bytes(msgspec.json.encode(evidence("nginx-core")))
    code, out, _ = run(capsys, "check", "ng/nginx/default.yaml", "--evidence", "evidence.json")
    assert code == 3 and "default.yaml:6:19: error SD201: nginx: it is none of the 1 packages" in out
    assert out.splitlines()[-1].endswith("1 value: 0 confirmed, 1 contradicted, 0 not checkable")
    code, out, _ = run(capsys, "check", "ba/bad/default.yaml", "--evidence", "evidence.json", "--ignore", "SD001")
    assert code == 0 and "not checked: evidence: The evidence files say nothing of bad." in out


def test_rules_and_schema_are_printed(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "lint", "--rules", "--json")
    rules: list[dict[str, Any]] = json.loads(out)
    assert code == 0 and {"code", "severity", "name", "title"} == set(rules[0])
    assert run(capsys, "check", "--rules")[1].count("\n") == len(rules)
    _, strict, _ = run(capsys, "schema", "--strict")
    _, line, _ = run(capsys, "schema", "--version", "0.2", "--json")
    assert (
        json.loads(strict)["additionalProperties"] is False
        and line.count("\n") == 1
        and "sources" not in json.loads(line)["properties"]
    )


def test_merge_and_convert(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tree / "ng/nginx/default.yaml").write_text(GOOD.replace("packages:", "  license: MIT\npackages:"))
    code, out, _ = run(capsys, "merge", "ng/nginx", "--os", "debian/12")
    assert code == 0 and out == GOOD.replace("\nmetadata", "\n\nmetadata").replace("\npackages", "\n\npackages")
    code, out, err = run(capsys, "merge", "ng/nginx/default.yaml", "--os", "debian/13", "--json")
    assert code == 0 and json.loads(out)["metadata"]["license"] == "MIT" and "nothing for debian/13" in err
    old = tree / "old.yaml"
    old.write_bytes(b'version: "0.2" # x\r\nmetadata: {name: a}\r\npackages:\r\n- name: b')
    old.chmod(0o640)
    code, out, _ = run(capsys, "convert", "old.yaml")
    assert code == 0 and old.read_bytes().startswith(b'version: "0.2"')
    assert run(capsys, "convert", "old.yaml", "--in-place") == (0, "", "")
    assert old.read_bytes() == b'version: "0.3" # x\r\nmetadata: {name: a}\r\npackages:\r\n- name: b\r\n  package_name: b'
    assert old.stat().st_mode & 0o777 == 0o640 and not list(tree.glob(".old*"))


def test_every_command_is_there_and_help_imports_none_of_them() -> None:
    program = (
        "import sys\nfrom saidata.cli.main import main\nassert main(['--help']) == 0\n"
        "print([name for name in sys.modules if name.startswith('saidata.cli.') and name != 'saidata.cli.main'])\n"
        "print([name for name in ('torch', 'ruamel.yaml', 'jsonschema_rs', 'httpx2', 'redline') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env={"PYTHONPATH": str(SOURCE)}, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert all(f"  {name} " in done.stdout for name in COMMANDS) and done.stdout.endswith("[]\n[]\n")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, name, "--help")
    assert code == 0 and out.startswith(f"Usage: saidata {name}") and not err


def test_a_fault_of_ours_is_said_to_be_one(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from saidata.cli import schema

    def breaks(*_: object, **__: object) -> None:
        raise KeyError("a mistake of ours")

    monkeypatch.setattr(schema, "schema", breaks)
    code, _, err = run(capsys, "schema")
    assert code == 1 and "this is a fault in saidata" in err


def test_a_full_disk_is_a_sentence(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this machine has no /dev/full")
    code, _, err = run(capsys, "lint", "ng", "--output", "/dev/full")
    assert code == 2 and "No space left on device" in err


def test_a_reader_that_leaves_is_nobodys_fault(tree: Path) -> None:
    command = f"PYTHONPATH={SOURCE} {sys.executable} -m saidata.cli.main schema | head -1"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=60)
    assert done.stdout == "{\n" and done.stderr == ""
