"""Writes a response: the pieces of an answer as the events of its stream, and the document that they add up to.

An answer that is not streamed is written by the same code, its events unread. Log-probabilities are told of the tokens
that wrote text: those of a token that wrote nothing yet come with the next text, or not at all where reasoning or a call
comes next, and never those of the marks around them. Knows nothing of stores or HTTP. Open `ResponseWriter.push`.
"""

from __future__ import annotations

import time
from typing import Any

from redline.errors import RedlineError
from redline.server.blocks import Block, Blocks, Step
from redline.server.generation import Piece
from redline.server.logprobs import Spelling, chat_logprobs
from redline.server.response_input import new_id
from redline.types import Usage

Json = dict[str, Any]

_PREFIXES = {"text": "msg", "reasoning": "rs", "call": "fc"}
_ERROR_CODES = {400: "invalid_prompt", 429: "rate_limit_exceeded"}


class ResponseWriter:
    """`document` is the response as it stands. Call `begin`, `push` as often as needed, then `finish` or `fail`."""

    def __init__(self, document: Json, spelling: Spelling | None) -> None:
        """`document`: all that does not depend on the answer; `spelling` is given where log-probabilities are wanted."""
        self.document = {**document, "status": "queued", "output": [], "usage": None}
        self._spelling = spelling
        self._number = 0
        self._blocks = Blocks()
        self._ids: list[str] = []  # of the blocks' items
        self._scores: list[Json] = []  # of the open text
        self._untold: list[Json] = []  # scores that no event has told yet
        self._finish: str | None = None
        self.error: RedlineError | None = None

    def begin(self) -> list[Json]:
        """The model has begun to answer."""
        self.document["status"] = "in_progress"
        return [self._state("response.created"), self._state("response.in_progress")]

    def push(self, piece: Piece) -> list[Json]:
        """What a piece adds."""
        self._finish = piece.delta.finish or self._finish
        if self._spelling is not None and piece.delta.logprobs:
            ends = isinstance(piece.delta.stop, int)  # with a token that is not shown
            scores = piece.delta.logprobs[:-1] if ends else piece.delta.logprobs
            self._untold += chat_logprobs(scores, self._spelling)["content"]
        return [event for step in self._blocks.push(piece.events) for event in self._events(step)]

    def finish(self, usage: Usage, reasoning_tokens: int) -> list[Json]:
        """The answer is whole, or as long as it may be."""
        cut = self._finish == "length"
        status = "incomplete" if cut else "completed"
        events = [event for step in self._blocks.finish() for event in self._events(step, status)]
        self.document["status"] = status
        if cut:
            self.document["incomplete_details"] = {"reason": "max_output_tokens"}
        else:
            self.document["completed_at"] = int(time.time())
        self.document["usage"] = usage_of(usage, reasoning_tokens)
        return [*events, self._state(f"response.{status}")]

    def fail(self, error: RedlineError) -> list[Json]:
        """The answer ends here, by an error; what there is of it stays. A second end changes nothing."""
        if self.error is not None:
            return []
        self.error = error
        events = [event for step in self._blocks.finish() for event in self._events(step, "incomplete")]
        self.document["status"] = "failed"
        code = _ERROR_CODES.get(error.status, "server_error")
        self.document["error"] = {"code": code, "message": error.sentence(), "param": error.param, "type": error.code}
        return [*events, self._state("response.failed")]

    @property
    def reasoning(self) -> str:
        """All that was reasoned so far."""
        return "".join(block.text for block in self._blocks.all if block.kind == "reasoning")

    def _events(self, step: Step, status: str = "completed") -> list[Json]:
        if step.block.kind != "text" and step.what != "close":
            self._untold = []
        if step.what == "open":
            return self._opened(step.block)
        return self._grown(step.block, step.added) if step.what == "grow" else self._closed(step.block, status)

    def _opened(self, block: Block) -> list[Json]:
        self._ids.append(new_id(_PREFIXES[block.kind]))
        item = self._item(block, "in_progress", parts=False)
        opened = [self._event("response.output_item.added", output_index=block.number, item=item)]
        if block.kind != "call":
            opened.append(self._at(block, "response.content_part.added", content_index=0, part=self._part(block)))
        return opened

    def _grown(self, block: Block, added: str) -> list[Json]:
        if block.kind == "call":
            return [self._at(block, "response.function_call_arguments.delta", delta=added)]
        if block.kind == "reasoning":
            return [self._at(block, "response.reasoning_text.delta", content_index=0, delta=added)]
        told, self._untold = self._untold, []
        if len(block.parts) == 1:
            told = _last(told, len(added.encode()))
        self._scores += told
        return [self._at(block, "response.output_text.delta", content_index=0, delta=added, logprobs=told)]

    def _closed(self, block: Block, status: str) -> list[Json]:
        text = block.text
        if block.kind == "call":
            done = [self._at(block, "response.function_call_arguments.done", name=block.name, arguments=text)]
        elif block.kind == "reasoning":
            done = [self._at(block, "response.reasoning_text.done", content_index=0, text=text)]
        else:
            scores = list(self._scores)
            done = [self._at(block, "response.output_text.done", content_index=0, text=text, logprobs=scores)]
        if block.kind != "call":
            done.append(self._at(block, "response.content_part.done", content_index=0, part=self._part(block)))
        item = self._item(block, status)
        self.document["output"].append(item)
        self._scores = []
        return [*done, self._event("response.output_item.done", output_index=block.number, item=item)]

    def _item(self, block: Block, status: str, *, parts: bool = True) -> Json:
        item = {"id": self._ids[block.number], "status": status}
        content = [self._part(block)] if parts else []
        if block.kind == "text":
            return {**item, "type": "message", "role": "assistant", "content": content}
        if block.kind == "reasoning":
            return {**item, "type": "reasoning", "summary": [], "content": content}
        return {**item, "type": "function_call", "call_id": block.id, "name": block.name, "arguments": block.text}

    def _part(self, block: Block) -> Json:
        if block.kind == "reasoning":
            return {"type": "reasoning_text", "text": block.text}
        return {"type": "output_text", "text": block.text, "annotations": [], "logprobs": list(self._scores)}

    def _at(self, block: Block, kind: str, **fields: Any) -> Json:
        return self._event(kind, item_id=self._ids[block.number], output_index=block.number, **fields)

    def _state(self, kind: str) -> Json:
        return self._event(kind, response={**self.document, "output": list(self.document["output"])})

    def _event(self, kind: str, **fields: Any) -> Json:
        self._number += 1
        return {"type": kind, "sequence_number": self._number - 1, **fields}


def error_event(error: RedlineError) -> Json:
    """What a stream says that has begun, as a server does for a client who waits long, before there was a response."""
    return {"type": "error", "sequence_number": 0, "code": error.code, "message": error.sentence(), "param": error.param}


def _last(scores: list[Json], size: int) -> list[Json]:
    """The tokens that wrote the last `size` bytes: before them stand those that wrote a mark."""
    at = len(scores)
    while at and size > 0:
        at -= 1
        size -= len(scores[at]["bytes"])
    return scores[at:]


def usage_of(usage: Usage, reasoning_tokens: int) -> Json:
    """Tokens as the responses API tells them."""
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": reasoning_tokens},
        "total_tokens": usage.total_tokens,
    }
