"""GET /v1/usage: what the caller's own key used, and what is left of its limits; the parts of it that the admin API shares.

The numbers come from the ledger (usage.py) and the books (accounts.py). Open `endpoints`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from redline.errors import InvalidRequest
from redline.server.budgets import Standing
from redline.server.caller import caller_of
from redline.server.endpoint import Endpoint
from redline.server.schema import quoted
from redline.server.service import Service
from redline.server.usage import HOUR_S, MAX_ROWS, Count, Row

SPAN_S = 7 * 86400
MAX_TIME = 1 << 40


class Total(msgspec.Struct, frozen=True, kw_only=True):
    requests: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """Hours, the newest first. `has_more` where there are older ones in the span than are told."""

    object: str = "list"
    since: int
    until: int
    data: list[Row]
    total: Total
    has_more: bool


class Left(msgspec.Struct, frozen=True, kw_only=True):
    """What is left of a limit, and the seconds until all of it is free again."""

    limit: int
    remaining: int
    reset_s: float


class OwnReport(Report, frozen=True, kw_only=True):
    """`requests` and `tokens` are null where the key has no such limit."""

    key: str
    requests: Left | None
    tokens: Left | None


SPAN = {"since": {"type": "integer"}, "until": {"type": "integer"}}


def endpoints(service: Service) -> list[Endpoint]:
    async def own(request: Request) -> Response:
        key = caller_of(request.scope).id
        since, until = span_of(asked(request, "since", "until"))
        report = report_of(since, until, await service.accounts.ledger.read(since, until, key))
        requests, tokens = service.accounts.standing(key)
        body = {**msgspec.structs.asdict(report), "key": key, "requests": _left(requests), "tokens": _left(tokens)}
        return Response(msgspec.json.encode(OwnReport(**body)), media_type="application/json")

    text = "What the caller's own key used, hour by hour, and what is left of its limits."
    return [Endpoint(method="GET", path="/v1/usage", handler=own, scope="read", summary=text, answer=OwnReport, query=SPAN)]


def report_of(since: int, until: int, rows: list[Row]) -> Report:
    total = total_of(rows)
    return Report(
        since=since,
        until=until,
        data=rows,
        total=Total(**{name: getattr(total, name) for name in Total.__struct_fields__}),
        has_more=len(rows) == MAX_ROWS,
    )


def total_of(rows: Iterable[Row]) -> Count:
    total = Count()
    for row in rows:
        total.add(Count(**{name: getattr(row, name) for name in Total.__struct_fields__}))
    return total


def asked(request: Request, *known: str) -> dict[str, str]:
    """The query of a request. Raises InvalidRequest for a name that is not known, or that is there twice."""
    query = request.query_params.multi_items()
    for name, _ in query:
        if name not in known:
            raise InvalidRequest(f"there is no query parameter {quoted(name)}", param=name[:64])
        if sum(other == name for other, _ in query) > 1:
            raise InvalidRequest(f"{name} is given twice", param=name)
    return dict(query)


def span_of(query: dict[str, str]) -> tuple[int, int]:
    """`since`, rounded down to its hour, and `until`, as Unix times; the last week where they are not given."""
    until = _time(query, "until", math.ceil(time.time()))
    since = _time(query, "since", until - SPAN_S)
    if since > until:
        raise InvalidRequest("since lies after until", param="since")
    return since // HOUR_S * HOUR_S, until


def _time(query: dict[str, str], name: str, otherwise: int) -> int:
    text = query.get(name)
    if text is None:
        return otherwise
    if not (text.isascii() and text.isdigit() and len(text) <= 13 and int(text) <= MAX_TIME):
        raise InvalidRequest(f"{name} must be a Unix time in seconds, not {quoted(text)}", param=name)
    return int(text)


def _left(standing: Standing | None) -> Left | None:
    if standing is None:
        return None
    return Left(limit=standing.limit, remaining=standing.remaining, reset_s=round(standing.reset_s, 3))
