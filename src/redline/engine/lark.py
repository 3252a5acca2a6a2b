"""Lark grammars that a caller wrote: read far enough to find what llguidance would take in silence.

Schemas embedded as `%json {...}` are checked like any other; attributes of rules that only steer (`temperature`) or need what
an engine cannot do (`stop` takes tokens back) are refused by name. Whether the rest is a grammar, llguidance says.
Open `checked_lark` first.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from redline.errors import InvalidRequest, UnsupportedField

_REFUSED = {
    "temperature": "sampling is the request's",
    "stop": "tokens cannot be taken back",
    "max_tokens": "use a bounded repetition, or the request's max_tokens",
}
_ALLOWED = {"capture", "lazy", "suffix", "stop_capture"}

# None of these has two ways to match a text: a stranger's grammar would take its time, with nothing else running beside it.
_PIECES = re.compile(
    r'(?P<string>"[^"\\\n]*+(?:\\.[^"\\\n]*+)*"i?)'
    r"|(?P<comment>//[^\n]*|\#[^\n]*)|(?P<regex>/(?!/)[^/\\\n]*+(?:\\.[^/\\\n]*+)*/[a-z]*)"
    r"|(?P<json>%json(?![A-Za-z0-9_]))|(?P<options>%llguidance(?![A-Za-z0-9_]))|(?P<other>.)",
    re.DOTALL,
)
_ATTRIBUTES = re.compile(r"^[ \t]*+[?!]?[A-Za-z_][\w-]*+\s*+\[", re.MULTILINE)
_END = re.compile(r"\]\s*+:")
_UNENDED = {'"': "a text", "/": "a regular expression"}


def checked_lark(source: str, write_schema: Callable[[Any], str], param: str) -> str:
    """`source` with each embedded schema written by `write_schema`. Raises UnsupportedField or InvalidRequest."""
    if not source.strip():
        raise InvalidRequest("the grammar is empty", param=param)
    written: list[str] = []
    bare: list[str] = []  # the same without what is in quotation marks
    at = 0
    while at < len(source):
        piece = _PIECES.match(source, at)
        assert piece is not None, "the last alternative takes any character"
        at = piece.end()
        if piece.lastgroup == "options":
            raise UnsupportedField("'%llguidance' cannot be set by a request", param=param)
        if piece[0] in _UNENDED:
            raise InvalidRequest(f"the grammar is not valid: {_UNENDED[piece[0]]} does not end on its line", param=param)
        if piece.lastgroup == "json":
            schema, at = _embedded(source, at, param)
            written.append("%json " + write_schema(schema))
        elif piece.lastgroup != "comment":
            written.append(piece[0])
        if piece.lastgroup != "comment":
            bare.append(piece[0] if piece.lastgroup == "other" else "''")
    _check_attributes("".join(bare), param)
    return "".join(written)


def _embedded(source: str, at: int, param: str) -> tuple[Any, int]:
    begin = re.compile(r"\s*").match(source, at)
    assert begin is not None, "it matches nothing too"
    try:
        return json.JSONDecoder().raw_decode(source, begin.end())
    except ValueError as error:
        raise InvalidRequest(f"what follows %json is not JSON: {error}", param=param) from error
    except RecursionError as error:
        raise InvalidRequest("what follows %json is nested too deeply", param=param) from error


def _check_attributes(bare: str, param: str) -> None:
    """`bare` has no quotation marks, so an attribute list ends at its first bracket."""
    at = 0
    while (begin := _ATTRIBUTES.search(bare, at)) and (at := bare.find("]", begin.end())) >= 0:
        if _END.match(bare, at) is None:
            continue
        for attribute in bare[begin.end() : at].split(","):
            name = attribute.partition("=")[0].strip()
            if name in _REFUSED:
                raise UnsupportedField(f"the attribute {name!r} of a rule is not supported: {_REFUSED[name]}", param=param)
            if name and name not in _ALLOWED:
                raise UnsupportedField(f"the attribute {name[:40]!r} of a rule is not supported", param=param)
