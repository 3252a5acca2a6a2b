"""The real `openai` client's `responses` against a live server process, over the fake engine, and what outlives the server."""

from __future__ import annotations

import asyncio
import functools
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from openai.types.responses import Response

from fake_server import MODEL, Served, served
from redline.server import keys
from redline.server.database import Database

LOOK: Any = {
    "type": "function",
    "name": "look",
    "description": "Look something up.",
    "parameters": {"type": "object", "properties": {"q": {"type": "string"}}, "required": ["q"], "additionalProperties": False},
    "strict": False,
}
MARK = "\x1e"
CALLS = (
    MARK
    + '<tool_call>\n{"name": "look", "arguments": {"q": "é👋"}}\n</tool_call>\n<tool_call>\n{"name": "look", "arguments": {"q": "b"}}\n</tool_call>'
)
THINKS = MARK + "<think>\nhm, é👋\n</think>\n\nI know."
"""What a model of Hermes's kind writes to call twice; the fake engine repeats what follows the mark."""


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    with served(model={"reasoning_parser": "think"}, step_s=0.001, mark=ord(MARK)) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: Served) -> Iterator[OpenAI]:
    with opened(server) as client:
        yield client


def opened(server: Served) -> OpenAI:
    return OpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0, timeout=20)


def plain(response: Response) -> list[dict[str, Any]]:
    """The output without what differs from one response to the next."""
    output = response.model_dump(mode="json", exclude_none=True)["output"]
    return [{name: value for name, value in item.items() if name not in ("id", "call_id")} for item in output]


def test_a_response_and_its_usage(client: OpenAI) -> None:
    told = client.responses.create(model=MODEL, input="Grüße 👋", instructions="hm ", metadata={"a": "b"})
    assert told.output_text == "hm Grüße 👋" and told.status == "completed" and told.metadata == {"a": "b"}
    size = len("hm Grüße 👋".encode())
    assert told.usage is not None and (told.usage.input_tokens, told.usage.output_tokens) == (size, size + 1)


@pytest.mark.parametrize(
    "fields",
    [
        {"input": "Grüße 👋" * 9},
        {"input": "hello", "max_output_tokens": 3},
        {"input": CALLS, "tools": [LOOK]},
        {"input": MARK + "I look. " + CALLS.removeprefix(MARK), "tools": [LOOK]},
        {"input": THINKS},
        {"input": THINKS + CALLS.removeprefix(MARK), "tools": [LOOK]},
        {"input": THINKS, "top_logprobs": 2},
        {"input": "hello", "top_logprobs": 2, "include": ["message.output_text.logprobs"]},
    ],
)
def test_a_streamed_response_is_the_collected_one(client: OpenAI, fields: dict[str, Any]) -> None:
    collected = client.responses.create(model=MODEL, **fields)
    with client.responses.stream(model=MODEL, **fields) as stream:
        events = list(stream)
    last: Any = events[-1]
    assert last.type == ("response.incomplete" if "max_output_tokens" in fields else "response.completed")
    assert plain(last.response) == plain(collected)
    assert [event.sequence_number for event in events] == list(range(len(events)))
    deltas: dict[int, str] = {}
    for event in events:
        if event.type.endswith(".delta"):
            deltas[event.output_index] = deltas.get(event.output_index, "") + event.delta
    whole = [item.arguments if item.type == "function_call" else item.content[0].text for item in last.response.output]
    assert [deltas[i] for i in range(len(whole))] == whole
    assert plain(client.responses.retrieve(last.response.id)) == plain(collected)


def test_reasoning_is_an_item_of_its_own_and_comes_back(client: OpenAI) -> None:
    told = client.responses.create(model=MODEL, input=THINKS, top_logprobs=1)
    reasoning, message = (item.model_dump() for item in told.output)
    assert reasoning["content"][0]["text"] == "hm, é👋" and told.output_text == "I know."
    assert told.usage is not None and told.usage.output_tokens_details.reasoning_tokens == len("hm, é👋".encode())
    assert "".join(score["token"] for score in message["content"][0]["logprobs"]) == "I know."
    again = client.responses.create(model=MODEL, input=[*told.output, {"role": "user", "content": MARK + "and?"}])  # type: ignore[list-item]
    assert again.output_text == "and?"


def test_calls_and_their_outputs_make_a_conversation(client: OpenAI) -> None:
    first = client.responses.create(model=MODEL, input=CALLS, tools=[LOOK])
    calls: list[Any] = [item for item in first.output if item.type == "function_call"]
    assert [(call.name, call.arguments) for call in calls] == [("look", '{"q": "é👋"}'), ("look", '{"q": "b"}')]
    assert len({call.call_id for call in calls}) == 2
    outputs: list[Any] = [{"type": "function_call_output", "call_id": call.call_id, "output": call.arguments} for call in calls]
    second = client.responses.create(model=MODEL, previous_response_id=first.id, input=outputs)
    first_at, second_at = (second.output_text.rfind(f"\n{call.arguments}\n") for call in calls)
    assert 0 < first_at < second_at
    by_hand = client.responses.create(
        model=MODEL,
        input=[{"role": "user", "content": CALLS}, *first.output, *outputs],
        store=False,
    )
    assert by_hand.output_text == second.output_text
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(model=MODEL, input=[{**outputs[0], "call_id": "call_none"}])
    assert caught.value.param == "input[0].call_id"


def test_state_by_id(client: OpenAI) -> None:
    first = client.responses.create(model=MODEL, input="one ")
    second = client.responses.create(model=MODEL, input="two", previous_response_id=first.id)
    assert second.output_text == "one one two" and second.previous_response_id == first.id
    items: list[Any] = list(client.responses.input_items.list(second.id, order="asc", limit=2))
    assert [item.content[0].text for item in items] == ["one ", "one ", "two"]
    counted = client.responses.input_tokens.count(model=MODEL, input="two", previous_response_id=first.id)
    assert second.usage is not None and counted.input_tokens == second.usage.input_tokens
    client.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(first.id)
    with pytest.raises(openai.NotFoundError) as caught:
        client.responses.create(model=MODEL, input="three", previous_response_id=second.id)
    assert caught.value.param == "previous_response_id"
    with pytest.raises(openai.BadRequestError):
        client.responses.cancel(second.id)


def test_the_background_is_polled_and_cancelled(client: OpenAI, server: Served) -> None:
    told = client.responses.create(model=MODEL, input="hello", background=True)
    while told.status in ("queued", "in_progress"):
        time.sleep(0.01)
        told = client.responses.retrieve(told.id)
    assert told.output_text == "hello"
    long = client.responses.create(model=MODEL, input="x" * 3000, background=True)
    assert client.responses.cancel(long.id).status == "cancelled" == client.responses.retrieve(long.id).status
    end = time.monotonic() + 5
    while server.metric("redline_requests_running"):
        assert time.monotonic() < end
        time.sleep(0.02)


def test_what_is_not_built_is_refused_by_name(client: OpenAI) -> None:
    asked: list[tuple[dict[str, Any], str]] = [
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"truncation": "auto"}, "truncation"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"extra_body": {"colour": 1}}, "colour"),
    ]
    for fields, param in asked:
        with pytest.raises(openai.BadRequestError) as caught:
            client.responses.create(model=MODEL, input="a", **fields)
        assert caught.value.param == param


def test_async_streams_get_their_own_text(server: Served) -> None:
    async def one(client: AsyncOpenAI, i: int) -> None:
        stream = await client.responses.create(model=MODEL, input=f"this is {i}", stream=True)
        text = "".join([event.delta async for event in stream if event.type == "response.output_text.delta"])
        assert text == f"this is {i}"

    async def test() -> None:
        async with AsyncOpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0, timeout=20) as client:
            await asyncio.gather(*(one(client, i) for i in range(32)))

    asyncio.run(test())


def test_a_client_that_leaves_a_stream_frees_its_place(server: Served) -> None:
    before = server.metric("redline_cancelled_total")
    with (
        httpx2.Client(timeout=10) as http,
        http.stream("POST", f"{server.url}/v1/responses", json={"input": "x" * 3000, "stream": True}) as response,
    ):
        next(response.iter_lines())
    end = time.monotonic() + 5
    while server.metric("redline_cancelled_total") != before + 1:
        assert time.monotonic() < end
        time.sleep(0.02)


def test_stored_responses_outlive_the_server_and_what_ran_has_failed(tmp_path: Path) -> None:
    config = {"state_dir": str(tmp_path)}
    with served(config, step_s=0.005) as server, opened(server) as client:
        kept = client.responses.create(model=MODEL, input="remember ")
        stopped = client.responses.create(model=MODEL, input="x" * 3000, background=True)
        assert client.responses.retrieve(stopped.id).status in ("queued", "in_progress")
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(10) == 0
    with served(config, step_s=0.005) as server, opened(server) as client:
        assert client.responses.retrieve(kept.id) == kept
        assert (
            client.responses.create(model=MODEL, input="me", previous_response_id=kept.id).output_text == "remember remember me"
        )
        told = client.responses.retrieve(stopped.id)
        assert told.status == "failed" and told.error is not None
        killed = client.responses.create(model=MODEL, input="x" * 3000, background=True)
        os.kill(server.process.pid, signal.SIGKILL)
        server.process.wait(10)
    with served(config) as server, opened(server) as client:
        told = client.responses.retrieve(killed.id)
        assert told.status == "failed" and told.error is not None and told.error.code == "server_error"
        assert client.responses.retrieve(kept.id) == kept


def test_a_key_sees_its_own_responses_alone(tmp_path: Path) -> None:
    database = Database(tmp_path / keys.FILE, keys.MIGRATIONS)
    settings = [keys.Settings(name="a key")] * 2 + [keys.Settings(name="asks only", scopes=("inference",))]
    tokens = [database.run(functools.partial(keys.add, settings=each))[1] for each in settings]
    database.close()
    with served({"state_dir": str(tmp_path)}) as server:
        clients = [OpenAI(base_url=f"{server.url}/v1", api_key=key, max_retries=0, timeout=20) for key in tokens]
        kept = clients[0].responses.create(model=MODEL, input="secret")
        assert clients[0].responses.retrieve(kept.id).output_text == "secret"
        other = clients[1].responses
        for attempt in (
            lambda: other.retrieve(kept.id),
            lambda: other.delete(kept.id),
            lambda: other.cancel(kept.id),
            lambda: other.input_items.list(kept.id),
            lambda: other.create(model=MODEL, input="a", previous_response_id=kept.id),
        ):
            with pytest.raises(openai.NotFoundError):
                attempt()
        with pytest.raises(openai.BadRequestError):
            other.create(model=MODEL, input=[{"type": "item_reference", "id": kept.output[0].id or ""}])
        asks = clients[2].responses
        assert asks.create(model=MODEL, input="a").model_dump()["store"] is False
        for refused in (
            lambda: asks.create(model=MODEL, input="a", store=True),
            lambda: asks.create(model=MODEL, input="a", previous_response_id=kept.id),
            lambda: asks.create(model=MODEL, input="a", background=True),
            lambda: asks.retrieve(kept.id),
        ):
            with pytest.raises((openai.PermissionDeniedError, openai.BadRequestError)):
                refused()
        for client in clients:
            client.close()
