"""Writes an answer as Anthropic's messages: the pieces as the events of its stream, and the message they add up to.

An answer that is not streamed is written by the same code, its events unread. Open `MessageWriter.push`.
"""

from __future__ import annotations

from typing import Any

import msgspec

from redline.server.blocks import Block, Blocks, Step
from redline.server.generation import Piece
from redline.types import Usage

Json = dict[str, Any]

_DELTAS = {
    "text": ("text_delta", "text"),
    "reasoning": ("thinking_delta", "thinking"),
    "call": ("input_json_delta", "partial_json"),
}


class MessageWriter:
    """`message` is the answer as it stands. Call `begin`, `push` as often as needed, then `finish`."""

    def __init__(self, id: str, model: str) -> None:
        self.message: Json = {
            "id": id,
            "type": "message",
            "role": "assistant",
            "model": model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": None,
        }
        self._blocks = Blocks()

    def begin(self, prompt_tokens: int) -> list[Json]:
        """The model has begun to answer. How much of the prompt was cached is told at the end."""
        usage = usage_of(Usage(prompt_tokens=prompt_tokens), 0)
        return [{"type": "message_start", "message": {**self.message, "content": [], "usage": usage}}, {"type": "ping"}]

    def push(self, piece: Piece) -> list[Json]:
        """What a piece adds."""
        if piece.delta.finish is not None:
            self._end(piece.delta.finish, piece.delta.stop)
        return [self._event(step) for step in self._blocks.push(piece.events)]

    def finish(self, usage: Usage, thinking_tokens: int) -> list[Json]:
        """The answer is whole, or as long as it may be."""
        events = [self._event(step) for step in self._blocks.finish()]
        if self.message["stop_reason"] == "end_turn" and any(block.kind == "call" for block in self._blocks.all):
            self.message["stop_reason"] = "tool_use"
        self.message["content"] = [_content(block, whole=True) for block in self._blocks.all]
        self.message["usage"] = usage_of(usage, thinking_tokens)
        ended = {name: self.message[name] for name in ("stop_reason", "stop_sequence")}
        return [*events, {"type": "message_delta", "delta": ended, "usage": self.message["usage"]}, {"type": "message_stop"}]

    @property
    def thinking(self) -> str:
        """All that was reasoned so far."""
        return "".join(block.text for block in self._blocks.all if block.kind == "reasoning")

    def _end(self, finish: str, stop: str | int | None) -> None:
        if finish == "length":
            self.message["stop_reason"] = "max_tokens"
        elif isinstance(stop, str):
            self.message |= {"stop_reason": "stop_sequence", "stop_sequence": stop}
        else:
            self.message["stop_reason"] = "end_turn"

    def _event(self, step: Step) -> Json:
        block = step.block
        if step.what == "open":
            return {"type": "content_block_start", "index": block.number, "content_block": _content(block, whole=False)}
        if step.what == "close":
            return {"type": "content_block_stop", "index": block.number}
        kind, name = _DELTAS[block.kind]
        return {"type": "content_block_delta", "index": block.number, "delta": {"type": kind, name: step.added}}


def usage_of(usage: Usage, thinking_tokens: int) -> Json:
    """Tokens as Anthropic tells them: input_tokens are those that no cache had."""
    return {
        "input_tokens": usage.prompt_tokens - usage.cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.cached_tokens,
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"thinking_tokens": thinking_tokens},
        "service_tier": "standard",
    }


def _content(block: Block, *, whole: bool) -> Json:
    text = block.text if whole else ""
    if block.kind == "text":
        return {"type": "text", "text": text, "citations": None}
    if block.kind == "reasoning":
        return {"type": "thinking", "thinking": text, "signature": ""}
    return {"type": "tool_use", "id": block.id, "name": block.name, "input": _arguments(text)}


def _arguments(text: str) -> Json:
    """The arguments of a call as an object. One that was cut short, or that is no object, has none that can be told so."""
    try:
        value = msgspec.json.decode(text or "{}")
    except (msgspec.DecodeError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
