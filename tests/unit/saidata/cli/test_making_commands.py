"""`saidata generate`, `batch`, `jobs` and `archive` as a user meets them: what is printed, where, and with which exit code."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from saidata.cli import workshop
from saidata.cli.main import main
from saidata.errors import NotHere, Unreachable
from saidata.format.document import Text
from saidata_making import TEXTS, Scripted, webthing


class Desk:
    """The model and the evidence that the commands find in these tests."""

    def __init__(self) -> None:
        self.models: list[Scripted] = []
        self.said: dict[int, str] = {}
        self.interrupt_at: int | None = None

    def open(self, name: str, **_: object) -> Scripted:
        desk = self

        class Interrupted(Scripted):
            def stream(self, ask):
                for number, piece in enumerate(super().stream(ask)):
                    if number == desk.interrupt_at:
                        raise KeyboardInterrupt
                    yield piece

        self.models.append(Interrupted(self.said, name=name))
        return self.models[-1]

    @property
    def asks(self) -> int:
        return sum(len(model.asks) for model in self.models)


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    made = Desk()
    monkeypatch.setenv("SAIDATA_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(workshop, "open_model", made.open)

    def evidence(self, name):
        if name == "ghost":
            raise NotHere("nothing is known of ghost", "try `saidata search ghost`")
        return webthing(name=name)

    monkeypatch.setattr(workshop.Workshop, "evidence", evidence)
    return made


def test_one_file_goes_to_standard_output_and_what_is_said_of_it_to_standard_error(desk, capsys):
    assert main(["generate", "webthing"]) == 0
    out, err = capsys.readouterr()
    assert Text.parse(out, "out").value["metadata"]["display_name"] == "Web Thing"
    assert "metadata.description: A server" in err and "confirmed" in err and "30 steps" in err
    assert main(["generate", "webthing", "--quiet"]) == 0
    again = capsys.readouterr()
    assert again.err == "" and desk.asks == 1, "the same ask is answered from what is kept"
    assert main(["generate", "webthing", "--fresh", "--json"]) == 0 and desk.asks == 2
    told = json.loads(capsys.readouterr().out)
    assert told["valid"] and told["verdicts"] and told["review"] == [] and told["effort"]["tokens"] == 40


def test_a_file_in_a_folder_is_archived_and_an_edited_one_is_not_replaced(desk, tmp_path, capsys):
    out = tmp_path / "files"
    assert main(["generate", "webthing", "-o", str(out)]) == 0
    path = out / "we" / "webthing" / "default.yaml"
    assert "(version 1)" in capsys.readouterr().err and path.is_file()
    path.write_text(path.read_text().replace("Web Thing", "My Thing"))
    assert main(["generate", "webthing", "-o", str(out)]) == 2
    assert "edited by hand" in capsys.readouterr().err and "My Thing" in path.read_text()
    assert main(["generate", "webthing", "-o", str(out), "--force"]) == 0
    assert main(["archive", "log", "webthing", "--json"]) == 0
    notes = [version["note"] for version in json.loads(capsys.readouterr().out)]
    assert notes == ["generated", "edited by hand", "generated"]
    assert main(["archive", "diff", "webthing", "2"]) == 0 and "-  display_name: My Thing" in capsys.readouterr().out
    assert main(["archive", "rollback", "webthing", "2", "-o", str(out)]) == 0
    assert "My Thing" in path.read_text()
    assert main(["archive", "show", "webthing", "1"]) == 0 and "Web Thing" in capsys.readouterr().out
    assert main(["archive", "list"]) == 0 and "back to 2" in capsys.readouterr().out
    assert main(["archive", "show", "nobody"]) == 2 and main(["archive", "diff", "webthing", "1", "77"]) == 2


def test_an_interrupted_file_is_kept_can_be_edited_and_gone_on_with(desk, tmp_path, capsys):
    desk.interrupt_at = 12
    out = tmp_path / "files"
    assert main(["generate", "webthing", "-o", str(out)]) == 130
    part = out / "we" / "webthing" / "default.yaml.part"
    assert f"--continue {part}" in capsys.readouterr().err
    assert "# saidata: not finished, stopped in metadata.description" in part.read_text()
    part.write_text(part.read_text().replace("display_name: Web Thing", "display_name: Edited"))
    desk.interrupt_at = None
    assert main(["generate", "--continue", str(part), "-o", str(out), "--temperature", "0.5"]) == 0
    metadata = Text.read(out / "we" / "webthing" / "default.yaml").value["metadata"]
    assert metadata["display_name"] == "Edited" and metadata["description"] == TEXTS["description"]
    assert main(["generate", "other", "--continue", str(part)]) == 2 and "not of other" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "no software is named"),
        (["../../etc/passwd"], "no software name"),
        (["n" * 1_000_000], "characters"),
        (["ghost"], "saidata search ghost"),
        (["webthing", "--continue", "missing.yaml"], "missing.yaml"),
        (["webthing", "--engine", "nonsense"], "no option"),
        (["webthing", "--with", "b", "--route", "nonsense=b"], "no category"),
        (["webthing", "--mode", "agree", "--route", "web=b"], "not asked"),
        (["webthing", "--form", "xml"], "xml"),
    ],
)
def test_misuse_is_a_sentence_and_exit_code_2(desk, capsys, arguments, said):
    assert main(["generate", *arguments]) == 2
    err = capsys.readouterr().err
    assert said in err and "Traceback" not in err and len(err) < 1500


def test_several_models_say_who_said_what(desk, capsys):
    assert main(["generate", "webthing", "--model", "a", "--with", "b", "--mode", "agree"]) == 0
    assert "agreed on by 2 models" in capsys.readouterr().err and [model.name for model in desk.models] == ["a", "b"]


def test_a_batch_its_jobs_and_a_second_run(desk, tmp_path, capsys):
    names, out = tmp_path / "names", tmp_path / "out"
    names.write_text("## web\nalpha\nghost\n## other\nbeta\n")
    assert main(["batch", str(names), "-o", str(out)]) == 3
    said = capsys.readouterr().out
    assert "2 done" in said and "1 failed" in said and "saidata jobs retry 1" in said and desk.asks == 2
    assert main(["jobs", "show", "1", "--state", "failed"]) == 0 and "ghost: nothing is known" in capsys.readouterr().out
    assert main(["jobs", "list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["state"] == "done with failures"
    assert main(["batch", str(names), "-o", str(out), "--category", "OTHER", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["progress"]["from_cache"] == 1 and told["counts"]["done"] == 1 and desk.asks == 2
    assert main(["jobs", "retry", "1"]) == 3 and main(["jobs", "cancel", "2"]) == 0 and main(["jobs", "resume", "9"]) == 2
    empty = tmp_path / "empty"
    empty.write_text("# nothing\n")
    assert main(["batch", str(empty), "-o", str(out)]) == 2 and main(["batch", "missing", "-o", str(out)]) == 2


def test_a_dead_model_says_how_to_go_on(desk, tmp_path, capsys, monkeypatch):
    def dead(self, asks):
        next(iter(asks))
        raise Unreachable("the server does not answer", "is it running?")
        yield

    monkeypatch.setattr(Scripted, "answers", dead)
    names = tmp_path / "names"
    names.write_text("alpha\n")
    assert main(["batch", str(names), "-o", str(tmp_path / "out")]) == 1
    assert "saidata jobs resume 1" in capsys.readouterr().err
    monkeypatch.undo()


def test_a_broken_store_says_so(desk, tmp_path, capsys):
    home = tmp_path / "home"
    home.mkdir()
    (home / "work.db").write_bytes(b"nonsense" * 1000)
    assert main(["jobs", "list"]) == 2 and "move it away" in capsys.readouterr().err


def test_several_models_answer_from_what_is_kept_and_anew_where_it_is_wanted(desk, capsys):
    several = ["generate", "webthing", "--with", "other", "--mode", "agree", "--json"]
    assert main(several) == 0 and desk.asks == 2
    assert json.loads(capsys.readouterr().out)["asked"] == ["qwen2.5-coder-0.5b", "other"]
    assert main(several) == 0 and desk.asks == 2
    assert main([*several, "--fresh"]) == 0 and desk.asks == 4
    assert main(several) == 0 and desk.asks == 4, "what was asked anew is kept"
