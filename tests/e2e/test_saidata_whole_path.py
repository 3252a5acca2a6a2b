"""From an archive's lists to checked files, with a real model in this process and no network: index, generate, batch, check, cache."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import small_archive
from saidata.cli.main import main
from saidata.format.document import Text
from saidata.format.schema import mistakes
from saidata.models.local import Local

MODEL = ["--no-deep", "--model", "random:tiny-llama", "--engine", "device=cpu", "--engine", "num_threads=1"]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SAIDATA_HOME", str(tmp_path / "home"))
    small_archive.make(tmp_path / "home").close()
    return tmp_path


def verdicts(document: dict) -> dict[str, str]:
    return {".".join(map(str, verdict["path"])): verdict["status"] for verdict in document["verdicts"]}


def test_one_file_is_generated_checked_and_changed_by_hand(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A model of random weights writes nonsense as prose, and cannot write a name, unit, path or command that does not exist."""
    out = home / "files"
    assert main(["generate", "lantern", "-o", str(out), "--json", *MODEL]) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["valid"] and made["complete"] and not made["removed"] and made["model"] == "random:tiny-llama"
    assert 0 < made["effort"]["steps"] < made["effort"]["tokens"], "tokens that the form forces cost no step"
    path = out / "la" / "lantern" / "default.yaml"
    data = Text.read(path).value
    assert not mistakes(data, strict=True)
    assert [entry["service_name"] for entry in data["services"]][0] == "lantern"
    assert {"/etc/lantern/lantern.conf", "/etc/default/lantern"} <= {entry["path"] for entry in data["files"]}
    assert {"/usr/sbin/lantern", "/usr/bin/lanternctl"} == {entry["path"] for entry in data["commands"]}
    assert "license" not in data["metadata"] and "ports" not in data, "what nothing states is left out"
    assert main(["check", str(out), "--json"]) == 0
    (checked,) = json.loads(capsys.readouterr().out)["files"]
    found = verdicts(checked)
    assert set(found.values()) == {"confirmed"} and found["services.0.service_name"] == "confirmed"
    text = path.read_text()
    for right, wrong, said in (
        ("path: /usr/sbin/lantern", "path: /usr/sbin/lanternd", "SD403: /usr/sbin/lanternd: its packages ship no such command"),
        ("package_name: lantern", "package_name: lanturn", "SD201: lanturn: tinylinux one has no package of this name"),
        ("service_name: lantern", "service_name: latern", "SD401: latern: its packages ship no such unit"),
    ):
        assert f"{right}\n" in text
        path.write_text(text.replace(f"{right}\n", f"{wrong}\n"))
        assert main(["check", str(out)]) == 3
        assert said in capsys.readouterr().out


def test_a_list_is_done_and_a_second_run_asks_no_model(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    names = home / "names.txt"
    names.write_text("## Servers\nlantern\ntabledb  # a metapackage\n## Tools\nfinder\nquarrelfish\n../../etc/passwd\n")
    assert main(["batch", str(names), "-o", str(home / "one"), "--json", *MODEL]) == 3
    first = json.loads(capsys.readouterr().out)
    assert first["counts"] == {"waiting": 0, "done": 3, "kept": 0, "failed": 2} and first["progress"]["valid"] == 3
    assert first["progress"]["cached_tokens"] > 0, "what all prompts share is computed once"
    assert main(["jobs", "show", "1", "--state", "failed"]) == 0
    reasons = capsys.readouterr().out
    assert "quarrelfish: nothing is known" in reasons and "../../etc/passwd: '../../etc/passwd' is no software name" in reasons
    written = {path.relative_to(home / "one").as_posix(): path.read_text() for path in (home / "one").rglob("*.yaml")}
    assert set(written) == {f"{name[:2]}/{name}/default.yaml" for name in ("lantern", "tabledb", "finder")}
    assert main(["check", str(home / "one")]) == 0
    assert "0 contradicted" in capsys.readouterr().out

    def loaded(self: Local) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(Local, "llm", property(loaded))
    assert main(["batch", str(names), "-o", str(home / "two"), "--json", *MODEL]) == 3
    second = json.loads(capsys.readouterr().out)
    assert second["progress"]["from_cache"] == 3 and second["progress"]["tokens"] == 0
    for name, text in written.items():
        again = Text.read(home / "two" / name).value
        before = Text.parse(text, name).value
        assert {**again, "saidata": None} == {**before, "saidata": None}
