"""GET /health, /health/ready and /health/live, which need no key, and GET /metrics.

Ready is 200 only while requests are taken and the engine moves, and `/health` is the same; live is 200 for as long as this
process answers and has not given up on its engine: what restarts a server asks it. Open `Health.ready`.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from redline.server.answers import HealthAnswer
from redline.server.endpoint import Endpoint
from redline.server.metrics import CONTENT_TYPE
from redline.server.service import Service


class Health:
    """The handlers."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def ready(self, request: Request) -> Response:
        """Whether a request would be taken now; if not, why: `status` is loading, restarting, stalled, draining or dead."""
        now = self._service.client.health
        percent = None if now.percent is None else round(now.percent)
        answer = HealthAnswer(status=now.status, stage=now.stage, percent=percent, reason=now.reason)
        if now.status == "ready":
            return _json(answer, 200)
        retry = {} if now.retry_after_s is None else {"retry-after": str(max(1, math.ceil(now.retry_after_s)))}
        return _json(answer, 503, retry)

    async def live(self, request: Request) -> Response:
        """Whether this process is of any use still."""
        now = self._service.client.health
        if now.status == "dead":
            return _json(HealthAnswer(status="dead", reason=now.reason), 503)
        return _json(HealthAnswer(status="live"), 200)

    async def metrics(self, request: Request) -> Response:
        return Response(self._service.metrics.page(), headers={"content-type": CONTENT_TYPE})


def endpoints(service: Service) -> list[Endpoint]:
    health = Health(service)
    return [
        _open("/health", health.ready, "Whether requests are taken."),
        _open("/health/ready", health.ready, "The same."),
        _open("/health/live", health.live, "Whether the process is alive."),
        Endpoint(
            method="GET", path="/metrics", handler=health.metrics, scope="read", summary="Prometheus metrics.", gives="text/plain"
        ),
    ]


def _open(path: str, handler: Callable[[Request], Awaitable[Response]], summary: str) -> Endpoint:
    return Endpoint(
        method="GET",
        path=path,
        handler=handler,
        scope="open",
        summary=summary,
        answer=HealthAnswer,
        others={503: HealthAnswer},
    )


def _json(answer: HealthAnswer, status: int, headers: dict[str, str] | None = None) -> Response:
    return Response(msgspec.json.encode(answer), status, headers, "application/json")
