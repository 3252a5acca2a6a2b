"""What a user, a file, a disk or a server can do wrong ends in one sentence that says what and what to do, never in a traceback."""

from __future__ import annotations

import os
import resource
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import small_archive
from saidata.cli import workshop
from saidata.cli.main import main
from saidata.index import apt
from saidata_making import Scripted

SOURCE = Path(__file__).parents[4] / "src"
GOOD = 'version: "0.3"\nmetadata:\n  name: lantern\n'
Run = Callable[..., tuple[int, str]]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SAIDATA_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "list").write_text("lantern\n")
    (tmp_path / "good.yaml").write_text(GOOD)
    small_archive.make(tmp_path / "home").close()
    return tmp_path / "home"


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def command(*arguments: object) -> tuple[int, str]:
        code = main([str(argument) for argument in arguments])
        said = capsys.readouterr()
        both = said.out + said.err
        assert "Traceback" not in both and len(said.err) < 1500, both[:3000]
        return code, both

    return command


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "/etc/passwd", "a/../b", "-rf", "", " ", "..", "a\nb", "a\x1b[2J", "n" * 1_000_000]
)
def test_a_name_that_is_none_is_refused_and_never_printed_raw(home: Path, run: Run, name: str) -> None:
    for command in ("evidence", "generate"):
        code, said = run(command, "--", name)
        assert code == 2 and "name" in said and "\x1b" not in said and len(said.splitlines()) == 1, (command, said)
    assert run("archive", "log", "--", name)[0] == 2


def test_a_list_may_hold_anything(home: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workshop, "open_model", lambda name, **_: Scripted(name=name))
    (home.parent / "list").write_text("n" * 1_000_000 + "\n\x1b[2J\n../x\nlantern\n")
    assert run("batch", "list", "-o", "out", "--no-deep")[0] == 3
    code, said = run("jobs", "show", "1")
    assert code == 0 and said.count("failed  ") == 3 and "done     lantern" in said and len(said) < 1500 and "\x1b" not in said


def test_an_unknown_provider_is_refused_before_anything_is_done(home: Path, run: Run) -> None:
    for command in (("evidence", "lantern"), ("check", "good.yaml"), ("generate", "lantern"), ("batch", "list", "-o", "out")):
        code, said = run(*command, "--provider", "yum")
        assert code == 2 and "no provider 'yum'" in said and "apt, pypi" in said, command
    assert "no job" in run("jobs", "list")[1]


def the_index(home: Path) -> Path:
    (file,) = (home / "index").glob("*.sqlite")
    return file


def a_folder(home: Path) -> None:
    file = the_index(home)
    file.unlink()
    file.mkdir()


def torn(home: Path) -> None:
    """Pages in the middle are garbage; the first one is sound."""
    file = the_index(home)
    body = bytearray(file.read_bytes())
    body[4096:] = b"\xff" * len(body[4096:])
    file.write_bytes(body)


@pytest.mark.parametrize(
    "damage",
    [
        a_folder,
        torn,
        lambda home: the_index(home).write_bytes(b""),
        lambda home: (home / "index" / "current").write_bytes(b"\xff\xfe\x00"),
        lambda home: (home / "index" / "current").write_text("../../../etc/passwd"),
        lambda home: ((home / "index" / "current").unlink(), (home / "index" / "current").mkdir()),
        lambda home: (shutil.rmtree(home), home.write_text("a file")),
        lambda home: shutil.rmtree(home),
    ],
)
def test_an_index_that_cannot_be_read(home: Path, run: Run, damage: Callable[[Path], object]) -> None:
    damage(home)
    for command in (("search", "lantern"), ("evidence", "lantern"), ("generate", "lantern", "--no-deep"), ("check", "good.yaml")):
        code, said = run(*command)
        assert code == 2 and "index" in said and said.rstrip().endswith(")"), (command, said)


def test_an_old_index_says_how_old_it_is_and_one_of_yesterday_nothing(home: Path, run: Run) -> None:
    for days, told in ((1, False), (45, True)):
        with sqlite3.connect(the_index(home)) as base:
            base.execute("UPDATE source SET date = date('now', ?)", (f"-{days} days",))
        base.close()
        code, said = run("evidence", "lantern")
        assert code == 0 and (f"the index is {days} days old: `saidata index update`" in said) == told


def test_what_is_imported_must_be_an_export(home: Path, run: Run) -> None:
    for source, words in (("list", "no index export"), ("nowhere", "check the path"), (home, "Is a directory")):
        code, said = run("index", "import", source)
        assert code == 2 and words in said
    assert run("search", "lantern")[0] == 0, "the index that was there still answers"


def test_without_a_network_lists_are_not_taken_for_fresh(home: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """apt ends with 0 where it could fetch nothing, and goes on with what it had."""
    tool = home / "bin" / "apt-get"
    tool.parent.mkdir()
    tool.write_text("#!/bin/sh\necho 'W: Failed to fetch one InRelease  Temporary failure resolving one' >&2\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}:{os.environ['PATH']}")
    monkeypatch.setattr(apt, "available", lambda: "")
    for command in ("build", "update"):
        code, said = run("index", command)
        assert code == 1 and "Temporary failure" in said and "--no-fetch" in said and "index import" in said


@pytest.mark.parametrize("text", ['version: "0.3"\nmetadata: text\n', "version: 1\n", "- a\n", "a:\n\tb: 1\n", "a: 1\na: 2\n"])
def test_only_a_saidata_file_is_gone_on_with(home: Path, run: Run, text: str) -> None:
    (home.parent / "part").write_text(text)
    code, said = run("generate", "--continue", "part")
    assert code == 2 and "part" in said


def test_a_value_of_two_megabytes_is_not_printed(home: Path, run: Run) -> None:
    (home.parent / "long.yaml").write_text(GOOD + f"  description: '{'x' * 2_000_000}'\n  {'k' * 500}: 1\n")
    code, said = run("lint", "long.yaml")
    assert code == 3 and "SD111" in said and "SD103" in said and len(said) < 1500


def test_what_grows_without_end_is_refused_at_once(home: Path, run: Run) -> None:
    bomb = "a: &a [x, x, x, x, x, x, x, x, x]\n"
    for one, other in zip("abcdefg", "bcdefgh", strict=True):
        bomb += f"{other}: &{other} [{', '.join([f'*{one}'] * 9)}]\n"
    (home.parent / "bomb.yaml").write_text(GOOD + bomb)
    with open("large.yaml", "wb") as file:
        file.truncate(10_000_001)
    for command in ("lint", "check"):
        assert "grows to more than" in run(command, "bomb.yaml")[1]
        assert "larger than 10 MB" in run(command, "large.yaml")[1]
    assert run("convert", "bomb.yaml")[0] == 2


def test_a_full_disk(home: Path) -> None:
    """A limit on the size of files stands for it: the system refuses in the middle of a write."""
    good, made = home.parent / "good.yaml", home.parent / "report.json"
    made.write_text("what was there")

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (64, 64))

    environment = {**os.environ, "PYTHONPATH": str(SOURCE), "PYTHONDONTWRITEBYTECODE": "1"}
    for arguments in (["lint", str(good), "--json", "--output", str(made)], ["index", "export", str(home / "x.tgz")]):
        command = [sys.executable, "-m", "saidata.cli.main", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, preexec_fn=limited, env=environment, timeout=60)
        assert done.returncode == 2 and "make room" in done.stderr and "Traceback" not in done.stderr, done.stderr
    assert made.read_text() == "what was there" and sorted(path.name for path in home.iterdir()) == ["index", "lists"]


def test_a_model_that_ends_early_is_neither_believed_nor_remembered(
    home: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not every server binds its answers as it is told to. What it wrote once must not be the answer for ever."""
    said_wrong = dict.fromkeys(range(2), 'Sure! Here is the file: {"display_name": 5')
    models = [Scripted(said_wrong), Scripted(said_wrong), Scripted()]
    monkeypatch.setattr(workshop, "open_model", lambda name, **_: models.pop(0))
    code, said = run("generate", "lantern", "--no-deep")
    assert code == 1 and "no whole answer: metadata.display_name, metadata.description" in said and "--fresh" in said
    assert "package_name: lantern" in said, "what evidence decides is printed all the same"
    assert run("batch", "list", "-o", "out", "--no-deep")[0] == 3
    assert "metadata.description" in run("jobs", "show", "1")[1] and not list(Path("out").rglob("*.yaml"))
    assert run("jobs", "retry", "1")[0] == 0 and len(list(Path("out").rglob("default.yaml"))) == 1
