"""Keys, budgets and the admin API on a live server: what the `openai` and `anthropic` clients make of them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anthropic
import httpx2
import openai
import pytest
from openai import OpenAI

from fake_server import MODEL, Served, served

MASTER = {"authorization": "Bearer master"}


@dataclass
class Keyed:
    """A server with a state folder of its own, an admin API and an audit log."""

    public: Served
    admin: str
    folder: Path

    def key(self, name: str = "k", **settings: Any) -> dict[str, Any]:
        answer = httpx2.post(f"{self.admin}/admin/keys", json={"name": name, **settings}, headers=MASTER)
        assert answer.status_code == 200, answer.text
        made: dict[str, Any] = answer.json()
        return made

    def command(self, *arguments: str) -> Any:
        """`redline keys ...` beside the running server."""
        line = [sys.executable, "-m", "redline.cli.main", "keys", *arguments, "--json", "--state-dir", str(self.folder)]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        return json.loads(subprocess.run(line, env=environment, capture_output=True, text=True, check=True).stdout)


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@contextlib.contextmanager
def keyed(folder: Path, **switches: object) -> Iterator[Keyed]:
    port = free_port()
    options = {"state_dir": str(folder), "admin_port": port, "admin_key": "master", "audit_log": str(folder / "audit.jsonl")}
    folder.mkdir(exist_ok=True)
    with served(options, **switches) as running:
        yield Keyed(running, f"http://127.0.0.1:{port}", folder)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keyed]:
    with keyed(tmp_path_factory.mktemp("state"), step_s=0.001) as running:
        running.key("closes the server")
        yield running


def client(server: Keyed, token: str, **options: Any) -> OpenAI:
    return OpenAI(base_url=f"{server.public.url}/v1", api_key=token, **{"max_retries": 0, "timeout": 20, **options})


def anthropic_client(server: Keyed, **options: Any) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=server.public.url, max_retries=0, timeout=20, **options)


def ask(client: OpenAI, text: str = "abc", **options: Any) -> Any:
    return client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": text}], **options)


def until(condition: Callable[[], bool], timeout_s: float = 5.0) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.02)


def test_wrong_keys_are_authentication_errors_with_their_code(server: Keyed) -> None:
    gone = server.key("gone")
    assert httpx2.delete(f"{server.admin}/admin/keys/{gone['id']}", headers=MASTER).json()["revoked"]
    good = server.key("good")["token"]
    for token, code in (
        ("any", "malformed_api_key"),
        (good[:-1], "malformed_api_key"),
        (gone["token"], "revoked_api_key"),
    ):
        with client(server, token) as sdk, pytest.raises(openai.AuthenticationError) as caught:
            ask(sdk)
        assert caught.value.code == code
        with anthropic_client(server, api_key=token) as other, pytest.raises(anthropic.AuthenticationError) as told:
            other.messages.create(model=MODEL, max_tokens=5, messages=[{"role": "user", "content": "abc"}])
        assert told.value.type == "authentication_error"
    with client(server, good) as sdk:
        assert ask(sdk).choices[0].message.content == "abc"


def test_the_anthropic_client_may_bring_its_key_in_either_header(server: Keyed) -> None:
    token = server.key("claude")["token"]
    for options in ({"api_key": token}, {"auth_token": token}):
        with anthropic_client(server, **options) as sdk:
            answer = sdk.messages.create(model=MODEL, max_tokens=50, messages=[{"role": "user", "content": "abc"}])
            assert answer.content[0].text == "abc"  # type: ignore[union-attr]
    both = {"x-api-key": token, "authorization": "Bearer another"}
    assert httpx2.get(f"{server.public.url}/v1/models", headers=both).status_code == 401


def test_a_scope_or_a_model_that_is_missing_is_permission_denied(server: Keyed) -> None:
    with client(server, server.key("r", scopes=["read"])["token"]) as sdk:
        assert [model.id for model in sdk.models.list()] == [MODEL]
        with pytest.raises(openai.PermissionDeniedError, match="inference"):
            ask(sdk)
    with (
        client(server, server.key("m", models=["another"])["token"]) as sdk,
        pytest.raises(openai.PermissionDeniedError) as caught,
    ):
        ask(sdk)
    assert caught.value.param == "model"
    with client(server, server.key("i", scopes=["inference"])["token"]) as sdk, pytest.raises(openai.PermissionDeniedError):
        sdk.models.list()


def test_a_budget_is_a_rate_limit_error_and_a_client_that_waits_gets_its_answer(tmp_path: Path) -> None:
    with keyed(tmp_path, step_s=0.001) as server:
        token = server.key("tight", requests_per_minute=2, concurrency=1)["token"]
        with client(server, token) as sdk:
            raw = sdk.chat.completions.with_raw_response.create(model=MODEL, messages=[{"role": "user", "content": "abc"}])
            assert raw.headers["x-ratelimit-limit-requests"] == "2" and raw.headers["x-ratelimit-remaining-requests"] == "1"
            with ask(sdk, "x" * 1500, stream=True) as stream:
                next(iter(stream))
                with pytest.raises(openai.RateLimitError, match="1 calls together") as caught:
                    ask(sdk)
                assert caught.value.code == "rate_limit_exceeded"
                assert 1 <= int(caught.value.response.headers["retry-after"]) <= 60
        big = server.key("small", tokens_per_minute=50)["token"]
        with client(server, big, max_retries=5) as sdk, pytest.raises(openai.RateLimitError) as once:
            began = time.monotonic()
            ask(sdk, "x" * 60)
        assert once.value.code == "request_over_limit" and time.monotonic() - began < 2, "the client tried again in vain"
        # One call at a time, and a client that honours Retry-After: both answers come.
        with client(server, server.key("patient", concurrency=1)["token"], max_retries=8) as sdk:
            stream = ask(sdk, "x" * 1200, stream=True)
            next(iter(stream))
            began = time.monotonic()
            assert ask(sdk).choices[0].message.content == "abc" and time.monotonic() - began >= 0.9
            stream.close()
        with anthropic_client(server, api_key=token) as other, pytest.raises(anthropic.RateLimitError) as told:
            other.messages.create(model=MODEL, max_tokens=5, messages=[{"role": "user", "content": "abc"}])
        assert told.value.type == "rate_limit_error"


def test_the_admin_api_is_not_to_be_reached_through_the_public_address(server: Keyed) -> None:
    root = server.key("root", scopes=["admin", "read", "inference", "files"])["token"]
    for path in ("/admin/keys", "/admin/usage", "/admin/usage.csv", "//admin/keys", "/%61dmin/keys", "/admin/keys?x=1"):
        assert httpx2.get(server.public.url + path, headers=MASTER).status_code == 401
        assert httpx2.get(server.public.url + path, headers={"x-api-key": root}).status_code == 404
    assert httpx2.get(f"{server.admin}/v1/models", headers=MASTER).status_code == 404
    assert httpx2.get(f"{server.admin}/admin/keys", headers={"x-api-key": root}).status_code == 200
    assert httpx2.get(f"{server.admin}/admin/keys").status_code == 401


@pytest.mark.parametrize(
    "target",
    ["/health/../v1/models", "/health%2f..%2fv1/models", "/%2e%2e/v1/models", "//v1/models", "http://x/v1/models", "/V1/models"],
)
def test_raw_request_targets_do_not_lead_around_the_key(server: Keyed, target: str) -> None:
    """As they stand on the wire: a client library would tidy them up."""
    host, port = server.public.url.removeprefix("http://").split(":")
    for extra in ("", "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: eA==\r\nSec-WebSocket-Version: 13\r\n"):
        with socket.create_connection((host, int(port)), 5) as wire:
            wire.sendall(f"GET {target} HTTP/1.1\r\nHost: x\r\n{extra}Connection: close\r\n\r\n".encode())
            answer = b"".join(iter(lambda: wire.recv(65536), b""))
        assert answer.split(b" ")[1] in (b"400", b"401") and MODEL.encode() not in answer, answer[:200]


def test_the_command_line_works_beside_the_running_server(server: Keyed) -> None:
    made = server.command("add", "from outside", "--tokens-per-minute", "500")
    with client(server, made["token"]) as sdk:
        until(lambda: httpx2.get(f"{server.public.url}/v1/models", headers={"x-api-key": made["token"]}).status_code == 200)
        assert ask(sdk).usage.total_tokens == 7
        server.command("update", made["id"], "--scope", "read")
        until(lambda: _status(lambda: ask(sdk)) == 403)
        server.command("revoke", made["id"])
        until(lambda: _status(lambda: ask(sdk)) == 401)
    until(lambda: bool(server.command("usage", "--key", made["id"])["usage"]))
    (row,) = server.command("usage", "--key", made["id"])["usage"]
    assert row["requests"] >= 1 and row["prompt_tokens"] == 3 * row["requests"]


def _status(call: Callable[[], Any]) -> int:
    try:
        call()
    except openai.APIStatusError as error:
        return error.status_code
    return 200


def test_keys_usage_and_the_days_budget_survive_a_server_that_is_killed(tmp_path: Path) -> None:
    with keyed(tmp_path) as server:
        made = server.key("day", tokens_per_day=100)
        with client(server, made["token"]) as sdk:
            assert ask(sdk, "x" * 30, max_tokens=31).usage.total_tokens == 61
        until(lambda: bool(server.command("usage")["usage"]))
        server.public.process.send_signal(signal.SIGKILL)
        server.public.process.wait()
    with keyed(tmp_path) as server, client(server, made["token"]) as sdk:
        with pytest.raises(openai.RateLimitError, match="61 are used or reserved"):
            ask(sdk, "x" * 30, max_tokens=31)
        own = httpx2.get(f"{server.public.url}/v1/usage", headers={"x-api-key": made["token"]}).json()
        assert own["tokens"]["remaining"] == 39 and own["total"]["prompt_tokens"] == 30
        assert ask(sdk, "x" * 10, max_tokens=11).usage.total_tokens == 21
    told = (tmp_path / "audit.jsonl").read_text()
    assert "xxxx" not in told and made["token"] not in told and told.count('"status":200,"error":null,"model":') >= 2
