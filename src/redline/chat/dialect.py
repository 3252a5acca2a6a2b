"""How one model is spoken to: its template, its tokenizer and the syntax of its calls and its reasoning, in one object.

The offline door and the server both turn conversations into prompts, and answers into events, through this. Torch-free;
knows nothing of HTTP. Open `Dialect.prompt`, then `Dialect.parser`.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from typing import Any

from redline.chat.fallback import without_tools
from redline.chat.formats import AUTO, Format, format_of
from redline.chat.literal import Shield, Specials
from redline.chat.parser import Parser, PlainParser
from redline.chat.reasoning_parser import ReasoningParser, Where
from redline.chat.template import ChatTemplate, plain_data
from redline.chat.tool_grammar import Allowed, answer_grammar
from redline.chat.tool_parser import ToolParser
from redline.chat.tools import Tool
from redline.errors import InvalidRequest, UnsupportedField
from redline.tokenizer import Tokenizer

Json = dict[str, Any]

_DIGITS = string.digits + string.ascii_letters


@dataclass(frozen=True)
class Prompt:
    """A rendered conversation. `where` says where its answer begins; `tokens` makes tokens of `text`, with a salt or None."""

    text: str
    where: Where
    tokens: Callable[[str | None], list[int]]

    def encode(self, salt: str | None = None) -> list[int]:
        """The tokens of `text`. With a `salt` parts of a long one are kept (`Tokenizer.encode`)."""
        return self.tokens(salt)


class Dialect:
    """Safe to share between threads. The template is looked into when something first depends on it, which may take a while."""

    def __init__(
        self, template: ChatTemplate, tokenizer: Tokenizer, *, tool_parser: str = AUTO, reasoning_parser: str = AUTO
    ) -> None:
        self._template = template
        self._tokenizer = tokenizer
        self._parsers = tool_parser, reasoning_parser

    @cached_property
    def format(self) -> Format:
        return format_of(self._template, *self._parsers)

    @property
    def is_known(self) -> bool:
        return "format" in self.__dict__

    def learn(self) -> None:
        """Look into the template now."""
        _ = self.format, self.specials

    @cached_property
    def specials(self) -> Specials:
        return Specials(self._tokenizer)

    def prompt(self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Tool] = (), **template: Any) -> Prompt:
        """Render a conversation; `template` goes to `ChatTemplate.render`.

        What messages and tools spell is never read as a special token, except the markers of reasoning and calls in the
        assistant's own messages. Raises TemplateError, InvalidRequest, and UnsupportedField for tools that the model has
        no way to call.
        """
        chat = [_message(message, f"messages[{number}]") for number, message in enumerate(messages)]
        described: list[Json] = plain_data([tool.as_template_reads() for tool in tools], "tools")
        if described and self.format.tools is None:
            raise UnsupportedField(
                "no parser is known for the tool calls of this model", hint="start redline with --tool-parser", param="tools"
            )
        if described or any(message.get("tool_calls") or message.get("role") == "tool" for message in chat):
            chat = self._with_ids(chat)
            if not self.format.explains_tools:
                chat, described = without_tools(chat, described), []
        shield = self._shield(chat, described)
        if shield is not None:
            kept = self._own_markers
            chat = [shield.hide(message, kept if message.get("role") == "assistant" else ()) for message in chat]
            described = shield.hide(described)
        if described:
            template["tools"] = described
        text = self._template.render(chat, **template)
        where = self._where(text, chat, continues=bool(template.get("continue_final_message")))
        shown = text if shield is None else shield.shown(text)
        return Prompt(shown, where, lambda salt: self._encode(text, shield, salt))

    def parser(self, where: Where, tools: Sequence[Tool] = (), *, show_reasoning: bool = True) -> Callable[[], Parser]:
        """What makes a parser for each answer to a prompt: `where` as the prompt says, `tools` those that may be called."""
        syntax, reasoning = self.format.tools, self.format.reasoning
        names = frozenset(tool.name for tool in tools)

        def make() -> Parser:
            parser: Parser = PlainParser()
            if names and syntax is not None:
                parser = ToolParser(syntax, names, self._pieces(syntax.markers))
            return (
                parser
                if reasoning is None or where == "after"
                else ReasoningParser(reasoning, parser, where, told=show_reasoning)
            )

        return make

    def grammar(self, allowed: Allowed, where: Where) -> str:
        """The Lark grammar of the answers that are allowed."""
        syntax = self.format.tools if allowed.tools else None
        specials = {piece: self.specials.ids[piece] for piece in self._own_markers}
        return answer_grammar(allowed, syntax, self.format.reasoning, where, specials)

    def shown(self, markers: Collection[str]) -> frozenset[int]:
        """The special tokens that `markers` are made of: they are part of the text that a parser is fed."""
        return frozenset(self.specials.ids[piece] for piece in self._pieces(markers))

    def _where(self, text: str, chat: list[Json], *, continues: bool) -> Where:
        reasoning = self.format.reasoning
        if reasoning is None:
            return "after"
        begin, end = reasoning.begin.strip(), reasoning.end.strip()
        if continues:
            written = _text(chat[-1].get("content") or "")
            if written.rfind(begin) > written.rfind(end):
                return "inside"
            return "after" if written.strip() else "before"
        return "inside" if text.rstrip().endswith(begin) else "before"

    def _shield(self, chat: list[Json], tools: list[Json]) -> Shield | None:
        """What keeps the words of a conversation words; None where nothing in it spells a special token, as is usual."""
        own = [message for message in chat if message.get("role") == "assistant"]
        others = [message for message in chat if message.get("role") != "assistant"]
        spelled = self.specials.spelled_in([others, tools]) | (self.specials.spelled_in(own) - self._own_markers)
        return Shield(self.specials, spelled, [chat, tools]) if spelled else None

    @cached_property
    def _own_markers(self) -> frozenset[str]:
        """Special tokens that the assistant's messages may hold: of its calls and its reasoning."""
        syntax, reasoning = self.format.tools, self.format.reasoning
        markers = [*(syntax.markers if syntax else ()), *((reasoning.begin, reasoning.end) if reasoning else ())]
        return self._pieces(markers)

    def _pieces(self, markers: Collection[str]) -> frozenset[str]:
        return frozenset(piece for marker in markers for piece in self.specials.found_in(marker))

    def _encode(self, text: str, shield: Shield | None, salt: str | None) -> list[int]:
        if shield is not None:
            return shield.encode(self._tokenizer, text, salt)
        return self._tokenizer.encode(text, add_special_tokens=False, salt=salt)

    def _with_ids(self, chat: list[Json]) -> list[Json]:
        """The messages with ids as the template wants them: where their length matters, others are replaced by a digest."""
        chars = 0 if self.format.tools is None else self.format.tools.id_chars
        if not chars:
            return chat
        return [_renamed(message, chars) for message in chat]


def _message(message: Any, where: str) -> Json:
    if not isinstance(message, Mapping):
        raise InvalidRequest(f"{where} is not an object", param=where)
    plain: Json = plain_data(message, where)
    return plain


def _renamed(message: Json, chars: int) -> Json:
    renamed = dict(message)
    if "tool_call_id" in renamed:
        renamed["tool_call_id"] = _short_id(renamed["tool_call_id"], chars)
    if renamed.get("tool_calls"):
        renamed["tool_calls"] = [{**call, "id": _short_id(call["id"], chars)} for call in renamed["tool_calls"]]
    return renamed


def _short_id(id: str, chars: int) -> str:
    if len(id) == chars and id.isascii() and id.isalnum():
        return id
    number = int.from_bytes(sha256(id.encode("utf-8", "surrogatepass")).digest())
    digits = []
    for _ in range(chars):
        number, digit = divmod(number, len(_DIGITS))
        digits.append(_DIGITS[digit])
    return "".join(digits)


def _text(content: str | list[Json]) -> str:
    return content if isinstance(content, str) else "\n".join(part["text"] for part in content)
