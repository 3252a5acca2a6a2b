"""The built-in page: chat, the queue, the pages, the receipts and the roofline, live, without a build step.

Three files beside this one, read once. They hold no data and need no key; what they show they ask of the API, with the
key that the user types in. The policy allows nothing but these files and this server. Open `endpoints`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response

from redline.server.endpoint import Endpoint
from redline.server.service import Service

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}
_FILES = (("/", "page.html", "text/html"), ("/page.css", "page.css", "text/css"), ("/page.js", "page.js", "text/javascript"))


def endpoints(service: Service) -> list[Endpoint]:
    return [
        Endpoint(
            method="GET", path=path, handler=_file(name, kind), scope="open", summary=f"The built-in page: {name}.", gives=kind
        )
        for path, name, kind in _FILES
    ]


def _file(name: str, kind: str) -> Callable[[Request], Awaitable[Response]]:
    content = Path(__file__).with_name(name).read_bytes()

    async def answer(request: Request) -> Response:
        return Response(content, headers=HEADERS, media_type=kind)

    return answer
