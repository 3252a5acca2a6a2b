"""One row of the API, as a record: app.py makes its route of it, auth.py asks its scope, the OpenAPI page documents it.

Every endpoint file has a function `endpoints(service) -> list[Endpoint]`; a route that is not in such a list does not
exist. Knows nothing of what an endpoint does. Open `Endpoint`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any, Literal

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Send

from redline.server.schema import Record

Scope = Literal["open", "inference", "files", "read", "admin"]
"""What a key must allow: `open` needs no key at all, `inference` asks models, `files` keeps files, batches and responses,
`read` looks at models, metrics and receipts, `admin` changes keys and the server."""

SCOPES: tuple[Scope, ...] = ("open", "inference", "files", "read", "admin")


class Application:
    """A method that answers by itself, as a handler: one that is a plain method is called with a Request."""

    def __init__(self, answer: ASGIApp) -> None:
        self._answer = answer

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        await self._answer(scope, receive, send)


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """`body` and `answer` are the records of its JSON; `event` is one event's data where the answer may be a stream.

    A JSON schema may stand for a record, where the body or the answer is no JSON.
    """

    method: Literal["GET", "POST", "DELETE"]
    path: str
    handler: ASGIApp | Callable[[Request], Awaitable[Response]]
    scope: Scope
    summary: str
    body: type[Record] | Mapping[str, Any] | None = None
    answer: Any = None
    event: Any = None
    others: Mapping[int, Any] = field(default_factory=dict)  # answers under another status than 200 that are no errors
    query: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # JSON schemas of the parameters, by name
    takes: str = "application/json"
    gives: str = "application/json"
    max_body_bytes: int | None = None  # where it may be more than that of all others
