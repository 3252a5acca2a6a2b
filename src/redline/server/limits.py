"""How much a request may bring, and what its key is told of the budget that is left.

A body is checked on its announced length, and again as the bytes arrive. The headers are those of the OpenAI API; the
budgets themselves are kept in accounts.py. Open `BodyLimit`.
"""

from __future__ import annotations

from collections.abc import Mapping

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from redline.errors import TooLarge
from redline.server import failures
from redline.server.accounts import Accounts
from redline.server.budgets import Standing
from redline.server.caller import caller_of

MAX_BODY_BYTES = 16 << 20
MAX_LENGTH_DIGITS = 19  # of a content-length; more would be refused whatever it says


class BodyLimit:
    """Refuses a body of more than `most` bytes without reading the rest of it."""

    def __init__(self, app: ASGIApp, most: int = MAX_BODY_BYTES, *, larger: Mapping[str, int] = {}) -> None:
        """`larger`: paths whose bodies may be longer."""
        self._app = app
        self._most = most
        self._larger = larger

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        most = self._larger.get(scope["path"], self._most)
        announced = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
        if len(announced) > MAX_LENGTH_DIGITS or (announced.isdigit() and int(announced) > most):
            await failures.response(_too_large(most), scope["path"])(scope, receive, send)
            return
        read = 0

        async def counted() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > most:
                raise _too_large(most)
            return message

        await self._app(scope, counted, send)


class BudgetHeaders:
    """Tells the holder of a limited key, on every answer, what is left of its requests and of its tokens."""

    def __init__(self, app: ASGIApp, accounts: Accounts) -> None:
        self._app = app
        self._accounts = accounts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        key = caller_of(scope).id if scope["type"] == "http" else ""
        if not key or not self._accounts.has_limits(key):
            await self._app(scope, receive, send)
            return

        async def told(message: Message) -> None:
            if message["type"] == "http.response.start":
                requests, tokens = self._accounts.standing(key)
                added = [*_headers(b"requests", requests), *_headers(b"tokens", tokens)]
                message = {**message, "headers": [*message.get("headers", ()), *added]}
            await send(message)

        await self._app(scope, receive, told)


def _too_large(most: int) -> TooLarge:
    return TooLarge(f"the request body exceeds {most} bytes", hint="send less at a time")


def _headers(what: bytes, standing: Standing | None) -> list[tuple[bytes, bytes]]:
    if standing is None:
        return []
    return [
        (b"x-ratelimit-limit-" + what, str(standing.limit).encode()),
        (b"x-ratelimit-remaining-" + what, str(standing.remaining).encode()),
        (b"x-ratelimit-reset-" + what, duration(standing.reset_s).encode()),
    ]


def duration(seconds: float) -> str:
    """As those headers write it: 350ms, 1.5s, 6m0s, 2h0m0s."""
    if seconds < 1:
        return f"{round(seconds * 1000)}ms"
    if seconds < 60:
        return f"{round(seconds, 1):g}s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes}m{rest}s" if hours else f"{minutes}m{rest}s"
