"""Who asks, and may they: one layer in front of all routes, and one guard around each endpoint. Denied by default.

`Auth` finds the caller of a request and lets nobody without a key further than to an open endpoint. `Guard` then asks the
caller's scopes at the endpoint that the router really chose, so that no way of writing a path leads around it. Knows
nothing of what the endpoints do. Open `KeyCheck.caller`, then `Guard`.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import inspect
from collections.abc import Iterable
from typing import Any

from starlette.routing import BaseRoute, Match, Route, request_response
from starlette.types import ASGIApp, Receive, Scope, Send

from redline.errors import Forbidden, InvalidKey, RedlineError, Unauthorized
from redline.server import failures
from redline.server.caller import ANYONE, NOBODY, Caller, caller_of, set_caller
from redline.server.endpoint import Endpoint
from redline.server.keys import PREFIX, KeyRing

_ENDPOINT = "redline.endpoint"  # where a scope tells which endpoint was reached


class KeyCheck:
    """Which keys a listener takes: those of `ring`, and `secret`, which makes its bearer `holder`."""

    def __init__(self, ring: KeyRing, secret: str | None, holder: Caller = ANYONE, *, always: bool = False) -> None:
        """Without a key in the file and without `secret` anyone may pass, unless `always`."""
        self._ring = ring
        self._secret = None if secret is None else _digest(secret.encode())
        self._holder = holder
        self._always = always
        self.takes_basic = always  # as a browser asks a person for it: the password is the key

    async def caller(self, scope: Scope) -> Caller:
        """Whose request this is. Raises Unauthorized or a kind of InvalidKey."""
        await self._ring.follow()
        if self._secret is None and not self._always and not len(self._ring):
            return ANYONE
        tokens = self._tokens(scope)
        if not any(tokens):
            raise Unauthorized("this server needs an API key", hint="send it as 'Authorization: Bearer KEY'")
        if any(token != tokens[0] for token in tokens):
            raise InvalidKey("the request brings two different API keys", hint="send one")
        if self._secret is not None and hmac.compare_digest(_digest(tokens[0]), self._secret):
            return self._holder
        if self._secret is not None and not tokens[0].startswith(PREFIX.encode()):
            raise InvalidKey("this API key is not known here", hint="ask for a new one")
        return self._ring.find(tokens[0]).caller

    def _tokens(self, scope: Scope) -> list[bytes]:
        """Every key that the request brings; one that cannot be read counts, as an empty one."""
        tokens = []
        for name, value in scope["headers"]:
            if name == b"x-api-key":
                tokens.append(value.strip())
            elif name == b"authorization":
                scheme, _, rest = value.partition(b" ")
                if scheme.lower() == b"bearer":
                    tokens.append(rest.strip())
                else:
                    # Another site can make a browser send a password that it remembers, but only reading is safe then.
                    basic = self.takes_basic and scheme.lower() == b"basic" and scope["method"] in ("GET", "HEAD")
                    tokens.append(_password(rest) if basic else b"")
        return tokens


class Auth:
    """The layer. What is neither HTTP nor the server's own start and stop is refused."""

    def __init__(self, app: ASGIApp, gate: KeyCheck, routes: Iterable[BaseRoute]) -> None:
        """`routes`: all of them; those of open endpoints may be asked without a key."""
        self._app = app
        self._gate = gate
        self._open = [route for route in routes if isinstance(route, Route) and _is_open(route)]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        elif scope["type"] == "http":
            try:
                set_caller(scope, await self._gate.caller(scope))
            except Unauthorized as error:
                if not any(route.matches(scope)[0] is Match.FULL for route in self._open):
                    await self._refuse(error, scope, receive, send)
                    return
                set_caller(scope, NOBODY)
            await self._app(scope, receive, send)

    async def _refuse(self, error: RedlineError, scope: Scope, receive: Receive, send: Send) -> None:
        response = failures.response(error, scope["path"])
        if self._gate.takes_basic:
            response.headers["www-authenticate"] = 'Basic realm="redline admin", charset="UTF-8"'
        await response(scope, receive, send)


class Guard:
    """An endpoint behind its scope, as an ASGI application."""

    def __init__(self, endpoint: Endpoint, models: frozenset[str] | None = None) -> None:
        """`models`: the names of what is served, where the endpoint asks a model."""
        self.endpoint = endpoint
        self._models = models
        # As Route decides it: functions take a Request, everything else is an application.
        handler: Any = endpoint.handler
        function = inspect.isfunction(handler) or inspect.ismethod(handler)
        self._app: ASGIApp = request_response(handler) if function else handler

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope[_ENDPOINT] = self.endpoint
        self.check(caller_of(scope))
        await self._app(scope, receive, send)

    def check(self, caller: Caller) -> None:
        """Raise Forbidden unless `caller` may ask this endpoint."""
        scope = self.endpoint.scope
        if scope == "open":
            return
        if scope not in caller.scopes:
            if caller is NOBODY:
                raise Unauthorized("this server needs an API key", hint="send it as 'Authorization: Bearer KEY'")
            raise Forbidden(f"this API key does not have the scope {scope!r}", hint="ask for a key that has it")
        if self._models is not None and caller.models is not None and not caller.models & self._models:
            raise Forbidden("this API key may not ask this model", param="model")


def needs_no_key(scope: Scope) -> bool:
    """Whether the endpoint that a request has reached is open to everyone."""
    endpoint: Endpoint | None = scope.get(_ENDPOINT)
    return endpoint is not None and endpoint.scope == "open"


def _is_open(route: Route) -> bool:
    return isinstance(route.endpoint, Guard) and route.endpoint.endpoint.scope == "open"


def _digest(token: bytes) -> bytes:
    """What is compared instead of the tokens: of one length, whatever was sent."""
    return hashlib.sha256(token).digest()


def _password(credentials: bytes) -> bytes:
    try:
        return base64.b64decode(credentials.strip(), validate=True).partition(b":")[2]
    except binascii.Error:
        return b""
