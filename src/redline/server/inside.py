"""Endpoints asked from inside the server, on behalf of a caller: the same routes, guards and log lines, without a socket.

Who works for a caller of earlier (a batch) says who that is; the layers that find out and that count bytes are left out.
Open `Inside.post`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
from starlette.applications import Starlette
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.types import ASGIApp, Message

from redline.server import failures
from redline.server.access import Access
from redline.server.caller import Caller, set_caller


@dataclass(frozen=True)
class Reply:
    """A whole answer; names of headers are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Inside:
    def __init__(self, app: Starlette) -> None:
        """`app` as app.py builds it."""
        told = {kind: handler for kind, handler in app.exception_handlers.items() if kind is not Exception}  # Access logs those
        inner: ASGIApp = ExceptionMiddleware(app.router, handlers=told)
        for layer in app.user_middleware:
            known: Any = layer
            if known.cls is Access:
                inner = Access(inner, *known.args, **known.kwargs)
        self._app = inner

    async def post(self, path: str, body: bytes, caller: Caller) -> Reply:
        """POST a JSON document. Cancelling this cancels the request. Raises nothing that an endpoint raises: it is answered."""
        sent = False
        head: Message = {}
        parts: list[bytes] = []

        async def receive() -> Message:
            nonlocal sent
            if sent:
                await asyncio.Event().wait()  # nobody hangs up
            sent = True
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: Message) -> None:
            if message["type"] == "http.response.start":
                head.update(message)
            else:
                parts.append(message.get("body", b""))

        try:
            await self._app(_scope(path, body, caller), receive, send)
        except Exception:  # in the middle of an answer; it is in the log
            return Reply(500, {}, msgspec.json.encode(failures.envelope(failures.unexpected())))
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in head["headers"]}
        return Reply(head["status"], headers, b"".join(parts))


def _scope(path: str, body: bytes, caller: Caller) -> dict[str, Any]:
    scope: dict[str, Any] = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())],
        "client": None,
        "server": None,
    }
    set_caller(scope, caller)
    return scope
