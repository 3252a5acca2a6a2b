"""Who may ask what: every route, without a key, with each scope, and by every odd way of writing a path or a key."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Awaitable, Callable
from typing import Any

import httpx2
import pytest
from starlette.routing import Route

from fake_server import MODEL, Live, live
from redline.errors import Forbidden, Unauthorized
from redline.server import admin
from redline.server.auth import Guard
from redline.server.caller import ANYONE, NOBODY, caller_of
from redline.server.endpoint import SCOPES, Endpoint
from redline.server.keys import KEY_SCOPES, Changes, Settings, new_token

CHAT = "/v1/chat/completions"


def run(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 20))  # type: ignore[arg-type]


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


def endpoints_of(server: Live) -> list[Endpoint]:
    """The endpoint behind every route that the application really has."""
    guards = [route.endpoint for route in server.app.routes if isinstance(route, Route)]
    assert len(guards) == len(server.app.routes) and all(isinstance(guard, Guard) for guard in guards), "a route without a guard"
    return [guard.endpoint for guard in guards]


def concrete(path: str) -> str:
    """A path of a route with something in the place of its parameters."""
    return "/".join("x" if part.startswith("{") else part for part in path.split("/"))


async def reach(server: Live, scope: dict[str, Any]) -> tuple[int, bytes]:
    """Call the application with a scope as odd as one likes: its status, 0 for none, and body."""
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": b"{}", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    basis = {"type": "http", "method": "GET", "headers": [], "query_string": b"", "root_path": "", "client": ("1.2.3.4", 5)}
    await server.app({**basis, **scope}, receive, send)
    status = next((message["status"] for message in sent if message["type"] == "http.response.start"), 0)
    return status, b"".join(message.get("body", b"") for message in sent)


def test_every_route_is_closed_unless_it_says_that_it_is_open() -> None:
    async def test() -> None:
        async with live(api_key="secret") as server:
            endpoints = endpoints_of(server)
            assert len(endpoints) > 8 and {each.scope for each in endpoints} <= set(SCOPES) - {"admin"}
            assert {each.path for each in endpoints if each.scope == "open"} >= {"/health"}
            for each in endpoints:
                is_open = each.scope == "open"
                assert not is_open or each.method == "GET"
                for method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND"):
                    response = await server.http.request(method, concrete(each.path))
                    reached = is_open and method in ("GET", "HEAD")
                    assert (response.status_code == 401) == (not reached), (method, each.path)

    run(test)


def test_a_key_reaches_the_routes_of_its_scopes_and_no_other() -> None:
    async def test() -> None:
        async with live() as server:
            tokens = {scope: (await server.service.keys.make(Settings(name=scope, scopes=(scope,))))[1] for scope in KEY_SCOPES}
            for each in endpoints_of(server):
                for scope, token in tokens.items():
                    response = await server.http.request(each.method, concrete(each.path), headers=bearer(token))
                    forbidden = each.scope not in ("open", scope)
                    assert (response.status_code == 403) == forbidden, (scope, each.path, response.text[:200])
                    assert response.status_code not in (401, 500)
                    if forbidden:
                        assert "permission_error" in response.text and "Traceback" not in response.text
            assert (await server.http.get("/nowhere", headers=bearer(tokens["read"]))).status_code == 404

    run(test)


PATHS = [
    *("//v1/models", "/v1//models", "/v1/models/", "/./v1/models", "/health/../v1/models", "/health/..", "/health//v1/models"),
    *("/V1/MODELS", "/Health", "/HEALTH/LIVE", "/health\x00", "/health\n", "/health ", " /health", "/health;/v1/models"),
    *("/health%2f..%2fv1%2fmodels", "/%2e%2e/v1/models", "/health?x", "/health#x", "health", "", "*", "http://h/health"),
    *("/health\u2215", "/\uff48ealth", "/health/.", "/v1/models/..%2f..%2fhealth", "/v1/models/../../health", "/v1/models//"),
]


@pytest.mark.parametrize("path", PATHS)
def test_no_way_of_writing_a_path_leads_around_the_key(path: str) -> None:
    async def test() -> None:
        async with live(api_key="secret") as server:
            for method in ("GET", "POST"):
                status, body = await reach(server, {"path": path, "raw_path": path.encode(), "method": method})
                assert MODEL.encode() not in body and (status == 401 or body == b'{"status":"ready"}'), (status, body[:100])
                assert status == 401 or path == "/health\n", "the router takes one line end for none"

    run(test)


@pytest.mark.parametrize(
    ("root_path", "path"),
    [
        ("/health", "/health/v1/models"),
        ("/health", "/v1/models"),
        ("/v1", "/v1/models"),
        ("/v1/models", "/v1/models/health"),
        ("/v1/models", "/health"),
        ("/v1/mod", "/v1/models"),
        ("//", "//v1/models"),
    ],
)
def test_no_root_path_makes_a_closed_route_open(root_path: str, path: str) -> None:
    """A proxy may set it; what is asked is decided at the endpoint that the router chose, never from the path."""

    async def test() -> None:
        async with live(api_key="secret") as server:
            status, body = await reach(server, {"path": path, "root_path": root_path})
            assert MODEL.encode() not in body and (status == 401 or b'"status"' in body), (status, body[:100])

    run(test)


def test_what_is_not_http_is_refused() -> None:
    async def test() -> None:
        async with live() as server:
            closed: list[Any] = []

            async def send(message: Any) -> None:
                closed.append(message)

            async def receive() -> Any:
                return {"type": "websocket.connect"}

            scope = {"type": "websocket", "path": "/health", "headers": [], "root_path": "", "query_string": b""}
            await server.app(scope, receive, send)
            assert closed == [{"type": "websocket.close", "code": 1008}]

    run(test)


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("authorization", "Bearer")],
        [("authorization", "Bearer  ")],
        [("authorization", "Basic " + base64.b64encode(b"x:secret").decode())],
        [("authorization", "secret")],
        [("authorization", "Bearer secre")],
        [("authorization", "Bearer secret2")],
        [("authorization", "Bearer SECRET")],
        [("authorization", "Bearer secret secret")],
        [("authorization", "Bearer secret"), ("authorization", "Bearer other")],
        [("authorization", "Bearer secret"), ("x-api-key", "other")],
        [("authorization", "Bearer other"), ("x-api-key", "secret")],
        [("authorization", "Bearer secret"), ("x-api-key", "")],
        [("x-api-key", "Bearer secret")],
        [("x-api-key", "secret\u00e9".encode("latin-1"))],
        [("api-key", "secret")],
        [("cookie", "authorization=Bearer secret")],
        [("authorization", "Bearer " + "x" * 20_000)],
    ],
)
def test_keys_that_are_none(headers: list[tuple[str, Any]]) -> None:
    async def test() -> None:
        async with live(api_key="secret") as server:
            response = await server.http.get("/v1/models", headers=headers)
            assert response.status_code == 401 and "secret" not in response.text and len(response.content) < 1000
            assert (await server.http.get("/v1/models?api_key=secret&key=secret", headers=headers)).status_code == 401

    run(test)


@pytest.mark.parametrize(
    "headers",
    [
        [("authorization", "Bearer secret")],
        [("Authorization", "bEaReR   secret")],
        [("x-api-key", "secret")],
        [("x-api-key", " secret")],
        [("authorization", "Bearer secret"), ("x-api-key", "secret")],
    ],
)
def test_the_one_key_of_a_server_may_come_in_both_headers(headers: list[tuple[str, Any]]) -> None:
    async def test() -> None:
        async with live(api_key="secret") as server:
            assert (await server.http.get("/v1/models", headers=headers)).status_code == 200

    run(test)


def test_what_is_wrong_with_a_key_is_told_by_its_code() -> None:
    async def test() -> None:
        async with live(api_key="secret") as server:
            ring = server.service.keys
            good, token = await ring.make(Settings(name="good"))
            over, over_token = await ring.make(Settings(name="over", expires=int(time.time()) + 100))
            gone, gone_token = await ring.make(Settings(name="gone"))
            await ring.update(over.id, Changes(expires=1))
            await ring.revoke(gone.id)

            async def code(token: str) -> str:
                response = await server.http.get("/v1/models", headers=bearer(token))
                assert response.status_code == 401 and response.headers["www-authenticate"] == "Bearer"
                return str(response.json()["error"]["code"])

            assert (await server.http.get("/v1/models", headers=bearer(token))).status_code == 200
            assert await code(over_token) == "expired_api_key"
            assert await code(gone_token) == "revoked_api_key"
            assert await code(token[:-1]) == "malformed_api_key"
            assert await code("sk-anything") == "invalid_api_key"
            assert [await code(new_token(i)) for i in (good.id, over.id, gone.id, "0" * 8)] == ["invalid_api_key"] * 4
            assert (await server.http.get("/v1/models")).json()["error"]["code"] == "unauthorized"

    run(test)


def test_a_server_is_open_until_it_has_a_key_and_stays_closed_when_all_are_revoked() -> None:
    async def test() -> None:
        async with live() as server:
            assert (await server.http.get("/v1/models", headers=bearer("anything"))).status_code == 200
            key, token = await server.service.keys.make(Settings(name="first"))
            assert (await server.http.get("/v1/models")).status_code == 401
            assert (await server.http.get("/v1/models", headers=bearer(token))).status_code == 200
            await server.service.keys.revoke(key.id)
            for headers in ({}, bearer(token)):
                assert (await server.http.get("/v1/models", headers=headers)).status_code == 401

    run(test)


def test_a_key_for_other_models_may_not_ask_this_one() -> None:
    async def test() -> None:
        async with live() as server:
            _, other = await server.service.keys.make(Settings(name="a", models=("other-model",)))
            _, right = await server.service.keys.make(Settings(name="b", models=("other-model", MODEL)))
            for each in endpoints_of(server):
                if each.scope == "inference":
                    response = await server.http.request(each.method, concrete(each.path), headers=bearer(other))
                    assert response.status_code == 403, each.path
                    if "messages" not in each.path:
                        assert response.json()["error"]["param"] == "model"
            body = {"messages": [{"role": "user", "content": "abc"}]}
            assert (await server.http.post(CHAT, json=body, headers=bearer(right))).status_code == 200

    run(test)


def test_refused_before_the_body_is_read() -> None:
    async def test() -> None:
        async with live(api_key="secret") as server:
            read = 0

            async def endless() -> Any:
                nonlocal read
                while True:
                    read += 1
                    yield b" " * 1000

            response = await server.http.post(CHAT, content=endless())
            assert response.status_code == 401 and read == 0

    run(test)


def test_nobody_passes_a_guard_where_no_layer_asked_who_it_is() -> None:
    """An endpoint that is run in another way than through the whole application is closed, too."""
    assert caller_of({}) is NOBODY
    guard = Guard(Endpoint(method="GET", path="/x", handler=lambda request: None, scope="read", summary=""))  # type: ignore[arg-type, return-value]
    with pytest.raises(Unauthorized):
        guard.check(NOBODY)
    with pytest.raises(Forbidden):
        Guard(Endpoint(method="GET", path="/x", handler=guard, scope="admin", summary="")).check(ANYONE)
    guard.check(ANYONE)


def test_admin_routes_are_not_on_the_public_address() -> None:
    async def test() -> None:
        async with live(server={"admin_port": 1, "admin_key": "master"}) as server:
            _, token = await server.service.keys.make(Settings(name="root", scopes=KEY_SCOPES))
            for each in admin.endpoints(server.service):
                if each.path == "/":
                    continue  # the public page is another one
                for headers in (bearer(token), bearer("master")):
                    response = await server.http.request(each.method, concrete(each.path), headers=headers)
                    assert response.status_code in (401, 404, 405), each.path
                    assert response.status_code == (401 if headers == bearer("master") else 404), each.path

    run(test)


def test_an_open_server_takes_any_key_and_a_dummy_one(httpx_timeout: float = 5.0) -> None:
    async def test() -> None:
        async with live() as server:
            for headers in ({}, bearer("any"), {"x-api-key": "a", "authorization": "Bearer b"}):
                response: httpx2.Response = await server.http.get("/v1/models", headers=headers, timeout=httpx_timeout)
                assert response.status_code == 200

    run(test)
