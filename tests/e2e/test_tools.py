"""Tools with the real `openai` client: over the fake engine, which says what it is told to, and over a real one that must call."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Literal

import jsonschema_rs
import openai
import pytest
from openai import OpenAI
from openai.lib.streaming.chat import ChunkEvent, ContentDeltaEvent, FunctionToolCallArgumentsDoneEvent
from pydantic import BaseModel

from fake_server import MODEL, served
from real_server import MODEL as REAL_MODEL
from real_server import real_server

MARK = 0x11
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "city": {"enum": ["Paris", "Zürich"]},
        "days": {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 9}, "minItems": 1, "maxItems": 3},
        "exact": {"type": "boolean"},
    },
    "required": ["city", "days"],
}
GET: Any = {"type": "function", "function": {"name": "get", "description": "The weather", "parameters": SCHEMA}}
NOW: Any = {"type": "function", "function": {"name": "now"}}
CALL = '<tool_call>\n{"name": "get", "arguments": {"city": "Zürich", "days": [1]}}\n</tool_call>'
ARGUMENTS = {"city": "Zürich", "days": [1]}


class get(BaseModel):
    city: Literal["Paris", "Zürich"]
    days: list[int]


@pytest.fixture(scope="module")
def fake() -> Iterator[OpenAI]:
    with (
        served(mark=MARK, step_s=0.003) as server,
        OpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0, timeout=20) as client,
    ):
        yield client


@pytest.fixture(scope="module")
def real() -> Iterator[OpenAI]:
    with real_server() as server, OpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0, timeout=60) as client:
        yield client


def saying(answer: str) -> list[Any]:
    return [{"role": "user", "content": f"go{chr(MARK)}{answer}"}]


def test_a_call_comes_whole_and_its_result_goes_back(fake: OpenAI) -> None:
    messages = saying(f"I look.\n{CALL}\n{CALL}")
    answer = fake.chat.completions.create(model=MODEL, messages=messages, tools=[GET, NOW])
    (choice,) = answer.choices
    assert choice.finish_reason == "tool_calls" and choice.message.content == "I look." and choice.message.tool_calls
    first, second = choice.message.tool_calls
    assert first.type == "function" and first.function.name == "get" and json.loads(first.function.arguments) == ARGUMENTS
    assert first.id != second.id
    messages += [choice.message, {"role": "tool", "tool_call_id": first.id, "content": "sun"}]
    messages += [{"role": "tool", "tool_call_id": second.id, "content": "sun"}, *saying("Sunny.")]
    again = fake.chat.completions.create(model=MODEL, messages=messages, tools=[GET, NOW])
    assert again.choices[0].message.content == "Sunny." and again.choices[0].finish_reason == "stop"


def test_the_clients_stream_helper_puts_calls_together(fake: OpenAI) -> None:
    seen: list[Any] = []
    with fake.chat.completions.stream(
        model=MODEL, messages=saying(f"I look.\n{CALL}"), tools=[openai.pydantic_function_tool(get)]
    ) as stream:
        seen.extend(stream)
        final = stream.get_final_completion()
    message = final.choices[0].message
    assert message.content == "I look." and final.choices[0].finish_reason == "tool_calls" and message.tool_calls
    (call,) = message.tool_calls
    assert call.function.parsed_arguments == get(**ARGUMENTS)  # type: ignore[arg-type]
    assert "".join(event.delta for event in seen if isinstance(event, ContentDeltaEvent)) == "I look."
    (done,) = [event for event in seen if isinstance(event, FunctionToolCallArgumentsDoneEvent)]
    assert done.name == "get" and done.parsed_arguments == get(**ARGUMENTS)  # type: ignore[arg-type]
    pieces = [
        part.function.arguments
        for event in seen
        if isinstance(event, ChunkEvent)
        for choice in event.chunk.choices
        for part in choice.delta.tool_calls or ()
        if part.function is not None
    ]
    assert len(pieces) > 3 and json.loads("".join(piece or "" for piece in pieces)) == ARGUMENTS, (
        "arguments come as they are written"
    )


def test_parse_understands_calls_and_what_it_parsed_may_be_sent_back(fake: OpenAI) -> None:
    tools = [openai.pydantic_function_tool(get)]
    parsed = fake.chat.completions.parse(model=MODEL, messages=saying(CALL), tools=tools)
    message = parsed.choices[0].message
    assert message.content is None and message.tool_calls is not None
    assert message.tool_calls[0].function.parsed_arguments == get(**ARGUMENTS)  # type: ignore[arg-type]
    messages: list[Any] = [*saying(CALL), message, {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "1"}]
    answer = fake.chat.completions.create(model=MODEL, messages=[*messages, *saying("ok")], tools=tools)
    assert answer.choices[0].message.content == "ok"


@pytest.mark.parametrize(
    ("param", "fields"),
    [
        ("tool_choice", {"tool_choice": {"type": "function", "function": {"name": "other"}}}),
        ("tools", {"tools": [{**GET, "function": {**GET["function"], "strict": True, "parameters": {"not": {}}}}]}),
        ("tools[0].type", {"tools": [{"type": "custom", "custom": {"name": "x"}}]}),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(fake: OpenAI, param: str, fields: dict[str, Any]) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        fake.chat.completions.create(model=MODEL, messages=saying("x"), **{"tools": [GET], **fields})
    assert caught.value.param is not None and caught.value.param.startswith(param)


VALIDATE = jsonschema_rs.validator_for({**SCHEMA, "additionalProperties": False})


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_random_weights_call_as_they_must(real: OpenAI, seed: int, stream: bool) -> None:
    """The model is noise; the grammar makes calls of it, and the arguments fit their schema."""
    asked: Any = {"model": REAL_MODEL, "messages": saying("go"), "tools": [GET, NOW], "tool_choice": "required", "seed": seed}
    if stream:
        with real.chat.completions.stream(**asked, max_tokens=600) as events:
            choice: Any = events.until_done().get_final_completion().choices[0]
    else:
        choice = real.chat.completions.create(**asked, max_tokens=600).choices[0]
    assert choice.finish_reason == "tool_calls" and choice.message.content is None and choice.message.tool_calls
    for call in choice.message.tool_calls:
        arguments = json.loads(call.function.arguments)
        assert call.function.name in ("get", "now")
        assert VALIDATE.is_valid(arguments) if call.function.name == "get" else arguments == {}


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({"tool_choice": {"type": "function", "function": {"name": "get"}}}, ["get"]),
        ({"tool_choice": {"type": "function", "function": {"name": "now"}}}, ["now"]),
        ({"tool_choice": "required", "parallel_tool_calls": False, "tools": [NOW]}, ["now"]),
        (
            {
                "tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [NOW]}},
                "parallel_tool_calls": False,
            },
            ["now"],
        ),
    ],
)
def test_the_call_that_was_named_is_made_once(real: OpenAI, fields: dict[str, Any], names: list[str]) -> None:
    asked: Any = {"model": REAL_MODEL, "messages": saying("go"), "tools": [GET, NOW], "max_tokens": 400, "seed": 1, **fields}
    choice = real.chat.completions.create(**asked).choices[0]
    assert [call.function.name for call in choice.message.tool_calls or ()] == names and choice.finish_reason == "tool_calls"


def test_a_format_holds_where_no_call_is_made(real: OpenAI) -> None:
    """Free to call or to answer: noise does one of the two, and either is in form."""
    shape: Any = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"enum": [1, 2]}}}
    for seed in range(4):
        asked: Any = {"model": REAL_MODEL, "messages": saying("go"), "tools": [NOW], "seed": seed, "max_tokens": 200}
        message = real.chat.completions.create(**asked, response_format=shape, parallel_tool_calls=False).choices[0].message
        assert message.content in ("1", "2") or [call.function.name for call in message.tool_calls or ()] == ["now"]


def test_the_offline_door_tells_calls_apart_too() -> None:
    from redline import LLM
    from redline.engine.grammar import of_lark
    from redline.types import SamplingParams

    call = r'start: "Ok.\n<tool_call>\n{\"name\": \"get\", \"arguments\": " %json {"type": "object", "additionalProperties": false} "}\n</tool_call>"'
    with LLM(REAL_MODEL, device="cpu", num_threads=1, receipts=False) as llm:
        sampling = SamplingParams(max_tokens=200, seed=1, n=2)
        answer = llm.chat([{"role": "user", "content": "go"}], sampling, tools=[GET], grammar=of_lark(call))
        for choice in answer.choices:
            assert [(one.name, one.arguments) for one in choice.tool_calls] == [("get", "{}")] and choice.text == "Ok."
        assert answer.tool_calls[0].id != answer.choices[1].tool_calls[0].id and answer.reasoning == ""
        plain = llm.chat([{"role": "user", "content": "go"}], sampling, grammar=of_lark(call))
        assert plain.tool_calls == [] and plain.text.startswith("Ok.\n<tool_call>")
