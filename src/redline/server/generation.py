"""One API call at the engine: its prompts in, text of its choices out, cancelled when nobody reads on.

A call has one request per prompt, and `n` choices per request, numbered as the API numbers them. Text, stop strings and
ends are the engine room's `Answer`. Knows nothing of JSON. Open `Generation.pieces` first.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable
from typing import Any, NamedTuple

from redline.chat.parser import Event, Parser, PlainParser
from redline.chat.parser import merged as joined
from redline.engine.answer import Answer, Delta
from redline.engine.message import error_of
from redline.errors import DeadlineExceeded, EngineDead, RedlineError
from redline.server.service import Service
from redline.types import Chunk, Request, Usage


class Piece(NamedTuple):
    """What was added to choice number `choice` of the call: as the engine's delta, and as the events its text is."""

    choice: int
    delta: Delta
    events: list[Event]


class Generation:
    """The choices of one call while they run."""

    def __init__(
        self,
        service: Service,
        requests: list[Request],
        arrival: float,
        *,
        continues: bool,
        parser: Callable[[], Parser] = PlainParser,
    ) -> None:
        self._service = service
        self._requests = {request.id: request for request in requests}
        self._arrival = arrival
        self._choices = _numbered(requests)
        self._answers = {
            key: Answer(service.tokenizer, self._requests[key[0]], key[1], continues=continues) for key in self._choices
        }
        self._parsers = [parser() for _ in self._choices]
        self._last_tokens: dict[int, float] = {}
        self._usages: dict[tuple[str, int], Usage] = {}
        self._receipts: dict[str, dict[str, Any]] = {}

    async def pieces(self) -> AsyncGenerator[list[Piece]]:
        """What was added, a list for each time the engine was heard. Raises the error that ends the call.

        Close it (`aclosing`): whatever the reason to stop reading, what still runs is cancelled then.
        """
        stream = self._service.client.submit(*self._requests.values())
        try:
            async for chunks in stream:
                yield [self._piece(chunk) for chunk in chunks]
        finally:
            stream.close()
            metrics = self._service.metrics
            metrics.request_ended(time.monotonic() - self._arrival)
            for answer in self._answers.values():
                if not answer.finished:
                    metrics.choice_ended("abort")

    @property
    def usage(self) -> Usage:
        """Tokens of the whole call; a prompt counts once, however many choices it has."""
        cached: dict[str, int] = {}
        for (request_id, _), usage in self._usages.items():
            cached[request_id] = max(cached.get(request_id, 0), usage.cached_tokens)
        return Usage(
            prompt_tokens=sum(len(request.prompt) for request in self._requests.values()),
            completion_tokens=sum(usage.completion_tokens for usage in self._usages.values()),
            cached_tokens=sum(cached.values()),
        )

    @property
    def receipt(self) -> Any:
        """The request's receipt, a list of them for several prompts."""
        receipts = list(self._receipts.values())
        return receipts[0] if len(self._requests) == 1 and receipts else receipts

    def _piece(self, chunk: Chunk) -> Piece:
        key = chunk.id, chunk.index
        answer, choice = self._answers[key], self._choices[key]
        delta = answer.push(chunk)
        self._observe(choice, chunk)
        if delta.finish is None:
            if answer.wants_cancel:
                self._service.client.cancel(*key)
            return Piece(choice, delta, self._parsers[choice].push(delta.text))
        self._service.metrics.choice_ended(delta.finish)
        if delta.finish not in ("stop", "length"):
            raise _error(delta)
        if delta.usage is not None:
            self._usages[key] = delta.usage
        if delta.receipt is not None:
            self._receipts[chunk.id] = delta.receipt
        parser = self._parsers[choice]
        return Piece(choice, delta, [*parser.push(delta.text), *parser.finish()])

    def _observe(self, choice: int, chunk: Chunk) -> None:
        if chunk.tokens:
            now = time.monotonic()
            before = self._last_tokens.get(choice)
            if before is None:
                self._service.metrics.first_token(now - self._arrival)
            else:
                self._service.metrics.next_tokens(now - before, len(chunk.tokens))
            self._last_tokens[choice] = now


def merged(pieces: list[Piece]) -> Piece:
    """All pieces of one choice as one: an answer that is not streamed is the collected stream."""
    deltas = [piece.delta for piece in pieces]
    last = deltas[-1]
    scored = [delta.logprobs for delta in deltas if delta.logprobs is not None]
    whole = Delta(
        index=last.index,
        text="".join([delta.text for delta in deltas]),
        tokens=[token for delta in deltas for token in delta.tokens],
        logprobs=[entry for entries in scored for entry in entries] if scored else None,
        prompt_logprobs=next((delta.prompt_logprobs for delta in deltas if delta.prompt_logprobs is not None), None),
        finish=last.finish,
        stop=last.stop,
    )
    return Piece(pieces[-1].choice, whole, joined([event for piece in pieces for event in piece.events]))


def _numbered(requests: list[Request]) -> dict[tuple[str, int], int]:
    keys = [(request.id, index) for request in requests for index in range(request.sampling.n)]
    return {key: number for number, key in enumerate(keys)}


def _error(delta: Delta) -> RedlineError:
    if delta.failure is not None:
        return error_of(delta.failure)
    if delta.finish == "deadline":
        return DeadlineExceeded("the deadline passed before the answer was complete", param="deadline_ms")
    return EngineDead("the request was ended by a shutdown", hint="retry")
