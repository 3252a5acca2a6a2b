"""How an answer leaves: as events while it grows, or as one document made of the same pieces.

Both endpoints come through here; what differs between them is their `Style`. Open `reply` first.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Protocol

from starlette.types import Receive, Send

from redline.chat.parser import Parser, PlainParser
from redline.server.caller import ANYONE, Caller
from redline.server.connection import send_json, while_connected
from redline.server.generation import Generation, Piece, merged
from redline.server.parameters import Parameters
from redline.server.service import Service
from redline.server.sse import send_events
from redline.types import Request, SamplingParams, Usage

Json = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Call:
    """One API call, tokenised and checked."""

    prefix: str  # of its id: what kind of object it is
    model: str
    asked: Parameters
    stream: bool
    arrival: float
    continues: bool  # the answer goes on in the middle of a text
    caller: Caller = ANYONE
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    created: int = field(default_factory=lambda: int(time.time()))

    def head(self, kind: str) -> Json:
        """What every object of the answer begins with."""
        return {"id": f"{self.prefix}-{self.id}", "object": kind, "created": self.created, "model": self.model}

    def request(self, number: int, prompt: list[int], sampling: SamplingParams, *, grammar: str | None = None) -> Request:
        """Prompt `number` of the call, for the engine."""
        return Request(
            id=f"{self.prefix}-{self.id}-{number}",
            prompt=prompt,
            sampling=sampling,
            priority=self.asked.priority + self.caller.priority,
            arrival=self.arrival,
            deadline=None if self.asked.deadline_s is None else self.arrival + self.asked.deadline_s,
            cache_salt=self.asked.cache_salt,
            want_receipt=True,  # 25 us in all, and /v1/receipt can tell it later
            grammar=grammar,
            tenant=self.caller.id,
            weight=self.caller.weight,
        )


class Style(Protocol):
    """How one endpoint writes a choice."""

    chunk_kind: str
    document_kind: str

    def events(self, piece: Piece) -> Iterable[Json]:
        """The `choices` entries that tell `piece` in a stream; none where there is nothing to tell."""
        ...

    def choice(self, whole: Piece) -> Json:
        """The `choices` entry of a complete answer."""
        ...


async def reply(
    service: Service,
    call: Call,
    requests: list[Request],
    style: Style,
    receive: Receive,
    send: Send,
    *,
    parser: Callable[[], Parser] = PlainParser,
) -> None:
    """Run the call and answer it; ends early, and cancels, when the client goes."""
    generation = Generation(service, requests, call.arrival, continues=call.continues, parser=parser)
    if call.stream:
        work = send_events(send, _events(call, generation, style))
    else:
        work = _send_document(call, generation, style, send)
    await while_connected(receive, work)


async def _events(call: Call, generation: Generation, style: Style) -> AsyncGenerator[list[Json]]:
    head = call.head(style.chunk_kind)
    usage = {"usage": None} if call.asked.include_usage else {}
    async with aclosing(generation.pieces()) as source:
        async for pieces in source:
            yield [{**head, "choices": [entry], **usage} for piece in pieces for entry in style.events(piece)]
    closing: Json = {}
    if call.asked.include_usage:
        closing["usage"] = _usage(generation.usage)
    if call.asked.want_receipt:
        closing["redline"] = generation.receipt
    if closing:
        yield [{**head, "choices": [], **closing}]


async def _send_document(call: Call, generation: Generation, style: Style, send: Send) -> None:
    parts: dict[int, list[Piece]] = {}
    async with aclosing(generation.pieces()) as source:
        async for pieces in source:
            for piece in pieces:
                parts.setdefault(piece.choice, []).append(piece)
    body = call.head(style.document_kind)
    body["choices"] = [style.choice(merged(parts[choice])) for choice in sorted(parts)]
    body["usage"] = _usage(generation.usage)
    if call.asked.want_receipt:
        body["redline"] = generation.receipt
    await send_json(send, body)


def _usage(usage: Usage) -> Json:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }
