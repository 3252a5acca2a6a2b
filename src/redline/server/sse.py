"""Server-sent events, built by hand: one struct is one event, and all events of a wake-up leave in one write.

The status line is held back until the first event exists, so that an error before it still gets its own status; a
later one becomes an error event, and the stream ends without `[DONE]`. A stream that is silent for a while writes comments,
which every client skips, so that nobody on the way takes the connection for dead: from `BEAT_S` on, and before the first
event from `FIRST_BEAT_S` on, where the status line, which has to leave first, can then no longer tell an error. How an API
writes its events is a `Dialect`. Open `send_events` first.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import msgspec
from starlette.types import Send

from redline.errors import RedlineError
from redline.server import failures

DONE = b"data: [DONE]\n\n"
BEAT = b": keep-alive\n\n"
BEAT_S = 15.0
FIRST_BEAT_S = 10.0
_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),  # a proxy that collects events before it passes them on defeats streaming
]
_encode = msgspec.json.Encoder().encode


def event(body: object) -> bytes:
    """One event with `body` as its JSON data."""
    return b"data: %b\n\n" % _encode(body)


def named_event(body: dict[str, Any]) -> bytes:
    """One event called by the `type` of its body."""
    return b"event: %b\ndata: %b\n\n" % (body["type"].encode(), _encode(body))


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """How an API writes a stream: an event, the end of a whole stream, and the body of an error that ends one early."""

    event: Callable[[Any], bytes]
    end: bytes
    error: Callable[[RedlineError], object]


PLAIN = Dialect(event=event, end=DONE, error=failures.envelope)
NAMED = Dialect(event=named_event, end=b"", error=failures.messages_envelope)


async def send_events(send: Send, batches: AsyncGenerator[Iterable[object]], dialect: Dialect = PLAIN) -> None:
    """Stream the bodies as events, a write per batch. Raises only what happens before the first event."""
    out = _Out(send)
    beating = asyncio.ensure_future(out.beat())
    end = dialect.end
    try:
        async with aclosing(batches):
            async for batch in batches:
                data = b"".join([dialect.event(body) for body in batch])
                if data:
                    await out.write(data)
    except Exception as error:
        if not out.started:
            raise
        end = dialect.event(dialect.error(told(error)))
    finally:
        beating.cancel()
        await asyncio.gather(beating, return_exceptions=True)
    assert out.started, "an answer without a single event"
    await send({"type": "http.response.body", "body": end})


class _Out:
    """What of a stream is out: whether the status line is, and when something last was."""

    def __init__(self, send: Send) -> None:
        self.started = False
        self._send = send
        self._last = time.monotonic()

    async def write(self, data: bytes) -> None:
        self._last = time.monotonic()
        if not self.started:
            self.started = True
            await self._send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def beat(self) -> None:
        """Write a comment wherever nothing else was written for too long; goes on until it is cancelled."""
        while True:
            left = (BEAT_S if self.started else FIRST_BEAT_S) - (time.monotonic() - self._last)
            if left > 0:
                await asyncio.sleep(left)
            else:
                await self.write(BEAT)


def told(error: Exception) -> RedlineError:
    """What a client hears of an error that ends a stream; the log hears of one that is a fault of ours."""
    failures.note(error.code if isinstance(error, RedlineError) else failures.unexpected().code)
    if isinstance(error, RedlineError):
        return error
    logging.getLogger("redline.server").error("a stream failed", exc_info=error)
    return failures.unexpected()
