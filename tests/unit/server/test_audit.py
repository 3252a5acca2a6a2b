"""The audit log: a line for every request that needed a key, nothing of what was said in it, and no request held up by it."""

from __future__ import annotations

import asyncio
import json
import os
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from fake_server import live
from redline.errors import ConfigError
from redline.server import audit
from redline.server.audit import AuditLog
from redline.server.exchange import Exchange
from redline.server.keys import Settings

FIELDS = {
    *("time", "request_id", "client", "key", "method", "route", "status", "error", "model", "prompt_tokens", "cached_tokens"),
    *("completion_tokens", "finish", "seconds", "answered_s", "queue_s", "prefill_s", "decode_s"),
}


def run(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 20))  # type: ignore[arg-type]


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_line_says_who_asked_what_and_what_it_cost_and_nothing_of_its_content(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"

    async def test() -> None:
        async with live(server={"audit_log": str(path)}, api_key="the-secret-key") as server:
            key, token = await server.service.keys.make(Settings(name="Ada"))
            ask = server.http.post
            for body in (
                {"prompt": "sensitive-words", "user": "sensitive-user", "cache_salt": "sensitive-salt"},
                {"prompt": "sensitive-words", "stop": "sensitive-stop", "sensitive-field": 1},
                {"prompt": "sensitive-words", "model": "sensitive-model"},
            ):
                await ask("/v1/completions", json=body, headers={"x-api-key": token, "x-request-id": "mine"})
            await ask("/v1/completions?sensitive-query=1", json={"prompt": "ab"}, headers={"x-api-key": "sensitive-key"})
            await server.http.get("/v1/models/sensitive-path", headers={"authorization": "Bearer the-secret-key"})
            await server.http.get("/sensitive-path", headers={"authorization": "Bearer the-secret-key"})
            for _ in range(3):
                await server.http.get("/health")
            assert path.stat().st_mode & 0o077 == 0
            expected.append(key.id)

    expected: list[str] = []
    run(test)
    told = lines(path)
    assert all(set(line) == FIELDS for line in told)
    assert "sensitive" not in path.read_text() and "secret" not in path.read_text()
    assert [(line["status"], line["route"], line["key"], line["error"]) for line in told] == [
        (200, "/v1/completions", expected[0], None),
        (400, "/v1/completions", expected[0], "invalid_request"),
        (404, "/v1/completions", expected[0], "not_found"),
        (401, "other", "", "invalid_api_key"),
        (404, "/v1/models/{model:path}", "", "not_found"),
        (404, "other", "", "not_found"),
    ]
    first = told[0]
    assert (first["request_id"], first["prompt_tokens"], first["completion_tokens"]) == ("mine", 15, 16)
    assert abs(first["time"] - time.time()) < 60 and 0 < first["answered_s"] <= first["seconds"] < 20
    assert first["finish"] == ["stop"] and first["client"] == "127.0.0.1"


def exchange() -> Exchange:
    return Exchange(id="r", method="BREW\n", route="/x", ended=time.monotonic())


def test_a_file_that_was_moved_away_is_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    log = AuditLog(path)
    log.add(exchange(), "::1")
    while not path.read_text():
        time.sleep(0.001)
    path.rename(tmp_path / "audit.jsonl.1")
    for _ in range(3):
        log.add(exchange(), None)
    log.close()
    assert len(lines(tmp_path / "audit.jsonl.1")) == 1 and len(lines(path)) == 3
    assert lines(path)[0]["method"] == "other"
    again = AuditLog(path)
    again.add(exchange(), None)
    again.close()
    again.close()
    assert len(lines(path)) == 4, "what is there is appended to"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full, a disk that is full")
def test_a_full_disk_is_counted_told_once_and_holds_up_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        async with live(server={"audit_log": "/dev/full"}) as server:
            for _ in range(20):
                assert (await server.http.get("/v1/models")).status_code == 200
            while server.service.audit is None or server.service.audit.lost < 20:
                await asyncio.sleep(0.001)
            page = (await server.http.get("/metrics")).text
            assert 'redline_audit_lines_lost_total{model_name="fake-model"} 2' in page

    caplog.set_level("ERROR", logger="redline")
    run(test)
    assert len([record for record in caplog.records if "audit log are lost" in record.message]) == 1


def test_a_disk_that_hangs_holds_up_nothing_and_memory_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hung = threading.Event()
    monkeypatch.setattr(audit, "MAX_WAITING", 100)
    write = os.write

    def slow(file: int, data: bytes) -> int:
        hung.wait(10)
        return write(file, data)

    monkeypatch.setattr(audit.os, "write", slow)
    log = AuditLog(tmp_path / "audit.jsonl")
    began = time.monotonic()
    for _ in range(1000):
        log.add(exchange(), None)
    assert time.monotonic() - began < 1 and 899 <= log.lost <= 900
    hung.set()
    log.close()
    assert len(lines(tmp_path / "audit.jsonl")) == 1000 - log.lost


def test_a_place_that_cannot_be_written_is_told_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="audit log cannot be written"):
        AuditLog(tmp_path / "nowhere" / "audit.jsonl")
