"""The admin API: keys and usage, for admin keys alone."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import csv
import hashlib
import io
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from html.parser import HTMLParser
from typing import Any

import httpx2
import pytest

from fake_server import Live, live
from redline.config import ServerConfig
from redline.errors import ConfigError
from redline.server import admin, keys
from redline.server.keys import KEY_SCOPES, Settings

MASTER = {"authorization": "Bearer master"}


def run(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 20))  # type: ignore[arg-type]


@contextlib.asynccontextmanager
async def both(admin_key: str | None = "master") -> AsyncIterator[tuple[Live, httpx2.AsyncClient]]:
    """A server, and a client of its admin API."""
    async with live() as server:
        app = admin.build(server.service, ServerConfig(admin_key=admin_key))
        transport = httpx2.ASGITransport(app=app, raise_app_exceptions=False)
        async with httpx2.AsyncClient(transport=transport, base_url="http://admin") as http:
            yield server, http


def concrete(path: str) -> str:
    return path.replace("{key}", "x")


def test_every_route_needs_an_admin_even_where_the_public_server_is_open() -> None:
    async def test() -> None:
        for admin_key in (None, "master"):
            async with both(admin_key) as (server, http):
                endpoints = admin.endpoints(server.service)
                assert {each.scope for each in endpoints} == {"admin"}
                for each in [*endpoints, *endpoints]:
                    for headers in ({}, {"authorization": "Bearer wrong"}, {"x-api-key": ""}):
                        response = await http.request(each.method, concrete(each.path), headers=headers)
                        assert response.status_code == 401, (each.path, headers)
                    await server.service.keys.make(Settings(name="other"))
                _, user = await server.service.keys.make(Settings(name="user", scopes=("inference", "files", "read")))
                _, root = await server.service.keys.make(Settings(name="root", scopes=("admin",)))
                for each in endpoints:
                    for token, refused in ((user, True), (root, False)):
                        response = await http.request(each.method, concrete(each.path), headers={"x-api-key": token})
                        assert (response.status_code == 403) == refused, (each.path, response.text)
                assert (await http.get("/v1/models", headers={"x-api-key": root})).status_code == 404
                assert (await server.http.get("/v1/models", headers={"x-api-key": root})).status_code == 403

    run(test)


def test_an_empty_admin_key_is_refused() -> None:
    async def test() -> None:
        with pytest.raises(ConfigError, match="empty"):
            async with both(""):
                pass

    run(test)


def test_keys_are_made_listed_changed_and_revoked_while_the_server_runs() -> None:
    async def test() -> None:
        async with both() as (server, http):
            made = (await http.post("/admin/keys", json={"name": "Ada", "tokens_per_minute": 10}, headers=MASTER)).json()
            token, key_id = made.pop("token"), made["id"]
            assert token.startswith(f"rl-{key_id}-") and made["scopes"] == ["inference", "files", "read"]
            listed = await http.get("/admin/keys", headers=MASTER)
            assert listed.json()["data"] == [made] and token not in listed.text and listed.headers["cache-control"] == "no-store"
            mine = {"x-api-key": token}
            assert (await server.http.post("/v1/completions", json={"prompt": "abcdefgh"}, headers=mine)).status_code == 429
            changed = await http.post(f"/admin/keys/{key_id}", json={"tokens_per_minute": None, "name": "Bo"}, headers=MASTER)
            assert changed.json() == {**made, "tokens_per_minute": None, "name": "Bo"}
            assert (await server.http.post("/v1/completions", json={"prompt": "abcdefgh"}, headers=mine)).status_code == 200
            revoked = await http.delete(f"/admin/keys/{key_id}", headers=MASTER)
            assert revoked.json()["revoked"] is not None
            assert (await server.http.get("/v1/models", headers=mine)).json()["error"]["code"] == "revoked_api_key"

    run(test)


@pytest.mark.parametrize(
    ("path", "body", "status", "param"),
    [
        ("/admin/keys", {}, 400, "name"),
        ("/admin/keys", {"name": "a", "scopes": ["open"]}, 400, "scopes"),
        ("/admin/keys", {"name": "a", "scopes": ["root"]}, 400, "scopes[0]"),
        ("/admin/keys", {"name": "a", "weight": "2"}, 400, "weight"),
        ("/admin/keys", {"name": "a", "id": "x"}, 400, "id"),
        ("/admin/keys", {"name": "a", "tokens_per_day": 2**70}, 400, "tokens_per_day"),
        ("/admin/keys", [], 400, None),
        ("/admin/keys/nope", {"name": "a"}, 404, None),
        ("/admin/keys/nope", {"revoked": None}, 400, "revoked"),
        ("/admin/keys/nope", {"name": None}, 400, "name"),
    ],
)
def test_bodies_that_make_no_sense_are_refused_by_name(path: str, body: Any, status: int, param: str | None) -> None:
    async def test() -> None:
        async with both() as (server, http):
            response = await http.post(path, json=body, headers=MASTER)
            assert response.status_code == status and response.json()["error"]["param"] == param, response.text
            assert len(server.service.keys) == 0

    run(test)


def test_usage_is_told_as_json_and_as_csv() -> None:
    async def test() -> None:
        async with both() as (server, http):
            made = [await server.service.keys.make(Settings(name=name)) for name in ("a", "b")]
            for (_, token), text in zip(made, ("xy", "wxyz"), strict=True):
                await server.http.post("/v1/completions", json={"prompt": text}, headers={"x-api-key": token})
            report = (await http.get("/admin/usage", headers=MASTER)).json()
            assert report["total"] == {"requests": 2, "prompt_tokens": 6, "cached_tokens": 0, "completion_tokens": 8}
            one = (await http.get(f"/admin/usage?key={made[0][0].id}", headers=MASTER)).json()
            assert [row["prompt_tokens"] for row in one["data"]] == [2]
            table = await http.get("/admin/usage.csv", headers=MASTER)
            assert table.headers["content-type"].startswith("text/csv")
            rows = list(csv.DictReader(io.StringIO(table.text)))
            assert {row["key"]: row["prompt_tokens"] for row in rows} == {made[0][0].id: "2", made[1][0].id: "4"}
            assert (await http.get("/admin/usage?sice=1", headers=MASTER)).json()["error"]["param"] == "sice"

    run(test)


class Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_escapes_every_name_and_its_policy_allows_its_style_alone() -> None:
    async def test() -> None:
        async with both() as (server, http):
            evil = "<script>alert(1)</script><img src=x onerror=y>\"'&"
            key, token = await server.service.keys.make(Settings(name=evil, tokens_per_day=50))
            await server.http.post("/v1/completions", json={"prompt": "abc"}, headers={"x-api-key": token})
            response = await http.get("/", headers=MASTER)
            page = Page(response.text)
            assert {tag for tag, _ in page.tags} <= {
                *("html", "head", "meta", "title", "style", "body", "h1", "h2"),
                *("table", "thead", "tbody", "tr", "th", "td"),
            }
            assert all(set(attributes) <= {"lang", "charset", "class", "colspan"} for _, attributes in page.tags)
            assert evil in page.text and key.id in page.text and "43 of 50" in page.text and token not in response.text
            policy = response.headers["content-security-policy"]
            style = re.search("<style>(.*)</style>", response.text, re.DOTALL)
            assert style is not None
            digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
            assert f"style-src 'sha256-{digest}'" in policy and "default-src 'none'" in policy
            assert "unsafe" not in policy and "script-src" not in policy and "frame-ancestors 'none'" in policy
            assert response.headers["cache-control"] == "no-store"

    run(test)


def test_a_browser_is_asked_for_a_password_which_is_good_for_reading_alone() -> None:
    """Another site can make a browser repeat a password that it remembers; it must not be able to make a key with it."""

    async def test() -> None:
        async with both() as (server, http):
            asked = await http.get("/")
            assert asked.status_code == 401 and asked.headers["www-authenticate"].startswith("Basic realm=")
            password = {"authorization": "Basic " + base64.b64encode(b"anyone:master").decode()}
            assert (await http.get("/", headers=password)).status_code == 200
            for each in admin.endpoints(server.service):
                if each.method != "GET":
                    response = await http.request(each.method, concrete(each.path), json={"name": "a"}, headers=password)
                    assert response.status_code == 401, each.path
            for wrong in ("Basic", "Basic !!", "Basic " + base64.b64encode(b"master").decode()):
                assert (await http.get("/", headers={"authorization": wrong})).status_code == 401
            assert (await server.http.get("/v1/models", headers=password)).status_code == 200, "open: there is no key"
            await server.service.keys.make(Settings(name="a", scopes=KEY_SCOPES))
            assert (await server.http.get("/v1/models", headers=password)).status_code == 401

    run(test)


def test_states_are_told_in_words() -> None:
    def state(revoked: int | None = None, **settings: Any) -> str:
        return keys.state_of(keys.Key(id="x", digest=b"", created=0, revoked=revoked, settings=Settings(name="a", **settings)))

    assert (state(), state(expires=1), state(revoked=5, expires=1)) == ("active", "expired", "revoked")
    assert state(expires=4_102_444_800) == "until 2100-01-01"
