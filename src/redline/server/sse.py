"""Server-sent events, built by hand: one struct is one event, and all events of a wake-up leave in one write.

The status line is held back until the first event exists, so that an error before it still gets its own status; a
later one becomes an error event, and the stream ends without `[DONE]`. Open `send_events` first.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing

import msgspec
from starlette.types import Send

from redline.errors import RedlineError
from redline.server import failures

DONE = b"data: [DONE]\n\n"
_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),  # a proxy that collects events before it passes them on defeats streaming
]
_encode = msgspec.json.Encoder().encode


def event(body: object) -> bytes:
    """One event with `body` as its JSON data."""
    return b"data: %b\n\n" % _encode(body)


async def send_events(send: Send, batches: AsyncGenerator[Iterable[object]]) -> None:
    """Stream the bodies as events, a write per batch. Raises only what happens before the first event."""
    started = False
    end = DONE
    try:
        async with aclosing(batches):
            async for batch in batches:
                data = b"".join([event(body) for body in batch])
                if data and not started:
                    await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
                    started = True
                if data:
                    await send({"type": "http.response.body", "body": data, "more_body": True})
    except Exception as error:
        if not started:
            raise
        end = event(failures.envelope(_told(error)))
    assert started, "an answer without a single event"
    await send({"type": "http.response.body", "body": end})


def _told(error: Exception) -> RedlineError:
    if isinstance(error, RedlineError):
        return error
    logging.getLogger("redline.server").error("a stream failed", exc_info=error)
    return failures.unexpected()
