"""One API call at the engine: its prompts in, text of its choices out, cancelled when nobody reads on.

A call has one request per prompt, and `n` choices per request, numbered as the API numbers them. Text, stop strings and
ends are the engine room's `Answer`. Knows nothing of JSON. Open `Generation.pieces` first.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable
from typing import Any, NamedTuple

import msgspec

from redline.chat.parser import Event, Parser, PlainParser
from redline.chat.parser import merged as joined
from redline.engine.answer import Answer, Delta
from redline.engine.message import error_of
from redline.errors import DeadlineExceeded, EngineDead, RedlineError
from redline.server import exchange
from redline.server.service import Service
from redline.types import Chunk, Request, Timing, Usage


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
        by_token: bool = False,
    ) -> None:
        """`by_token`: a piece for every token that has log-probabilities, so that it is certain which events are whose."""
        self._service = service
        self._requests = {request.id: request for request in requests}
        self._arrival = arrival
        self._choices = _numbered(requests)
        self._by_token = by_token
        self._parsers = [parser() for _ in self._choices]
        markers = self._parsers[0].markers
        shown = service.dialect.shown(markers) if markers else frozenset()
        self._answers = {
            key: Answer(service.tokenizer, self._requests[key[0]], key[1], continues=continues, shown=shown)
            for key in self._choices
        }
        self._last_tokens: dict[int, float] = {}
        self._usages: dict[tuple[str, int], Usage] = {}
        self._receipts: dict[str, dict[str, Any]] = {}
        self._timings: dict[str, Timing] = {}
        self._finishes: list[str] = []
        self._first_token: float | None = None
        self._detokenize_s = 0.0

    async def pieces(self) -> AsyncGenerator[list[Piece]]:
        """What was added, a list for each time the engine was heard. Raises the error that ends the call.

        Close it (`aclosing`): whatever the reason to stop reading, what still runs is cancelled then.
        """
        stream = self._service.submit(*self._requests.values())
        try:
            async for chunks in stream:
                yield [self._piece(part) for chunk in chunks for part in (_tokens(chunk) if self._by_token else (chunk,))]
        finally:
            stream.close()
            self._tell()

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
        delta, events = self._read(answer, self._parsers[choice], chunk)
        self._observe(choice, chunk)
        if delta.finish is None:
            if answer.wants_cancel:
                self._service.client.cancel(*key)
            return Piece(choice, delta, events)
        self._ended(delta, chunk)
        if delta.finish not in ("stop", "length"):
            raise _error(delta)
        if delta.usage is not None:
            self._usages[key] = delta.usage
        if delta.receipt is not None:
            self._keep(chunk.id, {**delta.receipt, "detokenize_s": round(self._detokenize_s, 6)})
        return Piece(choice, delta, events)

    def _read(self, answer: Answer, parser: Parser, chunk: Chunk) -> tuple[Delta, list[Event]]:
        """The chunk as text, and the text as what it means; the time that takes is counted."""
        began = time.perf_counter()
        delta = answer.push(chunk)
        events = parser.push(delta.text)
        if delta.finish is not None:
            events = [*events, *parser.finish()]
        self._detokenize_s += time.perf_counter() - began
        return delta, events

    def _keep(self, request_id: str, receipt: dict[str, Any]) -> None:
        """Remember a receipt; with the last one they can be asked for, before anybody has the end of the answer."""
        self._receipts[request_id] = receipt
        if len(self._receipts) == len(self._requests):
            note = exchange.current()
            ids = (request_id,) if note is None else (request_id, note.id)
            self._service.receipts.keep(ids, self._requests[request_id].tenant, self.receipt)

    def _ended(self, delta: Delta, chunk: Chunk) -> None:
        assert delta.finish is not None
        self._finishes.append(delta.finish)
        tokens = 0 if delta.usage is None else delta.usage.completion_tokens
        self._service.metrics.choice_ended(delta.finish, tokens, chunk.timing)
        if chunk.timing is not None:
            self._timings[chunk.id] = chunk.timing  # the last choice's: it covers the others'

    def _tell(self) -> None:
        """The call is over: what metrics, the log line and the trace say of it."""
        metrics = self._service.metrics
        metrics.request_ended(time.monotonic() - self._arrival, self._detokenize_s)
        for _ in range(sum(not answer.finished for answer in self._answers.values())):
            metrics.choice_ended("abort")
            self._finishes.append("abort")
        for request in self._requests.values():
            metrics.request_asked(request.sampling.n, request.sampling.max_tokens)
            if request.id in self._timings:
                metrics.request_ran(self._timings[request.id], len(request.prompt))
        if (note := exchange.current()) is not None:
            note.model, note.usage, note.finishes = self._service.served_name, self.usage, self._finishes
            note.first_token, note.detokenize_s = self._first_token, self._detokenize_s
            note.timing = max(self._timings.values(), key=lambda timing: timing.decode_s, default=None)

    def _observe(self, choice: int, chunk: Chunk) -> None:
        if chunk.tokens:
            now = time.monotonic()
            before = self._last_tokens.get(choice)
            if before is None:
                self._service.metrics.first_token(now - self._arrival)
                self._first_token = self._first_token or now
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


def _tokens(chunk: Chunk) -> list[Chunk]:
    """The chunk as one for each of its tokens; all that is not of one token comes with the last."""
    if chunk.logprobs is None or len(chunk.tokens) != len(chunk.logprobs) or not chunk.tokens:
        return [chunk]
    each = [
        Chunk(id=chunk.id, index=chunk.index, tokens=[token], logprobs=[scored])
        for token, scored in zip(chunk.tokens, chunk.logprobs, strict=True)
    ]
    return [*each[:-1], msgspec.structs.replace(chunk, tokens=chunk.tokens[-1:], logprobs=chunk.logprobs[-1:])]


def _numbered(requests: list[Request]) -> dict[tuple[str, int], int]:
    keys = [(request.id, index) for request in requests for index in range(request.sampling.n)]
    return {key: number for number, key in enumerate(keys)}


def _error(delta: Delta) -> RedlineError:
    if delta.failure is not None:
        return error_of(delta.failure)
    if delta.finish == "deadline":
        return DeadlineExceeded("the deadline passed before the answer was complete", param="deadline_ms")
    return EngineDead("the request was ended by a shutdown", hint="retry")
