"""The bodies of POST /tokenize and /detokenize, in the shapes that vLLM gave them. Open `TokenizeBody`."""

from __future__ import annotations

from typing import Any

from redline.server.chat_schema import Message
from redline.server.schema import Int, Record


class TokenizeBody(Record, frozen=True, kw_only=True):
    """Either `prompt`, or `messages` with what the chat template is told."""

    model: str | None = None
    prompt: str | None = None
    messages: list[Message] | None = None
    add_special_tokens: bool | None = None  # true for a prompt; a template writes its own
    return_token_strs: bool | None = None

    # With messages.
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    tools: Any = None

    # Known and not built.
    chat_template: Any = None
    mm_processor_kwargs: Any = None

    _unbuilt = {"chat_template": (), "mm_processor_kwargs": ({},)}


class TokenizeAnswer(Record, frozen=True, kw_only=True):
    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None = None  # pieces as the vocabulary spells them


class DetokenizeBody(Record, frozen=True, kw_only=True):
    model: str | None = None
    tokens: list[Int]


class DetokenizeAnswer(Record, frozen=True, kw_only=True):
    prompt: str
