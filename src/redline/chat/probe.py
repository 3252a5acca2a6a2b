"""Learns a model's syntax from its template: renders calls and reasoning that nobody would write, and looks what is around them.

Nothing is guessed: what is found is checked by reading it back, and where that fails there is no syntax. Knows no model by
name. Open `tool_syntax` first.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from redline.chat.syntax import ReasoningSyntax, ToolSyntax
from redline.chat.template import ChatTemplate
from redline.errors import RedlineError

Json = dict[str, Any]

MAX_MARKER = 100
_TEXT = "\u2402plain\u2402"  # what no marker begins or ends with
_REASON = "\u2403because\u2403"
_NAMES = ("probe_one", "probe_two")
_KEYS = ("first_key", "second_key")
_QUESTION = "\u2404question\u2404"
_LAST_TAG = re.compile(r"(?P<tag>[<\[][^<>\[\]\s]{1,60}[>\]])\s*$")
_FIRST_TAG = re.compile(r"\s*(?P<tag>[<\[][^<>\[\]\s]{1,60}[>\]])\s*")
_IDS = ("probe0001", "probe0002")  # nine letters and digits, as some templates insist
_DECODER = json.JSONDecoder()


class _Found(NamedTuple):
    """Where a call stands in a text: all of it, and its arguments."""

    start: int
    end: int
    arguments: int
    arguments_end: int
    keys: tuple[str, str] | None  # of the name and of the arguments; None where the call is no object


def tool_syntax(template: ChatTemplate) -> ToolSyntax | None:
    """How assistants' calls are written in the template; None where that cannot be told."""
    plain, one = _render(template, _said(content=_TEXT)), _render(template, _called(1))
    if plain is None or one is None or _TEXT not in plain:
        return None
    start, end = _between(plain, one)
    found = _find(one, 0, start, end)
    if found is None:
        return None
    before, after = one[start : found.start], _ended(one[found.end : end], template)
    two = _render(template, _called(2))
    second = None if two is None else _find(two, 1, found.end, len(two))
    if two is None or second is None:
        parts: tuple[str, ...] = (before, "", "", after, "") if "[" in before else ("", before, "", "", after)
    else:
        parts = _parts(before, two[found.end : second.start], after)
    begin, call_begin, separator, call_end, close = parts
    syntax = ToolSyntax(
        name="template",
        begin=begin,
        call_begin=call_begin,
        call_end=call_end,
        separator=separator,
        end=close,
        name_key="name" if found.keys is None else found.keys[0],
        arguments_key="arguments" if found.keys is None else found.keys[1],
        named=found.keys is None,
        name_end="" if found.keys else one[found.start + len(_NAMES[0]) : found.arguments],
        parallel=second is not None,
        id_chars=0 if _renders(template, _called(1, ids=("call_" + 24 * "0",))) else len(_IDS[0]),
    )
    sound = all(len(marker) <= MAX_MARKER for marker in syntax.markers) and (syntax.trigger or found.keys)
    return syntax if sound else None


def reasoning_syntax(template: ChatTemplate) -> ReasoningSyntax | None:
    """How the reasoning of an assistant's message is marked in the template; None where it shows none."""
    fields = dict.fromkeys(("reasoning_content", "reasoning", "thinking"), _REASON)
    shown = _render(template, _said(content=_TEXT, **fields))
    if shown is None or shown.count(_REASON) != 1:
        return None
    before, _, after = shown.partition(_REASON)
    begin, end = _LAST_TAG.search(before), _FIRST_TAG.match(after)
    if begin is None or end is None or _TEXT not in after:
        return None
    before_answer = before[: before.rfind(_QUESTION)]
    if begin["tag"] in before_answer or end["tag"] in before_answer:  # it marks turns, not reasoning
        return None
    return ReasoningSyntax(begin=begin[0], end=end[0])


def _render(template: ChatTemplate, last: Json) -> str | None:
    """A conversation that ends with `last`; None where the template refuses it."""
    user = {"role": "user", "content": _QUESTION}
    tool = {
        "type": "function",
        "function": {"name": "other", "description": "", "parameters": {"type": "object", "properties": {}}},
    }
    try:
        return template.render([user, last], tools=[tool], add_generation_prompt=False)
    except RedlineError:
        return None


def _renders(template: ChatTemplate, last: Json) -> bool:
    return _render(template, last) is not None


def _said(**fields: Any) -> Json:
    return {"role": "assistant", **fields}


def _called(count: int, ids: Sequence[str] = _IDS) -> Json:
    calls = [
        {"id": id, "type": "function", "function": {"name": name, "arguments": {key: "value"}}}
        for id, name, key in zip(ids, _NAMES[:count], _KEYS, strict=False)
    ]
    return _said(content="", tool_calls=calls)


def _between(plain: str, one: str) -> tuple[int, int]:
    """Where the assistant's own words begin and end in `one`, which differs from `plain` only in them."""
    at = plain.rfind(_TEXT)
    start = min(_common(plain[:at], one), at)
    tail = plain[at + len(_TEXT) :]
    size = 0
    while size < min(len(tail), len(one) - start) and tail[-1 - size] == one[-1 - size]:
        size += 1
    end = len(one) - size
    opened = one.rfind("<", 0, start)
    if opened > one.rfind(">", 0, start):  # the two differ within a marker
        start = opened
    opened = one.rfind("<", start, end)
    if opened > one.rfind(">", start, end):
        end = max(one.find(">", end) + 1, end)
    return start, end


def _common(left: str, right: str) -> int:
    """The length of what both begin with."""
    size = 0
    while size < min(len(left), len(right)) and left[size] == right[size]:
        size += 1
    return size


def _find(text: str, number: int, start: int, end: int) -> _Found | None:
    """Call `number` between `start` and `end`: an object that holds name and arguments, or a name and then the arguments."""
    arguments = {_KEYS[number]: "value"}
    name = text.find(_NAMES[number], start)
    key = text.find(f'"{_KEYS[number]}"', start)
    if name < 0 or key < 0:
        return None
    for brace in _braces(text, start, min(name, key)):
        value, stop = _decoded(text, brace)
        if isinstance(value, dict) and {json.dumps(item) for item in value.values()} >= {
            json.dumps(_NAMES[number]),
            json.dumps(arguments),
        }:
            keys = {json.dumps(item): key for key, item in value.items()}
            found = keys[json.dumps(_NAMES[number])], keys[json.dumps(arguments)]
            return _Found(brace, stop, brace, stop, found)
    brace = text.rfind("{", start, key)
    value, stop = _decoded(text, brace) if brace > name else (None, 0)
    if value != arguments:
        return None
    return _Found(name, stop, brace, stop, None)


def _braces(text: str, start: int, end: int) -> Iterator[int]:
    """The opening braces, the last one first."""
    at = text.rfind("{", start, end)
    while at >= 0:
        yield at
        at = text.rfind("{", start, at)


def _decoded(text: str, at: int) -> tuple[Any, int]:
    try:
        return _DECODER.raw_decode(text, at)
    except (ValueError, RecursionError):
        return None, at


def _ended(after: str, template: ChatTemplate) -> str:
    """`after` without the token that ends the turn, where calls end it otherwise than texts do."""
    cuts = [after.find(token) for token in template.tokens.values() if token]
    return after[: min((cut for cut in cuts if cut >= 0), default=len(after))]


def _parts(before: str, middle: str, after: str) -> tuple[str, str, str, str, str]:
    """Begin of the group, begin of a call, separator, end of a call, end of the group: from what is around two calls."""
    size = _common(before[::-1], middle[::-1])
    call_begin = before[len(before) - size :]
    if size < len(before):  # both may end with half a marker
        call_begin = call_begin[min((at for char in "<[" if (at := call_begin.find(char)) >= 0), default=size) :]
    middle = middle[: len(middle) - len(call_begin)]
    call_end = after[: _common(middle, after)]
    if len(call_end) < len(middle):
        call_end = call_end[: max(call_end.rfind(">"), call_end.rfind("]")) + 1]
    if _is_punctuation(call_begin):
        call_begin, middle = "", middle + call_begin
    if _is_punctuation(call_end):
        call_end = ""
    return before[: len(before) - len(call_begin)], call_begin, middle[len(call_end) :], call_end, after[len(call_end) :]


def _is_punctuation(text: str) -> bool:
    """Whether this is no marker of its own: white space, or JSON's commas and brackets."""
    return not text.strip(" \n\t,;[]")
