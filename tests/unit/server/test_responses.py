"""/v1/responses over the fake engine, which repeats what it was asked: fields, state, chains, the background, ends."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest
from openai.types.responses import input_token_count_params, response_create_params

from fake_server import Live, live
from redline.errors import InvalidRequest, UnsupportedField
from redline.server import response_run
from redline.server.response_input import items_of, messages_of, stored
from redline.server.response_schema import CountBody, ResponseBody
from redline.server.schema import decode

PATH = "/v1/responses"
TOOL = {"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": False}
Json = dict[str, Any]


def run(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 20))  # type: ignore[arg-type]


async def ask(server: Live, asked: Any = "hello", status: int = 200, **fields: Any) -> Json:
    response = await server.http.post(PATH, json={"input": asked, **fields})
    assert response.status_code == status, response.text
    told: Json = response.json()
    return told


def refusal(response: httpx2.Response, status: int) -> str | None:
    assert response.status_code == status, response.text
    param: str | None = response.json()["error"]["param"]
    return param


def text_of(document: Json) -> str:
    return "".join(part["text"] for item in document["output"] for part in item.get("content", ()))


def events_of(response: httpx2.Response) -> list[Json]:
    events = []
    for block in response.text.strip().split("\n\n"):
        name, data = block.split("\n")
        events.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {events[-1]['type']}"
    return events


# Fields


def test_no_field_of_the_sdk_is_unknown() -> None:
    params = response_create_params
    sdk = {
        *params.ResponseCreateParamsBase.__annotations__,
        *params.ResponseCreateParamsNonStreaming.__annotations__,
        *params.ResponseCreateParamsStreaming.__annotations__,
    }
    assert sdk <= set(ResponseBody.__struct_fields__)
    assert set(input_token_count_params.InputTokenCountParams.__annotations__) <= set(CountBody.__struct_fields__)


def test_null_means_absent() -> None:
    nulls = {name: None for name in ResponseBody.__struct_fields__ if name != "input"}
    assert decode(json.dumps({"input": "a", **nulls}).encode(), ResponseBody) == ResponseBody(input="a")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"conversation": "conv_1"}, "conversation"),
        ({"truncation": "auto"}, "truncation"),
        ({"text": {"verbosity": "low"}}, "text.verbosity"),
        ({"reasoning": {"summary": "auto"}}, "reasoning.summary"),
        ({"reasoning": {"mode": "pro"}}, "reasoning.mode"),
        ({"stream": True, "stream_options": {"include_obfuscation": True}}, "stream_options.include_obfuscation"),
        ({"include": ["reasoning.encrypted_content"]}, "include[0]"),
        ({"prompt": {"id": "p"}}, "prompt"),
        ({"context_management": [{"type": "compaction"}]}, "context_management"),
        ({"moderation": {"model": "m"}}, "moderation"),
        ({"background_options": {"completion_window": "8h"}}, "background_options"),
        ({"background": True, "stream": True}, "stream"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [{"type": "mcp", "server_label": "x"}]}, "tools[0].type"),
        ({"tools": [{"type": "function", "name": "f", "parameters": {}, "async": True}]}, "tools[0].async"),
        ({"tool_choice": {"type": "file_search"}}, "tool_choice.type"),
        ({"input": [{"type": "web_search_call", "id": "x", "action": {}}]}, "input[0].type"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "http://x"}]}]}, "input[0].content[0]"),
        ({"input": [{"type": "reasoning", "id": "r", "summary": [], "encrypted_content": "x"}]}, "input[0].encrypted_content"),
    ],
)
def test_what_is_not_built_is_refused_by_name(fields: Json, param: str) -> None:
    async def test() -> None:
        async with live() as server:
            told = await ask(
                server, **{"asked": "a", **fields} if "input" not in fields else {"asked": fields["input"]}, status=400
            )
            assert (told["error"]["param"], told["error"]["code"]) == (param, "unsupported_field")

    run(test)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": None}, "input"),
        ({"input": []}, "input"),
        ({"input": ""}, "input"),
        ({"input": [{}]}, "input[0].id"),
        ({"input": [{"role": "wizard", "content": "x"}]}, "input[0].role"),
        ({"input": [{"role": "user", "content": "x", "colour": 1}]}, "input[0].colour"),
        ({"input": [{"role": "user", "content": [{"type": "input_text"}]}]}, "input[0].content[0].text"),
        ({"input": [{"type": 3}]}, "input[0].type"),
        ({"input": [{"type": "function_call_output", "call_id": "c", "output": "x"}]}, "input[0].call_id"),
        ({"input": [{"type": "item_reference", "id": "msg_none"}]}, "input[0].id"),
        ({"input": [{"role": "user", "content": "x", "id": "i" * 129}]}, "input[0].id"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"max_output_tokens": 5000}, "max_output_tokens"),
        ({"temperature": -1}, "temperature"),
        ({"top_logprobs": 21}, "top_logprobs"),
        ({"stream_options": {}}, "stream_options"),
        ({"background": True, "store": False}, "background"),
        ({"metadata": {str(i): "x" for i in range(17)}}, "metadata"),
        ({"metadata": {"k": "v" * 513}}, "metadata"),
        ({"tool_choice": "sometimes"}, "tool_choice"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": []}, "tools": [TOOL]}, "tool_choice"),
        ({"tool_choice": {"type": "function", "name": "g"}, "tools": [TOOL]}, "tool_choice"),
        ({"tools": [TOOL, TOOL]}, "tools[1].name"),
        ({"tools": [{"type": "function"}]}, "tools[0].name"),
        ({"previous_response_id": "resp_none"}, "previous_response_id"),
        ({"chat_template_kwargs": {"tools": []}}, "chat_template_kwargs.tools"),
        ({"max_token": 4}, "max_token"),
    ],
)
def test_what_makes_no_sense_is_refused_by_its_path(fields: Json, param: str) -> None:
    async def test() -> None:
        async with live() as server:
            response = await server.http.post(PATH, json={"input": "hello", **fields})
            assert refusal(response, 404 if fields.get("previous_response_id") else 400) == param

    run(test)


def test_fields_are_told_back_and_metadata_is_kept() -> None:
    async def test() -> None:
        async with live(defaults={"temperature": 0.5}) as server:
            told = await ask(server, metadata={"a": "b"}, top_p=0.9, max_output_tokens=99, user="u", safety_identifier="s")
            assert (told["metadata"], told["top_p"], told["temperature"]) == ({"a": "b"}, 0.9, 0.5)
            assert (told["max_output_tokens"], told["user"], told["safety_identifier"]) == (99, "u", "s")
            assert told["truncation"] == "disabled" and told["text"]["format"] == {"type": "text"}

    run(test)


# Items and messages


def test_items_become_the_messages_that_templates_read() -> None:
    items: list[Json] = [
        {"role": "developer", "content": "be brief"},
        {
            "type": "message",
            "role": "user",
            "content": [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}],
        },
        {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]},
        {"role": "assistant", "content": [{"type": "output_text", "text": "I look", "annotations": []}]},
        {"type": "function_call", "call_id": "c1", "name": "look", "arguments": "{}"},
        {"type": "function_call", "call_id": "c2", "name": "look", "arguments": '{"q":1}'},
        {"type": "function_call_output", "call_id": "c1", "output": "one"},
        {"type": "function_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "two"}]},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]},
        {"type": "function_call", "call_id": "c3", "name": "f", "arguments": ""},
    ]
    kept = stored(items_of(items), {})

    def call(id: str, name: str, arguments: str) -> Json:
        return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}

    assert messages_of([], kept, "system") == [
        {"role": "system", "content": "system"},
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {
            "role": "assistant",
            "content": "I look",
            "reasoning_content": "hm",
            "tool_calls": [call("c1", "look", "{}"), call("c2", "look", '{"q":1}')],
        },
        {"role": "tool", "tool_call_id": "c1", "name": "look", "content": "one"},
        {"role": "tool", "tool_call_id": "c2", "name": "look", "content": "two"},
        {"role": "assistant", "content": "no", "tool_calls": [call("c3", "f", "")]},
    ]
    assert kept[2]["id"] == "rs_1" and len({item["id"] for item in kept}) == len(kept)
    assert stored(items_of(kept), {}) == kept  # what is told can be sent again


def test_two_answers_in_a_row_stay_two_messages() -> None:
    items = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}, {"role": "assistant", "content": "b"}]
    messages = messages_of([], stored(items_of(items), {}), None)
    assert [message["content"] for message in messages] == ["q", "a", "b"]


def test_an_item_is_checked_before_it_is_anything() -> None:
    for value in ({"type": "message"}, {"type": []}, {"role": 1, "content": "x"}):
        with pytest.raises((InvalidRequest, UnsupportedField)):
            items_of([value])


# Answers


def test_a_streamed_response_is_the_collected_and_the_stored_one() -> None:
    async def test() -> None:
        async with live() as server:
            fields = {"include": ["message.output_text.logprobs"], "top_logprobs": 2, "max_output_tokens": 4}
            collected = await ask(server, **fields)
            response = await server.http.post(PATH, json={"input": "hello", "stream": True, **fields})
            events = events_of(response)
            streamed = events[-1]["response"]
            assert events[-1]["type"] == "response.incomplete" and streamed["incomplete_details"] == {
                "reason": "max_output_tokens"
            }
            for told in (collected, streamed):
                assert (await server.http.get(f"{PATH}/{told['id']}")).json() == told
                for name in ("id", "created_at", "usage"):
                    del told[name]
                del told["output"][0]["id"]
            assert collected == streamed and text_of(collected) == "hell"
            (part,) = collected["output"][0]["content"]
            assert [score["token"] for score in part["logprobs"]] == list("hell")
            assert [len(score["top_logprobs"]) for score in part["logprobs"]] == [2] * 4

    run(test)


def test_a_conversation_goes_on_from_the_last_response() -> None:
    async def test() -> None:
        async with live() as server:
            first = await ask(server, "one ", instructions="[be brief] ")
            second = await ask(server, [{"role": "user", "content": "two "}], previous_response_id=first["id"])
            assert text_of(first) == "[be brief] one "
            assert text_of(second) == "one [be brief] one two "  # instructions are not carried over
            listed = (await server.http.get(f"{PATH}/{second['id']}/input_items?order=asc")).json()
            assert [item["content"][0]["text"] for item in listed["data"]] == ["one ", "[be brief] one ", "two "]
            reference = {"type": "item_reference", "id": listed["data"][0]["id"]}
            assert text_of(await ask(server, [reference, {"role": "user", "content": "three"}])) == "one three"
            assert text_of(await ask(server, [*first["output"], {"role": "user", "content": "!"}])) == "[be brief] one !"

    run(test)


def test_what_is_not_stored_or_was_deleted_is_not_there() -> None:
    async def test() -> None:
        async with live() as server:
            ghost = await ask(server, store=False)
            assert ghost["store"] is False
            kept = await ask(server)
            deleted = await server.http.delete(f"{PATH}/{kept['id']}")
            assert deleted.json() == {"id": kept["id"], "object": "response", "deleted": True}
            for id in (ghost["id"], kept["id"], "resp_none", "x" * 5000):
                assert refusal(await server.http.get(f"{PATH}/{id}"), 404) == "response_id"
                assert refusal(await server.http.delete(f"{PATH}/{id}"), 404) == "response_id"
                assert refusal(await server.http.post(f"{PATH}/{id}/cancel"), 404) == "response_id"
                assert refusal(await server.http.get(f"{PATH}/{id}/input_items"), 404) == "response_id"
            await ask(server, previous_response_id=kept["id"], status=404)

    run(test)


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("stream=true", "stream"),
        ("starting_after=4", "starting_after"),
        ("include[]=file_search_call.results", "include"),
        ("wat=1", "wat"),
    ],
)
def test_a_query_that_is_not_known_is_refused(query: str, param: str) -> None:
    async def test() -> None:
        async with live() as server:
            told = await ask(server)
            assert refusal(await server.http.get(f"{PATH}/{told['id']}?{query}"), 400) == param
            for fine in ("stream=false", "include[]=message.output_text.logprobs"):
                assert (await server.http.get(f"{PATH}/{told['id']}?{fine}")).json() == told

    run(test)


def test_input_items_come_in_pages() -> None:
    async def test() -> None:
        async with live() as server:
            items = [{"role": "user", "content": str(i), "id": f"msg_{i}"} for i in range(25)]
            url = f"{PATH}/{(await ask(server, items))['id']}/input_items"
            seen: list[str] = []
            query: dict[str, Any] = {}
            while True:
                page = (await server.http.get(url, params=query)).json()
                seen += [item["id"] for item in page["data"]]
                assert (page["first_id"], page["last_id"]) == (page["data"][0]["id"], page["data"][-1]["id"])
                if not page["has_more"]:
                    break
                query = {"after": page["last_id"]}
            assert seen == [f"msg_{i}" for i in reversed(range(25))]
            for bad, param in ({"limit": 0}, "limit"), ({"limit": 101}, "limit"), ({"order": "up"}, "order"), ({"x": 1}, "x"):
                assert refusal(await server.http.get(url, params=bad), 400) == param
            assert refusal(await server.http.get(url, params={"after": "no"}), 404) == "after"

    run(test)


def test_tokens_are_counted_as_they_would_be_asked() -> None:
    async def test() -> None:
        async with live() as server:
            counted = (await server.http.post(f"{PATH}/input_tokens", json={"input": "hello", "instructions": "x"})).json()
            assert counted == {"object": "response.input_tokens", "input_tokens": 6}
            assert (await ask(server, instructions="x"))["usage"]["input_tokens"] == 6

    run(test)


def test_a_full_queue_is_a_status_and_a_later_error_an_event() -> None:
    async def test() -> None:
        async with live(max_open=0) as server:
            response = await server.http.post(PATH, json={"input": "hello", "stream": True})
            assert refusal(response, 429) is None and "retry-after" in response.headers
        async with live(step_s=0.02) as server:
            response = await server.http.post(PATH, json={"input": "x" * 3000, "stream": True, "deadline_ms": 100})
            events = events_of(response)
            assert events[-1]["type"] == "response.failed" and text_of(events[-1]["response"])
            told = (await server.http.get(f"{PATH}/{events[0]['response']['id']}")).json()
            assert told == events[-1]["response"] and told["error"]["type"] == "deadline_exceeded"
            collected = await server.http.post(PATH, json={"input": "x" * 3000, "deadline_ms": 100})
            assert refusal(collected, 504) == "deadline_ms"
            assert server.engine.open_requests == 0

    run(test)


# The background


async def ended(server: Live, id: str) -> Json:
    while True:
        told: Json = (await server.http.get(f"{PATH}/{id}")).json()
        if told["status"] not in ("queued", "in_progress"):
            return told
        await asyncio.sleep(0.01)


def test_a_response_in_the_background_is_asked_for_until_it_is_there() -> None:
    async def test() -> None:
        async with live(step_s=0.005) as server:
            queued = await ask(server, "hello", background=True)
            assert (queued["status"], queued["output"]) == ("queued", [])
            seen = set()
            while (told := (await server.http.get(f"{PATH}/{queued['id']}")).json())["status"] != "completed":
                seen.add(told["status"])
                await asyncio.sleep(0.002)
            assert text_of(told) == "hello" and seen <= {"queued", "in_progress"} and "in_progress" in seen
            assert (await server.http.post(f"{PATH}/{queued['id']}/cancel")).json() == told  # too late, and no harm

    run(test)


def test_a_response_in_the_background_can_be_cancelled_and_frees_its_place() -> None:
    async def test() -> None:
        async with live(step_s=0.005) as server:
            queued = await ask(server, "x" * 3000, background=True)
            await asyncio.sleep(0.05)
            cancelled = (await server.http.post(f"{PATH}/{queued['id']}/cancel")).json()
            assert cancelled["status"] == "cancelled"
            assert (await server.http.post(f"{PATH}/{queued['id']}/cancel")).json() == cancelled
            await asyncio.sleep(0.05)
            assert server.engine.open_requests == 0
            assert (await server.http.get(f"{PATH}/{queued['id']}")).json() == cancelled
            front = await ask(server)
            assert refusal(await server.http.post(f"{PATH}/{front['id']}/cancel"), 400) == "response_id"

    run(test)


def test_a_response_in_the_background_waits_while_the_queue_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(response_run, "RETRY_S", 0.01)

    async def test() -> None:
        async with live(step_s=0.005, max_open=1) as server:
            told = [await ask(server, "hello", background=True) for _ in range(3)]
            assert [text_of(await ended(server, each["id"])) for each in told] == ["hello"] * 3
            monkeypatch.setattr(response_run, "PATIENCE_S", 0.05)
            long = await ask(server, "x" * 200, background=True)
            short = await ended(server, (await ask(server, background=True))["id"])
            assert (short["status"], short["error"]["code"]) == ("failed", "rate_limit_exceeded")
            assert (await ended(server, long["id"]))["status"] == "completed"

    run(test)


def test_the_background_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(response_run, "MAX_CALLER_BACKGROUND", 2)

    async def test() -> None:
        async with live(step_s=0.01) as server:
            running = [await ask(server, "x" * 500, background=True) for _ in range(2)]
            refused = await ask(server, background=True, status=429)
            assert refused["error"]["param"] == "background"
            await server.http.post(f"{PATH}/{running[0]['id']}/cancel")
            await asyncio.sleep(0.05)
            await ask(server, background=True)

    run(test)


def test_a_deleted_response_stops_running() -> None:
    async def test() -> None:
        async with live(step_s=0.005) as server:
            queued = await ask(server, "x" * 3000, background=True)
            await server.http.delete(f"{PATH}/{queued['id']}")
            await asyncio.sleep(0.05)
            assert server.engine.open_requests == 0
            refusal(await server.http.get(f"{PATH}/{queued['id']}"), 404)

    run(test)


def test_the_engines_death_ends_the_background_as_failed() -> None:
    async def test() -> None:
        async with live(step_s=0.005) as server:
            queued = await ask(server, "x" * 3000, background=True)
            await asyncio.sleep(0.05)
            await server.engine.close()
            told = await ended(server, queued["id"])
            assert told["status"] == "failed" and told["error"]["type"] == "engine_dead"

    run(test)


def test_another_server_of_the_same_state_can_cancel_what_runs_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(response_run, "WATCH_S", 0.02)

    async def test() -> None:
        state = {"state_dir": str(tmp_path)}
        async with live(server=state, step_s=0.005) as runs, live(server=state) as other:
            queued = await ask(runs, "x" * 3000, background=True)
            assert (await other.http.post(f"{PATH}/{queued['id']}/cancel")).json()["status"] == "cancelled"
            while runs.engine.open_requests:
                await asyncio.sleep(0.01)
            assert (await runs.http.get(f"{PATH}/{queued['id']}")).json()["status"] == "cancelled"

    run(test)


def test_what_cannot_be_stored_is_an_error_and_never_an_answer(tmp_path: Path) -> None:
    async def test() -> None:
        async with live(server={"state_dir": str(tmp_path)}) as server:
            told = await ask(server)
            with contextlib.closing(sqlite3.connect(tmp_path / "responses.sqlite")) as other:
                other.execute("DROP TABLE items")
            assert text_of(await ask(server, store=False)) == "hello"
            for response in (
                await server.http.post(PATH, json={"input": "a"}),
                await server.http.post(PATH, json={"input": "a", "background": True}),
                await server.http.get(f"{PATH}/{told['id']}"),
            ):
                assert refusal(response, 500) is None and "store: false" in response.text
            events = events_of(await server.http.post(PATH, json={"input": "a", "stream": True}))
            assert events[-1]["type"] == "error" and "cannot be used" in events[-1]["message"]

    run(test)
