"""The real `anthropic` client against a live server process, over the fake engine."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import anthropic
import pytest
from anthropic import Anthropic, AsyncAnthropic

from fake_server import MODEL, Served, served

MARK = "\x1e"
"""The fake engine repeats what follows it."""
LOOK: Any = {
    "name": "look",
    "description": "Look something up.",
    "input_schema": {"type": "object", "properties": {"q": {"type": "string"}}, "required": ["q"]},
}
CALLS = '<tool_call>\n{"name": "look", "arguments": {"q": "é👋"}}\n</tool_call>\n<tool_call>\n{"name": "look", "arguments": {}}\n</tool_call>'

THINKS = MARK + "<think>\nhm, é👋\n</think>\n\nI know."


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    with served({"api_key": "secret"}, model={"reasoning_parser": "think"}, step_s=0.001, mark=ord(MARK)) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: Served) -> Iterator[Anthropic]:
    with Anthropic(base_url=server.url, api_key="secret", max_retries=0, timeout=20) as client:
        yield client


def user(text: str) -> list[Any]:
    return [{"role": "user", "content": text}]


def ask(client: Anthropic, messages: list[Any], **fields: Any) -> Any:
    return client.messages.create(**{"model": MODEL, "max_tokens": 500, "messages": messages, **fields})


def test_a_message_and_its_usage(client: Anthropic) -> None:
    told = ask(client, user("Grüße 👋 1"), system="sys ")
    assert [block.text for block in told.content] == ["sys Grüße 👋 1"] and told.stop_reason == "end_turn"
    size = len("sys Grüße 👋 1".encode())
    assert (told.usage.input_tokens, told.usage.output_tokens) == (size, size + 1)
    again = ask(client, user("Grüße 👋 1"), system="sys ")
    assert again.usage.cache_read_input_tokens == size // 2 == size - again.usage.input_tokens
    assert told._request_id and told._request_id.startswith("req_")


@pytest.mark.parametrize(
    ("text", "fields", "reason"),
    [
        ("Grüße 👋" * 9, {}, "end_turn"),
        ("hello", {"max_tokens": 3}, "max_tokens"),
        ("one two", {"stop_sequences": ["tw"]}, "stop_sequence"),
        (MARK + CALLS, {"tools": [LOOK]}, "tool_use"),
        (THINKS, {}, "end_turn"),
        (THINKS + CALLS, {"tools": [LOOK], "thinking": {"type": "enabled"}}, "tool_use"),
        (MARK + "I look. " + CALLS, {"tools": [LOOK]}, "tool_use"),
    ],
)
def test_a_streamed_message_is_the_collected_one(client: Anthropic, text: str, fields: dict[str, Any], reason: str) -> None:
    collected = ask(client, user(text), **fields)
    with client.messages.stream(**{"model": MODEL, "max_tokens": 500, "messages": user(text), **fields}) as stream:
        events = list(stream)
        streamed = stream.get_final_message()
    assert collected.stop_reason == streamed.stop_reason == reason
    assert collected.stop_sequence == streamed.stop_sequence == fields.get("stop_sequences", [None])[0]

    def content(message: Any) -> list[Any]:
        return [{**block.model_dump(mode="json"), "id": None} for block in message.content]

    assert content(collected) == content(streamed)
    assert collected.usage.output_tokens == streamed.usage.output_tokens
    told = "".join(
        event.delta.text for event in events if event.type == "content_block_delta" and event.delta.type == "text_delta"
    )
    assert told == "".join(block.text for block in streamed.content if block.type == "text")
    for index, block in enumerate(streamed.content):
        if block.type == "tool_use":
            parts = [e.delta.partial_json for e in events if e.type == "content_block_delta" and e.index == index]
            assert json.loads("".join(parts)) == block.input


def test_thinking_is_a_block_of_its_own_and_comes_back(client: Anthropic) -> None:
    told = ask(client, user(THINKS), thinking={"type": "enabled"})
    assert [block.type for block in told.content] == ["thinking", "text"]
    assert (told.content[0].thinking, told.content[1].text) == ("hm, é👋", "I know.")
    assert told.usage.output_tokens_details.thinking_tokens == len("hm, é👋".encode())
    messages = [*user("a"), {"role": "assistant", "content": told.content}, *user(MARK + "and?")]
    assert ask(client, messages).content[0].text == "and?"
    quiet = ask(client, user("a"), thinking={"type": "disabled"})
    assert quiet.content[0].text == "a"
    with pytest.raises(anthropic.BadRequestError, match="budget_tokens"):
        ask(client, user("a"), thinking={"type": "enabled", "budget_tokens": 1024})


def test_calls_and_their_results_make_a_conversation(client: Anthropic) -> None:
    first = ask(client, user(MARK + CALLS), tools=[LOOK])
    assert [(block.type, block.name, block.input) for block in first.content] == [
        ("tool_use", "look", {"q": "é👋"}),
        ("tool_use", "look", {}),
    ]
    texts = (MARK + "result 0", "result 1")
    results = [
        {"type": "tool_result", "tool_use_id": block.id, "content": text}
        for block, text in zip(first.content, texts, strict=True)
    ]
    messages = [*user(CALLS), {"role": "assistant", "content": first.content}, {"role": "user", "content": results}]
    (told,) = ask(client, messages, tools=[LOOK]).content
    assert 0 <= told.text.find("result 0") < told.text.find("result 1")
    third = ask(
        client, [*messages[:2], {"role": "user", "content": [*results, {"type": "text", "text": MARK + "done"}]}], tools=[LOOK]
    )
    assert [block.text for block in third.content] == ["done"] and third.stop_reason == "end_turn"
    with pytest.raises(anthropic.BadRequestError, match="tool_use"):
        ask(client, [{"role": "user", "content": results}])


def test_tokens_are_counted_as_they_are_asked(client: Anthropic) -> None:
    for fields in ({}, {"system": "sys"}, {"tools": [LOOK]}):
        counted = client.messages.count_tokens(model=MODEL, messages=user("hello " + MARK), **fields)  # type: ignore[arg-type]
        usage = ask(client, user("hello " + MARK), max_tokens=1, **fields).usage
        assert counted.input_tokens == usage.input_tokens + usage.cache_read_input_tokens


def test_a_turn_of_the_assistant_is_continued(client: Anthropic) -> None:
    told = ask(client, [*user("Count: "), {"role": "assistant", "content": "1 2"}])
    assert told.content[0].text == "Count: 1 2"


def test_errors_are_the_ones_that_the_client_knows(client: Anthropic, server: Served) -> None:
    asked: list[tuple[dict[str, Any], type[anthropic.APIStatusError], str]] = [
        ({"model": "other"}, anthropic.NotFoundError, "not_found_error"),
        ({"max_tokens": 0}, anthropic.BadRequestError, "invalid_request_error"),
        ({"container": {"id": "c"}}, anthropic.BadRequestError, "invalid_request_error"),
        ({"extra_body": {"colour": 1}}, anthropic.BadRequestError, "invalid_request_error"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, anthropic.BadRequestError, "invalid_request_error"),
    ]
    for fields, kind, name in asked:
        with pytest.raises(kind) as caught:
            ask(client, user("a"), **fields)
        assert caught.value.type == name and caught.value.request_id
    with Anthropic(base_url=server.url, api_key="wrong", max_retries=0) as stranger:
        with pytest.raises(anthropic.AuthenticationError) as refused:
            ask(stranger, user("a"))
        assert refused.value.type == "authentication_error"
    with (
        pytest.raises(anthropic.APIStatusError) as late,
        client.messages.stream(
            model=MODEL, max_tokens=3000, messages=user("x" * 1000), extra_body={"deadline_ms": 200}
        ) as stream,
    ):
        list(stream)
    assert late.value.type == "timeout_error"


def test_the_beta_client_and_its_headers(client: Anthropic) -> None:
    told = client.beta.messages.create(
        model=MODEL, max_tokens=50, messages=user("hello"), betas=["prompt-caching-2024-07-31", "unheard-of-2030-01-01"]
    )
    assert [getattr(block, "text", None) for block in told.content] == ["hello"]
    with pytest.raises(anthropic.BadRequestError, match="context_management"):
        client.beta.messages.create(
            model=MODEL, max_tokens=50, messages=user("hello"), context_management={"edits": []}, betas=["x"]
        )


def test_async_streams_get_their_own_text(server: Served) -> None:
    async def one(client: AsyncAnthropic, i: int) -> None:
        async with client.messages.stream(model=MODEL, max_tokens=50, messages=user(f"this is {i}")) as stream:
            assert "".join([text async for text in stream.text_stream]) == f"this is {i}"

    async def test() -> None:
        async with AsyncAnthropic(base_url=server.url, api_key="secret", max_retries=0, timeout=20) as client:
            await asyncio.gather(*(one(client, i) for i in range(32)))

    asyncio.run(test())
