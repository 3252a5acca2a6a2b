"""The bodies of POST /v1/messages and /v1/messages/count_tokens, as Anthropic's API has them. Open `MessagesBody`.

Headers: `anthropic-version` and `anthropic-beta` are accepted and change nothing; what a beta adds are fields, and those
are here. `x-api-key` is as good as a bearer token (auth.py).
"""

from __future__ import annotations

from typing import Any, Literal

from redline.errors import InvalidRequest, UnsupportedField
from redline.server.schema import Int, Record, convert, quoted


class CacheControl(Record, frozen=True, kw_only=True):
    """Where a cached prefix ends. Accepted: ours are found without being told."""

    type: str
    ttl: str | None = None


class TextBlock(Record, frozen=True, kw_only=True):
    type: Literal["text"]
    text: str
    cache_control: CacheControl | None = None
    citations: Any = None

    _unbuilt = {"citations": ([],)}


class ThinkingBlock(Record, frozen=True, kw_only=True):
    """`signature` is accepted as it is: ours are empty."""

    type: Literal["thinking"]
    thinking: str
    signature: str | None = None


class ToolUseBlock(Record, frozen=True, kw_only=True):
    type: Literal["tool_use"]
    id: str
    name: str
    input: dict[str, Any]
    cache_control: CacheControl | None = None
    caller: Any = None
    toolset_name: Any = None

    _unbuilt = {"caller": ({"type": "direct"},), "toolset_name": ()}


class ToolResultBlock(Record, frozen=True, kw_only=True):
    type: Literal["tool_result"]
    tool_use_id: str
    content: str | list[dict[str, Any]] | None = None
    is_error: bool | None = None
    cache_control: CacheControl | None = None
    toolset_name: Any = None

    _unbuilt = {"toolset_name": ()}


Block = TextBlock | ThinkingBlock | ToolUseBlock | ToolResultBlock


class Message(Record, frozen=True, kw_only=True):
    role: Literal["user", "assistant", "system"]
    content: str | list[dict[str, Any]]


class Tool(Record, frozen=True, kw_only=True):
    """A tool of the client; those that run at Anthropic's have types of their own."""

    name: str
    input_schema: dict[str, Any]
    type: Literal["custom"] | None = None
    description: str | None = None
    strict: bool | None = None
    cache_control: CacheControl | None = None
    eager_input_streaming: bool | None = None  # arguments are always told as they come
    allowed_callers: list[str] | None = None
    defer_loading: bool | None = None
    input_examples: list[Any] | None = None

    _unbuilt = {"allowed_callers": (["direct"],), "defer_loading": (False,), "input_examples": ([],)}


class ToolChoice(Record, frozen=True, kw_only=True):
    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class Thinking(Record, frozen=True, kw_only=True):
    """Whether the model reasons before it answers."""

    type: Literal["enabled", "disabled", "adaptive", "between_tools"]
    budget_tokens: Int | None = None
    display: str | None = None

    def refuse_unbuilt(self, path: str = "") -> None:
        if self.type == "between_tools":
            raise UnsupportedField(f"{path}type between_tools is not supported", hint="send enabled", param=f"{path}type")
        if self.budget_tokens is not None:
            hint = "send max_tokens, and thinking without a budget"
            raise UnsupportedField(f"{path}budget_tokens is not supported", hint=hint, param=f"{path}budget_tokens")
        if self.display is not None:
            raise UnsupportedField(f"{path}display is not supported", hint="leave it out", param=f"{path}display")


class JsonFormat(Record, frozen=True, kw_only=True):
    type: Literal["json_schema"]
    schema: dict[str, Any]


class OutputConfig(Record, frozen=True, kw_only=True):
    effort: str | None = None
    format: JsonFormat | None = None
    task_budget: Any = None

    _unbuilt = {"task_budget": ()}


class CountTokensBody(Record, frozen=True, kw_only=True):
    """What says how a prompt is made, and so how many tokens it has."""

    model: str
    messages: list[Message]
    system: str | list[dict[str, Any]] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: ToolChoice | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    output_format: JsonFormat | None = None  # the beta's name for output_config.format

    # Accepted: they cannot change the answer.
    cache_control: CacheControl | None = None
    user_profile_id: str | None = None
    workspace_id: str | None = None

    # Extensions.
    chat_template_kwargs: dict[str, Any] | None = None

    # Known and not built.
    speed: str | None = None
    billing_policy: Any = None
    compaction: Any = None
    context_management: Any = None
    mcp_servers: Any = None

    _unbuilt = {
        "speed": ("standard",),
        "billing_policy": (),
        "compaction": (),
        "context_management": (),
        "mcp_servers": ([],),
    }


class MessagesBody(CountTokensBody, frozen=True, kw_only=True):
    max_tokens: Int
    stream: bool | None = None
    stop_sequences: list[str] | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: Int | None = None

    # Accepted: they cannot change the answer.
    metadata: dict[str, Any] | None = None
    service_tier: str | None = None
    betas: list[str] | None = None  # belongs into a header

    # Extensions.
    seed: Int | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    logit_bias: dict[Int, float] | None = None
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
    container: Any = None
    diagnostics: Any = None
    inference_geo: str | None = None
    fallbacks: Any = None
    fallback_credit_token: Any = None
    thread: Any = None

    _unbuilt = {
        **CountTokensBody._unbuilt,
        "container": (),
        "diagnostics": ({}, {"previous_message_id": None}),
        "inference_geo": (),
        "fallbacks": ([],),
        "fallback_credit_token": (),
        "thread": (),
    }


_BLOCKS: dict[str, type[Block]] = {
    "text": TextBlock,
    "thinking": ThinkingBlock,
    "tool_use": ToolUseBlock,
    "tool_result": ToolResultBlock,
}


def blocks_of(content: str | list[dict[str, Any]], path: str, allowed: tuple[str, ...]) -> list[Block]:
    """The blocks of a content, by their types. Raises InvalidRequest, and UnsupportedField by the type's name."""
    if isinstance(content, str):
        return [TextBlock(type="text", text=content)]
    return [_block(block, f"{path}[{i}]", allowed) for i, block in enumerate(content)]


def tool(value: dict[str, Any], path: str) -> Tool:
    """A tool. Raises UnsupportedField by name for those that run at Anthropic's, or that its models know by heart."""
    kind = value.get("type")
    if isinstance(kind, str) and kind != "custom":
        raise UnsupportedField(f"{path}: tools of type {quoted(kind)} are not supported", param=f"{path}.type")
    return convert(value, Tool, path)


def _block(value: dict[str, Any], path: str, allowed: tuple[str, ...]) -> Block:
    kind = value.get("type")
    if not isinstance(kind, str):
        raise InvalidRequest(f"{path}.type must be one of {', '.join(_BLOCKS)}", param=f"{path}.type")
    if kind not in _BLOCKS:
        what = f"{path}: blocks of type {quoted(kind)} are not supported"
        raise UnsupportedField(what, hint="send text", param=f"{path}.type")
    if kind not in allowed:
        raise InvalidRequest(f"{path}: no block of type {kind} may stand here", param=f"{path}.type")
    return convert(value, _BLOCKS[kind], path)
