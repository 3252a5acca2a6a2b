"""One row of the API, as a record: app.py makes its route of it, auth.py asks its scope, the OpenAPI page documents it.

Every endpoint file has a function `endpoints(service) -> list[Endpoint]`; a route that is not in such a list does not
exist. Knows nothing of what an endpoint does. Open `Endpoint`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Literal

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from redline.server.schema import Record

Scope = Literal["open", "inference", "files", "read", "admin"]
"""What a key must allow: `open` needs no key at all, `inference` asks models, `files` keeps files, batches and responses,
`read` looks at models, metrics and receipts, `admin` changes keys and the server."""

SCOPES: tuple[Scope, ...] = ("open", "inference", "files", "read", "admin")


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """`body` and `answer` are the records of its JSON; `event` is one event's data where the answer may be a stream."""

    method: Literal["GET", "POST", "DELETE"]
    path: str
    handler: ASGIApp | Callable[[Request], Awaitable[Response]]
    scope: Scope
    summary: str
    body: type[Record] | None = None
    answer: Any = None
    event: Any = None
