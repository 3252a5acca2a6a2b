"""Tool calls are found in answers, and wherever an answer is cut the events are the same."""

from __future__ import annotations

import json
from itertools import combinations
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from redline.chat.parser import CallArguments, CallBegin, Event, Parser, Reasoning, Text, merged
from redline.chat.reasoning_parser import ReasoningParser, Where
from redline.chat.syntax import HERMES, LLAMA, MISTRAL_LIST, MISTRAL_NAMED, THINK, ToolSyntax
from redline.chat.tool_parser import ToolParser

NAMES = ("get", "add")
DEEPSEEK = ToolSyntax(
    name="template",
    begin="<｜calls▁begin｜>",
    call_begin="<｜call▁begin｜>function<｜sep｜>",
    call_end="\n```<｜call▁end｜>",
    separator="\n",
    end="<｜calls▁end｜>",
    named=True,
    name_end="\n```json\n",
)
NEMOTRON = ToolSyntax(name="template", begin="<TOOLCALL>[", separator=", ", end="]</TOOLCALL>")
SYNTAXES = {
    "hermes": HERMES,
    "llama": LLAMA,
    "list": MISTRAL_LIST,
    "named": MISTRAL_NAMED,
    "deepseek": DEEPSEEK,
    "nemotron": NEMOTRON,
}

# (syntax, answer, what is told: strings are text, pairs are calls with their arguments; None: not begun)
Told = str | tuple[str, str | None]
CASES: list[tuple[str, str, list[Told]]] = [
    ("hermes", '<tool_call>\n{"name": "get", "arguments": {"a": "x"}}\n</tool_call>', [("get", '{"a": "x"}')]),
    (
        "hermes",
        '<tool_call>\n{"name": "get", "arguments": {}}\n</tool_call>\n<tool_call>\n{"name": "add", "arguments": {"b": [1, {"c": 2}]}}\n</tool_call>',
        [("get", "{}"), ("add", '{"b": [1, {"c": 2}]}')],
    ),
    (
        "hermes",
        'Let me see.\n\n<tool_call>{"name": "get", "arguments": {"a": 1}}</tool_call>\nDone.',
        ["Let me see.", ("get", '{"a": 1}'), "\nDone."],
    ),
    # Markers, brackets and quotes inside of strings are strings.
    (
        "hermes",
        r'<tool_call>{"name": "get", "arguments": {"a": "</tool_call>}]\"\\", "b": "{"}}</tool_call>',
        [("get", r'{"a": "</tool_call>}]\"\\", "b": "{"}')],
    ),
    # Keys in any order, keys of no interest, both words for arguments, arguments as a string or none at all.
    ("hermes", '<tool_call>{"arguments": {"a": 1}, "name": "get"}</tool_call>', [("get", '{"a": 1}')]),
    ("hermes", '<tool_call>{"id": {"x": "}"}, "n": 1.5, "name": "get", "parameters": {}}</tool_call>', [("get", "{}")]),
    ("hermes", r'<tool_call>{"name": "g\u0065t", "arguments": "{\"a\": \"\u00e9\\n\"}"}</tool_call>', [("get", '{"a": "é\\n"}')]),
    ("hermes", '<tool_call>{"name": "get"}</tool_call>', [("get", "{}")]),
    ("hermes", '<tool_call>{"name": "get", "arguments": null}</tool_call>', [("get", "{}")]),
    ("hermes", '<tool_call>{"name": "get", "arguments": ""}</tool_call>', [("get", "{}")]),
    # A function that nobody offered is the caller's to refuse.
    ("hermes", '<tool_call>{"name": "rm", "arguments": {}}</tool_call>', [("rm", "{}")]),
    # What looks like a call and is none is text, all of it.
    ("hermes", "a <tool_call>\nnot json</tool_call> b", ["a <tool_call>\nnot json</tool_call> b"]),
    ("hermes", '<tool_call>{"name": 5, "arguments": {}}</tool_call>', ['<tool_call>{"name": 5, "arguments": {}}</tool_call>']),
    (
        "hermes",
        '<tool_call>{"name": "get", "arguments": 5}</tool_call>',
        ['<tool_call>{"name": "get", "arguments": 5}</tool_call>'],
    ),
    ("hermes", '<tool_call>{"name": "", "arguments": {}}', ['<tool_call>{"name": "", "arguments": {}}']),
    ("hermes", "if a <tool_ then <b>tool</b>", ["if a <tool_ then <b>tool</b>"]),
    ("hermes", " \n ", [" \n "]),
    # Slips that models make: brackets too few or too many, the marker twice, a list.
    ("hermes", '<tool_call>{"name": "get", "arguments": {"a": 1}\n</tool_call>', [("get", '{"a": 1}')]),
    ("hermes", '<tool_call>{"name": "get", "arguments": {"a": 1</tool_call> so', [("get", '{"a": 1'), " so"]),
    ("hermes", '<tool_call>{"name": "get", "arguments": {"a": 1}}}</tool_call>ok', [("get", '{"a": 1}'), "}ok"]),
    ("hermes", '<tool_call>\n<tool_call>{"name": "get", "arguments": {}}</tool_call>', [("get", "{}")]),
    (
        "hermes",
        '<tool_call>{"name": <tool_call>{"name": "get", "arguments": {}}</tool_call>',
        ['<tool_call>{"name": ', ("get", "{}")],
    ),
    (
        "hermes",
        '<tool_call>[{"name": "get", "arguments": {}}, {"name": "add", "arguments": {}}]</tool_call>',
        [("get", "{}"), ("add", "{}")],
    ),
    # Cut off: the arguments so far, and before the name is whole the text so far.
    ("hermes", '<tool_call>\n{"name": "get", "arguments": {"a": "x', [("get", '{"a": "x')]),
    ("hermes", '<tool_call>\n{"name": "get", "argu', [("get", None)]),
    ("hermes", r'<tool_call>{"name": "get", "arguments": "{\"a\": \"\u00e', [("get", '{"a": "')]),
    ("hermes", '<tool_call>\n{"name": "ge', ['<tool_call>\n{"name": "ge']),
    ("hermes", "hi <tool_c", ["hi <tool_c"]),
    ("llama", '{"name": "get", "parameters": {"a": 1}}', [("get", '{"a": 1}')]),
    ("llama", ' {"type": "function", "name": "get", "parameters": {}}\n', [("get", "{}")]),
    ("llama", '{"name": "get", "parameters": {}}; {"name": "add", "parameters": {}}', [("get", "{}"), ("add", "{}")]),
    ("llama", '<|python_tag|>{"name": "rm", "parameters": {"x": 1}}', [("rm", '{"x": 1}')]),
    # An object that nothing announces is an answer unless it is a call of a function that there is.
    ("llama", '{"name": "Rome", "parameters": {}}', ['{"name": "Rome", "parameters": {}}']),
    ("llama", '{"temperature": {"name": "get", "parameters": {}}}', ['{"temperature": {"name": "get", "parameters": {}}}']),
    ("llama", '{"parameters": {"a": "<|python_tag|>"}, "name": "Rome"} x', ['{"parameters": {"a": ""}, "name": "Rome"} x']),
    ("llama", 'So: {"name": "get", "parameters": {}}', ['So: {"name": "get", "parameters": {}}']),
    ("llama", "<|python_tag|>print(1)", ["print(1)"]),
    ("llama", '{"name": "get", "parameters": {"a"', [("get", '{"a"')]),
    (
        "list",
        '[TOOL_CALLS] [{"name": "get", "arguments": {"a": "]"}}, {"name": "add", "arguments": {}, "id": "abcdefghi"}]',
        [("get", '{"a": "]"}'), ("add", "{}")],
    ),
    ("list", '[TOOL_CALLS]get[ARGS]{"a": 1}', [("get", '{"a": 1}')]),
    ("list", 'Well[TOOL_CALLS][{"name": "get", "arguments": {"a": [1, 2]', ["Well", ("get", '{"a": [1, 2]')]),
    ("list", "[TOOL_CALLS] oops", [" oops"]),
    ("list", "an array[TOOL x]", ["an array[TOOL x]"]),
    ("named", '[TOOL_CALLS]get[ARGS]{"a": 1}[TOOL_CALLS]add[ARGS]{}', [("get", '{"a": 1}'), ("add", "{}")]),
    ("named", 'Hey[TOOL_CALLS]get{"a": 1}', ["Hey", ("get", '{"a": 1}')]),
    ("named", "[TOOL_CALLS]get me", ["get me"]),
    ("named", "[TOOL_CALLS]get[ARG", ["get[ARG"]),
    (
        "deepseek",
        '<｜calls▁begin｜><｜call▁begin｜>function<｜sep｜>get\n```json\n{"a": 1}\n```<｜call▁end｜>\n'
        "<｜call▁begin｜>function<｜sep｜>add\n```json\n{}\n```<｜call▁end｜><｜calls▁end｜>",
        [("get", '{"a": 1}'), ("add", "{}")],
    ),
    (
        "nemotron",
        'Ok\n\n<TOOLCALL>[{"name": "get", "arguments": {}}, {"name": "add", "arguments": {"x": "]</TOOLCALL>"}}]</TOOLCALL>',
        ["Ok", ("get", "{}"), ("add", '{"x": "]</TOOLCALL>"}')],
    ),
]
HIDDEN = {"llama": ("<|python_tag|>",), "list": ("[TOOL_CALLS]",), "named": ("[TOOL_CALLS]",)}


def parser(syntax: str) -> ToolParser:
    return ToolParser(SYNTAXES[syntax], NAMES, HIDDEN.get(syntax, ()))


def read(reader: Parser, *pieces: str) -> list[Event]:
    events = [event for piece in pieces for event in reader.push(piece)]
    return merged([*events, *reader.finish()])


def anonymous(events: list[Event]) -> list[Event]:
    """The events without the ids of calls, which are drawn."""
    return [CallBegin(e.call, "", e.name) if isinstance(e, CallBegin) else e for e in events]


def told(events: list[Event]) -> list[Told]:
    """The events as the cases write them."""
    shown: list[Any] = []
    for event in events:
        if isinstance(event, CallBegin):
            shown.append((event.name, None))
        elif isinstance(event, CallArguments):
            shown[-1] = (shown[-1][0], event.text)
        else:
            assert isinstance(event, Text)
            shown.append(event.text)
    return shown


@pytest.mark.parametrize(("syntax", "answer", "expected"), CASES)
def test_calls_and_text_are_told_apart(syntax: str, answer: str, expected: list[Told]) -> None:
    assert told(read(parser(syntax), answer)) == expected


@pytest.mark.parametrize(("syntax", "answer", "expected"), CASES)
def test_wherever_an_answer_is_cut_the_events_are_the_same(syntax: str, answer: str, expected: list[Told]) -> None:
    """At every place, at every pair of places of shorter answers, and a character at a time."""
    whole = anonymous(read(parser(syntax), answer))
    cuts = [(at,) for at in range(len(answer) + 1)]
    if len(answer) <= 50:
        cuts += list(combinations(range(len(answer) + 1), 2))  # type: ignore[arg-type]
    for places in cuts:
        ends = (0, *places, len(answer))
        pieces = [answer[a:b] for a, b in zip(ends, ends[1:], strict=False)]
        assert anonymous(read(parser(syntax), *pieces)) == whole, pieces
    assert anonymous(read(parser(syntax), *answer)) == whole


FRAGMENTS = (
    *("<tool_call>", "</tool_call>", "<|python_tag|>", "[TOOL_CALLS]", "[ARGS]", "[CALL_ID]", "<TOOLCALL>", "</TOOLCALL>"),
    *("<think>", "</think>", '{"name": "get", ', '"arguments": {', '"parameters": ', '"a": "x"', "}", "}}", "]", "[", ", ", "; "),
    *('"', "\\", "{", "null", "1", " ", "\n", "get", "é", "<", "text "),
)


@pytest.mark.soak
def test_any_mixture_cut_anywhere_is_told_alike_and_nothing_is_lost(effort: int) -> None:
    @settings(max_examples=300 * effort, deadline=None)
    @given(
        st.sampled_from(sorted(SYNTAXES)),
        st.sampled_from(("before", "inside", "after")),
        st.lists(st.sampled_from(FRAGMENTS), max_size=14),
        st.lists(st.integers(0, 200), max_size=6),
    )
    def check(syntax: str, where: Where, fragments: list[str], places: list[int]) -> None:
        answer = "".join(fragments)

        def reader() -> Parser:
            return ReasoningParser(THINK, ToolParser(SYNTAXES[syntax], NAMES), where)

        whole = anonymous(read(reader(), answer))
        ends = sorted({0, len(answer), *(place for place in places if place < len(answer))})
        assert anonymous(read(reader(), *(answer[a:b] for a, b in zip(ends, ends[1:], strict=False)))) == whole
        assert anonymous(read(reader(), *answer)) == whole
        if not any(isinstance(event, CallBegin) for event in whole):
            text = "".join(event.text for event in whole if isinstance(event, Text | Reasoning))
            markup = ("<think>", "</think>", *SYNTAXES[syntax].markers, *"[]")
            assert _bare(text, markup) == _bare(answer, markup), "text was lost"

    check()


def _bare(text: str, markup: tuple[str, ...]) -> str:
    for marker in markup:
        text = text.replace(marker, "")
    return "".join(text.split())


@settings(max_examples=60, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.text(max_size=8),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
        max_leaves=8,
    ).filter(lambda value: isinstance(value, dict)),
    st.booleans(),
    st.sampled_from((None, 2)),
)
def test_any_arguments_come_through_letter_by_letter(arguments: dict[str, Any], ascii: bool, indent: int | None) -> None:
    written = json.dumps(arguments, ensure_ascii=ascii, indent=indent)
    for syntax, answer in (
        ("hermes", f'<tool_call>\n{{"name": "get", "arguments": {written}}}\n</tool_call>'),
        ("llama", f'{{"name": "get", "parameters": {written}}}'),
        ("named", f"[TOOL_CALLS]get[ARGS]{written}"),
    ):
        assert told(read(parser(syntax), *answer)) == [("get", written)]


def test_arguments_are_told_as_they_come_and_text_is_not_held_back() -> None:
    reader = parser("hermes")
    assert reader.push("Hello, wor") == [Text("Hello, wor")]
    assert reader.push("ld <") == [Text("ld")]
    assert reader.push("b>") == [Text(" <b>")]
    assert reader.push('<tool_call>{"name": "get", "arguments"') == []
    (begin, *rest) = reader.push(': {"a": "x')
    assert isinstance(begin, CallBegin) and begin.name == "get" and rest == [CallArguments(0, '{"a": "x')]
    assert reader.push("yz") == [CallArguments(0, "yz")]
    assert reader.push('"}') == [CallArguments(0, '"}')]
    assert reader.push("}</tool_call>") == []


def test_ids_are_unique_and_of_the_form_that_templates_take() -> None:
    ids = set()
    for _ in range(50):
        for syntax, size in (("hermes", 29), ("list", 9)):
            (begin, _) = read(
                parser(syntax), CASES[0][1] if syntax == "hermes" else '[TOOL_CALLS] [{"name": "a", "arguments": {}}]'
            )
            assert isinstance(begin, CallBegin) and len(begin.id) == size and begin.id.replace("_", "").isalnum()
            ids.add(begin.id)
    assert len(ids) == 100
    events = read(parser("named"), "[TOOL_CALLS]get[CALL_ID]abcdefghi[ARGS]{}")
    assert events[0] == CallBegin(0, "abcdefghi", "get")


def test_a_very_long_answer_is_read_in_time_that_grows_with_it() -> None:
    """A million characters of arguments in pieces of four: each is told at once, and none is read again."""
    reader = parser("hermes")
    reader.push('<tool_call>{"name": "get", "arguments": {"a": "')
    size = sum(len(event.text) for _ in range(50_000) for event in reader.push("abc ") if isinstance(event, CallArguments))
    assert size == 200_000


REASONING: list[tuple[Where, str, str, str]] = [
    ("before", "<think>\nhm <b> \n</think>\n\nHello", "hm <b>", "Hello"),
    ("before", "\n<think>x</think>y", "x", "y"),
    ("before", "Hello <think>x</think>", "", "Hello <think>x</think>"),
    ("before", "<think>\n\n</think>\n\nyes", "", "yes"),
    ("before", "\n</think>\n\nyes", "", "yes"),
    ("before", "<thinker> is a word", "", "<thinker> is a word"),
    ("before", "  <thi", "", "  <thi"),
    ("before", "<think>cut off </thi", "cut off </thi", ""),
    ("inside", "because\n</think>\n\nHi</think>", "because", "Hi</think>"),
    ("inside", "<think>\nagain</think>Hi", "again", "Hi"),
    ("inside", 'I call <tool_call>{"name": "get"', 'I call <tool_call>{"name": "get"', ""),
    ("inside", "\n</think> x", "", "x"),
    ("after", "<think>x</think>", "", "<think>x</think>"),
    ("after", " in the midst", "", " in the midst"),
]


@pytest.mark.parametrize(("where", "answer", "reasoning", "text"), REASONING)
def test_reasoning_is_split_off_however_the_answer_is_cut(where: Where, answer: str, reasoning: str, text: str) -> None:
    expected = [*([Reasoning(reasoning)] if reasoning else []), *([Text(text)] if text else [])]
    for a, b in combinations(range(len(answer) + 2), 2):
        reader = ReasoningParser(THINK, ToolParser(HERMES, NAMES), where)
        assert read(reader, answer[:a], answer[a:b], answer[b:]) == expected, (a, b)
    untold = ReasoningParser(THINK, ToolParser(HERMES, NAMES), where, told=False)
    assert read(untold, *answer) == expected[bool(reasoning) :]


def test_calls_after_reasoning_are_calls() -> None:
    reader = ReasoningParser(THINK, ToolParser(HERMES, NAMES), "inside")
    first, *rest = read(reader, 'I must get it.\n</think>\n\n<tool_call>{"name": "get", "arguments": {}}</tool_call>')
    assert first == Reasoning("I must get it.") and told(rest) == [("get", "{}")]
