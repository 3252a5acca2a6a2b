"""What a response may call and which form it has, as the responses API says it. Open `tools_of`, `choice_of`, `wanted_of`."""

from __future__ import annotations

from typing import Any

from redline.chat.tools import Tool, ToolChoice
from redline.errors import InvalidRequest, UnsupportedField
from redline.server.chat_schema import ResponseFormat
from redline.server.functions import checked
from redline.server.output_format import Wanted, of_named_schema, of_response_format
from redline.server.response_schema import AllowedTools, FunctionChoice, TextConfig, function_tool
from redline.server.schema import convert, quoted

Json = dict[str, Any]

_MODES = ("auto", "none", "required")


def tools_of(given: list[Json] | None) -> tuple[Tool, ...]:
    """The functions. Raises InvalidRequest, and UnsupportedField by name for tools that are none."""
    read = [function_tool(tool, f"tools[{i}]") for i, tool in enumerate(given or ())]
    return checked(
        Tool(name=tool.name, description=tool.description, parameters=tool.parameters, strict=tool.strict) for tool in read
    )


def choice_of(given: str | Json | None) -> ToolChoice:
    """Whether to call, and what. Raises InvalidRequest, and UnsupportedField by name for what is no function."""
    if given is None:
        return ToolChoice()
    if isinstance(given, str):
        if given not in _MODES:
            raise InvalidRequest(f"there is no tool_choice {quoted(given)}", hint=f"use {', '.join(_MODES)}", param="tool_choice")
        return ToolChoice(mode=given)  # type: ignore[arg-type]
    kind = given.get("type")
    if kind == "function":
        return ToolChoice(mode="required", names=(convert(given, FunctionChoice, "tool_choice").name,))
    if kind == "allowed_tools":
        allowed = convert(given, AllowedTools, "tool_choice")
        named = [_function(tool, f"tool_choice.tools[{i}]") for i, tool in enumerate(allowed.tools)]
        return ToolChoice(mode=allowed.mode, names=tuple(named))
    if isinstance(kind, str):
        raise UnsupportedField(
            f"tool_choice of type {quoted(kind)} is not supported", hint="use function", param="tool_choice.type"
        )
    raise InvalidRequest("tool_choice.type is required", param="tool_choice.type")


def wanted_of(text: TextConfig | None) -> Wanted | None:
    """The form that `text.format` asks for; None: any text. Raises InvalidRequest or UnsupportedField."""
    if text is None or text.format is None:
        return None
    format, path = text.format, "text.format"
    if format.type == "json_schema":
        for name in ("name", "schema"):
            if getattr(format, name) is None:
                raise InvalidRequest(f"{path}.{name} is required", param=f"{path}.{name}")
        return of_named_schema(format.name or "", format.schema, path)
    for name in ("name", "schema", "description", "strict"):
        if getattr(format, name) is not None:
            raise InvalidRequest(f"{path}: type {quoted(format.type)} has no {name}", param=f"{path}.{name}")
    return of_response_format(ResponseFormat(type=format.type), path)


def _function(tool: Json, path: str) -> str:
    kind = tool.get("type")
    if isinstance(kind, str) and kind != "function":
        raise UnsupportedField(
            f"{path}: tools of type {quoted(kind)} are not supported", hint="use functions", param=f"{path}.type"
        )
    return convert(tool, FunctionChoice, path).name
