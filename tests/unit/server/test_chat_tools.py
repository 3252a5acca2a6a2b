"""Tools and reasoning through the chat endpoint, over the fake engine: what follows the mark in a prompt is the answer."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import httpx2
import pytest
from llguidance import LLMatcher, LLTokenizer

import tool_templates
from fake_server import Live, live
from redline.chat.dialect import Prompt
from redline.chat.formats import format_of
from redline.chat.reasoning_parser import Where
from redline.chat.template import ChatTemplate
from redline.chat.tools import ToolChoice
from redline.engine.grammar import Vocabulary, of_json_schema, of_regex
from redline.errors import UnsupportedField
from redline.server.chat_input import conversation_of
from redline.server.chat_schema import ChatBody
from redline.server.conversation import Conversation, _effort, _grammar, _is_constrained
from redline.server.functions import MAX_TOOLS
from redline.server.schema import decode

CHAT = "/v1/chat/completions"
MARK = 0x11
GET = {
    "type": "function",
    "function": {"name": "get", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}},
}
NOW = {"type": "function", "function": {"name": "now"}}
CALL = '<tool_call>\n{"name": "get", "arguments": {"city": "Zürich"}}\n</tool_call>'


def run(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 30))  # type: ignore[arg-type]


def chat(answer: str, **fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": f"go{chr(MARK)}{answer}"}], "tools": [GET, NOW], **fields}


def body(**fields: Any) -> ChatBody:
    return decode(json.dumps({"messages": [{"role": "user", "content": "a"}], **fields}).encode(), ChatBody)


async def choice(server: Live, asked: dict[str, Any]) -> dict[str, Any]:
    response = await server.http.post(CHAT, json=asked)
    assert response.status_code == 200, response.text
    (choice,) = response.json()["choices"]
    return choice  # type: ignore[no-any-return]


async def streamed(server: Live, asked: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The message that a client puts together from a stream, and the choices it was made of."""
    response = await server.http.post(CHAT, json={**asked, "stream": True})
    events = [json.loads(line[6:]) for line in response.text.split("\n\n") if line.startswith("data: {")]
    choices = [choice for event in events for choice in event["choices"]]
    whole: dict[str, Any] = {"role": "assistant", "content": None}
    for delta in (choice["delta"] for choice in choices):
        for field in ("content", "reasoning_content"):
            if delta.get(field):
                whole[field] = (whole.get(field) or "") + delta[field]
        for part in delta.get("tool_calls", ()):
            calls = whole.setdefault("tool_calls", [])
            if part["index"] == len(calls):
                calls.append({"id": part["id"], "type": part["type"], "function": dict(part["function"])})
            else:
                assert "id" not in part and "name" not in part["function"], "told once"
                calls[part["index"]]["function"]["arguments"] += part["function"]["arguments"]
    return whole, choices


def without_ids(message: dict[str, Any]) -> dict[str, Any]:
    calls = [{**call, "id": ""} for call in message.get("tool_calls", ())]
    return {**message, **({"tool_calls": calls} if calls else {})}


ANSWERS: list[tuple[str, str | None, list[tuple[str, str]], str]] = [
    (CALL, None, [("get", '{"city": "Zürich"}')], "tool_calls"),
    (f"Ok.\n{CALL}\n{CALL}", "Ok.", [("get", '{"city": "Zürich"}')] * 2, "tool_calls"),
    ('<tool_call>\n{"name": "now"}\n</tool_call>', None, [("now", "{}")], "tool_calls"),
    ("Just 1 < 2 words", "Just 1 < 2 words", [], "stop"),
    ("<tool_call>no</tool_call>", "<tool_call>no</tool_call>", [], "stop"),
]


@pytest.mark.parametrize(("answer", "content", "calls", "finish"), ANSWERS)
def test_calls_are_told_and_a_stream_collects_to_the_same(
    answer: str, content: str | None, calls: list[tuple[str, str]], finish: str
) -> None:
    async def test() -> None:
        async with live(mark=MARK) as server:
            told = await choice(server, chat(answer))
            message = told["message"]
            assert message["content"] == content and told["finish_reason"] == finish and message["refusal"] is None
            found = [(call["function"]["name"], call["function"]["arguments"]) for call in message.get("tool_calls", ())]
            assert found == calls
            assert all(call["id"].startswith("call_") and call["type"] == "function" for call in message.get("tool_calls", ()))
            whole, choices = await streamed(server, chat(answer))
            assert without_ids({**whole, "refusal": None}) == without_ids(message)
            assert choices[0]["delta"] == {"role": "assistant", "content": None} and choices[-1]["finish_reason"] == finish
            assert [entry["finish_reason"] for entry in choices[:-1]] == [None] * (len(choices) - 1)

    run(test)


def test_a_call_that_is_cut_off_has_what_there_was() -> None:
    async def test() -> None:
        async with live(mark=MARK) as server:
            told = await choice(server, chat(CALL, max_tokens=57))
            (call,) = told["message"]["tool_calls"]
            assert told["finish_reason"] == "length" and call["function"]["name"] == "get"
            assert call["function"]["arguments"] == CALL.encode()[:57].decode().partition('"arguments": ')[2] != ""

    run(test)


def test_log_probabilities_cover_every_token_of_a_call() -> None:
    async def test() -> None:
        async with live(mark=MARK) as server:
            asked = chat(CALL, logprobs=True)
            told = await choice(server, asked)
            spelled = bytes(b for entry in told["logprobs"]["content"] for b in entry["bytes"])
            assert spelled.removesuffix(b"<|eos|>").decode() == CALL
            _, choices = await streamed(server, asked)
            parts = [entry for each in choices if each["logprobs"] for entry in each["logprobs"]["content"]]
            assert parts == told["logprobs"]["content"]

    run(test)


def test_each_of_several_choices_has_calls_of_its_own() -> None:
    async def test() -> None:
        async with live(mark=MARK) as server:
            response = await server.http.post(CHAT, json=chat(CALL, n=2, max_tokens=len(CALL.encode())))
            first, second = response.json()["choices"]
            assert first["message"]["tool_calls"] and "tool_calls" not in second["message"], "the second begins one letter later"

    run(test)


def test_without_tools_or_with_none_to_call_an_answer_is_text() -> None:
    async def test() -> None:
        async with live(mark=MARK) as server:
            for fields in ({"tools": []}, {"tools": None}, {"tool_choice": "none"}):
                told = await choice(server, chat(CALL, **fields))
                assert told["message"]["content"] == CALL and told["finish_reason"] == "stop"

    run(test)


def test_a_whole_conversation_with_calls_reaches_the_template() -> None:
    """This template knows no tools: they reach it in words, and the results of calls as turns of the user."""

    async def test() -> None:
        async with live() as server:
            messages = [
                {"role": "user", "content": "a"},
                {
                    "role": "assistant",
                    "content": None,
                    "tool_calls": [{"id": "1", "type": "function", "function": {"name": "get", "arguments": '{"city": "x"}'}}],
                },
                {"role": "tool", "tool_call_id": "1", "content": [{"type": "text", "text": "rain"}]},
                {"role": "assistant", "content": None, "refusal": "no"},
            ]
            told = await choice(server, {"messages": messages})
            assert told["message"]["content"] == (
                'a<tool_call>\n{"name": "get", "arguments": {"city": "x"}}\n</tool_call><tool_response>\nrain\n</tool_response>no'
            )

    run(test)


def test_what_a_body_says_of_tools_becomes_one_conversation() -> None:
    made = conversation_of(
        body(
            messages=[
                {"role": "developer", "content": "s"},
                {
                    "role": "assistant",
                    "reasoning_content": "r",
                    "tool_calls": [{"id": "1", "type": "function", "function": {"name": "get", "arguments": "{}"}, "index": 0}],
                },
                {"role": "tool", "tool_call_id": "1", "content": "x"},
                {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]},
            ],
            tools=[GET, {"type": "function", "function": {**NOW["function"], "strict": True}}],  # type: ignore[dict-item]
            tool_choice={"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [NOW]}},
            parallel_tool_calls=False,
            reasoning_effort="low",
            include_reasoning=False,
            constrain_tools=True,
        )
    )
    assert [message["role"] for message in made.messages] == ["system", "assistant", "tool", "assistant"]
    assert made.messages[1]["reasoning_content"] == "r" and made.messages[1]["content"] == ""
    assert made.messages[2]["name"] == "get" and made.messages[3]["content"] == [{"type": "text", "text": "no"}]
    assert [tool.strict for tool in made.tools] == [None, True] and made.choice.names == ("now",) and made.choice.mode == "auto"
    assert (made.parallel, made.effort, made.show_reasoning, made.constrain) == (False, "low", False, True)


CALLED = {"role": "assistant", "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": {"type": "function", "function": {"name": "get"}}}, "tool_choice"),
        ({"tools": [NOW], "tool_choice": "always"}, "tool_choice"),
        ({"tools": [NOW], "tool_choice": {"type": "function", "function": {"name": "get"}}}, "tool_choice"),
        ({"tools": [NOW], "tool_choice": {"type": "function"}}, "tool_choice.function"),
        ({"tools": [NOW], "tool_choice": {"type": "function", "name": "now"}}, "tool_choice.name"),
        ({"tools": [NOW], "tool_choice": {"type": "custom", "custom": {"name": "x"}}}, "tool_choice.type"),
        ({"tools": [NOW], "tool_choice": {"type": "allowed_tools"}}, "tool_choice.allowed_tools"),
        (
            {"tools": [NOW], "tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": []}}},
            "tool_choice.allowed_tools.tools",
        ),
        ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, "tools[0].type"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        ({"tools": [NOW, NOW]}, "tools[1].function.name"),
        ({"tools": [{"type": "function", "function": {"name": "no spaces"}}]}, "tools[0].function.name"),
        ({"tools": [{"type": "function", "function": {"name": "f", "colour": 1}}]}, "tools[0].function.colour"),
        ({"tools": [{"type": "function", "function": {"name": "f", "parameters": []}}]}, "tools[0].function.parameters"),
        ({"tools": [{"type": "function", "function": {"name": f"f{i}"}} for i in range(MAX_TOOLS + 1)]}, "tools"),
        ({"reasoning_effort": "huge"}, "reasoning_effort"),
        ({"messages": [{"role": "user", "content": "a", "tool_calls": CALLED["tool_calls"]}]}, "messages[0].tool_calls"),
        ({"messages": [{"role": "user", "content": "a", "reasoning_content": "x"}]}, "messages[0].reasoning_content"),
        ({"messages": [{"role": "user", "content": "a", "tool_call_id": "1"}]}, "messages[0].tool_call_id"),
        ({"messages": [{"role": "user", "content": [{"type": "refusal", "refusal": "x"}]}]}, "messages[0].content[0]"),
        ({"messages": [{"role": "tool", "content": "a"}]}, "messages[0].tool_call_id"),
        ({"messages": [{"role": "function", "name": "f", "content": "a"}]}, "messages[0].role"),
        ({"messages": [CALLED], "continue_final_message": True}, "continue_final_message"),
        ({"chat_template_kwargs": {"colour": "red"}}, "chat_template_kwargs.colour"),
        ({"reasoning_effort": "low"}, "reasoning_effort"),
        ({"reasoning_effort": "none", "chat_template_kwargs": {"enable_thinking": True}}, "reasoning_effort"),
        ({"functions": [{"name": "f"}]}, "functions"),
        ({"function_call": "auto"}, "function_call"),
        ({"verbosity": "low"}, "verbosity"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
    async def test() -> None:
        async with live() as server:
            response = await server.http.post(CHAT, json={"messages": [{"role": "user", "content": "a"}], **fields})
            assert response.status_code == 400 and response.json()["error"]["param"] == param, response.text

    run(test)


def test_a_thousand_tools_and_deep_schemas_are_answered_or_refused_in_time() -> None:
    async def post(server: Live, tools: list[Any], **fields: Any) -> httpx2.Response:
        began = time.monotonic()
        response = await server.http.post(CHAT, json=chat("hi", tools=tools, max_tokens=1, **fields))
        assert time.monotonic() - began < 5
        return response

    async def test() -> None:
        many = [{"type": "function", "function": {"name": f"f{i}", "description": "d" * 50}} for i in range(1000)]
        deep: dict[str, Any] = {}
        for _ in range(400):
            deep = {"properties": {"a": deep}}
        async with live(mark=MARK, max_model_len=400_000) as server:
            assert (await post(server, many)).status_code == 200
            refused = await post(server, [{"type": "function", "function": {"name": "f", "parameters": deep}}])
            assert refused.status_code == 400 and "nested" in refused.json()["error"]["message"]
        async with live(mark=MARK) as server:
            too_long = await post(server, many)
            assert too_long.status_code == 400 and too_long.json()["error"]["code"] == "context_length_exceeded"

    run(test)


def test_reasoning_is_told_apart_and_can_be_left_out() -> None:
    source = "{% for m in messages %}{{ m.content }}{% endfor %}{# </think> #}"

    async def test() -> None:
        async with live(mark=MARK) as server:
            service = server.app.state.service
            object.__setattr__(service, "template", ChatTemplate(source))
            service.__dict__.pop("dialect", None)
            answer = f"<think>\nI must.\n</think>\n\nOk.\n{CALL}"
            told = await choice(server, chat(answer))
            assert told["message"]["reasoning_content"] == "I must." and told["message"]["content"] == "Ok."
            assert told["finish_reason"] == "tool_calls"
            whole, _ = await streamed(server, chat(answer))
            assert without_ids({**whole, "refusal": None}) == without_ids(told["message"])
            silent = await choice(server, chat(answer, include_reasoning=False))
            assert "reasoning_content" not in silent["message"] and silent["message"]["content"] == "Ok."

    run(test)


@pytest.mark.parametrize(
    ("template", "effort", "variables"),
    [
        ("{{ reasoning_effort }}", "low", {"reasoning_effort": "low"}),
        (tool_templates.QWEN3, "none", {"enable_thinking": False}),
        (tool_templates.QWEN3, "minimal", {"enable_thinking": False}),
        (tool_templates.QWEN3, "medium", {"enable_thinking": True}),
        (tool_templates.QWEN3, "high", None),
        (tool_templates.R1, "medium", {}),
        (tool_templates.R1, "none", None),
        (tool_templates.QWEN2, "none", {}),
        (tool_templates.QWEN2, "medium", None),
        (tool_templates.QWEN2, None, {}),
    ],
)
def test_effort_is_what_the_template_can_be_told(template: str, effort: str | None, variables: dict[str, Any] | None) -> None:
    format = format_of(ChatTemplate(template, tool_templates.TOKENS))
    if variables is None:
        with pytest.raises(UnsupportedField) as caught:
            _effort(effort, format)
        assert caught.value.param == "reasoning_effort"
    else:
        assert _effort(effort, format) == variables


@pytest.mark.parametrize(
    ("fields", "needed"),
    [
        ({}, False),
        ({"tool_choice": "required"}, True),
        ({"tool_choice": {"type": "function", "function": {"name": "now"}}}, True),
        ({"tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [NOW]}}}, True),
        ({"parallel_tool_calls": False}, True),
        ({"constrain_tools": True}, True),
        ({"constrain_tools": False}, False),
        ({"tools": [{"type": "function", "function": {"name": "f", "strict": True}}]}, True),
        ({"tools": [{"type": "function", "function": {"name": "f", "strict": False}}], "constrain_tools": True}, False),
        ({"tool_choice": "none", "constrain_tools": True}, False),
    ],
)
def test_a_grammar_is_used_where_a_free_answer_could_break_the_promise(fields: dict[str, Any], needed: bool) -> None:
    made: Conversation = conversation_of(body(**{"tools": [GET, NOW], **fields}))
    assert _is_constrained(made, made.choice.of(made.tools)) == needed


def answers(server: Live, source: str, made: Conversation, where: Where, *texts: str) -> list[bool]:
    """Whether each text may be an answer, by the grammar that the server makes for a model with this template."""
    service = server.service
    object.__setattr__(service, "template", ChatTemplate(source, tool_templates.TOKENS))
    service.__dict__.pop("dialect", None)
    grammar = _grammar(service, made, Prompt("", where, list))
    vocabulary = LLTokenizer(Vocabulary(service.tokenizer, 300, [257]))  # type: ignore[arg-type]
    taken = []
    for text in texts:
        matcher = LLMatcher(vocabulary, grammar)
        assert not matcher.is_error(), matcher.get_error()
        tokens = list(text.encode())
        taken.append(matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting())
    return taken


def test_a_format_holds_after_the_reasoning_and_beside_calls() -> None:
    seven = of_json_schema({"const": 7})
    now = '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'
    free = conversation_of(body(tools=[NOW]))

    async def test() -> None:
        async with live() as server:
            plain = Conversation(messages=[], grammar=seven)
            assert answers(server, tool_templates.QWEN2, plain, "after", "7", "8", "<think>\n</think>\n\n7") == [
                True,
                False,
                False,
            ]
            thought = "<think>\nso {\n</think>\n\n"
            assert answers(server, tool_templates.QWEN3, plain, "before", "7", f"{thought}7", f"{thought}8", thought) == [
                *(True, True),
                *(False, False),
            ]
            assert answers(server, tool_templates.R1, plain, "inside", "7", f"{thought[8:]}7") == [False, True]
            both = replace(free, grammar=seven)
            texts = ("7", now, f"{thought}{now}", "8", f"7{now}", "hi")
            assert answers(server, tool_templates.QWEN3, both, "before", *texts) == [True, True, True, False, False, False]
            must = replace(both, choice=ToolChoice(mode="required"))
            assert answers(server, tool_templates.QWEN3, must, "before", "7", now) == [False, True]
            for source, grammar in ((tool_templates.LLAMA3, seven), (tool_templates.QWEN2, of_regex("<.*"))):
                with pytest.raises(UnsupportedField):
                    answers(server, source, replace(free, grammar=grammar), "after", "7")

    run(test)


def test_a_schema_that_cannot_be_held_is_refused_by_its_keyword() -> None:
    async def test() -> None:
        async with live() as server:
            tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "not": {"required": ["a"]}}}}
            loose = await server.http.post(CHAT, json=chat("x", tools=[NOW, tool]))
            assert loose.status_code == 200, "nobody asked for it to be held"
            held = await server.http.post(CHAT, json=chat("x", tools=[NOW, tool], tool_choice="required"))
            told = held.json()["error"]
            assert held.status_code == 400 and "'not'" in told["message"] and told["param"].startswith("tools[1]")

    run(test)
