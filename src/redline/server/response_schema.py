"""The body of POST /v1/responses, and the items of its input. Open `ResponseBody`, then `input_item`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from redline.errors import InvalidRequest, UnsupportedField
from redline.server.schema import Int, Record, convert, quoted

MAX_ITEMS = 10_000
MAX_ID = 128  # characters
MAX_METADATA, MAX_METADATA_KEY, MAX_METADATA_VALUE = 16, 64, 512

Status = Literal["in_progress", "completed", "incomplete"]
LOGPROBS = "message.output_text.logprobs"


class TextFormat(Record, frozen=True, kw_only=True):
    """`type` is text, json_object or json_schema; the rest belongs to json_schema."""

    type: str
    name: str | None = None
    schema: Any = None
    description: str | None = None
    strict: bool | None = None


class TextConfig(Record, frozen=True, kw_only=True):
    format: TextFormat | None = None
    verbosity: str | None = None

    _unbuilt = {"verbosity": ("medium",)}


class Reasoning(Record, frozen=True, kw_only=True):
    effort: str | None = None
    summary: str | None = None
    generate_summary: str | None = None
    context: str | None = None
    mode: str | None = None

    _unbuilt = {"summary": (), "generate_summary": (), "context": ("auto",), "mode": ("standard",)}


class ResponseStreamOptions(Record, frozen=True, kw_only=True):
    include_obfuscation: bool | None = None

    _unbuilt = {"include_obfuscation": (False,)}


class FunctionTool(Record, frozen=True, kw_only=True):
    """A tool of type function."""

    type: str
    name: str
    parameters: dict[str, Any] | None = None
    strict: bool | None = None
    description: str | None = None
    output_schema: Any = None
    allowed_callers: list[str] | None = None
    defer_loading: bool | None = None
    asynchronous: bool | None = msgspec.field(name="async", default=None)

    _unbuilt = {"output_schema": (), "allowed_callers": (["direct"],), "defer_loading": (False,), "asynchronous": (False,)}


class FunctionChoice(Record, frozen=True, kw_only=True):
    type: Literal["function"]
    name: str


class AllowedTools(Record, frozen=True, kw_only=True):
    """A `tool_choice` among some of the tools."""

    type: Literal["allowed_tools"]
    mode: Literal["auto", "required"]
    tools: list[dict[str, Any]]


class ConversationBody(Record, frozen=True, kw_only=True):
    """What says how a prompt is made, and so how many tokens it has."""

    model: str | None = None
    input: str | list[dict[str, Any]] | None = None
    instructions: str | None = None
    previous_response_id: str | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    text: TextConfig | None = None
    reasoning: Reasoning | None = None
    truncation: str | None = None
    conversation: Any = None

    # Extensions.
    chat_template_kwargs: dict[str, Any] | None = None


class CountBody(ConversationBody, frozen=True, kw_only=True):
    """The body of POST /v1/responses/input_tokens."""

    personality: Any = None

    _unbuilt = {"truncation": ("disabled",), "conversation": (), "personality": ()}


class ResponseBody(ConversationBody, frozen=True, kw_only=True):
    max_output_tokens: Int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_logprobs: Int | None = None
    include: list[str] | None = None
    stream: bool | None = None
    stream_options: ResponseStreamOptions | None = None
    background: bool | None = None
    store: bool | None = None
    metadata: dict[str, str] | None = None

    # Accepted: they cannot change the answer.
    user: str | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    prompt_cache_options: Any = None
    max_tool_calls: Int | None = None  # of built-in tools, of which there are none

    # Extensions.
    seed: Int | None = None
    stop: str | list[str] | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    logit_bias: dict[Int, float] | None = None
    top_k: Int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    min_tokens: Int | None = None
    stop_token_ids: list[Int] | None = None
    ignore_eos: bool | None = None
    priority: Int | None = None
    deadline_ms: float | None = None
    cache_salt: str | None = None
    redline: bool | None = None  # answer with the request's receipt

    # Known and not built.
    prompt: Any = None
    context_management: Any = None
    moderation: Any = None
    access_programs: Any = None
    background_options: Any = None
    image: Any = None

    _unbuilt = {
        "truncation": ("disabled",),
        "conversation": (),
        "prompt": (),
        "context_management": ([],),
        "moderation": (),
        "access_programs": (),
        "background_options": ({}, {"completion_window": "soonest"}),
        "image": (),
    }

    def refuse_unbuilt(self, path: str = "") -> None:
        super().refuse_unbuilt(path)
        for i, name in enumerate(self.include or ()):
            if name != LOGPROBS:
                raise UnsupportedField(
                    f"include: {quoted(name)} is not supported", hint=f"send {LOGPROBS}", param=f"include[{i}]"
                )
        _check_metadata(self.metadata or {})

    @property
    def scored(self) -> bool:
        """Whether log-probabilities are wanted."""
        return LOGPROBS in (self.include or ()) or bool(self.top_logprobs)


class Part(Record, frozen=True, kw_only=True):
    """A part of a content, or of the output of a tool. `output_text` and `refusal` come back from earlier answers."""

    type: str
    text: str | None = None
    refusal: str | None = None
    annotations: list[Any] | None = None
    logprobs: list[Any] | None = None
    prompt_cache_breakpoint: Any = None  # where a cached prefix ends; ours are found without being told

    @property
    def words(self) -> str:
        return (self.refusal if self.type == "refusal" else self.text) or ""

    def refuse_unbuilt(self, path: str = "") -> None:
        name = "refusal" if self.type == "refusal" else "text"
        if getattr(self, name) is None:
            raise InvalidRequest(f"{path}{name} is required", param=f"{path}{name}")


ItemId = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_ID)]


class MessageItem(Record, frozen=True, kw_only=True):
    role: Literal["user", "assistant", "system", "developer"]
    content: str | list[dict[str, Any]]
    type: Literal["message"] = "message"
    id: ItemId | None = None
    status: Status | None = None
    phase: str | None = None


class CallItem(Record, frozen=True, kw_only=True):
    type: Literal["function_call"]
    call_id: ItemId
    name: str
    arguments: str
    id: ItemId | None = None
    status: Status | None = None
    caller: Any = None
    namespace: str | None = None
    asynchronous: bool | None = msgspec.field(name="async", default=None)

    _unbuilt = {"caller": ({"type": "direct"},), "namespace": (), "asynchronous": (False,)}


class CallOutputItem(Record, frozen=True, kw_only=True):
    type: Literal["function_call_output"]
    call_id: ItemId
    output: str | list[dict[str, Any]]
    id: ItemId | None = None
    status: Status | None = None
    name: str | None = None
    caller: Any = None
    namespace: str | None = None

    _unbuilt = {"caller": ({"type": "direct"},), "namespace": ()}


class ReasoningText(Record, frozen=True, kw_only=True):
    type: str
    text: str


class ReasoningItem(Record, frozen=True, kw_only=True):
    type: Literal["reasoning"]
    id: ItemId | None = None
    summary: list[ReasoningText] | None = None
    content: list[ReasoningText] | None = None
    encrypted_content: Any = None
    status: Status | None = None

    _unbuilt = {"encrypted_content": ()}


class Reference(Record, frozen=True, kw_only=True):
    id: ItemId
    type: Literal["item_reference"] | None = None


Item = MessageItem | CallItem | CallOutputItem | ReasoningItem | Reference

_ITEMS: dict[str, type[Item]] = {
    "message": MessageItem,
    "function_call": CallItem,
    "function_call_output": CallOutputItem,
    "reasoning": ReasoningItem,
    "item_reference": Reference,
}
_PARTS = ("input_text", "output_text", "text", "refusal")


def input_item(value: dict[str, Any], path: str) -> Item:
    """An item of the input, by its type. Raises InvalidRequest, and UnsupportedField by the type's name."""
    kind = value.get("type")
    if kind is None:
        kind = "message" if "role" in value else "item_reference"
    known = ", ".join(_ITEMS)
    if not isinstance(kind, str):
        raise InvalidRequest(f"{path}.type must be one of {known}", param=f"{path}.type")
    if kind not in _ITEMS:
        what = f"{path}: items of type {quoted(kind)} are not supported"
        raise UnsupportedField(what, hint=f"use one of {known}", param=f"{path}.type")
    return convert(value, _ITEMS[kind], path)


def parts_of(content: str | list[dict[str, Any]], path: str) -> list[Part]:
    """The parts of a content. Raises InvalidRequest, and UnsupportedField for what is not text."""
    if isinstance(content, str):
        return [Part(type="input_text", text=content)]
    for i, part in enumerate(content):
        if (kind := part.get("type")) not in _PARTS and isinstance(kind, str):
            where = f"{path}[{i}]"
            raise UnsupportedField(f"{where}: parts of type {quoted(kind)} are not supported", hint="send text", param=where)
    return [convert(part, Part, f"{path}[{i}]") for i, part in enumerate(content)]


def function_tool(value: dict[str, Any], path: str) -> FunctionTool:
    """A tool. Raises UnsupportedField by name for the built-in ones, which run elsewhere."""
    kind = value.get("type")
    if isinstance(kind, str) and kind != "function":
        raise UnsupportedField(
            f"{path}: tools of type {quoted(kind)} are not supported", hint="use functions", param=f"{path}.type"
        )
    return convert(value, FunctionTool, path)


def _check_metadata(metadata: dict[str, str]) -> None:
    if len(metadata) > MAX_METADATA:
        raise InvalidRequest(f"metadata has {len(metadata)} pairs, at most {MAX_METADATA} are allowed", param="metadata")
    for key, value in metadata.items():
        if len(key) > MAX_METADATA_KEY or len(value) > MAX_METADATA_VALUE:
            raise InvalidRequest(
                f"metadata: keys may have {MAX_METADATA_KEY} characters and values {MAX_METADATA_VALUE}", param="metadata"
            )
