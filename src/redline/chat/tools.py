"""The functions that a model may call, and which of them it must: what every API's own words are turned into.

Knows nothing of how a model writes a call (syntax.py) or of any API's JSON. Open `Tool`, then `ToolChoice`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from redline.errors import InvalidRequest

Json = dict[str, Any]
Mode = Literal["auto", "none", "required"]


@dataclass(frozen=True, kw_only=True)
class Tool:
    """A function. `parameters` is a JSON schema; `strict` says whether the model's arguments are held to it, None: as asked
    for all (`Conversation.constrain`)."""

    name: str
    description: str | None = None
    parameters: Json | None = None
    strict: bool | None = None

    @classmethod
    def of(cls, given: Tool | Mapping[str, Any]) -> Tool:
        """From the form of OpenAI's API, {"type": "function", "function": {...}}. Raises InvalidRequest for anything else."""
        if isinstance(given, Tool):
            return given
        function = given.get("function")
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise InvalidRequest("a tool is {'type': 'function', 'function': {'name': ...}}", param="tools")
        parameters = function.get("parameters")
        return cls(
            name=function["name"],
            description=function.get("description"),
            parameters=None if parameters is None else dict(parameters),
            strict=function.get("strict"),
        )

    def as_template_reads(self) -> Json:
        """In the form of OpenAI's API, which is the one that templates are written for."""
        function: Json = {"name": self.name}
        if self.description is not None:
            function["description"] = self.description
        function["parameters"] = self.parameters if self.parameters is not None else {"type": "object", "properties": {}}
        return {"type": "function", "function": function}


@dataclass(frozen=True, kw_only=True)
class ToolCall:
    """A call in an answer. `arguments` is JSON text as the model wrote it, which may be cut off or no JSON at all."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, kw_only=True)
class ToolChoice:
    """Whether the model calls: as it likes, never, or at least once; and which functions (`names`; None: any of them)."""

    mode: Mode = "auto"
    names: tuple[str, ...] | None = None

    def of(self, tools: tuple[Tool, ...]) -> tuple[Tool, ...]:
        """The functions that may be called."""
        if self.mode == "none":
            return ()
        return tools if self.names is None else tuple(tool for tool in tools if tool.name in self.names)
