"""A conversation to be answered, whichever API it came through: chat completions, responses and messages all make one.

`prepare` turns it into what the engine is asked and into the parser that will read the answer. Knows the chat template,
the tokenizer and the context; knows nothing of HTTP or of any API's JSON. Open `Conversation`, then `prepare`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec

from redline.chat.dialect import Prompt
from redline.chat.formats import Format
from redline.chat.parser import Parser, PlainParser
from redline.chat.tool_grammar import ANSWER, Allowed
from redline.chat.tools import Tool, ToolChoice
from redline.engine.grammar import SPACED, of_lark
from redline.engine.json_schema import strict
from redline.errors import InvalidRequest, UnsupportedField
from redline.server.parameters import Parameters, fit
from redline.server.prompt import INLINE_CHARS, check_length
from redline.server.schema import quoted
from redline.server.service import Service
from redline.token_ids import TokenIds
from redline.types import SamplingParams

Json = dict[str, Any]

INLINE_TOOLS = 16  # more are written and checked in a thread, too
MESSAGE_CHARS = 40  # what a message costs the template beside its content
_OURS = frozenset({"add_generation_prompt", "continue_final_message"})
_RESERVED = {"self", "messages", "tools", "documents", "add_generation_prompt", "continue_final_message", "chat_template"}


@dataclass(frozen=True, kw_only=True)
class Conversation:
    """`messages` in the form that templates read, which is that of OpenAI's chat API: role, content (a string or text parts),
    name; of the assistant also reasoning_content and tool_calls; of a tool (role "tool") also tool_call_id.

    `template` goes to `ChatTemplate.render`. `grammar` is what the answer must match where it is not a call, from
    output_format.py. `constrain`: hold the arguments of calls to their schemas (None: where a tool says `strict`, and where
    a call is required). `effort` is how much to reason, in the API's words; without `show_reasoning` it is not told.
    """

    messages: list[Json]
    template: Json = field(default_factory=dict)
    tools: tuple[Tool, ...] = ()
    choice: ToolChoice = ToolChoice()
    parallel: bool = True
    constrain: bool | None = None
    grammar: str | None = None
    effort: str | None = None
    show_reasoning: bool = True

    @property
    def continues(self) -> bool:
        """Whether the answer goes on in the middle of the last message."""
        return bool(self.template.get("continue_final_message"))


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """What the engine is asked, and who reads the answer: `parser()` makes a parser for one choice."""

    tokens: list[int]
    sampling: SamplingParams
    grammar: str | None = None
    parser: Callable[[], Parser] = PlainParser


def check_variables(extra: Json) -> None:
    """Raise InvalidRequest for a variable of the template that is not the caller's to set."""
    for name in sorted(_RESERVED & extra.keys()):
        raise InvalidRequest(f"chat_template_kwargs must not set {name}", param=f"chat_template_kwargs.{name}")


async def prepare(service: Service, conversation: Conversation, asked: Parameters, param: str = "messages") -> Prepared:
    """Render, tokenise and fit, and say what the answer may be and who reads it.

    Raises TemplateError, ContextTooLong, InvalidRequest and UnsupportedField; `param` names the field to blame for the text.
    """
    prompt, tokens = await _prompt(service, conversation, param, asked.cache_salt)
    tools = conversation.choice.of(conversation.tools)
    sampling = fit(tokens, asked, service.ready(), param)
    grammar = None
    if conversation.grammar is not None or _is_constrained(conversation, tools):
        big = len(tools) > INLINE_TOOLS
        grammar = (
            await asyncio.to_thread(_grammar, service, conversation, prompt) if big else _grammar(service, conversation, prompt)
        )
        await service.grammars.check(grammar, "tools" if tools else "response_format")
    parser = service.dialect.parser(prompt.where, tools, show_reasoning=conversation.show_reasoning)
    return Prepared(tokens=tokens, sampling=sampling, grammar=grammar, parser=parser)


async def tokens_of(service: Service, conversation: Conversation, param: str = "messages") -> list[int]:
    """The conversation through the template, as tokens. Raises what `prepare` raises of template and text."""
    _, tokens = await _prompt(service, conversation, param, None)  # whoever counts brings no salt, so nothing is kept
    return tokens


async def _prompt(service: Service, conversation: Conversation, param: str, salt: str | None) -> tuple[Prompt, list[int]]:
    dialect, info = service.dialect, service.ready()
    if not dialect.is_known:
        await asyncio.to_thread(dialect.learn)
    variables = _variables(conversation, dialect.format)
    # What may not be called is not spoken of, but for what `allowed_tools` leaves out: that keeps the prompt's beginning.
    tools = () if conversation.choice.mode == "none" else conversation.tools

    def rendered() -> tuple[Prompt, list[int]]:
        prompt = dialect.prompt(conversation.messages, tools, **variables)
        check_length(service.tokenizer, prompt.text, info, param)
        return prompt, TokenIds(prompt.encode(salt))

    chars = sum(MESSAGE_CHARS + _size(message["content"]) for message in conversation.messages)
    long = len(tools) > INLINE_TOOLS or chars > INLINE_CHARS
    return await asyncio.to_thread(rendered) if long else rendered()


def _variables(conversation: Conversation, format: Format) -> Json:
    """The template's variables. Raises UnsupportedField for one that it does not read."""
    for name in sorted(conversation.template.keys() - _OURS - format.variables):
        raise UnsupportedField(
            f"chat_template_kwargs: this model's chat template has no variable {quoted(name)}",
            hint="leave it out",
            param=f"chat_template_kwargs.{name}",
        )
    effort = _effort(conversation.effort, format)
    for name in effort.keys() & conversation.template.keys():
        if effort[name] != conversation.template[name]:
            raise InvalidRequest(f"reasoning_effort contradicts chat_template_kwargs.{name}", param="reasoning_effort")
    return {**conversation.template, **effort}


def _effort(effort: str | None, format: Format) -> Json:
    """What tells the template how much to reason. A template with a mere switch knows none and as much as usual ("medium")."""
    if effort is None:
        return {}
    if "reasoning_effort" in format.variables:
        return {"reasoning_effort": effort}
    switch = next((name for name in ("enable_thinking", "thinking") if name in format.variables), None)
    wants = {"none": False, "minimal": False, "medium": True}.get(effort)
    if switch is not None and wants is not None:
        return {switch: wants}
    if wants is not None and wants == (format.reasoning is not None):  # it does so anyway
        return {}
    known = "none or medium" if switch else "medium" if format.reasoning else "none"
    raise UnsupportedField(
        f"reasoning_effort {quoted(effort)}: this model's chat template cannot be told so",
        hint=f"leave it out, or send {known}",
        param="reasoning_effort",
    )


def _is_constrained(conversation: Conversation, tools: tuple[Tool, ...]) -> bool:
    """Whether what was asked needs a grammar: free answers cannot be held to it."""
    if not tools:
        return False
    restricted = len(tools) < len(conversation.tools)
    required = conversation.choice.mode == "required"
    return required or restricted or not conversation.parallel or bool(_held(conversation, tools))


def _held(conversation: Conversation, tools: tuple[Tool, ...]) -> frozenset[str]:
    """The functions whose arguments follow their schemas."""
    usual = conversation.constrain
    if usual is None:
        usual = conversation.choice.mode == "required"
    return frozenset(tool.name for tool in tools if (usual if tool.strict is None else tool.strict))


def _grammar(service: Service, conversation: Conversation, prompt: Prompt) -> str:
    tools = conversation.choice.of(conversation.tools)
    format = service.dialect.format
    required = bool(tools) and conversation.choice.mode == "required"
    formatted = conversation.grammar is not None and not required
    if conversation.grammar is not None and not tools and (format.reasoning is None or prompt.where == "after"):
        return conversation.grammar
    if formatted and tools and format.tools is not None and format.tools.bare:
        raise UnsupportedField(
            "response_format with tools is not supported by this model: its calls and its answers may begin alike",
            hint="send one of them, or a tool_choice that requires a call",
            param="response_format",
        )
    held = _held(conversation, tools)
    for number, tool in enumerate(conversation.tools):
        if tool in tools and tool.name in held and tool.parameters is not None:
            strict(tool.parameters, f"tools[{number}]")
    named = required and conversation.choice.names is not None and len(tools) == 1  # asks for that call, once
    parallel = conversation.parallel and not named
    allowed = Allowed(tools=tools, held=held, required=required, parallel=parallel, formatted=formatted)
    grammar = of_lark(service.dialect.grammar(allowed, prompt.where), "tools" if tools else "response_format", SPACED)
    return _joined(grammar, conversation.grammar) if formatted and conversation.grammar is not None else grammar


def _joined(grammar: str, answer: str) -> str:
    """`grammar` with `answer` as the one that it names."""
    outer, inner = msgspec.json.decode(grammar), msgspec.json.decode(answer)
    first, *others = inner["grammars"]
    if first.get("json_schema") is None:  # a text may begin like a call, JSON does not
        raise UnsupportedField(
            "with tools that need not be called an answer can be held to JSON alone",
            hint="send tool_choice none or required",
            param="tools",
        )
    return msgspec.json.encode({"grammars": [*outer["grammars"], {**first, "name": ANSWER}, *others]}).decode()


def _size(content: str | list[Json]) -> int:
    return len(content) if isinstance(content, str) else sum(len(part["text"]) for part in content)
