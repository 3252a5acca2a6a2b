"""The body of POST /v1/chat/completions. Open `ChatBody`."""

from __future__ import annotations

from typing import Any, Literal

from redline.errors import InvalidRequest, UnsupportedField
from redline.server.schema import Body, Int, Record, quoted


class ContentPart(Record, frozen=True, kw_only=True):
    type: str
    text: str | None = None
    image_url: Any = None
    input_audio: Any = None
    file: Any = None
    refusal: str | None = None
    prompt_cache_breakpoint: Any = None  # where a cached prefix ends; ours are found without being told

    def refuse_unbuilt(self, path: str = "") -> None:
        where = path.removesuffix(".")
        if self.type == "refusal" and self.refusal is not None:
            return
        if self.type != "text":
            raise UnsupportedField(f"{where}: parts of type {quoted(self.type)} are not supported", hint="send text", param=where)
        if self.text is None:
            raise InvalidRequest(f"{path}text is required", param=f"{path}text")


class CalledFunction(Record, frozen=True, kw_only=True):
    name: str
    arguments: str
    parsed_arguments: Any = None  # what a client made of `arguments`, which it sends back with its own message


class ToolCall(Record, frozen=True, kw_only=True):
    """A call in an earlier message of the assistant."""

    id: str
    type: str = "function"
    function: CalledFunction | None = None
    index: Int | None = None  # of a call that was put together from a stream
    custom: Any = None

    def refuse_unbuilt(self, path: str = "") -> None:
        _check_function(self, path)


class Message(Record, frozen=True, kw_only=True):
    role: str
    content: str | list[ContentPart] | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None
    refusal: str | None = None
    parsed: Any = None  # what a client made of `content`, which it sends back with its own message
    function_call: Any = None
    audio: Any = None
    annotations: Any = None

    _unbuilt = {"function_call": (), "audio": (), "annotations": ([],)}


class FunctionTool(Record, frozen=True, kw_only=True):
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class ToolParam(Record, frozen=True, kw_only=True):
    type: str
    function: FunctionTool | None = None
    custom: Any = None

    def refuse_unbuilt(self, path: str = "") -> None:
        _check_function(self, path)


class FunctionName(Record, frozen=True, kw_only=True):
    name: str


class NamedTool(Record, frozen=True, kw_only=True):
    """One function: as a `tool_choice`, and in the list of an `allowed_tools` choice."""

    type: str
    function: FunctionName | None = None
    custom: Any = None

    def refuse_unbuilt(self, path: str = "") -> None:
        _check_function(self, path)


class AllowedTools(Record, frozen=True, kw_only=True):
    mode: Literal["auto", "required"]
    tools: list[NamedTool]


class AllowedToolsChoice(Record, frozen=True, kw_only=True):
    type: Literal["allowed_tools"]
    allowed_tools: AllowedTools


def _check_function(part: ToolCall | ToolParam | NamedTool, path: str) -> None:
    """Raise unless a part that may speak of several kinds of tools speaks of a function."""
    where = path.removesuffix(".")
    if part.type != "function":
        raise UnsupportedField(
            f"{where}: tools of type {quoted(part.type)} are not supported", hint="use functions", param=f"{path}type"
        )
    if part.custom is not None:
        raise InvalidRequest(f"{where}: type function has no custom", param=f"{path}custom")
    if part.function is None:
        raise InvalidRequest(f"{path}function is required", param=f"{path}function")


class JsonSchemaFormat(Record, frozen=True, kw_only=True):
    name: str
    schema: dict[str, Any] | None = None
    strict: bool | None = None  # every schema is enforced
    description: str | None = None


class ResponseFormat(Record, frozen=True, kw_only=True):
    type: str
    json_schema: JsonSchemaFormat | None = None


Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]


class ChatBody(Body, frozen=True, kw_only=True):
    messages: list[Message]
    max_completion_tokens: Int | None = None
    logprobs: bool | None = None
    top_logprobs: Int | None = None

    tools: list[ToolParam] | None = None
    tool_choice: str | dict[str, Any] | None = None  # chat_input.py reads the records that it may be
    parallel_tool_calls: bool | None = None
    reasoning_effort: Effort | None = None
    response_format: ResponseFormat | None = None

    # Extensions.
    constrain_tools: bool | None = None
    include_reasoning: bool | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None

    # Known and not built.
    functions: Any = None
    function_call: Any = None
    modalities: Any = None
    audio: Any = None
    prediction: Any = None
    web_search_options: Any = None
    verbosity: Any = None
    moderation: Any = None

    _unbuilt = {
        "functions": ([],),
        "function_call": ("none",),
        "modalities": (["text"],),
        "audio": (),
        "prediction": (),
        "web_search_options": (),
        "verbosity": (),
        "moderation": (),
    }
