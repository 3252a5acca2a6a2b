"""The input of Anthropic's messages as the messages that templates read.

Neighbours of one role are one turn there, so they become one message here. Results of tools stand in a user's turn there
and are messages of their own here. Open `messages_of`.
"""

from __future__ import annotations

from typing import Any

import msgspec

from redline.errors import InvalidRequest
from redline.server.messages_schema import (
    Block,
    CountTokensBody,
    TextBlock,
    ThinkingBlock,
    ToolResultBlock,
    ToolUseBlock,
    blocks_of,
)
from redline.server.schema import quoted

Json = dict[str, Any]

_ALLOWED = {
    "user": ("text", "tool_result"),
    "assistant": ("text", "thinking", "tool_use"),
    "system": ("text",),
}


def messages_of(body: CountTokensBody) -> list[Json]:
    """Raises InvalidRequest and UnsupportedField with the block's path."""
    if not body.messages:
        raise InvalidRequest("messages is empty", param="messages")
    messages: list[Json] = []
    if body.system is not None:
        messages += _said("system", blocks_of(body.system, "system", ("text",)))
    calls: dict[str, str] = {}  # names by id
    for i, message in enumerate(body.messages):
        path = f"messages[{i}].content"
        blocks = blocks_of(message.content, path, _ALLOWED[message.role])
        if message.role == "assistant":
            _merge(messages, _answer(blocks, calls))
            continue
        for j, block in enumerate(blocks):
            if isinstance(block, ToolResultBlock):
                messages.append(_result(block, calls, f"{path}[{j}]"))
            else:
                for said in _said(message.role, [block]):
                    _merge(messages, said)
    return messages


def _said(role: str, blocks: list[Block]) -> list[Json]:
    texts = [block.text for block in blocks if isinstance(block, TextBlock)]
    return [{"role": role, "content": _content(texts)}] if texts else []


def _answer(blocks: list[Block], calls: dict[str, str]) -> Json:
    """A turn of the assistant."""
    texts = [block.text for block in blocks if isinstance(block, TextBlock)]
    message: Json = {"role": "assistant", "content": _content(texts) if texts else ""}
    thoughts = [block.thinking for block in blocks if isinstance(block, ThinkingBlock)]
    if thoughts:
        message["reasoning_content"] = "".join(thoughts)
    for block in blocks:
        if isinstance(block, ToolUseBlock):
            calls[block.id] = block.name
            function = {"name": block.name, "arguments": msgspec.json.encode(block.input).decode()}
            message.setdefault("tool_calls", []).append({"id": block.id, "type": "function", "function": function})
    return message


def _result(block: ToolResultBlock, calls: dict[str, str], path: str) -> Json:
    if block.tool_use_id not in calls:
        what = f"there is no tool_use {quoted(block.tool_use_id)} for this result"
        raise InvalidRequest(f"{path}: {what}", param=f"{path}.tool_use_id")
    parts = blocks_of(block.content or "", f"{path}.content", ("text",))
    texts = [part.text for part in parts if isinstance(part, TextBlock)]
    if block.is_error:  # templates have no place for it, so the model reads it
        texts = [f"Error: {texts[0]}" if texts else "Error", *texts[1:]]
    name = calls[block.tool_use_id]
    return {"role": "tool", "tool_call_id": block.tool_use_id, "name": name, "content": _content(texts) if texts else ""}


def _merge(messages: list[Json], message: Json) -> None:
    """Add a message, or its parts to a last one of the same role."""
    last = messages[-1] if messages else None
    if last is None or last["role"] != message["role"]:
        messages.append(message)
        return
    if "reasoning_content" in message:
        last["reasoning_content"] = last.get("reasoning_content", "") + message["reasoning_content"]
    if "tool_calls" in message:
        last.setdefault("tool_calls", []).extend(message["tool_calls"])
    # In place: thousands of short turns of one role would be copied as often as there are of them.
    if isinstance(last["content"], list):
        last["content"] += [{"type": "text", "text": text} for text in _texts(message["content"])]
    else:
        last["content"] = _content([*_texts(last["content"]), *_texts(message["content"])])


def _content(texts: list[str]) -> str | list[Json]:
    """One text is a string to a template."""
    return texts[0] if len(texts) == 1 else [{"type": "text", "text": text} for text in texts]


def _texts(content: str | list[Json]) -> list[str]:
    if isinstance(content, str):
        return [content] if content else []
    return [part["text"] for part in content]
