"""The admin API: keys and usage, as an application of its own on an address of its own. Every route needs scope `admin`.

It is never part of the public application: `run.py` gives it a second socket, and only where a port is given. The page is
plain HTML without a script; a browser asks for the key as a password, which is good for reading alone. Open `build`.
"""

from __future__ import annotations

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response

from redline.config import ServerConfig
from redline.errors import ConfigError
from redline.server import admin_page
from redline.server.app import assemble
from redline.server.auth import KeyCheck
from redline.server.caller import Caller
from redline.server.endpoint import Endpoint
from redline.server.keys import Changes, Settings
from redline.server.schema import body_of
from redline.server.service import Service
from redline.server.usage import as_csv
from redline.server.usage_report import Report, asked, report_of, span_of

ADMIN = Caller(id="admin", name="admin", scopes=frozenset({"admin"}))
_PRIVATE = {"cache-control": "no-store", "x-content-type-options": "nosniff"}


def build(service: Service, config: ServerConfig) -> Starlette:
    """The admin application over the public one's service. Raises ConfigError for an empty key."""
    if config.admin_key == "":
        raise ConfigError("the admin key is empty", hint="give one, or leave --admin-key out", param="admin_key")
    return assemble(service, endpoints(service), KeyCheck(service.keys, config.admin_key, ADMIN, always=True))


class Admin:
    """The handlers."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def keys(self, request: Request) -> Response:
        asked(request)
        return _json({"object": "list", "data": [key.document() for key in await self._service.keys.every()]})

    async def make(self, request: Request) -> Response:
        key, token = await self._service.keys.make(await body_of(request.receive, Settings))
        return _json({**key.document(), "token": token})

    async def update(self, request: Request) -> Response:
        changes = await body_of(request.receive, Changes)
        return _json((await self._service.keys.update(request.path_params["key"], changes)).document())

    async def revoke(self, request: Request) -> Response:
        return _json((await self._service.keys.revoke(request.path_params["key"])).document())

    async def usage(self, request: Request) -> Response:
        return _json(await self._report(request))

    async def csv(self, request: Request) -> Response:
        text = as_csv((await self._report(request)).data)
        named = {**_PRIVATE, "content-disposition": 'attachment; filename="usage.csv"'}
        return Response(text, headers=named, media_type="text/csv")

    async def page(self, request: Request) -> Response:
        asked(request)
        service = self._service
        since, until = span_of({})
        rows = await service.accounts.ledger.read(since, until)
        text = admin_page.page(await service.keys.every(), rows, service.accounts)
        return Response(text, headers={**_PRIVATE, **admin_page.HEADERS}, media_type="text/html")

    async def _report(self, request: Request) -> Report:
        query = asked(request, "since", "until", "key")
        since, until = span_of(query)
        return report_of(since, until, await self._service.accounts.ledger.read(since, until, query.get("key")))


def endpoints(service: Service) -> list[Endpoint]:
    admin = Admin(service)
    one = "/admin/keys/{key}"
    return [
        Endpoint(method="GET", path="/", handler=admin.page, scope="admin", summary="Keys and usage as a page."),
        Endpoint(method="GET", path="/admin/keys", handler=admin.keys, scope="admin", summary="All keys, without the keys."),
        Endpoint(
            method="POST",
            path="/admin/keys",
            handler=admin.make,
            scope="admin",
            summary="Make a key; its token is told once.",
            body=Settings,
        ),
        Endpoint(method="POST", path=one, handler=admin.update, scope="admin", summary="Change what a key allows.", body=Changes),
        Endpoint(method="DELETE", path=one, handler=admin.revoke, scope="admin", summary="Take a key back, for good."),
        Endpoint(method="GET", path="/admin/usage", handler=admin.usage, scope="admin", summary="Usage by hour.", answer=Report),
        Endpoint(method="GET", path="/admin/usage.csv", handler=admin.csv, scope="admin", summary="The same for a spreadsheet."),
    ]


def _json(body: object) -> Response:
    return Response(msgspec.json.encode(body), headers=_PRIVATE, media_type="application/json")
