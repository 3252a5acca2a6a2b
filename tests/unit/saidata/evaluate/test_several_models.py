"""Several models in one evaluation: each alone and all together on the same packages, who was asked, and runs side by side."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from saidata.cli.eval import command
from saidata.errors import Misuse
from saidata.evaluate import report
from saidata.evaluate.gold import Task
from saidata.evaluate.run import Run, Settings
from saidata.models import Ask
from saidata_making import TEXTS, Scripted, gold, webthing

NAMES = ("webthing", "mailthing", "logthing")
TASKS = [Task(gold(name), "full") for name in NAMES]


class Sure(Scripted):
    """Chooses one category, and is as sure of it as it is told; counts how often it was closed."""

    def __init__(self, name: str, category: str, doubts: tuple[str, ...] = ()):
        text = json.dumps({**TEXTS, "category": category}, separators=(",", ":"))
        super().__init__(dict.fromkeys(range(99), text), name=name)
        self.doubts, self.closed = doubts, 0

    def _answer(self, ask: Ask):
        answer = super()._answer(ask)
        doubt = any(f"name: {name}\n" in ask.messages[-1].content for name in self.doubts)
        if doubt:  # another category would have been likelier
            changed = (msgspec.structs.replace(s, others=(('mail"', 1.0), ("mail", 1.0))) for s in answer.scores)
            answer = msgspec.structs.replace(answer, scores=tuple(changed))
        return answer

    def close(self) -> None:
        self.closed += 1


def settings(**changes: object) -> Settings:
    base = Settings(model="small", snapshot="s", gold="g", files=3, seed=0, variants=("saidata", "alone"), deep=True)
    return msgspec.structs.replace(base, others=("large",), **changes)


def done(folder: Path, *models: Sure, **changes: object) -> Run:
    run = Run(folder, settings(**changes))
    run.work(TASKS, models, lambda name: webthing(name=name), lambda name: True, lambda column, made, of: None)
    return run


def summed(run: Run) -> report.Report:
    return report.report(run.settings, run.outcomes, run.seconds, None, "")


def test_each_model_alone_and_all_together_do_the_same_packages(tmp_path: Path) -> None:
    small, large = Sure("small", "web"), Sure("large", "dns")
    run = done(tmp_path, small, large, mode="agree")
    found = summed(run)
    assert list(found.variants) == ["saidata", "small alone", "large alone"]
    assert {part.files for part in found.variants.values()} == {3}
    team = found.variants["saidata"].team
    assert team is not None and team.asked == {"small": 3, "large": 3} and team.written == {"small, large": 3}
    assert team.voted["category"] == (3, 3) and team.voted["subcategory"] == (0, 3)
    assert found.variants["small alone"].team is None and found.variants["small alone"].cost.tokens.value == 40
    assert found.variants["saidata"].cost.tokens.value == 80
    assert {one.key: "category: dns" in one.text for one in run.outcomes if one.variant == "large alone"} == {
        f"{name} full": True for name in NAMES
    }
    assert small.closed == 3, "no column finds its prompts computed by the one before"
    text = report.markdown(found)
    assert "| measure | agree: small, large | small alone | large alone |" in text
    assert "category: 3 of 3" in text and "all of them every file, and they vote" in text


def test_how_often_the_next_model_was_asked_is_said(tmp_path: Path) -> None:
    run = done(
        tmp_path, Sure("small", "web", doubts=("mailthing",)), Sure("large", "dns"), mode="escalate", variants=("saidata",)
    )
    team = summed(run).variants["saidata"].team
    assert team is not None and team.asked == {"small": 3, "large": 1} and team.written == {"small": 2, "large": 1}
    assert {one.key: one.asked for one in run.outcomes}["mailthing full"] == ("small", "large")


def test_another_crews_run_is_not_mixed_in(tmp_path: Path) -> None:
    Run(tmp_path, settings(mode="agree"))
    for changes, said in (
        ({"mode": "escalate"}, "mode"),
        ({"mode": "agree", "others": ("larger",)}, "others"),
        ({"mode": "agree", "rules": ("web=large",)}, "rules"),
    ):
        with pytest.raises(Misuse, match=f"another {said}"):
            Run(tmp_path, msgspec.structs.replace(settings(), **changes))


def test_runs_of_the_same_packages_stand_side_by_side(tmp_path: Path) -> None:
    models = Sure("small", "web"), Sure("large", "dns")
    one = summed(done(tmp_path / "agree", *models, mode="agree"))
    other = done(tmp_path / "route", *models, mode="route", rules=("simple=large",))
    both = report.beside(one, other.settings, other.outcomes, other.seconds)
    assert list(both.variants) == ["saidata", "small alone", "large alone", "route: small, large, simple=large"]
    single = Run(
        tmp_path / "single", Settings(model="third", snapshot="s", gold="g", files=3, seed=0, variants=("saidata",), deep=True)
    )
    single.work(TASKS, [Sure("third", "web")], lambda name: webthing(name=name), lambda name: True, lambda *_: None)
    assert "third alone" in report.beside(one, single.settings, single.outcomes, single.seconds).variants
    with pytest.raises(Misuse, match="has 2 files, and the run has 3"):
        report.beside(one, other.settings, [each for each in other.outcomes if each.key != "logthing full"], other.seconds)
    with pytest.raises(Misuse, match="differ in seed"):
        report.beside(one, msgspec.structs.replace(other.settings, seed=4), other.outcomes, other.seconds)


def test_the_command_sets_runs_beside_and_says_which_it_cannot(tmp_path: Path) -> None:
    models = Sure("small", "web"), Sure("large", "dns")
    for mode in ("agree", "route"):
        done(tmp_path / mode, *models, mode=mode)
    arguments = ["--report-only", "--out", str(tmp_path / "agree"), "--beside"]
    shown = CliRunner().invoke(command, [*arguments, str(tmp_path / "route")])
    assert shown.exit_code == 0, shown.output
    assert "| route: small, large |" in shown.output
    missing = CliRunner().invoke(command, [*arguments, str(tmp_path / "nowhere")])
    assert isinstance(missing.exception, Misuse) and "holds no run" in missing.exception.message
    refused = CliRunner().invoke(command, [*arguments[:-1], "--calibrate", str(tmp_path / "table.json")])
    assert isinstance(refused.exception, Misuse) and not (tmp_path / "table.json").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--variant", "alone"], "one model"),
        (["--mode", "agree"], "takes two models"),
        (["--with", "b", "--route", "webs=b"], "no category"),
        (["--with", "b", "--route", "web=c"], "not asked"),
    ],
)
def test_a_crew_that_makes_no_sense_is_refused_before_anything_is_written(
    arguments: list[str], said: str, tmp_path: Path
) -> None:
    from saidata.evaluate.packed import Head, pack

    pack(tmp_path / "evidence.gz", Head("s", True, NAMES), [webthing(name=name) for name in NAMES])
    (tmp_path / "gold.jsonl").write_bytes(b"".join(msgspec.json.encode(task.gold) + b"\n" for task in TASKS))
    paths = ["--gold", str(tmp_path / "gold.jsonl"), "--evidence", str(tmp_path / "evidence.gz"), "--out", str(tmp_path / "run")]
    tried = CliRunner().invoke(command, [*paths, *arguments])
    assert isinstance(tried.exception, Misuse) and said in tried.exception.message
    assert not (tmp_path / "run").exists()
