"""The body of POST /v1/chat/completions. Open `ChatBody`."""

from __future__ import annotations

from typing import Any

from redline.errors import InvalidRequest, UnsupportedField
from redline.server.schema import Body, Int, Record, quoted


class ContentPart(Record, frozen=True, kw_only=True):
    type: str
    text: str | None = None
    image_url: Any = None
    input_audio: Any = None
    file: Any = None
    refusal: Any = None
    prompt_cache_breakpoint: Any = None  # where a cached prefix ends; ours are found without being told

    def refuse_unbuilt(self, path: str = "") -> None:
        where = path.removesuffix(".")
        if self.type != "text":
            raise UnsupportedField(f"{where}: parts of type {quoted(self.type)} are not supported", hint="send text", param=where)
        if self.text is None:
            raise InvalidRequest(f"{path}text is required", param=f"{path}text")


class Message(Record, frozen=True, kw_only=True):
    role: str
    content: str | list[ContentPart] | None = None
    name: str | None = None
    tool_calls: Any = None
    tool_call_id: Any = None
    function_call: Any = None
    reasoning_content: Any = None
    audio: Any = None
    refusal: Any = None
    annotations: Any = None

    _unbuilt = {
        "tool_calls": ([],),
        "tool_call_id": (),
        "function_call": (),
        "reasoning_content": (),
        "audio": (),
        "refusal": (),
        "annotations": ([],),
    }


class ChatBody(Body, frozen=True, kw_only=True):
    messages: list[Message]
    max_completion_tokens: Int | None = None
    logprobs: bool | None = None
    top_logprobs: Int | None = None

    # Extensions.
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None

    # Known and not built.
    tools: Any = None
    tool_choice: Any = None
    parallel_tool_calls: Any = None
    functions: Any = None
    function_call: Any = None
    response_format: Any = None
    modalities: Any = None
    audio: Any = None
    prediction: Any = None
    web_search_options: Any = None
    reasoning_effort: Any = None
    verbosity: Any = None
    moderation: Any = None

    _unbuilt = {
        "tools": ([],),
        "tool_choice": ("none",),
        "parallel_tool_calls": (),
        "functions": ([],),
        "function_call": ("none",),
        "response_format": ({"type": "text"},),
        "modalities": (["text"],),
        "audio": (),
        "prediction": (),
        "web_search_options": (),
        "reasoning_effort": (),
        "verbosity": (),
        "moderation": (),
    }
