"""One HTTP exchange below the level of the API: the body in, one document out, and work that ends with its client.

Knows nothing of models or of what the bytes mean. Open `while_connected` first.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import msgspec
from starlette.responses import Response
from starlette.types import Receive, Send

from redline.errors import SlowBody

BODY_S = 60.0  # for the whole body to arrive


class ClientGone(Exception):
    """The client closed the connection; nobody reads an answer."""


async def read_body(receive: Receive) -> bytes:
    """The whole request body. Raises ClientGone, SlowBody after `BODY_S`, and what the limits in front raise."""
    parts = []
    try:
        async with asyncio.timeout(BODY_S):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientGone
                parts.append(message.get("body", b""))
                if not message.get("more_body", False):
                    return b"".join(parts)
    except TimeoutError as error:
        raise SlowBody(f"the request body did not arrive within {BODY_S:g} s", hint="send it at once") from error


async def while_connected(receive: Receive, work: Coroutine[Any, Any, None]) -> None:
    """Run `work` to its end, or cancel it as soon as the client is gone. The body must have been read."""
    job = asyncio.ensure_future(work)
    watch = asyncio.ensure_future(_gone(receive))
    try:
        await asyncio.wait((job, watch), return_when=asyncio.FIRST_COMPLETED)
    finally:
        # Reached when either is done, and when this task itself is cancelled: neither may stay behind.
        ended = job.done()
        job.cancel()
        watch.cancel()
        await asyncio.gather(job, watch, return_exceptions=True)
    if ended:
        job.result()


async def send_json(send: Send, body: object) -> None:
    """Answer 200 with `body` as JSON."""
    data = msgspec.json.encode(body)
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(data)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": data})


def json_response(body: object) -> Response:
    """The same for a handler that returns its answer."""
    return Response(msgspec.json.encode(body), media_type="application/json")


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
