"""One response while it is made: its events, its place in the store, and those that nobody waits for.

In the background a response is stored before it is answered, waits while the queue is full, and is stored again when it
ends, however it ends. A server that is told to stop ends what it runs as failed; of one that is killed the store knows it.
Knows nothing of HTTP. Open `Run.events`, then `Background`.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from redline import log
from redline.errors import EngineDead, InternalError, Overloaded, RedlineError
from redline.server.conversation import Prepared
from redline.server.generation import Generation
from redline.server.reply import Call
from redline.server.response_store import ResponseStore
from redline.server.response_writer import ResponseWriter
from redline.server.service import Service
from redline.server.sse import told

Json = dict[str, Any]

MAX_BACKGROUND = 256  # responses of all callers
MAX_CALLER_BACKGROUND = 64
PATIENCE_S = 600.0  # for a place in the engine's queue, or an engine that comes back
RETRY_S, MAX_RETRY_S = 1.0, 30.0
WATCH_S = 2.0  # another server of the same state may cancel what runs here


@dataclass(kw_only=True)
class Run:
    """`keep`: store the response; one in the background is in the store already."""

    service: Service
    store: ResponseStore
    call: Call
    prepared: Prepared
    writer: ResponseWriter
    items: list[Json]
    keep: bool
    background: bool = False

    async def events(self) -> AsyncGenerator[list[Json]]:
        """All events, in batches. Raises only what happens before the first; a later error is the last event."""
        writer, began = self.writer, False
        request = self.call.request(0, self.prepared.tokens, self.prepared.sampling, grammar=self.prepared.grammar)
        generation = Generation(
            self.service,
            [request],
            self.call.arrival,
            continues=self.call.continues,
            parser=self.prepared.parser,
            by_token=self.prepared.sampling.logprobs is not None,
        )
        try:
            async with aclosing(generation.pieces()) as source:
                async for pieces in source:
                    batch = [] if began else writer.begin()
                    if self.background and not began:
                        await self._store()
                    began = True
                    yield batch + [event for piece in pieces for event in writer.push(piece)]
            if self.call.asked.want_receipt:
                writer.document["redline"] = generation.receipt
            last = writer.finish(generation.usage, self._reasoning_tokens())
            await self._store()
        except Exception as error:
            if not began:
                raise
            last = await self.failed(told(error))
        yield last

    async def failed(self, error: RedlineError) -> list[Json]:
        """End it with an error, and keep that where the caller knows the response's id."""
        last = self.writer.fail(error)
        if self.background or self.call.stream:
            await self._store()
        return last

    async def collected(self) -> Json:
        """The document of an answer that is not streamed. Raises the error that ended it."""
        async with aclosing(self.events()) as batches:
            async for _ in batches:
                pass
        if self.writer.error is not None:
            raise self.writer.error
        return self.writer.document

    async def _store(self) -> None:
        if self.background:
            await self.store.change(self.call.caller.id, self.writer.document)
        elif self.keep:
            await self.store.put(self.call.caller.id, self.writer.document, self.items)

    def _reasoning_tokens(self) -> int:
        text = self.writer.reasoning
        return len(self.service.tokenizer.encode(text, add_special_tokens=False)) if text else 0


class Background:
    """The responses that run in the background of this server."""

    def __init__(self, store: ResponseStore) -> None:
        self._store = store
        self._runs: dict[str, Run] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._watching: asyncio.Task[None] | None = None

    async def start(self, run: Run) -> None:
        """Store the response as queued and begin with it. Raises Overloaded where too many run already."""
        caller = run.call.caller.id
        of_caller = sum(other.call.caller.id == caller for other in self._runs.values())
        if len(self._runs) >= MAX_BACKGROUND or of_caller >= MAX_CALLER_BACKGROUND:
            raise Overloaded("too many responses run in the background", hint="retry later", param="background")
        id = run.writer.document["id"]
        self._runs[id] = run
        try:
            await self._store.put(caller, run.writer.document, run.items)
        except BaseException:
            del self._runs[id]
            raise
        self._tasks[id] = asyncio.create_task(self._run(run))
        if self._watching is None or self._watching.done():
            self._watching = asyncio.create_task(self._watch())

    def cancel(self, id: str) -> None:
        """End a run that the store has as ended already; nothing happens where it is not one of this server's."""
        if id in self._tasks:
            self._tasks[id].cancel()

    def close(self) -> None:
        """End every run as failed, at once."""
        runs, self._runs = self._runs, {}
        for id, run in runs.items():
            _stopped(run)
            self.cancel(id)
        if self._watching is not None:
            self._watching.cancel()

    async def _run(self, run: Run) -> None:
        id = run.writer.document["id"]
        try:
            await _to_its_end(run)
        except asyncio.CancelledError:
            if id in self._runs:
                _stopped(run)
        except Exception:  # not even its end could be stored
            log.get("responses").exception("response %s was lost", id)
        finally:
            self._runs.pop(id, None)
            self._tasks.pop(id, None)

    async def _watch(self) -> None:
        while self._runs:
            await asyncio.sleep(WATCH_S)
            with contextlib.suppress(InternalError):  # the file may be usable again the next time
                for id in await self._store.ended(list(self._tasks)):
                    self.cancel(id)


async def _to_its_end(run: Run) -> None:
    patient_until = time.monotonic() + PATIENCE_S
    while True:
        try:
            await run.collected()
            return
        except Exception as error:
            if run.writer.error is not None:
                return  # told already
            if not isinstance(error, RedlineError) or not error.retryable or time.monotonic() > patient_until:
                await run.failed(told(error))
                return
            await asyncio.sleep(min(error.retry_after_s or RETRY_S, MAX_RETRY_S))


def _stopped(run: Run) -> None:
    run.writer.fail(EngineDead("the server was stopped", hint="retry"))
    run.store.change_now(run.call.caller.id, run.writer.document)
