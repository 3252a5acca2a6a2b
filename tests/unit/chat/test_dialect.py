"""From a prompt to events, with special tokens that arrive as tokens: what the server and the offline door both go through."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import pytest

import tool_templates
from redline.chat.dialect import Dialect
from redline.chat.parser import CallBegin, Event, merged
from redline.chat.template import ChatTemplate
from redline.chat.tools import Tool
from redline.engine.answer import Answer
from redline.errors import InvalidRequest
from redline.types import Chunk, Request, SamplingParams
from special_tokens import tokenizer_with

TOOLS = (Tool(name="get"),)
REASONING = ("<think>", "</think>")
DEEPSEEK = ("<｜tool▁calls▁begin｜>", "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>", "<｜tool▁calls▁end｜>")

# Template, its special tokens, an answer that has them, and what is told of it.
CASES: list[tuple[str, tuple[str, ...], str, list[str]]] = [
    ("MISTRAL3", ("[TOOL_CALLS]",), '[TOOL_CALLS] [{"name": "get", "arguments": {"a": "é"}}]', ["call get", '{"a": "é"}']),
    ("MISTRAL3", ("[TOOL_CALLS]",), "[TOOL_CALLS] oops", [" oops"]),
    ("MISTRAL11", ("[TOOL_CALLS]", "[ARGS]"), "Ok[TOOL_CALLS]get[ARGS]{}", ["Ok", "call get", "{}"]),
    ("LLAMA3", ("<|python_tag|>",), '<|python_tag|>{"name": "get", "parameters": {}}', ["call get", "{}"]),
    ("LLAMA3", ("<|python_tag|>",), "<|python_tag|>x = 1", ["x = 1"]),
    (
        "V31",
        (*REASONING, *DEEPSEEK),
        "<think>hm</think>Ok<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>get<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
        ["hm", "Ok", "call get", "{}"],
    ),
    # Special tokens that are no markers of this model stay out of the text.
    ("QWEN2", ("<|box|>", "<|other|>"), "a<|box|>b<|other|>", ["ab"]),
]


def told(events: list[Event]) -> list[str]:
    return [f"call {event.name}" if isinstance(event, CallBegin) else event.text for event in merged(events)]


def read(speech: Dialect, tokenizer: Any, chunks: list[list[int]], tools: tuple[Tool, ...] = TOOLS) -> list[str]:
    parser = speech.parser("before", tools)()
    request = Request(id="r", prompt=[1], sampling=SamplingParams())
    answer = Answer(tokenizer, request, 0, shown=speech.shown(parser.markers))
    events: list[Event] = []
    for chunk in chunks:
        events += parser.push(answer.push(Chunk(id="r", tokens=chunk)).text)
    events += parser.push(answer.push(Chunk(id="r", finish="length")).text)
    return told([*events, *parser.finish()])


@pytest.mark.parametrize(("template", "special", "answer", "expected"), CASES)
def test_markers_that_are_special_tokens_are_seen_however_the_tokens_come(
    template: str, special: tuple[str, ...], answer: str, expected: list[str]
) -> None:
    tokenizer = tokenizer_with(*special)
    speech = Dialect(ChatTemplate(getattr(tool_templates, template), tool_templates.TOKENS), tokenizer)
    tokens = tokenizer.encode(answer, add_special_tokens=False)
    assert len(tokens) < len(answer.encode()), "they are tokens"
    for a, b in combinations(range(len(tokens) + 1), 2):
        assert read(speech, tokenizer, [tokens[:a], tokens[a:b], tokens[b:]]) == expected, (a, b)


def test_without_tools_the_markers_of_calls_are_no_text() -> None:
    tokenizer = tokenizer_with("[TOOL_CALLS]")
    speech = Dialect(ChatTemplate(tool_templates.MISTRAL3, tool_templates.TOKENS), tokenizer)
    tokens = tokenizer.encode('a[TOOL_CALLS] [{"name"', add_special_tokens=False)
    assert read(speech, tokenizer, [tokens], ()) == ['a [{"name"']
    assert speech.shown(speech.parser("before", ())().markers) == frozenset()


def test_tools_come_in_the_form_of_the_api_too() -> None:
    given = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}, "strict": True}}
    tool = Tool.of(given)
    assert tool == Tool(name="f", parameters={"type": "object"}, strict=True) and Tool.of(tool) is tool
    for wrong in ({}, {"type": "function"}, {"function": {"name": 1}}):
        with pytest.raises(InvalidRequest) as caught:
            Tool.of(wrong)
        assert caught.value.param == "tools"


def test_messages_that_are_no_messages_are_refused() -> None:
    speech = Dialect(ChatTemplate(tool_templates.PLAIN), tokenizer_with())
    wrong: Any = ["hi"]
    with pytest.raises(InvalidRequest, match=r"messages\[0\] is not an object"):
        speech.prompt(wrong)
