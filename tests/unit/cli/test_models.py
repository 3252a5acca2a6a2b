"""`pull`, `list` and `show`, and the pull that `serve`, `generate` and `chat` do by themselves."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from redline.checkpoint import store
from redline.cli import fetch, pull, show
from redline.cli import list as list_command
from redline.cli.progress import Progress
from redline.errors import NotFound

MODEL = "random:tiny-llama"


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    """An empty cache folder."""
    monkeypatch.setenv("REDLINE_CACHE", str(tmp_path))
    return tmp_path


@pytest.fixture
def pulls(monkeypatch, tmp_path):
    """A store whose pull only reports; the list fills with (name, revision)."""
    calls = []

    def fake(name, *, revision=None, progress=None):
        calls.append((name, revision))
        progress("download", 10_000_000, 20_000_000)
        return tmp_path / "model.gguf"

    monkeypatch.setattr(store, "pull", fake)
    return calls


def test_pull_says_where_the_model_is_and_shows_stages_beside_it(pulls, cache):
    result = CliRunner().invoke(pull.command, ["org/name:Q4_K_M", "--revision", "v2"])
    assert result.stdout == f"org/name:Q4_K_M is in {cache}/model.gguf\n"
    assert result.stderr.startswith("download 20 MB done after")
    assert pulls == [("org/name:Q4_K_M", "v2")]
    quiet = CliRunner().invoke(pull.command, ["org/name", "--json"])
    assert json.loads(quiet.stdout)["path"] == f"{cache}/model.gguf" and quiet.stderr == ""


def test_a_model_is_pulled_only_where_that_makes_sense(pulls, tmp_path):
    folder = tmp_path / "here"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    for name in (MODEL, str(folder)):
        fetch.make_local(name, revision=None, progress=Progress(quiet=True))
    assert pulls == []
    for name, revision in (("smollm2-135m", None), ("org/name", "r")):
        fetch.make_local(name, revision=revision, progress=Progress(quiet=True))
    assert pulls == [("smollm2-135m", None), ("org/name", "r")]
    with pytest.raises(NotFound, match="smolm2"):
        fetch.make_local("smolm2-135m", revision=None, progress=Progress(quiet=True))


def test_list_shows_what_is_here_and_what_can_be_pulled(monkeypatch, cache):
    monkeypatch.setattr(store, "list_models", lambda: [store.ModelRow("org/name", cache / "x", 5_000_000, "safetensors")])
    lines = CliRunner().invoke(list_command.command).stdout.splitlines()
    assert lines[0].split() == ["org/name", "5", "MB", "safetensors", f"{cache}/x"]
    assert any(line.startswith("smollm2-135m") and "redline pull smollm2-135m" in line for line in lines)
    document = json.loads(CliRunner().invoke(list_command.command, ["--json"]).stdout)
    assert [row["name"] for row in document["models"]] == ["org/name"]
    assert "smollm2-135m" in [row["name"] for row in document["aliases"]]


def test_show_describes_a_model_from_its_headers(cache):
    document = json.loads(CliRunner().invoke(show.command, [MODEL, "--json"]).stdout)
    assert document["family"] == "llama" and document["tensors"] > 0
    assert document["shape"]["num_layers"] == 2
    text = CliRunner().invoke(show.command, [MODEL]).stdout
    assert "attention   4 heads of 64, 2 of them for keys and values" in text
    assert CliRunner().invoke(show.command, [MODEL, "--template"]).exit_code == 0
