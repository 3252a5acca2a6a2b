"""`saidata eval` as a user meets it: exit codes and sentences, without a model, an index or torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from saidata.cli.eval import command
from saidata.cli.main import main
from saidata.evaluate.gold import Gold, Hand
from saidata.evaluate.measures import score
from saidata.evaluate.run import Outcome, Settings
from saidata.generate.made import Effort

ONE = Gold(
    name="quill",
    source="quill",
    version="1",
    popularity="head",
    kind="tool",
    split="test",
    packages=("quill",),
    all_packages=("quill",),
    commands=("/usr/bin/quill",),
    hand=Hand(),
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run that is done: one right file."""
    settings = Settings(model="m", snapshot="s", gold="g", files=1, seed=0, variants=("saidata",), deep=True)
    data = {"packages": [{"name": "quill", "package_name": "quill"}], "commands": [{"name": "quill"}]}
    outcome = Outcome(
        variant="saidata",
        key="quill full",
        score=score(ONE, "full", data, valid=True, exists=lambda name: True),
        split="test",
        popularity="hand",
        kind="tool",
        seconds=1.0,
        effort=Effort(asks=1, tokens=5, prompt_tokens=10),
    )
    (tmp_path / "run.json").write_bytes(msgspec.json.encode(settings))
    (tmp_path / "outcomes.jsonl").write_bytes(msgspec.json.encode(outcome) + b"\n")
    return tmp_path


def test_a_done_run_is_summed_up_for_people_and_machines(folder: Path) -> None:
    done = CliRunner().invoke(command, ["--report-only", "--out", str(folder)])
    assert done.exit_code == 0, done.output
    assert "| commands that are found | 1.000" in done.output
    told = CliRunner().invoke(command, ["--report-only", "--out", str(folder), "--json"])
    assert msgspec.json.decode(told.output)["variants"]["saidata"]["measures"]["recall"]["value"] == 1
    assert (folder / "report.md").read_text() == done.output
    assert msgspec.json.decode((folder / "report.json").read_bytes())["variants"]["saidata"]["files"] == 1


def test_a_gate_that_fails_exits_with_3_and_says_why(folder: Path) -> None:
    gate = folder / "gate.json"
    gate.write_text('{"at_least": {"recall": 0.9}}')
    assert CliRunner().invoke(command, ["--report-only", "--out", str(folder), "--gate", str(gate)]).exit_code == 0
    gate.write_text('{"at_least": {"licence_recall": 0.8}}')
    done = CliRunner().invoke(command, ["--report-only", "--out", str(folder), "--gate", str(gate)])
    assert done.exit_code == 3 and "gate: licence_recall was not measured" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--report-only"], "needs --out"),
        (["--files", "2", "--gold", "/nowhere/gold.jsonl"], "no gold set"),
        (["--files", "2"], "no index"),
        (["--files", "-1"], "not in the range"),
        (["--variant", "best"], "best"),
        (["--engine", "nonsense", "--report-only"], "needs --out"),
    ],
)
def test_misuse_is_a_sentence_and_exit_code_2(
    arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SAIDATA_HOME", str(tmp_path))
    assert main(["eval", *arguments]) == 2
    assert said in capsys.readouterr().err


def test_too_few_values_are_not_calibrated(folder: Path) -> None:
    code = main(["eval", "--report-only", "--out", str(folder), "--calibrate", str(folder / "table.json")])
    assert code == 2 and not (folder / "table.json").exists()


def test_a_table_is_not_judged_by_what_it_was_fitted_on(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = folder / "table.json"
    table.write_text('{"model": "m", "gold": "g", "groups": []}')
    assert main(["eval", "--report-only", "--out", str(folder), "--calibration", str(table)]) == 2
    assert "fitted on this gold set" in capsys.readouterr().err
    table.write_text('{"model": "m", "gold": "another", "groups": []}')
    assert main(["eval", "--report-only", "--out", str(folder), "--calibration", str(table)]) == 0


def test_a_report_needs_no_torch(folder: Path) -> None:
    blocked = "import sys; sys.modules['torch'] = None; from saidata.cli.main import main; sys.exit(main(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", blocked, "eval", "--report-only", "--out", str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
