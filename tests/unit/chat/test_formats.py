"""What a template shows of calls and reasoning is learnt from it, and read back."""

from __future__ import annotations

import json
from typing import Any

import pytest

import tool_templates
from redline.chat import syntax as known
from redline.chat.dialect import Dialect
from redline.chat.formats import TOOL_PARSERS, format_of
from redline.chat.parser import CallArguments, CallBegin, merged
from redline.chat.syntax import ReasoningSyntax, ToolSyntax
from redline.chat.template import ChatTemplate
from redline.chat.tools import Tool
from redline.config import ModelConfig
from redline.errors import UnsupportedField
from redline.tokenizer import Tokenizer

DEEPSEEK = {"begin": "<｜tool▁calls▁begin｜>", "end": "<｜tool▁calls▁end｜>", "named": True, "name": "template"}
EXPECTED: dict[str, ToolSyntax | None] = {
    "QWEN2": known.HERMES,
    "QWEN3": known.HERMES,
    "LLAMA3": known.LLAMA,
    "MISTRAL3": known.MISTRAL_LIST,
    "MISTRAL11": known.MISTRAL_NAMED,
    "R1": ToolSyntax(
        call_begin="<｜tool▁call▁begin｜>function<｜tool▁sep｜>",
        name_end="\n```json\n",
        call_end="\n```<｜tool▁call▁end｜>",
        separator="\n",
        **DEEPSEEK,  # type: ignore[arg-type]
    ),
    "V31": ToolSyntax(
        call_begin="<｜tool▁call▁begin｜>",
        name_end="<｜tool▁sep｜>",
        call_end="<｜tool▁call▁end｜>",
        **DEEPSEEK,  # type: ignore[arg-type]
    ),
    "NEMOTRON": ToolSyntax(name="template", begin="<TOOLCALL>[", separator=", ", end="]</TOOLCALL>"),
    "COMMAND": ToolSyntax(
        name="template",
        begin="<|START_ACTION|>[\n    ",
        separator=",\n    ",
        end="\n]<|END_ACTION|>",
        name_key="tool_name",
        arguments_key="parameters",
    ),
    "XML": None,
    "PLAIN": known.HERMES,
}
REASONING: dict[str, ReasoningSyntax | None] = {
    "QWEN2": None,
    "QWEN3": known.THINK,
    "R1": known.THINK,
    "V31": known.THINK,
    "LLAMA3": None,
    "COMMAND": ReasoningSyntax(begin="<|START_THINKING|>", end="<|END_THINKING|>"),
    "PLAIN": None,
}
TOOLS = (Tool(name="first"), Tool(name="second", parameters={"type": "object", "properties": {"é": {"type": "string"}}}))


def template(name: str) -> ChatTemplate:
    return ChatTemplate(getattr(tool_templates, name), tool_templates.TOKENS)


def dialect(name: str, **options: str) -> Dialect:
    return Dialect(template(name), Tokenizer.bytes(300), **options)


def calls(*arguments: Any) -> list[dict[str, Any]]:
    return [
        {"id": f"call{i}abcd", "type": "function", "function": {"name": TOOLS[i].name, "arguments": json.dumps(of)}}
        for i, of in enumerate(arguments)
    ]


@pytest.mark.parametrize("name", EXPECTED)
def test_how_calls_are_written_is_learnt_from_the_template(name: str) -> None:
    found = format_of(template(name))
    expected = EXPECTED[name]
    if name == "LLAMA3":  # this template refuses two calls
        assert found.tools is not None and not found.tools.parallel
        found_tools = ToolSyntax(**{**vars_of(found.tools), "parallel": True})
        assert found_tools == expected
    elif name == "MISTRAL11":  # this one takes any id
        assert found.tools is not None and ToolSyntax(**{**vars_of(found.tools), "id_chars": 9}) == expected
    else:
        assert found.tools == expected
    assert found.explains_tools == (name != "PLAIN")


def vars_of(syntax: ToolSyntax) -> dict[str, Any]:
    return {name: getattr(syntax, name) for name in ToolSyntax.__dataclass_fields__}


@pytest.mark.parametrize("name", REASONING)
def test_how_reasoning_is_marked_is_learnt_from_the_template(name: str) -> None:
    assert format_of(template(name)).reasoning == REASONING[name]


@pytest.mark.parametrize("name", [name for name, syntax in EXPECTED.items() if syntax is not None])
def test_what_the_template_writes_is_read_back(name: str) -> None:
    """The round trip: calls through the template, and the assistant's words through the parser."""
    given = [{"é": 'x"}</tool_call>]'}] if name == "LLAMA3" else [{}, {"é": 'x"}</tool_call>]'}]
    speech = dialect(name)
    question = {"role": "user", "content": "go"}
    asked = speech.prompt([question], TOOLS).text
    whole = speech.prompt(
        [question, {"role": "assistant", "content": "", "tool_calls": calls(*given)}], TOOLS, add_generation_prompt=False
    )
    start = len(asked) if whole.text.startswith(asked) else whole.text.rindex("go") + 2
    parser = speech.parser("before", TOOLS)()
    events = merged([*parser.push(whole.text[start:]), *parser.finish()])
    assert [event.name for event in events if isinstance(event, CallBegin)] == [tool.name for tool in TOOLS[: len(given)]]
    assert [json.loads(event.text) for event in events if isinstance(event, CallArguments)] == given


def test_the_user_decides_otherwise() -> None:
    assert format_of(template("LLAMA3"), "hermes", "think").tools == known.HERMES
    assert format_of(template("LLAMA3"), "hermes", "think").reasoning == known.THINK
    assert format_of(template("PLAIN"), "mistral").tools == known.MISTRAL_LIST
    assert format_of(template("MISTRAL11"), "mistral").tools == known.MISTRAL_NAMED
    assert format_of(template("QWEN3"), "none", "none").tools is None
    assert format_of(template("QWEN3"), "none", "none").reasoning is None
    assert format_of(template("QWEN2"), "template").tools is not None


def test_the_configuration_offers_what_there_is() -> None:
    field = ModelConfig.__dataclass_fields__["tool_parser"]
    assert field.metadata["choices"] == TOOL_PARSERS


@pytest.mark.parametrize(("name", "options"), [("XML", {}), ("QWEN2", {"tool_parser": "none"})])
def test_calls_that_cannot_be_read_are_refused_by_name(name: str, options: dict[str, str]) -> None:
    speech = dialect(name, **options)
    with pytest.raises(UnsupportedField) as caught:
        speech.prompt([{"role": "user", "content": "go"}], TOOLS)
    assert caught.value.param == "tools" and "--tool-parser" in caught.value.sentence()
    assert speech.prompt([{"role": "user", "content": "go"}]).text


@pytest.mark.parametrize(
    ("name", "variables", "where"),
    [
        ("QWEN3", {}, "before"),
        ("QWEN3", {"enable_thinking": False}, "before"),
        ("R1", {}, "inside"),
        ("V31", {}, "before"),
        ("V31", {"thinking": True}, "inside"),
        ("QWEN2", {}, "after"),
    ],
)
def test_a_block_that_the_prompt_opened_is_known_to_be_open(name: str, variables: dict[str, Any], where: str) -> None:
    assert dialect(name).prompt([{"role": "user", "content": "a <think>"}], **variables).where == where


@pytest.mark.parametrize(
    ("content", "where"), [("<think>\nso", "inside"), ("<think>\nso\n</think>\n\nWe", "after"), ("We", "after")]
)
def test_a_message_that_is_continued_says_where_it_is(content: str, where: str) -> None:
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": content}]
    prompt = dialect("PLAIN", reasoning_parser="think").prompt(messages, continue_final_message=True)
    assert prompt.where == where and prompt.text.endswith(content)


def test_a_template_without_tools_is_told_of_them_in_words() -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "go"},
        {"role": "assistant", "content": "Yes.", "tool_calls": calls({}, {"é": "1"})},
        {"role": "tool", "content": "one", "tool_call_id": "call0abcd"},
        {"role": "tool", "content": [{"type": "text", "text": "two"}], "tool_call_id": "call1abcd"},
        {"role": "user", "content": "and?"},
    ]
    text = dialect("PLAIN").prompt(messages, TOOLS).text
    system, user, assistant, results, last, answer = text.split("<|im_start|>")[1:]
    assert system.startswith("system\nBe brief.\n\n# Tools") and all(
        json.dumps(t.as_template_reads(), ensure_ascii=False) in system for t in TOOLS
    )
    assert assistant == (
        'assistant\nYes.\n<tool_call>\n{"name": "first", "arguments": {}}\n</tool_call>\n'
        '<tool_call>\n{"name": "second", "arguments": {"\\u00e9": "1"}}\n</tool_call><|im_end|>\n'
    )
    assert results == "user\n<tool_response>\none\n</tool_response>\n<tool_response>\ntwo\n</tool_response><|im_end|>\n"
    assert (user, last, answer) == ("user\ngo<|im_end|>\n", "user\nand?<|im_end|>\n", "assistant\n")
    assert dialect("PLAIN").prompt(messages[1:2], TOOLS).text.startswith("<|im_start|>system\n# Tools")
    assert "# Tools" not in dialect("PLAIN").prompt(messages).text


def test_ids_are_made_such_that_the_template_takes_them() -> None:
    long = [dict(call, id=f"call_{'0' * 20}{i}") for i, call in enumerate(calls({}, {}))]
    results = [{"role": "tool", "content": "1", "tool_call_id": call["id"]} for call in long]
    messages = [{"role": "user", "content": "go"}, {"role": "assistant", "content": "", "tool_calls": long}, *results]
    text = dialect("MISTRAL3").prompt(messages, TOOLS).text
    ids = [part[:9] for part in text.split('"id": "')[1:]]
    assert len(set(ids)) == 2 and all(id.isalnum() for id in ids)
    assert [part[:9] for part in text.split('"call_id": "')[1:]] == ids
    short = [{**message, "tool_calls": calls({})} if "tool_calls" in message else message for message in messages[:2]]
    assert '"id": "call0abcd"' in dialect("MISTRAL3").prompt(short, TOOLS).text
