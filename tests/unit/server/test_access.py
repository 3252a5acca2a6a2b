"""Every answer has an id and its time, every request one log line without a word of its prompt; warnings and CORS beside."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import httpx2
import pytest

from fake_server import Live, live
from redline import log
from redline.errors import ConfigError
from redline.server import access
from redline.server.service import Service

CHAT = "/v1/chat/completions"
SECRET = "the-secret-prompt"


def run(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 20))  # type: ignore[arg-type]


def chat(text: str = SECRET, **fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], **fields}


@pytest.fixture
def written() -> Iterator[io.StringIO]:
    """What goes to the log, as JSON lines."""
    logger = logging.getLogger("redline")
    before = (logger.handlers[:], logger.level, logger.propagate)
    log.setup("debug", json=True)
    (handler,) = logger.handlers
    assert isinstance(handler, logging.StreamHandler)
    buffer = io.StringIO()
    handler.setStream(buffer)
    yield buffer
    logger.handlers[:], logger.propagate = before[0], before[2]
    logger.setLevel(before[1])


def told(written: io.StringIO, logger: str = "redline.access") -> list[dict[str, Any]]:
    assert SECRET not in written.getvalue()
    return [line for line in map(json.loads, written.getvalue().splitlines()) if line["logger"] == logger]


async def every_kind(server: Live) -> list[httpx2.Response]:
    http = server.http
    return [
        await http.post(CHAT, json=chat()),
        await http.post(CHAT, json=chat(stream=True)),
        await http.post(CHAT, content=b"{"),
        await http.post(CHAT, content=b"x" * (17 << 20)),
        await http.get("/nowhere"),
        await http.get(CHAT),
        await http.get("/health"),
        await http.get("/v1/models/other"),
    ]


def test_every_answer_brings_an_id_and_the_time_it_took() -> None:
    async def test() -> None:
        async with live() as server:
            answers = await every_kind(server)
            assert [answer.status_code for answer in answers] == [200, 200, 400, 413, 404, 405, 200, 404]
            ids = [answer.headers["x-request-id"] for answer in answers]
            assert len(set(ids)) == len(ids) and all(id.startswith("req_") for id in ids)
            assert all(answer.headers["openai-processing-ms"].isdigit() for answer in answers)

    run(test)


def test_without_a_key_too() -> None:
    async def test() -> None:
        async with live(api_key="k") as server:
            answer = await server.http.post(CHAT, json=chat())
            assert answer.status_code == 401 and answer.headers["x-request-id"]

    run(test)


@pytest.mark.parametrize("given", ["abc-123", "a" * 128, "trace:7.x_y"])
def test_a_callers_id_is_kept(given: str) -> None:
    async def test() -> None:
        async with live() as server:
            answer = await server.http.post(CHAT, json=chat(), headers={"x-request-id": given})
            assert answer.headers["x-request-id"] == given

    run(test)


@pytest.mark.parametrize("given", ["", "a" * 129, "a b", "a\x7f", "é", '"}', "a,b"])
def test_an_id_that_could_do_harm_is_replaced(given: str) -> None:
    async def test() -> None:
        async with live() as server:
            answer = await server.http.post(CHAT, json=chat(), headers={b"x-request-id": given.encode()})
            assert answer.headers["x-request-id"].startswith("req_")

    run(test)


def test_a_bug_is_an_answer_with_the_id_that_its_trace_in_the_log_has(
    monkeypatch: pytest.MonkeyPatch, written: io.StringIO
) -> None:
    async def test() -> None:
        async with live() as server:
            monkeypatch.setattr(Service, "check_model", lambda self, name: 1 / 0)
            answer = await server.http.post(CHAT, json=chat(), headers={"x-request-id": "mine"})
            assert answer.status_code == 500 and answer.json()["error"]["code"] == "internal_error"
            assert answer.headers["x-request-id"] == "mine" and "ZeroDivision" not in answer.text
            (bug,) = told(written, "redline.server")
            assert "ZeroDivisionError" in bug["exception"] and bug["request_id"] == "mine"
            (line,) = told(written)
            assert (line["status"], line["error"], line["request_id"]) == (500, "internal_error", "mine")

    run(test)


def test_one_line_a_request_says_what_it_took(written: io.StringIO) -> None:
    async def test() -> None:
        async with live() as server:
            await every_kind(server)
            lines = told(written)
            assert [line["status"] for line in lines] == [200, 200, 400, 413, 404, 405, 200, 404]
            whole, streamed, broken = lines[:3]
            for line in (whole, streamed):
                assert (line["method"], line["path"], line["finish"]) == ("POST", CHAT, "stop")
                assert line["prompt_tokens"] == len(SECRET) and line["completion_tokens"] == len(SECRET) + 1
                assert 0 <= line["first_token_s"] <= line["seconds"] < 20 and 0 <= line["detokenize_s"] <= line["seconds"]
            assert broken["error"] == "invalid_request" and "prompt_tokens" not in broken
            assert [line["level"] for line in lines] == ["info"] * 6 + ["debug", "info"], "what machines poll is not news"
            assert len({line["request_id"] for line in lines}) == len(lines)

    run(test)


def test_an_engine_error_in_a_stream_is_in_the_line(written: io.StringIO) -> None:
    async def test() -> None:
        async with live(step_s=0.005) as server:
            answer = await server.http.post(CHAT, json=chat("a" * 500, stream=True, deadline_ms=40))
            assert answer.status_code in (200, 504)
            (line,) = told(written)
            assert line["error"] == "deadline_exceeded" and line["status"] == answer.status_code

    run(test)


def test_a_path_cannot_write_lines_of_its_own(written: io.StringIO) -> None:
    async def test() -> None:
        async with live() as server:
            await server.http.get("/a%0d%0aINFO%20forged?q=" + SECRET)
            await server.http.get("/" + "b" * 4000)
            first, second = told(written)
            assert first["path"] == "/a%0d%0aINFO%20forged" and len(second["path"]) == access.MAX_SHOWN_PATH

    run(test)


def test_metrics_count_answers_by_route() -> None:
    async def test() -> None:
        async with live() as server:
            await every_kind(server)
            page = (await server.http.get("/metrics")).text
            labels = 'model_name="fake-model"'
            assert f'redline_http_requests_total{{method="POST",{labels},route="{CHAT}",status="200"}} 2.0' in page
            assert f'redline_http_requests_total{{method="GET",{labels},route="other",status="404"}} 1.0' in page
            assert f'redline_refused_requests_total{{{labels},reason="too_large"}} 1.0' in page

    run(test)


PAGE = "https://app.example"


def test_no_origin_is_granted_anything_by_default() -> None:
    async def test() -> None:
        async with live(api_key="k") as server:
            for method in ("OPTIONS", "POST", "GET"):
                answer = await server.http.request(method, CHAT, headers=preflight())
                assert answer.status_code == 401 and not [name for name in answer.headers if name.startswith("access-control")]

    run(test)


def preflight(origin: str = PAGE, headers: str = "authorization, content-type, x-stainless-os") -> dict[str, str]:
    return {"origin": origin, "access-control-request-method": "POST", "access-control-request-headers": headers}


def test_a_listed_origin_is_answered_before_the_key_and_nobody_else() -> None:
    async def test() -> None:
        async with live(api_key="k", server={"cors_origin": (PAGE, "http://localhost:3000")}) as server:
            answer = await server.http.options(CHAT, headers=preflight())
            assert answer.status_code == 204 and answer.headers["access-control-allow-origin"] == PAGE
            assert answer.headers["access-control-allow-headers"] == "authorization, content-type, x-stainless-os"
            assert "access-control-allow-credentials" not in answer.headers and "origin" in answer.headers["vary"]
            real = await server.http.post(CHAT, json=chat(), headers={"origin": PAGE, "authorization": "Bearer k"})
            assert real.status_code == 200 and real.headers["access-control-allow-origin"] == PAGE
            assert "x-request-id" in real.headers["access-control-expose-headers"]
            refused = await server.http.post(CHAT, json=chat(), headers={"origin": PAGE})
            assert refused.status_code == 401 and refused.headers["access-control-allow-origin"] == PAGE
            for other in (
                f"{PAGE}.evil.example",
                "https://app.example:8443",
                "http://app.example",
                "null",
                f"{PAGE}/",
                PAGE.upper(),
            ):
                answer = await server.http.options(CHAT, headers=preflight(other))
                assert answer.status_code == 401 and "access-control-allow-origin" not in answer.headers, other

    run(test)


def test_any_origin_means_without_credentials_and_odd_headers_are_not_repeated() -> None:
    async def test() -> None:
        async with live(server={"cors_origin": ("*",)}) as server:
            answer = await server.http.options(CHAT, headers=preflight(headers="x" * 3000))
            assert answer.headers["access-control-allow-origin"] == "*" and "access-control-allow-headers" not in answer.headers
            assert "access-control-allow-credentials" not in answer.headers

    run(test)


@pytest.mark.parametrize("origin", ["app.example", "https://app.example/", "https://App.example", "https://*.example", ""])
def test_what_is_not_an_origin_is_refused_at_the_start(origin: str) -> None:
    async def test() -> None:
        with pytest.raises(ConfigError, match="not an origin"):
            async with live(start=False, server={"cors_origin": (origin,)}) as server:
                await server.http.get("/health")

    run(test)
