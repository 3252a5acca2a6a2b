"""Batches: every line gets exactly one end, in its place, whatever happens to the server meanwhile."""

from __future__ import annotations

import asyncio
import json
import random
import re
import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest

from batches import CHAT, content, ended, jsonl, line, live_batches, said, start, upload
from fake_server import live
from redline.server import batch_lines, batch_runner, batch_store, batch_worker
from redline.server.batch_worker import BATCH_PRIORITY, BatchWorker
from redline.server.caller import Caller
from redline.server.inside import Inside, Reply
from redline.server.keys import Settings


def run(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 30))  # type: ignore[arg-type]


def error(response: httpx2.Response, status: int) -> dict[str, Any]:
    assert response.status_code == status, response.text
    told: dict[str, Any] = response.json()["error"]
    return told


def test_a_batch_answers_every_line_in_its_place() -> None:
    async def test() -> None:
        async with live_batches() as server:
            lines = [line(f"r{i}", f"text {i}", temperature=-1 if i % 10 == 3 else 0) for i in range(120)]
            file = await upload(server.http, jsonl(lines) + b"\n  \n")
            batch = await start(server.http, file["id"], metadata={"a": "b"})
            assert batch["status"] == "validating" and batch["request_counts"] == {"total": 0, "completed": 0, "failed": 0}
            done = await ended(server.http, batch["id"])
            assert done["status"] == "completed" and done["metadata"] == {"a": "b"} and done["errors"] is None
            assert done["request_counts"] == {"total": 120, "completed": 108, "failed": 12}
            assert done["created_at"] <= done["in_progress_at"] <= done["finalizing_at"] <= done["completed_at"]
            assert done["expires_at"] == done["created_at"] + 24 * 3600

            good, bad = await content(server.http, done["output_file_id"]), await content(server.http, done["error_file_id"])
            assert [row["custom_id"] for row in good] == [f"r{i}" for i in range(120) if i % 10 != 3]
            assert [said(row) for row in good] == [f"text {i}" for i in range(120) if i % 10 != 3]
            assert [row["custom_id"] for row in bad] == [f"r{i}" for i in range(3, 120, 10)]
            assert {row["response"]["body"]["error"]["param"] for row in bad} == {"temperature"}
            assert all(row["error"] is None and row["response"]["request_id"] for row in good + bad)
            assert len({row["id"] for row in good + bad}) == 120
            usages = [row["response"]["body"]["usage"] for row in good]
            assert done["usage"]["input_tokens"] == sum(usage["prompt_tokens"] for usage in usages)
            assert done["usage"]["output_tokens"] == sum(usage["completion_tokens"] for usage in usages)
            rows = await server.service.jobs.batches._database.read(
                lambda connection: connection.execute("SELECT COUNT(*) FROM lines").fetchone()[0]
            )
            assert rows == 0, "the lines are in the files now"

    run(test)


def test_completions_run_too_and_lists_have_pages() -> None:
    async def test() -> None:
        async with live_batches() as server:
            url = "/v1/completions"
            file = await upload(server.http, jsonl([line("a", url=url, prompt="xyz", max_tokens=2)]))
            ids = [(await start(server.http, file["id"], endpoint=url))["id"] for _ in range(3)]
            for id in ids:
                done = await ended(server.http, id)
                (row,) = await content(server.http, done["output_file_id"])
                assert row["response"]["body"]["choices"][0]["text"] == "xy" and done["error_file_id"] is None
            first = (await server.http.get("/v1/batches?limit=2")).json()
            rest = (await server.http.get(f"/v1/batches?limit=2&after={first['last_id']}")).json()
            assert [batch["id"] for batch in first["data"] + rest["data"]] == ids[::-1]
            assert first["has_more"] and not rest["has_more"]

    run(test)


HUGE = b'{"custom_id": "%b", "method": "POST"}\n' % (b"x" * 200)


@pytest.mark.parametrize(
    ("data", "faults"),
    [
        (b"", [("empty_file", None, None)]),
        (b"\n\n", [("empty_file", None, None)]),
        (b"not json\n" + jsonl([line("a")]), [("invalid_json_line", 1, None)]),
        (b'"text"\n[1]\n' + jsonl([line("a")]), [("invalid_json_line", 1, None), ("invalid_json_line", 2, None)]),
        (jsonl([line("a"), {**line("b"), "extra": 1}]), [("invalid_json_line", 2, None)]),
        (jsonl([{"custom_id": "a"}]), [("invalid_json_line", 1, None)]),
        (b'{"custom_id": 1, "method": "POST", "url": "/", "body": {}}\n', [("invalid_json_line", 1, None)]),
        (b"\xff\xfe\n", [("invalid_json_line", 1, None)]),
        (b"[" * 50_000 + b"\n", [("invalid_json_line", 1, None)]),
        (jsonl([line("a"), line("b"), line("a")]), [("duplicate_custom_id", 3, "custom_id")]),
        (jsonl([line("")]), [("invalid_custom_id", 1, "custom_id")]),
        (jsonl([line("x" * 513)]), [("invalid_custom_id", 1, "custom_id")]),
        (jsonl([{**line("a"), "method": "GET"}]), [("invalid_method", 1, "method")]),
        (jsonl([{**line("a"), "url": "/v1/completions"}]), [("invalid_url", 1, "url")]),
        (jsonl([{**line("a"), "body": []}]), [("invalid_body", 1, "body")]),
        (jsonl([{**line("a"), "body": "{}"}]), [("invalid_body", 1, "body")]),
        (jsonl([line("a", stream=True)]), [("invalid_body", 1, "body.stream")]),
        (jsonl([line("a", stream="yes")]), [("invalid_json_line", 1, None)]),
        (
            b"x" * 3000 + b"\n" + jsonl([line("a"), line("a")]),
            [("line_too_long", 1, None), ("duplicate_custom_id", 3, "custom_id")],
        ),
        (jsonl(line(f"r{i}") for i in range(20)), [("too_many_lines", None, None)]),
    ],
)
def test_an_input_that_is_not_valid_fails_with_its_lines(
    data: bytes, faults: list[tuple[str, int | None, str | None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_lines, "MAX_LINE_BYTES", 60_000 if data.startswith(b"[" * 9) else 2000)
    monkeypatch.setattr(batch_lines.read_lines, "__kwdefaults__", {"most_lines": 10})

    async def test() -> None:
        async with live_batches() as server:
            batch = await start(server.http, (await upload(server.http, data))["id"])
            done = await ended(server.http, batch["id"])
            assert done["status"] == "failed" and done["failed_at"] and done["output_file_id"] is None
            told = done["errors"]["data"]
            assert [(fault["code"], fault["line"], fault["param"]) for fault in told] == faults
            assert all(len(fault["message"]) < 300 for fault in told)
            assert server.engine.stats.prompt_tokens == 0, "no line of it ran"

    run(test)


def test_a_hopeless_file_is_not_read_to_its_end() -> None:
    async def test() -> None:
        async with live_batches() as server:
            batch = await start(server.http, (await upload(server.http, b"x\n" * 5000))["id"])
            assert len((await ended(server.http, batch["id"]))["errors"]["data"]) == batch_lines.MAX_ERRORS

    run(test)


@pytest.mark.parametrize(
    ("changes", "status", "param"),
    [
        ({"input_file_id": "file-none"}, 404, "file_id"),
        ({"input_file_id": None}, 400, "input_file_id"),
        ({"endpoint": "/v1/audio/speech"}, 400, "endpoint"),
        ({"endpoint": "/metrics"}, 400, "endpoint"),
        *(
            ({"completion_window": window}, 400, "completion_window")
            for window in ("", "24", "0h", "15d", "24H", "-1h", "9999d", "٣h")
        ),
        ({"metadata": {f"k{i}": "v" for i in range(17)}}, 400, "metadata"),
        ({"metadata": {"k": "v" * 513}}, 400, "metadata"),
        ({"metadata": {"k": 1}}, 400, "metadata[...]"),
        ({"output_expires_after": {"anchor": "created_at", "seconds": 1}}, 400, "output_expires_after.seconds"),
        ({"output_expires_after": {"anchor": "now", "seconds": 3600}}, 400, "output_expires_after.anchor"),
        ({"color": "red"}, 400, "color"),
    ],
)
def test_a_wrong_batch_is_refused_by_name(changes: dict[str, Any], status: int, param: str) -> None:
    async def test() -> None:
        async with live() as server:
            file = await upload(server.http, jsonl([line("a")]))
            body = {"input_file_id": file["id"], "endpoint": CHAT, "completion_window": "24h", **changes}
            assert error(await server.http.post("/v1/batches", json=body), status)["param"] == param

    run(test)


def test_an_output_cannot_be_an_input_and_unfinished_batches_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_store, "MAX_OPEN", 2)

    async def test() -> None:
        async with live_batches() as server:
            file = await upload(server.http, jsonl([line("a")]))
            done = await ended(server.http, (await start(server.http, file["id"]))["id"])
            body = {"input_file_id": done["output_file_id"], "endpoint": CHAT, "completion_window": "24h"}
            assert error(await server.http.post("/v1/batches", json=body), 400)["param"] == "input_file_id"
        async with live() as server:
            file = await upload(server.http, jsonl([line("a")]))
            for _ in range(2):
                await start(server.http, file["id"])
            response = await server.http.post("/v1/batches", json={**body, "input_file_id": file["id"]})
            assert error(response, 429)["code"] == "rate_limit_exceeded"

    run(test)


def test_cancelling_keeps_what_is_done_and_ends_the_rest() -> None:
    async def test() -> None:
        async with live_batches(step_s=0.005, max_num_seqs=8) as server:
            lines = [line(f"r{i}", "x" * (5 if i < 20 else 2000)) for i in range(40)]
            batch = await start(server.http, (await upload(server.http, jsonl(lines)))["id"])
            path = f"/v1/batches/{batch['id']}"
            while (await server.http.get(path)).json()["request_counts"]["completed"] < 20:
                await asyncio.sleep(0.01)
            now = (await server.http.post(f"{path}/cancel", json={})).json()
            assert now["status"] == "cancelling" and now["cancelling_at"]
            assert (await server.http.post(f"{path}/cancel")).json()["status"] in ("cancelling", "cancelled")
            done = await ended(server.http, batch["id"])
            assert done["status"] == "cancelled" and done["request_counts"] == {"total": 40, "completed": 20, "failed": 20}
            good, bad = await content(server.http, done["output_file_id"]), await content(server.http, done["error_file_id"])
            assert [row["custom_id"] for row in good] == [f"r{i}" for i in range(20)]
            assert [row["custom_id"] for row in bad] == [f"r{i}" for i in range(20, 40)]
            assert {row["error"]["code"] for row in bad} == {"batch_cancelled"} and bad[0]["response"] is None
            assert error(await server.http.post(f"{path}/cancel"), 400)["param"] == "batch_id"
            while server.engine.open_requests:
                await asyncio.sleep(0.01)  # what ran was cancelled

    run(test)


def test_a_batch_that_is_not_done_in_time_expires() -> None:
    async def test() -> None:
        async with live_batches(step_s=0.005, max_num_seqs=4) as server:
            lines = [line(f"r{i}", "x" * (2 if i < 4 else 3000)) for i in range(12)]
            batch = await start(server.http, (await upload(server.http, jsonl(lines)))["id"], completion_window="1m")
            while (await server.http.get(f"/v1/batches/{batch['id']}")).json()["request_counts"]["completed"] < 4:
                await asyncio.sleep(0.01)

            def age(connection: sqlite3.Connection) -> None:
                connection.execute("UPDATE batches SET expires_at = 1 WHERE id = ?", (batch["id"],))

            await server.service.jobs.batches._database.do(age)
            done = await ended(server.http, batch["id"])
            assert done["status"] == "expired" and done["expired_at"] and done["request_counts"]["completed"] == 4
            bad = await content(server.http, done["error_file_id"])
            assert {row["error"]["code"] for row in bad} == {"batch_expired"} and len(bad) == 8

    run(test)


def test_what_the_engine_refuses_for_now_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine that takes two requests at a time refuses with 429; no line may end with that."""

    async def test() -> None:
        async with live_batches(max_open=2, max_num_seqs=32, step_s=0.001) as server:
            monkeypatch.setattr(batch_runner, "MAX_PAUSE_S", 0.02)
            batch = await start(server.http, (await upload(server.http, jsonl(line(f"r{i}") for i in range(40))))["id"])
            done = await ended(server.http, batch["id"])
            assert done["request_counts"] == {"total": 40, "completed": 40, "failed": 0}

    run(test)


def test_a_line_that_keeps_failing_ends_with_its_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_runner, "FAILED_PAUSE_S", 0.001)
    asked: list[str] = []

    async def post(path: str, body: bytes, caller: Caller) -> Reply:
        asked.append(json.loads(body)["messages"][0]["content"])
        refused = len(asked) < 4
        code, status = ("not_ready", 503) if refused else ("internal_error", 500)
        headers = {"retry-after-ms": "1"} if refused else {}
        return Reply(status, headers, json.dumps({"error": {"code": code, "message": "m"}}).encode())

    async def test() -> None:
        async with live() as server:
            inside = Inside(server.app)
            monkeypatch.setattr(inside, "post", post)
            worker = BatchWorker(server.service, inside)
            worker.start()
            batch = await start(server.http, (await upload(server.http, jsonl([line("a")])))["id"])
            done = await ended(server.http, batch["id"])
            (row,) = await content(server.http, done["error_file_id"])
            assert row["response"]["status_code"] == 500 and done["request_counts"]["failed"] == 1
            assert len(asked) == 3 + batch_runner.MAX_FAILURES
            await worker.stop()

    run(test)


def test_lines_run_for_their_caller_behind_everybody_else() -> None:
    async def test() -> None:
        async with live() as server:
            seen: list[Caller] = []
            inside = Inside(server.app)
            post = inside.post

            async def watched(path: str, body: bytes, caller: Caller) -> Reply:
                seen.append(caller)
                return await post(path, body, caller)

            inside.post = watched  # type: ignore[method-assign]
            ring = server.service.keys
            key, token = await ring.make(Settings(name="a", scopes=("files", "inference"), priority=3))
            _, no_inference = await ring.make(Settings(name="b", scopes=("files",)))
            late, late_token = await ring.make(Settings(name="c", scopes=("files", "inference")))
            batches = {}
            for owner in (token, no_inference, late_token):
                file = await upload(server.http, jsonl([line("a")]), key=owner)
                batches[owner] = (await start(server.http, file["id"], key=owner))["id"]
            await ring.revoke(late.id)
            worker = BatchWorker(server.service, inside)
            worker.start()
            done = await ended(server.http, batches[token], key=token)
            assert done["request_counts"]["completed"] == 1
            assert [caller.priority for caller in seen if caller.id == key.id] == [BATCH_PRIORITY + 3]
            done = await ended(server.http, batches[no_inference], key=no_inference)
            (row,) = await content(server.http, done["error_file_id"], key=no_inference)
            assert row["response"]["status_code"] == 403
            store = server.service.jobs.batches
            while (revoked := await store.find(batches[late_token], late.id)).status != "completed":
                await asyncio.sleep(0.02)
            assert (revoked.completed, revoked.failed) == (0, 1), "a key that was taken back pays for nothing more"
            await worker.stop()

    run(test)


def test_a_key_whose_budget_is_used_up_keeps_nobody_else_waiting() -> None:
    async def test() -> None:
        async with live_batches(max_num_seqs=4) as server:
            ring = server.service.keys
            _, poor = await ring.make(Settings(name="a", scopes=("files", "inference"), requests_per_minute=1))
            _, rich = await ring.make(Settings(name="b", scopes=("files", "inference")))
            lines = jsonl(line(f"r{i}") for i in range(20))
            stuck = [
                (await start(server.http, (await upload(server.http, lines, key=poor))["id"], key=poor))["id"] for _ in range(4)
            ]
            await asyncio.sleep(0.2)
            batch = await start(server.http, (await upload(server.http, lines, key=rich))["id"], key=rich)
            assert (await ended(server.http, batch["id"], key=rich))["request_counts"]["completed"] == 20
            for id in stuck:
                headers = {"authorization": f"Bearer {poor}"}
                now = (await server.http.get(f"/v1/batches/{id}", headers=headers)).json()
                assert now["status"] in ("validating", "in_progress") and now["request_counts"]["failed"] == 0

    run(test)


def test_no_line_begins_while_requests_wait() -> None:
    async def test() -> None:
        async with live_batches() as server:
            stats = type(server.engine.stats)
            server.engine._engine.stats = stats(waiting=3)
            batch = await start(server.http, (await upload(server.http, jsonl([line("a")])))["id"])
            await asyncio.sleep(0.4)
            now = (await server.http.get(f"/v1/batches/{batch['id']}")).json()
            assert now["status"] == "in_progress" and now["request_counts"]["completed"] == 0
            server.engine._engine.stats = stats()
            assert (await ended(server.http, batch["id"]))["request_counts"]["completed"] == 1

    run(test)


@pytest.mark.soak
def test_a_worker_that_stops_at_any_moment_loses_and_repeats_nothing(effort: int) -> None:
    """Stopped in order, twenty times, in the middle of whatever it does."""

    async def test() -> None:
        rng = random.Random(5)
        async with live(step_s=0.0005, max_num_seqs=16) as server:
            lines = [line(f"r{i}", f"text {i}") for i in range(150)]
            batch = await start(server.http, (await upload(server.http, jsonl(lines)))["id"])
            for _ in range(20 * effort):
                worker = BatchWorker(server.service, Inside(server.app))
                worker.start()
                await asyncio.sleep(rng.random() * 0.03)
                await worker.stop()
            worker = BatchWorker(server.service, Inside(server.app))
            worker.start()
            done = await ended(server.http, batch["id"])
            rows = await content(server.http, done["output_file_id"])
            assert [(row["custom_id"], said(row)) for row in rows] == [(f"r{i}", f"text {i}") for i in range(150)]
            await worker.stop()

    run(test)


def test_two_servers_with_one_folder_never_share_a_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And each does the batches of its own model alone."""
    monkeypatch.setattr(batch_worker, "MAX_ACTIVE", 1)

    async def test() -> None:
        here = {"state_dir": str(tmp_path)}
        async with (
            live(server=here, step_s=0.001, max_num_seqs=8) as one,
            live(server=here, step_s=0.001, max_num_seqs=8) as two,
            live(server={**here, "served_model_name": "other"}) as other,
        ):
            files = [(await upload(one.http, jsonl(line(f"r{i}", f"t{i}") for i in range(30))))["id"] for _ in range(6)]
            ids = [(await start(one.http, file))["id"] for file in files]
            foreign = (await start(other.http, files[0]))["id"]
            workers = [BatchWorker(server.service, Inside(server.app)) for server in (one, two)]
            for worker in workers:
                worker.start()
            for id in ids:
                done = await ended(two.http, id)
                rows = await content(one.http, done["output_file_id"])
                assert [(row["custom_id"], said(row)) for row in rows] == [(f"r{i}", f"t{i}") for i in range(30)]
            assert one.engine.stats.prompt_tokens and two.engine.stats.prompt_tokens, "both worked"
            waits = (await one.http.get(f"/v1/batches/{foreign}")).json()
            assert waits["status"] == "validating" and waits["model"] == "other"
            await one.http.post(f"/v1/batches/{foreign}/cancel")
            assert (await ended(one.http, foreign))["status"] == "cancelled", "which needs no model"
            for worker in workers:
                await worker.stop()

    run(test)


def test_ids_of_requests_are_told_so_that_logs_can_be_searched() -> None:
    async def test() -> None:
        async with live_batches() as server:
            batch = await start(server.http, (await upload(server.http, jsonl([line("a")])))["id"])
            done = await ended(server.http, batch["id"])
            (row,) = await content(server.http, done["output_file_id"])
            assert re.fullmatch(r"req_[0-9a-f]{32}", row["response"]["request_id"])
            receipt = await server.http.get(f"/v1/receipt/{row['response']['body']['id']}")
            assert receipt.status_code == 200

    run(test)


def test_batch_sizes_are_read_a_line_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten thousand lines, a few rows at a time, with chunks that do not divide them."""
    monkeypatch.setattr(batch_worker, "CHUNK", 7)

    async def test() -> None:
        async with live_batches(max_num_seqs=128) as server:
            lines = [line(f"r{i}", str(i)) for i in range(100)]
            done = await ended(server.http, (await start(server.http, (await upload(server.http, jsonl(lines)))["id"]))["id"])
            rows = await content(server.http, done["output_file_id"])
            assert [said(row) for row in rows] == [str(i) for i in range(100)]

    run(test)
