"""Which parser reads a model's answers: decided from its template, never from its name, and overridden by the user.

A template that reads `tools` shows how calls are written, if in a syntax that is known here or that a probe can learn; one
that does not gets the functions in a system message, with Hermes's words (fallback.py). Open `format_of` first.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from redline.chat import probe
from redline.chat.syntax import HERMES, LLAMA, MISTRAL_LIST, MISTRAL_NAMED, THINK, ReasoningSyntax, ToolSyntax
from redline.chat.template import ChatTemplate

AUTO, NONE = "auto", "none"
TOOL_PARSERS = (AUTO, "hermes", "llama3_json", "mistral", "template", NONE)
REASONING_PARSERS = (AUTO, "think", NONE)


@dataclass(frozen=True, kw_only=True)
class Format:
    """How a model writes calls (None: in no way that can be read) and reasoning (None: not at all).

    `explains_tools`: the template tells the model of its functions; else redline does. `variables` are those the template reads.
    """

    tools: ToolSyntax | None
    reasoning: ReasoningSyntax | None
    explains_tools: bool
    variables: frozenset[str]


def format_of(template: ChatTemplate, tool_parser: str = AUTO, reasoning_parser: str = AUTO) -> Format:
    """The format of a model with this template. Renders it a few times: at most seconds, usually milliseconds."""
    return Format(
        tools=_tools(template, tool_parser),
        reasoning=_reasoning(template, reasoning_parser),
        explains_tools="tools" in template.variables,
        variables=template.variables,
    )


def _tools(template: ChatTemplate, wanted: str) -> ToolSyntax | None:
    if wanted == "hermes":
        return HERMES
    if wanted == "llama3_json":
        return LLAMA
    if wanted == "mistral":
        return MISTRAL_NAMED if "[ARGS]" in template.source else MISTRAL_LIST
    if wanted == NONE:
        return None
    if "tools" not in template.variables:
        return HERMES
    learnt = probe.tool_syntax(template)
    if learnt is None or wanted == "template":
        return learnt
    return _known(learnt)


def _known(learnt: ToolSyntax) -> ToolSyntax:
    """What was learnt, with what is known beyond it of a syntax of that kind: other forms that such models write."""
    if learnt.trigger == "[TOOL_CALLS]":
        return dataclasses.replace(learnt, name="mistral", id_begin="[CALL_ID]", name_end=learnt.name_end or "[ARGS]")
    if learnt.trigger == HERMES.trigger:
        return dataclasses.replace(learnt, name="hermes")
    if not learnt.trigger and learnt.arguments_key == "parameters":
        return dataclasses.replace(LLAMA, parallel=learnt.parallel)
    return learnt


def _reasoning(template: ChatTemplate, wanted: str) -> ReasoningSyntax | None:
    if wanted == NONE:
        return None
    if wanted == "think":
        return THINK
    learnt = probe.reasoning_syntax(template)
    if learnt is None and THINK.end.strip() in template.source:  # it cuts earlier reasoning off, and shows none
        return THINK
    return learnt
