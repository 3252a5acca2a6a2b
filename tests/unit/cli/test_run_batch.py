"""`redline run-batch` over the fake engine: what it says, where it writes, how it ends."""

from __future__ import annotations

import asyncio
import functools
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from batches import jsonl, line, said
from fake_server import MODEL, _open_text
from fake_worker import in_thread
from redline.cli import run_batch
from redline.engine.supervisor import Supervisor
from redline.errors import ConfigError, DoesNotFit, EngineDead, InvalidRequest


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Switches of the fake engine that the command starts."""
    switches: dict[str, Any] = {"max_num_seqs": 4}

    def client(*args: Any, **options: Any) -> Supervisor:
        return Supervisor(*args, **options, launcher=in_thread(**switches))

    monkeypatch.setattr("redline.engine.supervisor.Supervisor", client)
    monkeypatch.setattr("redline.server.text.open_text", _open_text)
    monkeypatch.setattr(run_batch, "make_local", lambda *args, **options: None)
    return switches


def run(*arguments: object) -> Result:
    return CliRunner().invoke(run_batch.command, list(map(str, arguments)))


def write(path: Path, *lines: dict[str, Any]) -> Path:
    path.write_bytes(jsonl(lines))
    return path


def test_every_line_is_answered_and_errors_end_with_3(tmp_path: Path, engine: dict[str, Any]) -> None:
    given = write(tmp_path / "in", *(line(f"r{i}", f"text {i}", model=MODEL, temperature=-1 if i == 3 else 1) for i in range(30)))
    result = run(given, tmp_path / "out")
    assert result.exit_code == 3, result.output
    assert "30 lines, 1 with an error" in result.stderr and result.stdout == ""
    rows = [json.loads(text) for text in (tmp_path / "out").read_text().splitlines()]
    assert [row["custom_id"] for row in rows] == [f"r{i}" for i in range(30)]
    assert rows[3]["response"]["status_code"] == 400
    assert [said(row) for i, row in enumerate(rows) if i != 3] == [f"text {i}" for i in range(30) if i != 3]
    again = run(given, tmp_path / "out")
    assert again.exit_code == 3 and "is complete" in again.stderr


def test_without_errors_it_ends_with_0_and_says_how_fast_it_goes(tmp_path: Path, engine: dict[str, Any]) -> None:
    given = write(tmp_path / "in", *(line(f"r{i}", model=MODEL) for i in range(5)))
    result = run(given, tmp_path / "out")
    assert result.exit_code == 0 and "5 of 5 lines, " in result.stderr and "a second" in result.stderr


def test_models_and_their_names(tmp_path: Path, engine: dict[str, Any]) -> None:
    foreign = write(tmp_path / "a", line("1", model="gpt-x"))
    refused = run(foreign, tmp_path / "out", "--model", MODEL)
    assert isinstance(refused.exception, InvalidRequest) and "--served-model-name gpt-x" in refused.exception.hint
    assert run(foreign, tmp_path / "out", "--model", MODEL, "--served-model-name", "gpt-x").exit_code == 0
    for lines in ([line("1")], [line("1", model="a"), line("2", model="b")]):
        result = run(write(tmp_path / "b", *lines), tmp_path / "other")
        assert isinstance(result.exception, InvalidRequest) and result.exception.param == "model"
    assert run(write(tmp_path / "c", line("1")), tmp_path / "unnamed", "--model", MODEL).exit_code == 0


def test_what_is_done_is_not_done_again(tmp_path: Path, engine: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    given = write(tmp_path / "in", *(line(f"r{i}", model=MODEL) for i in range(40)))
    monkeypatch.setattr("redline.server.batch_runner.MAX_FAILURES", 1)
    seen: list[bytes] = []
    from redline.server.inside import Inside

    post, partial = Inside.post, tmp_path / "out.partial"

    async def watched(self: Inside, path: str, body: bytes, caller: Any) -> Any:
        seen.append(body)
        if len(seen) == 15:
            while partial.read_text().count("\n") < 2:  # its first line says what the file is
                await asyncio.sleep(0.001)
            raise KeyboardInterrupt
        return await post(self, path, body, caller)

    monkeypatch.setattr(Inside, "post", watched)
    stopped = run(given, tmp_path / "out")
    assert stopped.exit_code == 130 and "the same command goes on from here" in stopped.stderr
    done = len(partial.read_text().splitlines()) - 1
    assert 0 < done < 40 and not (tmp_path / "out").exists()
    monkeypatch.setattr(Inside, "post", functools.wraps(post)(lambda self, *rest: (seen.append(b""), post(self, *rest))[1]))
    seen.clear()
    finished = run(given, tmp_path / "out")
    assert finished.exit_code == 0 and f"{done} of 40 lines were done before" in finished.stderr
    assert len(seen) == 40 - done


@pytest.mark.parametrize(
    ("switches", "error"), [({"fail_load": "does_not_fit"}, DoesNotFit), ({"die_loading": True}, EngineDead)]
)
def test_an_engine_that_cannot_start_is_the_command_s_error(
    tmp_path: Path, engine: dict[str, Any], switches: dict[str, Any], error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    if "die_loading" in switches:
        from fake_worker import as_process

        monkeypatch.setenv("PYTHONPATH", ":".join(__import__("sys").path))
        monkeypatch.setattr(
            "redline.engine.supervisor.Supervisor",
            lambda *args, **options: Supervisor(*args, **options, launcher=as_process(**switches)),
        )
    engine |= switches
    result = run(write(tmp_path / "in", line("1", model=MODEL)), tmp_path / "out")
    assert isinstance(result.exception, error), result.exception
    assert not (tmp_path / "out").exists()


def test_wrong_files_are_refused_before_a_model_is_loaded(tmp_path: Path) -> None:
    assert isinstance(run(write(tmp_path / "in", {"custom_id": "x"}), tmp_path / "out").exception, InvalidRequest)
    given = write(tmp_path / "in", line("1", model=MODEL))
    (tmp_path / "out").write_text("mine")
    assert isinstance(run(given, tmp_path / "out").exception, ConfigError)
