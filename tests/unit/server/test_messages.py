"""Anthropic's /v1/messages over the fake engine, which repeats what it was asked: fields, turns, streams, errors."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import httpx2
import pytest
from anthropic.types import message_count_tokens_params, message_create_params
from anthropic.types.beta import message_count_tokens_params as beta_count_params
from anthropic.types.beta import message_create_params as beta_params

from fake_server import MODEL, Live, live
from redline.errors import InvalidRequest, UnsupportedField
from redline.server.messages import conversation_of
from redline.server.messages_schema import CountTokensBody, MessagesBody
from redline.server.schema import decode

PATH = "/v1/messages"
USER = {"role": "user", "content": "hello"}
Json = dict[str, Any]


def run(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 20))  # type: ignore[arg-type]


def body(**fields: Any) -> Json:
    return {"model": MODEL, "max_tokens": 100, "messages": [USER], **fields}


def read(**fields: Any) -> MessagesBody:
    return decode(json.dumps(body(**fields)).encode(), MessagesBody)


async def ask(server: Live, **fields: Any) -> Json:
    response = await server.http.post(PATH, json=body(**fields))
    assert response.status_code == 200, response.text
    told: Json = response.json()
    return told


def refusal(response: httpx2.Response, status: int) -> Json:
    assert response.status_code == status, response.text
    told = response.json()
    assert set(told) == {"type", "error", "request_id"} and told["type"] == "error"
    assert told["request_id"] == response.headers["request-id"]
    error: Json = told["error"]
    return error


def events_of(response: httpx2.Response) -> list[Json]:
    events = []
    for block in response.text.strip().split("\n\n"):
        name, data = block.split("\n")
        events.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {events[-1]['type']}"
    return events


# Fields


@pytest.mark.parametrize(
    ("kind", "params"),
    [
        (
            MessagesBody,
            (
                message_create_params.MessageCreateParamsBase,
                message_create_params.MessageCreateParamsStreaming,
                beta_params.MessageCreateParamsBase,
                beta_params.MessageCreateParamsStreaming,
            ),
        ),
        (CountTokensBody, (message_count_tokens_params.MessageCountTokensParams, beta_count_params.MessageCountTokensParams)),
    ],
)
def test_no_field_of_the_sdk_is_unknown(kind: type[MessagesBody], params: tuple[Any, ...]) -> None:
    in_headers = {"betas"}
    sdk = {name for each in params for name in each.__annotations__} - in_headers
    assert sdk <= set(kind.__struct_fields__)


def test_null_means_absent() -> None:
    required = {"model", "messages", "max_tokens"}
    nulls = {name: None for name in MessagesBody.__struct_fields__ if name not in required}
    assert read(**nulls) == read()


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"container": "c"}, "container"),
        ({"mcp_servers": [{"type": "url", "url": "http://x", "name": "n"}]}, "mcp_servers"),
        ({"context_management": {"edits": []}}, "context_management"),
        ({"diagnostics": {"previous_message_id": "m"}}, "diagnostics"),
        ({"inference_geo": "us"}, "inference_geo"),
        ({"speed": "fast"}, "speed"),
        ({"thread": {}}, "thread"),
        ({"thinking": {"type": "between_tools"}}, "thinking.type"),
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, "thinking.budget_tokens"),
        ({"thinking": {"type": "adaptive", "display": "omitted"}}, "thinking.display"),
        ({"tools": [{"type": "bash_20250124", "name": "bash"}]}, "tools[0].type"),
        ({"tools": [{"name": "f", "input_schema": {}, "defer_loading": True}]}, "tools[0].defer_loading"),
        ({"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]}, "messages[0].content[0].type"),
        ({"messages": [{"role": "user", "content": [{"type": "document", "source": {}}]}]}, "messages[0].content[0].type"),
        (
            {"messages": [USER, {"role": "assistant", "content": [{"type": "redacted_thinking", "data": "x"}]}]},
            "messages[1].content[0].type",
        ),
        ({"system": [{"type": "text", "text": "a", "citations": [{}]}]}, "system[0].citations"),
    ],
)
def test_what_is_not_built_is_refused_by_name(fields: Json, param: str) -> None:
    with pytest.raises(UnsupportedField) as caught:
        conversation_of(read(**fields))
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"text": "x"}]}]}, "messages[0].content[0].type"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text"),
        (
            {"messages": [{"role": "user", "content": [{"type": "tool_use", "id": "t", "name": "f", "input": {}}]}]},
            "messages[0].content[0].type",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t"}]}]},
            "messages[0].content[0].tool_use_id",
        ),
        (
            {"messages": [USER, {"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "f", "input": {}}]}]},
            "messages[1]",
        ),
        ({"tools": [{"name": "f"}]}, "tools[0].input_schema"),
        ({"tool_choice": {"type": "tool"}}, "tool_choice.name"),
        ({"tool_choice": {"type": "any", "name": "f"}}, "tool_choice.name"),
        ({"tool_choice": {"type": "sometimes"}}, "tool_choice.type"),
        ({"tool_choice": {"type": "any"}}, "tool_choice"),
        ({"tool_choice": {"type": "tool", "name": "f"}, "tools": [{"name": "g", "input_schema": {}}]}, "tool_choice"),
        ({"tools": [{"name": "g", "input_schema": {}}] * 2}, "tools[1].name"),
        ({"tools": [{"name": "", "input_schema": {}}]}, "tools[0].name"),
        ({"tools": [{"name": f"f{i}", "input_schema": {}} for i in range(1025)]}, "tools"),
        ({"thinking": {"type": "loud"}}, "thinking.type"),
        ({"system": [{"type": "tool_result", "tool_use_id": "t"}]}, "system[0].type"),
        ({"max_tokens": None}, "max_tokens"),
        ({"maxtokens": 3}, "maxtokens"),
        ({"chat_template_kwargs": {"messages": []}}, "chat_template_kwargs.messages"),
    ],
)
def test_what_makes_no_sense_is_refused_by_its_path(fields: Json, param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        conversation_of(read(**fields))
    assert caught.value.param == param


# Turns


def call(id: str, arguments: str) -> Json:
    return {"id": id, "type": "function", "function": {"name": "look", "arguments": arguments}}


def test_turns_become_the_messages_that_templates_read() -> None:
    messages = [
        {"role": "user", "content": "a"},
        {"role": "user", "content": [{"type": "text", "text": "b", "cache_control": {"type": "ephemeral"}}]},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "hm", "signature": "s"},
                {"type": "text", "text": "I look"},
                {"type": "tool_use", "id": "t1", "name": "look", "input": {"q": 1}},
                {"type": "tool_use", "id": "t2", "name": "look", "input": {}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "t1", "content": "one"},
                {"type": "tool_result", "tool_use_id": "t2", "content": [{"type": "text", "text": "two"}], "is_error": True},
                {"type": "text", "text": "go on"},
            ],
        },
    ]
    conversation = conversation_of(read(messages=messages, system=[{"type": "text", "text": "s"}]))
    assert conversation.messages == [
        {"role": "system", "content": "s"},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {
            "role": "assistant",
            "content": "I look",
            "reasoning_content": "hm",
            "tool_calls": [call("t1", '{"q":1}'), call("t2", "{}")],
        },
        {"role": "tool", "tool_call_id": "t1", "name": "look", "content": "one"},
        {"role": "tool", "tool_call_id": "t2", "name": "look", "content": "Error: two"},
        {"role": "user", "content": "go on"},
    ]
    assert not conversation.continues


def test_tools_and_their_choice_are_read() -> None:
    tools = [{"name": "look", "description": "d", "input_schema": {"type": "object"}, "strict": True, "type": "custom"}]
    modes = {"auto": "auto", "any": "required", "none": "none", "tool": "required"}
    for kind, mode in modes.items():
        choice = {"type": kind, **({"name": "look"} if kind == "tool" else {}), "disable_parallel_tool_use": kind == "any"}
        conversation = conversation_of(read(tools=tools, tool_choice=choice))
        (tool,) = conversation.tools
        assert (tool.name, tool.description, tool.parameters, tool.strict) == ("look", "d", {"type": "object"}, True)
        assert (conversation.choice.mode, conversation.choice.names) == (mode, ("look",) if kind == "tool" else None)
        assert conversation.parallel == (kind != "any")
    assert conversation_of(read()).choice.mode == "auto"


def test_a_last_turn_of_the_assistant_is_continued() -> None:
    async def test() -> None:
        async with live() as server:
            told = await ask(server, messages=[USER, {"role": "assistant", "content": " I say"}])
            assert told["content"] == [{"type": "text", "text": "hello I say", "citations": None}]
            assert server.template.options["continue_final_message"] and not server.template.options["add_generation_prompt"]

    run(test)


# Answers


def test_a_streamed_message_is_the_collected_one() -> None:
    async def test() -> None:
        async with live() as server:
            for fields, reason, sequence in (
                ({}, "end_turn", None),
                ({"max_tokens": 3}, "max_tokens", None),
                ({"stop_sequences": ["x", "lo"]}, "stop_sequence", "lo"),
            ):
                collected = await ask(server, **fields)
                events = events_of(await server.http.post(PATH, json=body(stream=True, **fields)))
                assert (collected["stop_reason"], collected["stop_sequence"]) == (reason, sequence)
                text = "".join(e["delta"]["text"] for e in events if e["type"] == "content_block_delta")
                assert collected["content"] == [{"type": "text", "text": text, "citations": None}]
                last = next(event for event in events if event["type"] == "message_delta")
                assert last["delta"] == {"stop_reason": reason, "stop_sequence": sequence}
                assert last["usage"]["output_tokens"] == collected["usage"]["output_tokens"]
                kinds = [event["type"] for event in events if event["type"] != "content_block_delta"]
                assert kinds == "message_start ping content_block_start content_block_stop message_delta message_stop".split()

    run(test)


def test_cached_tokens_are_told_apart() -> None:
    async def test() -> None:
        async with live() as server:
            first, second = [(await ask(server))["usage"] for _ in range(2)]
            assert (first["input_tokens"], first["cache_read_input_tokens"]) == (5, 0)
            assert (second["input_tokens"], second["cache_read_input_tokens"]) == (3, 2)

    run(test)


def test_tokens_are_counted_even_beyond_the_context() -> None:
    async def test() -> None:
        async with live(max_model_len=10) as server:
            asked = {"model": MODEL, "messages": [{"role": "user", "content": "x" * 50}], "system": "sys"}
            assert (await server.http.post(f"{PATH}/count_tokens", json=asked)).json() == {"input_tokens": 53}
            error = refusal(await server.http.post(PATH, json={**asked, "max_tokens": 1}), 400)
            assert (error["type"], error["code"]) == ("invalid_request_error", "context_length_exceeded")

    run(test)


# Errors


def test_every_layer_tells_errors_as_anthropic_does() -> None:
    async def test() -> None:
        async with live(api_key="key") as server:
            assert refusal(await server.http.post(PATH, json=body()), 401)["type"] == "authentication_error"
            known = {"x-api-key": "key", "anthropic-version": "2023-06-01", "anthropic-beta": "unheard-of-2030-01-01"}
            assert (await server.http.post(PATH, json=body(), headers=known)).status_code == 200
            for sent, status, kind in (
                (body(model="other"), 404, "not_found_error"),
                (body(max_tokens=0), 400, "invalid_request_error"),
                (body(stop_sequences=[""]), 400, "invalid_request_error"),
                ({}, 400, "invalid_request_error"),
            ):
                assert refusal(await server.http.post(PATH, json=sent, headers=known), status)["type"] == kind
            huge = await server.http.post(PATH, content=b" " * (17 << 20), headers=known)
            assert refusal(huge, 413)["type"] == "request_too_large"
            assert refusal(await server.http.get(PATH, headers=known), 405)["code"] == "method_not_allowed"
            assert refusal(await server.http.post(f"{PATH}/batches", headers=known), 404)["type"] == "not_found_error"
        async with live(max_open=0) as server:
            full = await server.http.post(PATH, json=body(stream=True))
            assert refusal(full, 429)["type"] == "rate_limit_error" and "retry-after" in full.headers
            await server.engine.close()
            assert refusal(await server.http.post(PATH, json=body()), 503)["type"] == "overloaded_error"

    run(test)


def test_an_error_after_the_first_event_is_the_last_event() -> None:
    async def test() -> None:
        async with live(step_s=0.02) as server:
            long = body(messages=[{"role": "user", "content": "x" * 3000}], max_tokens=900, stream=True, deadline_ms=100)
            events = events_of(await server.http.post(PATH, json=long))
            assert events[0]["type"] == "message_start" and events[-1]["type"] == "error"
            assert (events[-1]["error"]["type"], events[-1]["error"]["code"]) == ("timeout_error", "deadline_exceeded")
            assert server.engine.open_requests == 0

    run(test)
