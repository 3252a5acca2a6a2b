"""The input of a response: what came, as items that are stored, and all items of a conversation as messages.

Reasoning, text and calls of one turn of the assistant are several items and one message. Knows nothing of where earlier
items are kept. Open `items_of`, then `messages_of`.
"""

from __future__ import annotations

import uuid
from typing import Any

from redline.errors import InvalidRequest
from redline.server.response_schema import (
    MAX_ITEMS,
    CallItem,
    CallOutputItem,
    Item,
    MessageItem,
    Part,
    ReasoningItem,
    Reference,
    input_item,
    parts_of,
)
from redline.server.schema import quoted

Json = dict[str, Any]


def new_id(prefix: str) -> str:
    """An id that nobody can guess: `msg_…`, `rs_…`, `fc_…`, `resp_…`."""
    return f"{prefix}_{uuid.uuid4().hex}"


def items_of(given: str | list[Json] | None) -> list[Item]:
    """What came as `input`, checked. Raises InvalidRequest and UnsupportedField with the item's path."""
    if given is None:
        raise InvalidRequest("input is required", param="input")
    if isinstance(given, str):
        return [MessageItem(role="user", content=given)]
    if not 0 < len(given) <= MAX_ITEMS:
        raise InvalidRequest(f"input must have 1 to {MAX_ITEMS} items, not {len(given)}", param="input")
    return [input_item(item, f"input[{i}]") for i, item in enumerate(given)]


def references(items: list[Item]) -> set[str]:
    """Ids of the stored items that are meant by some of these."""
    return {item.id for item in items if isinstance(item, Reference)}


def stored(items: list[Item], found: dict[str, Json]) -> list[Json]:
    """The items as they are kept and told, each with an id; references are resolved with `found`. Raises InvalidRequest."""
    return [_stored(item, found, f"input[{i}]") for i, item in enumerate(items)]


def messages_of(earlier: list[Json], new: list[Json], instructions: str | None) -> list[Json]:
    """The messages that templates read. Raises InvalidRequest for the output of a call that was never made."""
    messages: list[Json] = [] if instructions is None else [{"role": "system", "content": instructions}]
    calls: dict[str, str] = {}  # names by id
    answering: Json | None = None  # the message that further items of the assistant's turn belong to
    for number, item in enumerate([*earlier, *new], start=-len(earlier)):
        if item["type"] == "function_call_output":
            if item["call_id"] not in calls:
                what = f"there is no function_call {quoted(item['call_id'])} for this output"
                raise InvalidRequest(f"input[{number}]: {what}", param=f"input[{number}].call_id")
            output = _content(item["output"]) if isinstance(item["output"], list) else item["output"]
            name = calls[item["call_id"]]
            messages.append({"role": "tool", "tool_call_id": item["call_id"], "name": name, "content": output})
            answering = None
        elif item["type"] == "message" and item["role"] != "assistant":
            role = "user" if item["role"] == "user" else "system"
            messages.append({"role": role, "content": _content(item["content"])})
            answering = None
        else:
            if answering is None or not _goes_on(answering, item):
                answering = {"role": "assistant", "content": ""}
                messages.append(answering)
            _add(answering, item, calls)
    return messages


def _stored(item: Item, found: dict[str, Json], path: str) -> Json:
    match item:
        case Reference():
            if item.id not in found:
                raise InvalidRequest(f"{path}: there is no stored item {quoted(item.id)}", param=f"{path}.id")
            return found[item.id]
        case MessageItem():
            told = _told_output if item.role == "assistant" else _told_input
            content = [told(part) for part in parts_of(item.content, f"{path}.content")]
            body = {"type": "message", "role": item.role, "content": content}
            prefix = "msg"
        case CallItem():
            body = {"type": item.type, "call_id": item.call_id, "name": item.name, "arguments": item.arguments}
            prefix = "fc"
        case CallOutputItem():
            parts = (
                item.output if isinstance(item.output, str) else [_told_input(p) for p in parts_of(item.output, f"{path}.output")]
            )
            body = {"type": item.type, "call_id": item.call_id, "output": parts}
            prefix = "fco"
        case ReasoningItem():
            summary = [{"type": "summary_text", "text": part.text} for part in item.summary or ()]
            content = [{"type": "reasoning_text", "text": part.text} for part in item.content or ()]
            body = {"type": item.type, "summary": summary, "content": content}
            prefix = "rs"
    return {"id": item.id or new_id(prefix), **body, "status": item.status or "completed"}


def _told_input(part: Part) -> Json:
    return {"type": "input_text", "text": part.words}


def _told_output(part: Part) -> Json:
    if part.type == "refusal":
        return {"type": "refusal", "refusal": part.words}
    return {"type": "output_text", "text": part.words, "annotations": [], "logprobs": []}


def _content(parts: list[Json]) -> str | list[Json]:
    """Contents of one part are a string to a template."""
    texts = [part.get("text") or part.get("refusal") or "" for part in parts]
    return texts[0] if len(texts) == 1 else [{"type": "text", "text": text} for text in texts]


def _goes_on(message: Json, item: Json) -> bool:
    """Whether the item belongs to the message: reasoning comes first, then text, then calls."""
    if item["type"] == "function_call":
        return True
    return (
        not message["content"]
        and "tool_calls" not in message
        and (item["type"] == "message" or "reasoning_content" not in message)
    )


def _add(message: Json, item: Json, calls: dict[str, str]) -> None:
    if item["type"] == "message":
        message["content"] = _content(item["content"])
    elif item["type"] == "reasoning":
        message["reasoning_content"] = "".join(part["text"] for part in item["content"] or item["summary"])
    else:
        calls[item["call_id"]] = item["name"]
        function = {"name": item["name"], "arguments": item["arguments"]}
        message.setdefault("tool_calls", []).append({"id": item["call_id"], "type": "function", "function": function})
