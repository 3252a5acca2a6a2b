"""Cross-origin requests: what a page of another site may ask of this server from inside a browser. Nothing, unless listed.

Only the origins of the configuration are granted anything, compared as a whole; `*` grants any. Credentials are never
allowed: a key travels in a header that the page itself sets, so no cookie is ever needed. Open `Cors.__call__`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from redline.errors import ConfigError

MAX_AGE_S = 600
MAX_HEADER_BYTES = 2048  # of the list of headers that a page wants to send
_METHODS = b"GET, POST, DELETE"
_EXPOSED = b"x-request-id, openai-processing-ms, retry-after, retry-after-ms, x-redline-warnings"
_ORIGIN = re.compile(r"https?://[a-z0-9.\-\[\]:]+")
_NAMES = re.compile(rb"[A-Za-z0-9\-_, ]*")


class Cors:
    """Answers preflight requests of listed origins before anything asks for a key, and marks the answers to their requests."""

    def __init__(self, app: ASGIApp, origins: frozenset[bytes]) -> None:
        """`origins` as `origins_of` returns them."""
        self._app = app
        self._origins = origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"]) if scope["type"] == "http" else {}
        origin = headers.get(b"origin")
        granted = None if origin is None else self._granted(origin)
        if granted is None:
            await self._app(scope, receive, send)
        elif scope["method"] == "OPTIONS" and b"access-control-request-method" in headers:
            wanted = headers.get(b"access-control-request-headers", b"")
            await send({"type": "http.response.start", "status": 204, "headers": [*granted, *_preflight(wanted)]})
            await send({"type": "http.response.body"})
        else:

            async def marked(message: Message) -> None:
                if message["type"] == "http.response.start":
                    told = [*message.get("headers", ()), *granted, (b"access-control-expose-headers", _EXPOSED)]
                    message = {**message, "headers": told}
                await send(message)

            await self._app(scope, receive, marked)

    def _granted(self, origin: bytes) -> list[tuple[bytes, bytes]] | None:
        if b"*" in self._origins:
            return [(b"access-control-allow-origin", b"*")]
        if origin in self._origins:
            return [(b"access-control-allow-origin", origin), (b"vary", b"origin")]
        return None


def origins_of(configured: Iterable[str]) -> frozenset[bytes]:
    """The origins of a configuration. Raises ConfigError for what is none."""
    return frozenset(_checked(origin) for origin in configured)


def _preflight(wanted: bytes) -> list[tuple[bytes, bytes]]:
    told = [(b"access-control-allow-methods", _METHODS), (b"access-control-max-age", str(MAX_AGE_S).encode())]
    if wanted and len(wanted) <= MAX_HEADER_BYTES and _NAMES.fullmatch(wanted):
        told.append((b"access-control-allow-headers", wanted))
    return told


def _checked(origin: str) -> bytes:
    if origin != "*" and not _ORIGIN.fullmatch(origin):
        hint = "write it as a browser does: https://host or https://host:port, in lower case and without a path"
        raise ConfigError(f"{origin!r} is not an origin", hint=hint, param="cors_origin")
    return origin.encode()
