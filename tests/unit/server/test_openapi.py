"""The API's own description: every endpoint is in it, its schemas are sound, and real answers are what it says."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable
from html.parser import HTMLParser
from typing import Any

import jsonschema_rs
import msgspec
import pytest

from fake_server import live
from redline.server.answers import ChatChunk, ChatCompletion, Completion, ErrorAnswer

CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"


def run(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 20))  # type: ignore[arg-type]


def chat(**fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "hello"}], **fields}


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    async def fetched() -> dict[str, Any]:
        async with live(start=False) as server:
            found: dict[str, Any] = (await server.http.get("/openapi.json")).json()
            return found

    return asyncio.run(fetched())


def validator(document: dict[str, Any], schema: dict[str, Any]) -> jsonschema_rs.Validator:
    return jsonschema_rs.validator_for({**schema, "components": document["components"]})


def test_every_route_is_described_and_nothing_else(document: dict[str, Any]) -> None:
    async def test() -> None:
        async with live(start=False) as server:
            routes = {
                (re.sub(r":\w+", "", route.path), method)
                for route in server.app.routes
                for method in route.methods - {"HEAD"}  # type: ignore[attr-defined]
            }
            told = {(path, method.upper()) for path, methods in document["paths"].items() for method in methods}
            assert told == routes and len(told) > 10

    run(test)


def test_every_operation_says_what_it_answers_and_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    ids = []
    for methods in document["paths"].values():
        for operation in methods.values():
            ids.append(operation["operationId"])
            assert operation["summary"] and {"200", "500"} <= operation["responses"].keys()
            assert all(answer["content"] for answer in operation["responses"].values())
            if operation["x-scope"] != "open":
                assert {"401", "403", "429"} <= operation["responses"].keys() and operation["security"]
    assert len(set(ids)) == len(ids)
    references = set(re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(document)))
    assert references <= document["components"]["schemas"].keys() and len(references) > 20


def test_a_body_that_the_schema_refuses_is_refused_and_the_other_way_round(document: dict[str, Any]) -> None:
    """What the page says of bodies is what the server does with them, field for field."""
    schema = document["paths"][CHAT]["post"]["requestBody"]["content"]["application/json"]["schema"]
    check = validator(document, schema)

    async def test() -> None:
        async with live() as server:
            for body, sound in (
                (chat(), True),
                (chat(temperature=0.5, stop=["x"], metadata={"a": "b"}, seed=None), True),
                (chat(temperature="hot"), False),
                (chat(unknown=1), False),
                (chat(n=1.5), False),
                (chat(stop=[1]), False),
                ({}, False),
                ({"messages": [{"content": "no role"}]}, False),
            ):
                answer = await server.http.post(CHAT, json=body)
                assert check.is_valid(body) == sound == (answer.status_code == 200), (body, answer.text)

    run(test)


RICH = {"n": 2, "logprobs": True, "top_logprobs": 2, "prompt_logprobs": 1, "redline": True, "stop": "l"}
RICH_TEXT = {"n": 2, "logprobs": 2, "prompt_logprobs": 1, "redline": True, "max_tokens": 3}


@pytest.mark.parametrize(
    ("path", "body", "kind"),
    [
        (CHAT, chat(), ChatCompletion),
        (CHAT, chat(**RICH), ChatCompletion),
        (CHAT, chat(max_tokens=2), ChatCompletion),
        (TEXT, {"prompt": "hello"}, Completion),
        (TEXT, {"prompt": ["hello", "you"], **RICH_TEXT}, Completion),
        (TEXT, {"prompt": "hello", "echo": True, "logprobs": 1}, Completion),
        (CHAT, chat(n=0), ErrorAnswer),
        (CHAT, [], ErrorAnswer),
    ],
)
def test_real_answers_have_the_documented_fields_and_no_others(
    document: dict[str, Any], path: str, body: Any, kind: type[Any]
) -> None:
    """Read back through the record, which forbids unknown fields, and through the schema that the page shows."""

    async def test() -> None:
        async with live() as server:
            answer = await server.http.post(path, json=body)
            msgspec.json.decode(answer.content, type=kind)
            content = document["paths"][path]["post"]["responses"][str(answer.status_code)]["content"]
            validator(document, content["application/json"]["schema"]).validate(answer.json())

    run(test)


@pytest.mark.parametrize(
    ("path", "body", "kind"),
    [
        (CHAT, chat(stream=True, stream_options={"include_usage": True}, **RICH), ChatChunk),
        (TEXT, {"prompt": "hello", "stream": True, "stream_options": {"include_usage": True}, **RICH_TEXT}, Completion),
    ],
)
def test_real_events_have_the_documented_fields_and_no_others(
    document: dict[str, Any], path: str, body: Any, kind: type[Any]
) -> None:
    async def test() -> None:
        async with live() as server:
            answer = await server.http.post(path, json=body)
            assert answer.headers["content-type"].startswith("text/event-stream")
            told = document["paths"][path]["post"]["responses"]["200"]["content"]["text/event-stream"]["x-event"]
            events = [line[6:] for line in answer.text.splitlines() if line.startswith("data: {")]
            assert len(events) >= 3
            for event in events:
                msgspec.json.decode(event.encode(), type=kind)
                validator(document, told).validate(json.loads(event))

    run(test)


def test_health_is_what_is_documented_in_every_state(document: dict[str, Any]) -> None:
    async def test() -> None:
        responses = document["paths"]["/health"]["get"]["responses"]
        async with live(start=False) as server:
            for status in (503, 200, 503):
                answer = await server.http.get("/health")
                assert answer.status_code == status
                validator(document, responses[str(status)]["content"]["application/json"]["schema"]).validate(answer.json())
                await (server.engine.start() if server.engine.state == "new" else server.engine.close())

    run(test)


class Seen(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def test_the_page_shows_every_path_and_runs_nothing(document: dict[str, Any]) -> None:
    async def test() -> None:
        async with live(start=False, api_key="k") as server:
            page = await server.http.get("/docs")
            assert page.status_code == 200 and page.headers["content-type"].startswith("text/html")
            assert "default-src 'none'" in page.headers["content-security-policy"]
            assert (
                "script-src" not in page.headers["content-security-policy"]
                and "unsafe" not in page.headers["content-security-policy"]
            )
            assert all(path in page.text for path in document["paths"])
            seen = Seen()
            seen.feed(page.text)
            assert not {"script", "iframe", "img", "link", "object"} & {tag for tag, _ in seen.tags}
            assert not any(name.startswith("on") or name == "style" for _, attrs in seen.tags for name in attrs)

    run(test)
