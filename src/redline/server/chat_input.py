"""What a chat body says, as a conversation: messages, functions and the choice among them, checked.

Knows that API's JSON and nothing of templates. Open `conversation_of`.
"""

from __future__ import annotations

from typing import Any

from redline.chat.tools import Tool, ToolChoice
from redline.errors import InvalidRequest, UnsupportedField
from redline.server.chat_schema import AllowedToolsChoice, ChatBody, ContentPart, Message, NamedTool, ToolParam
from redline.server.conversation import Conversation, check_variables
from redline.server.functions import checked, checked_choice
from redline.server.schema import convert, quoted

Json = dict[str, Any]

_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant", "tool": "tool"}
_ASSISTANTS = ("tool_calls", "reasoning_content", "refusal")


def conversation_of(body: ChatBody) -> Conversation:
    """The conversation of a body. Raises InvalidRequest or UnsupportedField with the field's path."""
    if not body.messages:
        raise InvalidRequest("messages is empty", param="messages")
    messages = _messages(body.messages)
    goes_on = bool(body.continue_final_message)
    opens = not goes_on if body.add_generation_prompt is None else body.add_generation_prompt
    if goes_on and opens:
        raise InvalidRequest("continue_final_message contradicts add_generation_prompt", param="continue_final_message")
    if goes_on and (messages[-1]["role"] != "assistant" or "tool_calls" in messages[-1]):
        raise InvalidRequest(
            "continue_final_message needs a last message of the assistant without calls", param="continue_final_message"
        )
    extra = body.chat_template_kwargs or {}
    check_variables(extra)
    tools = _tools(body.tools or [])
    return Conversation(
        messages=messages,
        template={"add_generation_prompt": opens, "continue_final_message": goes_on, **extra},
        tools=tools,
        choice=_choice(body.tool_choice, tools),
        parallel=body.parallel_tool_calls is not False,
        constrain=body.constrain_tools,
        effort=body.reasoning_effort,
        show_reasoning=body.include_reasoning is not False,
    )


def _messages(given: list[Message]) -> list[Json]:
    names: dict[str, str] = {}  # of the functions, by the ids of their calls
    messages = []
    for number, message in enumerate(given):
        for call in message.tool_calls or ():
            if call.function is not None:
                names[call.id] = call.function.name
        messages.append(_message(message, f"messages[{number}]", names))
    return messages


def _message(message: Message, path: str, names: dict[str, str]) -> Json:
    if message.role == "function":
        raise UnsupportedField(
            f"{path}: messages of role 'function' are not supported", hint="use role 'tool' and tool_calls", param=f"{path}.role"
        )
    if message.role not in _ROLES:
        known = ", ".join(_ROLES)
        raise InvalidRequest(f"{path}: there is no role {quoted(message.role)}", hint=f"use one of {known}", param=f"{path}.role")
    for field in _ASSISTANTS if message.role != "assistant" else ():
        if getattr(message, field):
            raise InvalidRequest(f"{path}.{field} belongs to messages of the assistant", param=f"{path}.{field}")
    plain: Json = {"role": _ROLES[message.role], "content": _content(message, path)}
    if message.name is not None:
        plain["name"] = message.name
    if message.tool_calls:
        plain["tool_calls"] = [_call(call) for call in message.tool_calls]
    if message.reasoning_content is not None:
        plain["reasoning_content"] = message.reasoning_content
    if message.role == "tool":
        if message.tool_call_id is None:
            raise InvalidRequest(f"{path}.tool_call_id is required", param=f"{path}.tool_call_id")
        plain["tool_call_id"] = message.tool_call_id
        if message.tool_call_id in names:
            plain.setdefault("name", names[message.tool_call_id])
    elif message.tool_call_id is not None:
        raise InvalidRequest(f"{path}.tool_call_id belongs to messages of a tool", param=f"{path}.tool_call_id")
    return plain


def _call(call: Any) -> Json:
    return {"id": call.id, "type": "function", "function": {"name": call.function.name, "arguments": call.function.arguments}}


def _content(message: Message, path: str) -> str | list[Json]:
    """Null is no text; the template sees an empty one, which all can take."""
    content = message.content
    if content is None and message.role == "assistant" and (message.refusal or message.tool_calls):
        return message.refusal or ""
    if content is None:
        raise InvalidRequest(f"{path}.content is required", param=f"{path}.content")
    if isinstance(content, str):
        return content
    return [{"type": "text", "text": _words(part, message.role, f"{path}.content[{i}]")} for i, part in enumerate(content)]


def _words(part: ContentPart, role: str, path: str) -> str | None:
    if part.type == "refusal" and role != "assistant":
        raise InvalidRequest(f"{path}: a refusal belongs to messages of the assistant", param=path)
    return part.refusal if part.type == "refusal" else part.text


def _tools(given: list[ToolParam]) -> tuple[Tool, ...]:
    return checked((_tool(each) for each in given), "tools[{}].function.name")


def _tool(given: ToolParam) -> Tool:
    function = given.function
    assert function is not None, "checked when the body was decoded"
    return Tool(name=function.name, description=function.description, parameters=function.parameters, strict=function.strict)


def _choice(given: str | Json | None, tools: tuple[Tool, ...]) -> ToolChoice:
    match given:
        case None | "auto":
            return ToolChoice()
        case "none":
            return ToolChoice(mode="none")
        case "required":
            choice = ToolChoice(mode="required")
        case str():
            raise InvalidRequest(
                f"tool_choice: there is no {quoted(given)}", hint="use auto, none, required or a function", param="tool_choice"
            )
        case {"type": "allowed_tools"}:
            allowed = convert(given, AllowedToolsChoice, "tool_choice").allowed_tools
            names = tuple(_named(each) for each in allowed.tools)
            if not names:
                raise InvalidRequest("tool_choice.allowed_tools.tools is empty", param="tool_choice.allowed_tools.tools")
            choice = ToolChoice(mode=allowed.mode, names=names)
        case _:
            choice = ToolChoice(mode="required", names=(_named(convert(given, NamedTool, "tool_choice")),))
    return checked_choice(choice, tools)


def _named(tool: NamedTool) -> str:
    assert tool.function is not None, "checked when it was read"
    return tool.function.name
