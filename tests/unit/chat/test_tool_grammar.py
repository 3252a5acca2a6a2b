"""Grammars of answers: whole answers that llguidance must take or refuse, for each syntax, with and without reasoning."""

from __future__ import annotations

from functools import cache

import pytest
from llguidance import LLMatcher, LLTokenizer

from redline.chat.parser import CallBegin, merged
from redline.chat.reasoning_parser import Where
from redline.chat.syntax import HERMES, LLAMA, MISTRAL_LIST, MISTRAL_NAMED, THINK, ReasoningSyntax, ToolSyntax
from redline.chat.tool_grammar import Allowed, answer_grammar
from redline.chat.tool_parser import ToolParser
from redline.chat.tools import Tool
from redline.engine.grammar import SPACED, Vocabulary, of_lark
from special_tokens import tokenizer_with

SPECIALS = ("<s1>", "<c1>", "</c1>", "<t>", "</t>")
TOOLS = (
    Tool(name="get", parameters={"type": "object", "properties": {"city": {"enum": ["P", "Q"]}}, "required": ["city"]}),
    Tool(name="now"),
)
HELD = frozenset({"get", "now"})
GROUPED = ToolSyntax(name="template", begin="<s1>", call_begin="<c1>", call_end="</c1>", separator="\n", end="!")
SPECIAL_THOUGHT = ReasoningSyntax(begin="<t>", end="</t>\n")

GET = '<tool_call>\n{"name": "get", "arguments": {"city": "P"}}\n</tool_call>'
NOW = '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'
L_GET, L_NOW = '{"name": "get", "parameters": {"city": "P"}}', '{"name": "now", "parameters": {}}'
THOUGHT = "<think>\nI <tool_call> { hm\n</think>\n\n"


@cache
def tokenizer() -> tuple[LLTokenizer, dict[str, int]]:
    made = tokenizer_with(*SPECIALS, ordinary=("<tool_call>",))
    ids = {piece: id for piece in SPECIALS if (id := made.token_id(piece)) is not None}
    return LLTokenizer(Vocabulary(made, made.vocab_size, [256])), ids  # type: ignore[arg-type]


def takes(lark: str, answer: str) -> bool:
    """Whether `answer` may be written and may end there."""
    inner, ids = tokenizer()
    matcher = LLMatcher(inner, of_lark(lark, "tools", SPACED))
    assert not matcher.is_error(), matcher.get_error()
    tokens, at = [], 0
    while at < len(answer):
        piece = next((piece for piece in ids if answer.startswith(piece, at)), None)
        tokens += [ids[piece]] if piece else list(answer[at].encode())
        at += len(piece or " ")
    return matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting()


def grammar(
    syntax: ToolSyntax | None,
    reasoning: ReasoningSyntax | None = None,
    where: Where = "before",
    *,
    required: bool = False,
    parallel: bool = True,
    held: frozenset[str] = HELD,
) -> str:
    allowed = Allowed(tools=TOOLS, held=held, required=required, parallel=parallel)
    return answer_grammar(allowed, syntax, reasoning, where, tokenizer()[1])


CASES: dict[str, tuple[str, list[str], list[str]]] = {
    "auto": (
        grammar(HERMES),
        ["", "hi", "a <tool", GET, f"Well.\n{GET}\n{NOW}", f"{GET} so"],
        [
            "<tool_call>",
            '<tool_call>\n{"name": "x"',
            GET[:-3],
            GET.replace("P", "R"),
            GET.replace("city", "town"),
            GET.replace("get", "now"),
        ],
    ),
    "auto, one call": (grammar(HERMES, parallel=False), ["hi", GET, f"a\n{GET}"], [f"{GET}\n{NOW}", f"{GET} so", "<tool_call>"]),
    "required": (grammar(HERMES, required=True), [GET, f"{GET}\n{NOW}"], ["", "hi", f"x{GET}", f"{GET} so"]),
    "required, one call": (grammar(HERMES, required=True, parallel=False), [GET, NOW], ["", f"{GET}\n{NOW}"]),
    "any arguments": (
        grammar(HERMES, held=frozenset()),
        [GET.replace('"P"', '[1, {"x": null}]'), NOW],
        [GET.replace('{"city": "P"}', "[]"), GET.replace("get", "rm")],
    ),
    "llama": (grammar(LLAMA), ["hi { x", " x", "", L_GET, f"{L_GET}; {L_NOW}"], ['{"a": 1}', " {", f"{L_GET} x"]),
    "llama, required": (grammar(LLAMA, required=True), [L_GET, f"{L_GET}; {L_NOW}"], ["x", ""]),
    "list": (
        grammar(MISTRAL_LIST),
        ["hi", '[TOOL_CALLS] [{"name": "get", "arguments": {"city": "P"}}, {"name": "now", "arguments": {}}]'],
        ["[TOOL_CALLS] []", "[TOOL_CALLS] x"],
    ),
    "named": (
        grammar(MISTRAL_NAMED, required=True),
        ['[TOOL_CALLS]get[ARGS]{"city": "P"}', '[TOOL_CALLS]get[ARGS]{"city": "P"}[TOOL_CALLS]now[ARGS]{}'],
        ["hi", "[TOOL_CALLS]get[ARGS]{}"],
    ),
    "special tokens": (
        grammar(GROUPED),
        [
            "hi",
            'a<s1><c1>{"name": "now", "arguments": {}}</c1>!b',
            '<s1><c1>{"name": "now", "arguments": {}}</c1>\n<c1>{"name": "now", "arguments": {}}</c1>!',
        ],
        ["<s1>", '<s1><c1>{"name": "now", "arguments": {}}</c1>', "<c1>", "</t>"],
    ),
    "reasoning before": (
        grammar(HERMES, THINK),
        ["hi", GET, f"{THOUGHT}hi", f"{THOUGHT}{GET}", f"{THOUGHT}x{GET}\n{NOW}", "<thinker>"],
        [f"{THOUGHT}<tool_call>", "<think>\n<tool_call>x", "<think>endless"],
    ),
    "reasoning opened": (
        grammar(HERMES, THINK, "inside"),
        [f"{THOUGHT[8:]}hi", f"{THOUGHT[8:]}{GET}"],
        ["hi", GET, f"{THOUGHT[8:]}<tool_call>"],
    ),
    "reasoning, required": (grammar(HERMES, THINK, required=True), [f"{THOUGHT}{GET}", GET], [THOUGHT, f"{THOUGHT}hi", "hi"]),
    "reasoning, llama": (
        grammar(LLAMA, THINK, "inside"),
        [f"{THOUGHT[8:]}hi", f"{THOUGHT[8:]}{L_NOW}"],
        [f"{THOUGHT[8:]}{{", L_NOW],
    ),
    "special reasoning": (
        grammar(HERMES, SPECIAL_THOUGHT),
        ["hi", "<t>a <tool_call> b</t>hi", f"<t>a</t>{GET}"],
        ["<t>a", "<t>a</t><tool_call>", "a</t>"],
    ),
    "special reasoning, required": (grammar(HERMES, SPECIAL_THOUGHT, required=True), [f"<t>a</t>\n{GET}", GET], ["<t>a</t>\nhi"]),
    "no tools": (
        answer_grammar(Allowed(), None, THINK, "before", {}),
        ["hi", f"{THOUGHT}hi"],
        ["<think>endless"],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_answers_are_taken_or_refused(name: str) -> None:
    lark, good, bad = CASES[name]
    assert [answer for answer in good if not takes(lark, answer)] == []
    assert [answer for answer in bad if takes(lark, answer)] == []


@pytest.mark.parametrize("name", [name for name in CASES if "reasoning" not in name and name != "no tools"])
def test_the_parser_reads_what_the_grammar_writes(name: str) -> None:
    """Every accepted answer that has a call has it for the parser too: the two are made from one syntax."""
    syntaxes = {"llama": LLAMA, "list": MISTRAL_LIST, "named": MISTRAL_NAMED, "special": GROUPED}
    syntax = next((found for key, found in syntaxes.items() if name.startswith(key)), HERMES)
    for answer in CASES[name][1]:
        parser = ToolParser(syntax, HELD)
        events = merged([*parser.push(answer), *parser.finish()])
        calls = answer.count('"name"') if not syntax.named else answer.count("[ARGS]")
        assert sum(isinstance(event, CallBegin) for event in events) == calls, answer


def test_a_format_can_stand_in_the_texts_place() -> None:
    inner, _ = tokenizer()
    for where, before in (("before", ""), ("inside", "so\n</think>\n\n")):
        lark = answer_grammar(Allowed(tools=TOOLS, held=HELD, formatted=True), HERMES, THINK, where, {})  # type: ignore[arg-type]
        text = of_lark(lark, "tools", SPACED).removesuffix("]}")
        joined = text + ',{"name":"answer","json_schema":{"const":7}}]}'
        for answer, fine in (("7", True), (GET, True), ("8", False), ("hi", False), (f"7{GET}", False)):
            matcher = LLMatcher(inner, joined)
            assert not matcher.is_error(), matcher.get_error()
            tokens = list((before + answer).encode())
            assert (matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting()) == fine, (where, answer)


def test_a_call_that_is_required_is_written_without_a_choice_up_to_the_name() -> None:
    inner, _ = tokenizer()
    matcher = LLMatcher(inner, of_lark(grammar(HERMES, required=True), "tools", SPACED))
    assert matcher.compute_ff_bytes() == b'<tool_call>\n{"name": "'
