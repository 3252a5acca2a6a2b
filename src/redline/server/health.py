"""GET /health, which needs no key, and GET /metrics. 200 only while requests are taken and the engine moves.

Open `Health.health`.
"""

from __future__ import annotations

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from redline.server.endpoint import Endpoint
from redline.server.metrics import CONTENT_TYPE
from redline.server.service import Service

STALLED_S = 120.0  # without a word from an engine that should speak every second: longer than any sound step


class Health:
    """Both endpoints."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def health(self, request: Request) -> Response:
        """{"status": "ready" | "loading" | "stalled" | "dead"}; loading with the stage and its per cent, the last two with why."""
        client = self._service.client
        if client.alive and client.silent_s <= STALLED_S:
            return Response(b'{"status":"ready"}', media_type="application/json")
        if client.alive:
            body: dict[str, object] = {
                "status": "stalled",
                "reason": f"the engine has not been heard for {client.silent_s:.0f} s",
            }
        elif client.state in ("new", "loading"):
            body = {"status": "loading", "stage": client.progress.stage, "percent": round(client.progress.percent)}
        else:
            body = {"status": "dead", "reason": client.failure.message if client.failure else "the engine was closed"}
        return Response(msgspec.json.encode(body), 503, {"retry-after": "1"}, "application/json")

    async def metrics(self, request: Request) -> Response:
        return Response(self._service.metrics.page(), headers={"content-type": CONTENT_TYPE})


def endpoints(service: Service) -> list[Endpoint]:
    health = Health(service)
    return [
        Endpoint(method="GET", path="/health", handler=health.health, scope="open", summary="Whether requests are taken."),
        Endpoint(method="GET", path="/metrics", handler=health.metrics, scope="read", summary="Prometheus metrics."),
    ]
