"""What the endpoints answer, as records: the OpenAPI page is made of them, and tests hold real answers against them.

Answers are written as plain dictionaries, because tokens flow through them; nothing of this file is on that path. Every
field that an answer may have is here. Open `ChatCompletion`.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec


class Answered(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A JSON object that the server writes."""


class ErrorDetail(Answered, frozen=True, kw_only=True):
    message: str
    type: str
    param: str | None
    code: str


class ErrorAnswer(Answered, frozen=True, kw_only=True):
    """Any error, of a status or inside a stream."""

    error: ErrorDetail


class MessagesErrorAnswer(Answered, frozen=True, kw_only=True):
    """An error as Anthropic's API tells it."""

    type: Literal["error"]
    error: ErrorDetail
    request_id: str | None


class PromptDetails(Answered, frozen=True, kw_only=True):
    cached_tokens: int


class CompletionDetails(Answered, frozen=True, kw_only=True):
    reasoning_tokens: int


class UsageAnswer(Answered, frozen=True, kw_only=True):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails
    completion_tokens_details: CompletionDetails | None = None


class PromptToken(Answered, frozen=True, kw_only=True):
    logprob: float
    decoded_token: str


PromptLogprobs = list[dict[str, PromptToken] | None]


class TopToken(Answered, frozen=True, kw_only=True):
    token: str
    logprob: float
    bytes: list[int]


class ChatToken(Answered, frozen=True, kw_only=True):
    token: str
    logprob: float
    bytes: list[int]
    top_logprobs: list[TopToken]


class ChatLogprobs(Answered, frozen=True, kw_only=True):
    content: list[ChatToken] | None
    refusal: None


class CalledFunction(Answered, frozen=True, kw_only=True):
    name: str | None = None
    arguments: str | None = None


class ToolCallAnswer(Answered, frozen=True, kw_only=True):
    """In a stream `index` says which call grows, and only its first part has a name."""

    function: CalledFunction
    id: str | None = None
    type: Literal["function"] | None = None
    index: int | None = None


class ChatMessage(Answered, frozen=True, kw_only=True):
    role: Literal["assistant"]
    content: str | None
    refusal: str | None
    reasoning_content: str | None = None
    tool_calls: list[ToolCallAnswer] | None = None


class ChatChoice(Answered, frozen=True, kw_only=True):
    index: int
    message: ChatMessage
    logprobs: ChatLogprobs | None
    finish_reason: Literal["stop", "length", "tool_calls"]
    stop_reason: str | int | None = None
    prompt_logprobs: PromptLogprobs | None = None


class ChatCompletion(Answered, frozen=True, kw_only=True):
    """The answer to a conversation. `redline` is the receipt, where it was asked for."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: UsageAnswer
    redline: Any = None


class ChatDelta(Answered, frozen=True, kw_only=True):
    role: Literal["assistant"] | None = None
    content: str | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[ToolCallAnswer] | None = None


class ChunkChoice(Answered, frozen=True, kw_only=True):
    index: int
    delta: ChatDelta
    finish_reason: Literal["stop", "length", "tool_calls"] | None
    logprobs: ChatLogprobs | None = None
    stop_reason: str | int | None = None
    prompt_logprobs: PromptLogprobs | None = None


class ChatChunk(Answered, frozen=True, kw_only=True):
    """One event of a streamed answer; the last has no choices, but what was asked for beside them."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: UsageAnswer | None = None
    redline: Any = None


class CompletionLogprobs(Answered, frozen=True, kw_only=True):
    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class CompletionChoice(Answered, frozen=True, kw_only=True):
    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: Literal["stop", "length"] | None
    stop_reason: str | int | None = None
    prompt_logprobs: PromptLogprobs | None = None


class Completion(Answered, frozen=True, kw_only=True):
    """Continued texts: a whole answer, or one event of a streamed one, which has usage at its end alone."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: UsageAnswer | None = None
    redline: Any = None


class HealthAnswer(Answered, frozen=True, kw_only=True):
    """`status` is "ready", or why not: what is loaded and how far, or the reason."""

    status: str
    stage: str | None = None
    percent: float | None = None
    reason: str | None = None


class MessagesUsage(Answered, frozen=True, kw_only=True):
    input_tokens: int
    output_tokens: int
    cache_creation_input_tokens: int
    cache_read_input_tokens: int
    output_tokens_details: dict[str, int]
    service_tier: str


class MessagesAnswer(Answered, frozen=True, kw_only=True):
    """Anthropic's message; `content` are blocks of type text, thinking and tool_use."""

    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[dict[str, Any]]
    stop_reason: Literal["end_turn", "max_tokens", "stop_sequence", "tool_use"] | None
    stop_sequence: str | None
    usage: MessagesUsage | None
    redline: Any = None


class CountedTokens(Answered, frozen=True, kw_only=True):
    input_tokens: int


class NamedEvent(msgspec.Struct, frozen=True, kw_only=True):
    """An event of a stream; what else it has depends on its type."""

    type: str


class ResponseAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """A response, with the fields of the request beside these. `output` are items of type message, reasoning and function_call."""

    id: str
    object: Literal["response"]
    created_at: float
    status: Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]
    model: str
    output: list[dict[str, Any]]
    usage: dict[str, Any] | None
    error: dict[str, Any] | None
    incomplete_details: dict[str, Any] | None


class DeletedResponse(Answered, frozen=True, kw_only=True):
    id: str
    object: Literal["response"]
    deleted: bool


class ResponseTokens(Answered, frozen=True, kw_only=True):
    object: Literal["response.input_tokens"]
    input_tokens: int


class ItemList(Answered, frozen=True, kw_only=True):
    object: Literal["list"]
    data: list[dict[str, Any]]
    first_id: str | None
    last_id: str | None
    has_more: bool
