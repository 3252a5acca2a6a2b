"""Files and batches through the openai SDK: against the real engine, and through servers that are killed again and again."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
from openai.types import Batch

from batches import CHAT, ENDED, jsonl, line, said
from fake_server import served
from real_server import MODEL, RealServer, children, real_server, until


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealServer]:
    with real_server("--state-dir", str(tmp_path_factory.mktemp("state"))) as running:
        yield running


def client_of(url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=20)


def until_ended(client: openai.OpenAI, id: str, timeout_s: float = 60.0) -> Batch:
    end = time.monotonic() + timeout_s
    while True:
        batch = client.batches.retrieve(id)
        if batch.status in ENDED:
            return batch
        assert time.monotonic() < end, batch
        time.sleep(0.05)


def rows(client: openai.OpenAI, file_id: str | None) -> list[dict[str, object]]:
    assert file_id is not None
    return [json.loads(text) for text in client.files.content(file_id).text.splitlines()]


def test_a_batch_of_the_real_engine_says_what_direct_requests_say(server: RealServer, tmp_path: Path) -> None:
    client = client_of(server.url)
    options = {"temperature": 0, "max_tokens": 8}
    contents = [f"Say {number}" for number in range(12)]
    path = tmp_path / "in.jsonl"
    path.write_bytes(jsonl(line(f"r{i}", text, **options) for i, text in enumerate(contents)))
    file = client.files.create(file=path, purpose="batch", expires_after={"anchor": "created_at", "seconds": 7200})
    assert file.purpose == "batch" and file.expires_at == file.created_at + 7200 and file.filename == "in.jsonl"
    assert file.id in [each.id for each in client.files.list(purpose="batch", limit=1)]
    batch = client.batches.create(
        input_file_id=file.id,
        endpoint=CHAT,
        completion_window="24h",
        metadata={"of": "test"},
        output_expires_after={"anchor": "created_at", "seconds": 3600},
    )
    assert batch.id in [each.id for each in client.batches.list()]
    batch = until_ended(client, batch.id)
    assert batch.status == "completed" and batch.request_counts is not None and batch.error_file_id is None
    assert (batch.request_counts.total, batch.request_counts.completed) == (12, 12)
    direct = [
        client.chat.completions.create(model=batch.model or "", messages=[{"role": "user", "content": text}], **options)  # type: ignore[arg-type]
        for text in contents
    ]
    found = rows(client, batch.output_file_id)
    assert [row["custom_id"] for row in found] == [f"r{i}" for i in range(12)]
    assert [said(row) for row in found] == [each.choices[0].message.content for each in direct]
    assert batch.output_file_id is not None and batch.usage is not None
    assert batch.usage.output_tokens == 12 * 8
    output = client.files.retrieve(batch.output_file_id)
    assert output.purpose == "batch_output" and output.expires_at == output.created_at + 3600
    assert client.files.delete(file.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve(file.id)


def test_cancelling_and_refusals_have_the_sdk_s_own_exceptions(server: RealServer) -> None:
    client = client_of(server.url)
    data = jsonl(line(f"r{i}", "x", max_tokens=400, ignore_eos=True) for i in range(300))
    file = client.files.create(file=("in.jsonl", data), purpose="batch")
    batch = client.batches.create(input_file_id=file.id, endpoint=CHAT, completion_window="24h")
    assert client.batches.cancel(batch.id).status == "cancelling"
    batch = until_ended(client, batch.id)
    assert batch.status == "cancelled" and batch.request_counts is not None
    with pytest.raises(openai.BadRequestError, match="cancelled"):
        client.batches.cancel(batch.id)
    with pytest.raises(openai.BadRequestError, match="purpose"):
        client.files.create(file=b"x", purpose="vision")
    with pytest.raises(openai.NotFoundError):
        client.batches.retrieve("batch_none")
    faulty = client.files.create(file=b"no json\n", purpose="batch")
    failed = until_ended(client, client.batches.create(input_file_id=faulty.id, endpoint=CHAT, completion_window="24h").id)
    assert failed.status == "failed" and failed.errors is not None and failed.errors.data is not None
    assert [(fault.code, fault.line) for fault in failed.errors.data] == [("invalid_json_line", 1)]


@pytest.mark.soak
def test_kill_9_at_any_moment_loses_no_line_and_repeats_none(tmp_path: Path, effort: int) -> None:
    """The server process is killed while it validates, answers and writes; the next one goes on from there."""
    rng = random.Random(2025)
    state = {"state_dir": str(tmp_path)}
    switches = {"step_s": 0.004, "max_num_seqs": 16}
    count, kills = 400, 3 * min(effort, 12)
    ids: list[str] = []
    progress = []
    for attempt in range(kills + 1):
        with served(state, **switches) as server:
            client = client_of(server.url)
            if not ids:
                data = jsonl(line(f"r{i}", f"text {i}", temperature=-1 if i % 50 == 7 else 1) for i in range(count))
                file = client.files.create(file=("in.jsonl", data), purpose="batch")
                ids = [client.batches.create(input_file_id=file.id, endpoint=CHAT, completion_window="24h").id for _ in range(2)]
            if attempt < kills:
                time.sleep(rng.random() * 0.8)
                server.process.kill()
                server.process.wait()
                continue
            found = [until_ended(client, id) for id in ids]
            for batch in found:
                assert batch.status == "completed" and batch.request_counts is not None
                assert (batch.request_counts.completed, batch.request_counts.failed) == (count - 8, 8)
                good, bad = rows(client, batch.output_file_id), rows(client, batch.error_file_id)
                assert [row["custom_id"] for row in good] == [f"r{i}" for i in range(count) if i % 50 != 7]
                assert [said(row) for row in good] == [f"text {i}" for i in range(count) if i % 50 != 7]
                assert [row["custom_id"] for row in bad] == [f"r{i}" for i in range(7, count, 50)]
            progress.append(len(client.files.list(purpose="batch_output").data))
    assert progress == [4], "killed servers left no second output"
    stored = {path.name for path in (tmp_path / "files").iterdir() if not path.name.endswith(".part")}
    assert len(stored) == 5


def test_an_engine_that_is_killed_costs_a_batch_nothing(tmp_path: Path) -> None:
    """The server starts another one, and the lines that saw it die are asked again."""
    with served({"state_dir": str(tmp_path)}, step_s=0.004, max_num_seqs=16) as server:
        client = client_of(server.url)
        file = client.files.create(file=("in.jsonl", jsonl(line(f"r{i}", f"text {i}") for i in range(150))), purpose="batch")
        id = client.batches.create(input_file_id=file.id, endpoint=CHAT, completion_window="24h").id

        def done() -> int:
            counts = client.batches.retrieve(id).request_counts
            return counts.completed if counts else 0

        for wanted in (10, 60):
            until(lambda: done() > wanted, 30)  # noqa: B023
            (engine,) = children(server.process.pid)
            os.kill(engine, signal.SIGKILL)
        batch = until_ended(client, id)
        assert batch.request_counts is not None and batch.request_counts.completed == 150
        assert [said(row) for row in rows(client, batch.output_file_id)] == [f"text {i}" for i in range(150)]


def test_run_batch_that_is_killed_goes_on_where_it_was(tmp_path: Path) -> None:
    """Killed with -9, on the real engine: every line once, in order, with its own answer."""
    count = 60
    lines = [line(f"r{i}", f"number {i}", model=MODEL, max_tokens=6 + i % 5, ignore_eos=True) for i in range(count)]
    (tmp_path / "in").write_bytes(jsonl(lines))

    def start(output: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "redline.cli.main", "run-batch", str(tmp_path / "in"), str(tmp_path / output)]
        options = ["--max-num-seqs", "2", "--num-threads", "1"]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        return subprocess.Popen([*command, *options], env=environment, stderr=subprocess.PIPE, text=True)

    def kept() -> int:
        partial = tmp_path / "out.partial"
        return partial.read_bytes().count(b"\n") if partial.exists() else 0

    with start("out") as process:
        until(lambda: kept() > 5 or process.poll() is not None, 60)
        process.kill()
    assert 5 < kept() <= count, "it was killed too late to show anything"
    with start("out") as process:
        said_last = process.communicate(timeout=60)[1]
    assert process.returncode == 0 and "were done before" in said_last, said_last
    found = [json.loads(text) for text in (tmp_path / "out").read_text().splitlines()]
    assert [row["custom_id"] for row in found] == [f"r{i}" for i in range(count)]
    used = [row["response"]["body"]["usage"]["completion_tokens"] for row in found]
    assert used == [6 + i % 5 for i in range(count)], "each has the answer to its own request"


def test_ps_shows_the_server_while_it_runs(server: RealServer) -> None:
    state = Path(f"/proc/{server.process.pid}/cmdline").read_text().split("\0")
    folder = state[state.index("--state-dir") + 1]
    command = [sys.executable, "-m", "redline.cli.main", "ps", "--state-dir", folder, "--json"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    (told,) = json.loads(subprocess.run(command, env=environment, check=True, capture_output=True, timeout=30).stdout)
    assert (told["pid"], told["url"], told["model"], told["status"]) == (server.process.pid, server.url, MODEL, "ready")
    assert told["max_model_len"] == client_of(server.url).models.list().data[0].max_model_len  # type: ignore[attr-defined]
    assert told["memory_bytes"] > 50 << 20 and told["requests_running"] == 0 and told["uptime_s"] < 600
