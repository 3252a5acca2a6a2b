"""The API key: one layer in front of every route, denied by default. Knows nothing of what it protects."""

from __future__ import annotations

import hmac

from starlette.types import ASGIApp, Receive, Scope, Send

from redline.errors import Unauthorized
from redline.server import failures

OPEN_PATHS = frozenset({"/health"})


class Auth:
    """Lets a request pass that brings `key` as a bearer token, or any request where `key` is None.

    Only `OPEN_PATHS` need no key, compared with the whole path. What is neither HTTP nor the server's own start and
    stop is refused.
    """

    def __init__(self, app: ASGIApp, key: str | None) -> None:
        self._app = app
        self._key = None if key is None else key.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or self._key is None or self._allowed(scope, self._key):
            await self._app(scope, receive, send)
        else:
            error = Unauthorized("this server needs an API key", hint="send it as 'Authorization: Bearer KEY'")
            await failures.response(error)(scope, receive, send)

    def _allowed(self, scope: Scope, key: bytes) -> bool:
        if scope["type"] != "http":
            return False
        return scope["path"] in OPEN_PATHS or hmac.compare_digest(_bearer(scope), key)


def _bearer(scope: Scope) -> bytes:
    values = [value for name, value in scope["headers"] if name == b"authorization"]
    scheme, _, token = values[0].partition(b" ") if len(values) == 1 else (b"", b"", b"")
    return bytes(token.strip()) if scheme.lower() == b"bearer" else b""
