"""A conversation to be answered, whichever API it came through: chat completions, responses and messages all make one.

`prepare` turns it into what the engine is asked and into the parser that will read the answer. Knows the chat template,
the tokenizer and the context; knows nothing of HTTP or of any API's JSON. Open `Conversation`, then `prepare`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from redline.chat.parser import Parser, PlainParser
from redline.server.parameters import Parameters, fit
from redline.server.service import Service
from redline.types import SamplingParams

Json = dict[str, Any]

INLINE_CHARS = 20_000  # longer conversations are rendered and tokenised in a thread


@dataclass(frozen=True, kw_only=True)
class Conversation:
    """`messages` in the form that templates read: role, content and name. `template` goes to `ChatTemplate.render`."""

    messages: list[Json]
    template: Json = field(default_factory=dict)

    @property
    def continues(self) -> bool:
        """Whether the answer goes on in the middle of the last message."""
        return bool(self.template.get("continue_final_message"))


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """What the engine is asked, and who reads the answer: `parser()` makes a parser for one choice."""

    tokens: list[int]
    sampling: SamplingParams
    grammar: str | None = None
    parser: Callable[[], Parser] = PlainParser


async def prepare(service: Service, conversation: Conversation, asked: Parameters, param: str = "messages") -> Prepared:
    """Render, tokenise and fit. Raises TemplateError, ContextTooLong and InvalidRequest; `param` names the field to blame."""

    def tokens() -> list[int]:
        text = service.template.render(conversation.messages, **conversation.template)
        return service.tokenizer.encode(text, add_special_tokens=False)

    long = sum(_size(message["content"]) for message in conversation.messages) > INLINE_CHARS
    prompt = await asyncio.to_thread(tokens) if long else tokens()
    return Prepared(tokens=prompt, sampling=fit(prompt, asked, service.ready(), param))


def _size(content: str | list[Json]) -> int:
    return len(content) if isinstance(content, str) else sum(len(part["text"]) for part in content)
