"""The grammar of an answer, in llguidance's Lark dialect: reasoning, calls exactly as the model's template writes them, text.

Reasoning and text are free; a grammar of the answer itself can stand in the text's place. JSON has a space after its commas
and colons, as templates write it, which is for who compiles the grammar to see to. Knows nothing of how that is done. Open `answer_grammar` first.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from redline.chat.reasoning_parser import Where
from redline.chat.syntax import ReasoningSyntax, ToolSyntax
from redline.chat.tools import Tool

Json = dict[str, Any]
Speller = Callable[[str], str]

ANSWER = "answer"  # the name of the grammar that stands in the text's place

_ANYTHING = r"/(.|\n)*/"
_COMBINING = frozenset("$ref $dynamicRef allOf anyOf oneOf patternProperties unevaluatedProperties if not".split())


@dataclass(frozen=True, kw_only=True)
class Allowed:
    """What an answer may be: calls of `tools`, at least one where `required`, several where `parallel`; and where none is
    required, text, or what the grammar called `answer` says (`formatted`). `held` are the names of tools whose arguments
    follow their schemas; those of others are any object."""

    tools: tuple[Tool, ...] = ()
    held: frozenset[str] = frozenset()
    required: bool = False
    parallel: bool = True
    formatted: bool = False


def answer_grammar(
    allowed: Allowed,
    syntax: ToolSyntax | None,
    reasoning: ReasoningSyntax | None,
    where: Where,
    specials: Mapping[str, int],
) -> str:
    """The grammar; `specials` are the ids of special tokens by their text. Without `syntax` there are no calls."""
    grammar = _Grammar(specials)
    block = "" if reasoning is None or where == "after" else _block(grammar, reasoning, where)
    if syntax is None or not allowed.tools:
        body = f"@{ANSWER}" if allowed.formatted else "FIRST"
    else:
        body = _with_calls(grammar, allowed, syntax)
    if reasoning is not None and block and (allowed.required or allowed.formatted or (syntax is not None and syntax.bare)):
        block = f"({block} {_literal(reasoning.end[len(reasoning.end.rstrip()) :])})"
    grammar.add("start", f"{block}{'?' if block and where == 'before' else ''} ({body})")
    return grammar.text()


class _Grammar:
    """Rules in the order of their making, `start` before all. TEXT is any text; FIRST is one that begins no reasoning."""

    def __init__(self, specials: Mapping[str, int]) -> None:
        self.specials = specials
        self.exclusion = ""  # what FIRST is not
        known = sorted(specials, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, known))) if known else None
        self._bodies: dict[str, str] = {}

    def add(self, name: str, body: str) -> None:
        self._bodies[name] = body

    def text(self) -> str:
        bodies = {"start": self._bodies["start"], "TEXT": _ANYTHING, "FIRST": _ANYTHING + self.exclusion, **self._bodies}
        return "".join(f"{name}: {body}\n" for name, body in bodies.items())

    def spell(self, text: str) -> str:
        """`text` as a sequence of literals and special tokens."""
        parts, at = [], 0
        for match in self._pattern.finditer(text) if self._pattern else ():
            parts += [_literal(text[at : match.start()]), f"<[{self.specials[match[0]]}]>"]
            at = match.end()
        return " ".join(filter(None, [*parts, _literal(text[at:])]))

    def until(self, name: str, marker: str, *, first: bool = False) -> str:
        """A rule for text up to the first `marker`, and the marker; `first`: where an answer begins."""
        if marker in self.specials:
            self.add(name, f"{'FIRST' if first else 'TEXT'} {self.spell(marker)}")
        else:
            self.add(name.upper(), f"({_ANYTHING} {_literal(marker)})" + (self.exclusion if first else ""))
            self.add(f"{name}[lazy]", name.upper())
        return name

    def exclude(self, begin: str) -> None:
        """No first text begins with `begin`."""
        self.exclusion = rf" & ~(/\s*/ {_literal(begin)} /(?s:.)*/)"


def _block(grammar: _Grammar, reasoning: ReasoningSyntax, where: Where) -> str:
    """A block of reasoning, from where the answer begins to its end marker."""
    begin, end = reasoning.begin.strip(), reasoning.end.strip()
    if where == "inside":
        return grammar.until("thought", end)
    if begin in grammar.specials:
        return f"({grammar.spell(begin)} {grammar.until('thought', end)})"
    grammar.exclude(begin)
    if end in grammar.specials:
        return rf"(/\s*/ {_literal(begin)} TEXT {grammar.spell(end)})"
    grammar.add("THOUGHT", rf"/\s*/ {_literal(begin)} {_ANYTHING} {_literal(end)}")
    grammar.add("thought[lazy]", "THOUGHT")
    return "thought"


def _with_calls(grammar: _Grammar, allowed: Allowed, syntax: ToolSyntax) -> str:
    several = allowed.parallel and syntax.parallel
    opening = "" if syntax.bare else syntax.begin
    calls = _calls(grammar, allowed, syntax, several=several and (allowed.required or bool(opening) or syntax.bare))
    whole = opening + syntax.call_begin
    if allowed.required:
        return f"{grammar.spell(whole)} {calls}"
    if syntax.bare:
        # Nothing announces a call but its place: an answer that begins with a brace is one.
        grammar.add("PLAIN", rf"/\s*([^\s{{](.|\n)*)?/{grammar.exclusion}")
        return f"PLAIN | {calls}"
    if allowed.formatted:
        return f"@{ANSWER} | {grammar.spell(whole)} {calls}"
    rest = grammar.spell(whole[whole.index(syntax.trigger) + len(syntax.trigger) :])
    first = f"{grammar.until('announced', syntax.trigger, first=True)} {rest} {calls}"
    if not several:
        return f"FIRST | {first}"
    again = f"{grammar.until('announced_again', syntax.trigger)} {rest} {calls}"
    return f"FIRST | {first} ({again})* TEXT"


def _calls(grammar: _Grammar, allowed: Allowed, syntax: ToolSyntax, *, several: bool) -> str:
    """From the body of the first call to the end of its group."""
    bodies = []
    for number, tool in enumerate(allowed.tools):
        arguments = f"%json {json.dumps(_schema(tool, held=tool.name in allowed.held), ensure_ascii=False)}"
        if syntax.named:
            body = f"{grammar.spell(tool.name + syntax.name_end)} {arguments}"
        else:
            name = json.dumps(tool.name, ensure_ascii=False)
            head = f"{{{json.dumps(syntax.name_key)}: {name}, {json.dumps(syntax.arguments_key)}: "
            body = f"{_literal(head)} {arguments} {_literal('}')}"
        grammar.add(f"call_{number}", body)
        bodies.append(f"call_{number}")
    grammar.add("call", f"({' | '.join(bodies)}) {grammar.spell(syntax.call_end)}")
    more = f"({grammar.spell(syntax.separator + syntax.call_begin)} call)*" if several else ""
    return f"call {more} {grammar.spell('' if syntax.bare else syntax.end)}"


def _schema(tool: Tool, *, held: bool) -> Json:
    """The schema of a tool's arguments. A function takes the parameters that it lists, unless its schema says otherwise."""
    if not held:
        return {"type": "object"}
    if tool.parameters is None:
        return {"type": "object", "additionalProperties": False}
    schema = {"type": "object", **tool.parameters}
    if "additionalProperties" not in schema and not _COMBINING & schema.keys():
        schema["additionalProperties"] = False
    return schema


def _literal(text: str) -> str:
    return json.dumps(text, ensure_ascii=False) if text else ""
