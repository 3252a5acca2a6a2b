"""Tools for a model whose template knows none: Hermes's words, as a system message, and calls and results as plain turns.

The words are those that the Hermes and Qwen models were trained with, which other models follow best, too. How well a model
that was never trained to call functions does it is another matter. Open `without_tools`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

Json = dict[str, Any]

_HEAD = """# Tools

You may call one or more functions to assist with the user query.

You are provided with function signatures within <tools></tools> XML tags:
<tools>
"""
_TAIL = """
</tools>

For each function call, return a json object with function name and arguments within <tool_call></tool_call> XML tags:
<tool_call>
{"name": <function-name>, "arguments": <args-json-object>}
</tool_call>"""


def without_tools(messages: Sequence[Json], tools: Sequence[Json]) -> list[Json]:
    """The conversation in messages of system, user and assistant alone. Contents in parts become one text where it matters."""
    plain: list[Json] = []
    for message in messages:
        if message.get("role") == "tool":
            response = f"<tool_response>\n{_text(message.get('content'))}\n</tool_response>"
            if plain and plain[-1].get("is_result"):
                plain[-1]["content"] += f"\n{response}"
            else:
                plain.append({"role": "user", "content": response, "is_result": True})
        elif message.get("tool_calls"):
            calls = "\n".join(_written(call["function"]) for call in message["tool_calls"])
            text = _text(message.get("content"))
            kept = {key: value for key, value in message.items() if key != "tool_calls"}
            plain.append({**kept, "content": f"{text}\n{calls}" if text else calls})
        else:
            plain.append(dict(message))
    for message in plain:
        message.pop("is_result", None)
    if tools:
        _explain(plain, tools)
    return plain


def _explain(messages: list[Json], tools: Sequence[Json]) -> None:
    """Put the functions at the end of the system message, or before all others where there is none."""
    words = _HEAD + "\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools) + _TAIL
    if messages and messages[0].get("role") == "system":
        messages[0] = {**messages[0], "content": f"{_text(messages[0].get('content'))}\n\n{words}"}
    else:
        messages.insert(0, {"role": "system", "content": words})


def _written(function: Json) -> str:
    arguments = function["arguments"]
    text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    return f'<tool_call>\n{{"name": {json.dumps(function["name"], ensure_ascii=False)}, "arguments": {text}}}\n</tool_call>'


def _text(content: str | list[Json] | None) -> str:
    return content if isinstance(content, str) else "\n".join(str(part.get("text", "")) for part in content or ())
