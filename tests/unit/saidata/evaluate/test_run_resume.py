"""A run must survive being stopped, must not mix settings, and must judge what was written and not what generation says of itself."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec
import pytest

from saidata.errors import Misuse, SaidataError
from saidata.evaluate import baselines, gate, report
from saidata.evaluate.calibrate import fit, reliability
from saidata.evaluate.gold import Gold, Task, invented
from saidata.evaluate.run import Run, Settings, crossed, foreign, known
from saidata.facts import Evidence
from saidata.models import Answer, Ask
from saidata_making import Scripted, fact, webthing


def _gold(name: str, split: str = "test") -> Gold:
    return Gold(
        name=name,
        source=name,
        version="2.4.1",
        popularity="head",
        kind="service",
        split=split,  # type: ignore[arg-type]
        packages=(name, f"{name}-common"),
        all_packages=(name, f"{name}-common"),
        units=(f"{name}.service",),
        configs=(f"/etc/{name}/{name}.conf", f"/etc/default/{name}"),
        commands=(f"/usr/sbin/{name}",),
        all_units=(f"{name}.service",),
        all_configs=(f"/etc/{name}/{name}.conf", f"/etc/default/{name}"),
        all_commands=(f"/usr/sbin/{name}",),
        licence="BSD-2-Clause",
        homepage=f"https://{name}.example.org/",
    )


NAMES = ("webthing", "mailthing", "logthing")
TASKS = [
    *(Task(_gold(name, "fit" if name == "logthing" else "test"), "full") for name in NAMES),
    Task(_gold("webthing"), "withheld"),
    Task(invented(1)[0], "unknown"),
]


def _gather(name: str) -> Evidence:
    return (
        webthing(name=name)
        if name in NAMES
        else Evidence(name=name, snapshot="s1", not_checked={"apt": "no package goes by this name"})
    )


def _exists(name: str) -> bool:
    return name.removesuffix("-common") in NAMES


class Free(Scripted):
    """Answers questions that nothing binds with one text; bound ones as `Scripted` does. Fails after `until` answers."""

    def __init__(self, text: str = "", until: int = 1000):
        super().__init__(name="free")
        self.text, self.until = text, until

    def answers(self, asks: Iterable[Ask]) -> Iterator[tuple[int, Answer]]:
        for number, ask in enumerate(asks):
            if self.until == 0:
                raise SaidataError("the server went away")
            self.until -= 1
            if ask.schema is None:
                self.asks.append(ask)
                yield number, Answer(text=self.text, finish="stop", tokens=9, prompt_tokens=20)
            else:
                yield number, self._answer(ask)


def _settings(**changes: object) -> Settings:
    base = Settings(model="free", snapshot="s1", gold="g", files=3, seed=0, variants=("saidata", "free"), deep=True)
    return msgspec.structs.replace(base, **changes)


def _work(run: Run, model: Free) -> None:
    run.work(TASKS, [model], _gather, _exists, lambda variant, done, of: None)


ANSWER = "Here it is:\n```yaml\nversion: '0.3'\nmetadata: {name: webthing, license: MIT}\npackages:\n  - {name: a, package_name: madeup}\n```\nEnjoy!"


def test_generation_from_evidence_is_right_and_free_answers_are_judged_as_they_are(tmp_path: Path) -> None:
    run = Run(tmp_path, _settings())
    _work(run, Free(ANSWER))
    found = report.report(run.settings, run.outcomes, run.seconds, None, "")
    bound, free = found.variants["saidata"].measures, found.variants["free"].measures
    assert bound["schema_valid"].value == bound["precision"].value == bound["recall"].value == bound["licence_recall"].value == 1
    assert bound["abstention"].value == 1 and bound["hallucinated_names"].value == 0 and bound["repair_free"].value == 1
    assert free["hallucinated_names"].value == 1 and free["licence_wrong"].value == 1 and free["recall"].value == 0
    assert free["abstention"].value < 1 and "repair_free" not in free
    assert found.variants["saidata"].cost.cached_share > 0.5
    text = report.markdown(found, ["measures.png"])
    assert "| files valid by the strict schema | 1.000" in text and "![measures.png]" in text


def test_a_stopped_run_goes_on_with_what_is_left(tmp_path: Path) -> None:
    model = Free(ANSWER, until=2)
    run = Run(tmp_path, _settings())
    with pytest.raises(SaidataError, match="went away"):
        _work(run, model)
    assert len(run.outcomes) == 2
    with (tmp_path / "outcomes.jsonl").open("ab") as file:
        file.write(b'{"variant":"saidata","key":"half a li')
    again = Run(tmp_path, _settings())
    assert [one.key for one in again.outcomes] == [one.key for one in run.outcomes]
    healthy = Free(ANSWER)
    _work(again, healthy)
    assert len(again.outcomes) == 2 * len(TASKS) and len(healthy.asks) <= 2 * len(TASKS) - 2
    whole = Run(tmp_path, _settings())
    assert sorted((one.variant, one.key) for one in whole.outcomes) == sorted(
        (v, t.key) for v in ("saidata", "free") for t in TASKS
    )
    _work(whole, Free(until=0))


def test_another_models_run_is_not_mixed_in(tmp_path: Path) -> None:
    Run(tmp_path, _settings())
    with pytest.raises(Misuse, match="another model and seed"):
        Run(tmp_path, _settings(model="other", seed=4))


def test_withheld_evidence_reaches_no_prompt(tmp_path: Path) -> None:
    model = Free(ANSWER)
    run = Run(tmp_path, _settings(variants=("index",)))
    run.work([TASKS[3]], [model], _gather, _exists, lambda variant, done, of: None)
    asked = model.asks[0].messages[-1].content
    assert "webthing-common" in asked and "a small web server" not in asked
    assert not any(
        text in asked for text in ("webthing.service", "/etc/webthing", "/usr/sbin", "BSD-2-Clause", "80/tcp", "example.org")
    )
    without = baselines.ask("webthing", None).messages[-1].content
    assert without == "Software: webthing"


def test_what_generation_says_is_valid_is_judged_again(tmp_path: Path) -> None:
    """A file about another program is well formed, and still wrong in everything."""
    run = Run(tmp_path, _settings(variants=("saidata",)))
    run.work([TASKS[0]], [Free()], lambda name: webthing(name="mailthing"), _exists, lambda variant, done, of: None)
    assert run.outcomes[0].score.valid
    assert run.outcomes[0].score.counts["units"].right == 0 and run.outcomes[0].score.packages_right == 0


def test_no_source_package_judges_itself(tmp_path: Path) -> None:
    """Where all that is right lies in one half and all that is wrong in the other, an honest confidence is as wrong as can be."""
    run = Run(tmp_path, _settings(variants=("saidata",)))
    _work(run, Free())
    assert {feature.value for feature, _ in known(run.outcomes, "fit")} >= {"logthing", "logthing-common"}
    assert not any("logthing" in feature.value for feature, _ in known(run.outcomes, "test"))
    one = next(outcome for outcome in run.outcomes if outcome.judged)
    judged = msgspec.structs.replace(next(each for each in one.judged if each.right is not None), right=True)
    right = msgspec.structs.replace(one, split="fit", judged=(judged,) * 50)
    wrong = msgspec.structs.replace(one, split="test", judged=(msgspec.structs.replace(judged, right=False),) * 50)
    told = crossed([right, wrong])
    assert len(told) == 100
    assert {(confidence > 0.9, truth) for confidence, truth in told} == {(True, False), (False, True)}
    assert all(confidence > 0.9 for confidence, _ in foreign([right], fit(known([right]), "m", "g")))


def _report(tmp_path: Path, text: str = "") -> report.Report:
    run = Run(tmp_path / f"run{len(text)}", _settings())
    _work(run, Free(text or ANSWER))
    return report.report(run.settings, run.outcomes, run.seconds, None, "")


def _gate(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "gate.json"
    path.write_text(text)
    return path


def test_a_gate_holds_what_it_names(tmp_path: Path) -> None:
    found = _report(tmp_path)
    path = _gate(tmp_path, '{"at_least": {"precision": 0.98, "recall": 0.9}, "at_most": {"hallucinated_names": 0.005}}')
    assert gate.failures(found, gate.load(path), path) == []
    path = _gate(
        tmp_path, '{"variant": "free", "at_least": {"recall": 0.9, "unheard_of": 1}, "at_most": {"hallucinated_names": 0.005}}'
    )
    told = gate.failures(found, gate.load(path), path)
    assert len(told) == 3 and any("unheard_of was not measured" in text for text in told)


def test_a_gate_sees_a_fall_against_an_earlier_report(tmp_path: Path) -> None:
    good = "version: '0.3'\nmetadata: {name: x}\n"
    (tmp_path / "last.json").write_bytes(msgspec.json.encode(_report(tmp_path, good)))
    path = _gate(tmp_path, '{"variant": "free", "against": {"report": "last.json"}}')
    assert gate.failures(_report(tmp_path, good), gate.load(path), path) == []
    told = gate.failures(_report(tmp_path, "no yaml: [at all"), gate.load(path), path)
    assert any(text.startswith("readable was 1.000") for text in told)


@pytest.mark.parametrize(
    "text",
    ["{", "{}", '{"at_leest": {"recall": 1}}', '{"at_least": {"recall": "much"}}', '{"against": {"report": "nowhere.json"}}'],
)
def test_a_gate_that_asks_for_nothing_readable_is_a_sentence(tmp_path: Path, text: str) -> None:
    with pytest.raises(Misuse):
        gate.load(_gate(tmp_path, text))


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("a: 1", {"a": 1}),
        ("```yaml\na: 1\n```", {"a": 1}),
        ("Sure!\n```\na: 1\n```\nThat is all.", {"a": 1}),
        ("```yaml\na: 1", {"a": 1}),
        ("a: [1", None),
        ("", None),
        ("just words", None),
    ],
)
def test_a_free_answer_is_read_with_good_will(answer: str, expected: object) -> None:
    assert baselines.parsed(answer) == expected


def test_pictures_are_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from saidata.evaluate import pictures

    found = msgspec.structs.replace(_report(tmp_path), reliability=reliability([(0.9, True), (0.2, False)]))
    names = pictures.draw(found, tmp_path)
    assert sorted(names) == ["measures.png", "reliability.png", "risk.png"]
    assert all((tmp_path / name).read_bytes().startswith(b"\x89PNG") for name in names)


def test_more_facts_do_not_make_the_prompt_of_a_baseline_endless() -> None:
    many = webthing(*(fact("command", f"/usr/bin/tool{number}") for number in range(500)), fact("description", "word " * 5000))
    assert len(baselines.ask("webthing", many).messages[-1].content) < 4000
