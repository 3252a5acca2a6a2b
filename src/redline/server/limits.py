"""How much a request may bring: checked on its announced length, and again as the bytes arrive. Open `BodyLimit`."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from redline.errors import TooLarge
from redline.server import failures

MAX_BODY_BYTES = 16 << 20
MAX_LENGTH_DIGITS = 19  # of a content-length; more would be refused whatever it says


class BodyLimit:
    """Refuses a body of more than `most` bytes without reading the rest of it."""

    def __init__(self, app: ASGIApp, most: int = MAX_BODY_BYTES) -> None:
        self._app = app
        self._most = most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        announced = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
        if len(announced) > MAX_LENGTH_DIGITS or (announced.isdigit() and int(announced) > self._most):
            await failures.response(self._too_large())(scope, receive, send)
            return
        read = 0

        async def counted() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > self._most:
                raise self._too_large()
            return message

        await self._app(scope, counted, send)

    def _too_large(self) -> TooLarge:
        return TooLarge(f"the request body exceeds {self._most} bytes", hint="send less at a time")
