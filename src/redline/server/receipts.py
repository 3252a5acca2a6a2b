"""GET /v1/receipt/{id}: what a finished request took and how far from the machine's limit it was, for its caller alone.

The id is that of the answer, whichever API it came from, or its x-request-id. Open `endpoints`.
"""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from redline.errors import NotFound
from redline.server.caller import caller_of
from redline.server.endpoint import Endpoint
from redline.server.service import Service


def endpoints(service: Service) -> list[Endpoint]:
    async def receipt(request: Request) -> Response:
        if (info := service.client.info) is not None and not info.receipts:
            raise NotFound("this server makes no receipts", hint="it was started with --no-receipts", param="id")
        data = service.receipts.find(request.path_params["id"], caller_of(request.scope).id)
        return Response(data, media_type="application/json")

    return [
        Endpoint(
            method="GET",
            path="/v1/receipt/{id}",
            handler=receipt,
            scope="read",
            summary="What a finished request took, beside the machine's limit.",
            answer={"type": ["object", "array"]},
        )
    ]
