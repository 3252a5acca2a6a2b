"""GET /v1/models and /v1/models/{model}: what is served, and how long its context is."""

from __future__ import annotations

from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from redline.server.endpoint import Endpoint
from redline.server.service import Service


class Models:
    """Both endpoints."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def every(self, request: Request) -> Response:
        return _json({"object": "list", "data": [self._model()]})

    async def one(self, request: Request) -> Response:
        self._service.check_model(request.path_params["model"])
        return _json(self._model())

    def _model(self) -> dict[str, Any]:
        info = self._service.ready()
        return {
            "id": self._service.served_name,
            "object": "model",
            "created": self._service.started,
            "owned_by": "redline",
            "root": info.model,
            "max_model_len": info.max_model_len,
            "dtype": info.dtype,
            "stored_dtype": info.stored_dtype,
        }


def endpoints(service: Service) -> list[Endpoint]:
    models = Models(service)
    return [
        Endpoint(method="GET", path="/v1/models", handler=models.every, scope="read", summary="What is served."),
        Endpoint(method="GET", path="/v1/models/{model:path}", handler=models.one, scope="read", summary="One model."),
    ]


def _json(body: object) -> Response:
    return Response(msgspec.json.encode(body), media_type="application/json")
