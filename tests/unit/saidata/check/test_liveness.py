"""Opening addresses: manners, memory, and that only a clear answer makes an address dead. A transport stands in for the network."""

from __future__ import annotations

import datetime
import hashlib
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import httpx2
import pytest

from saidata.check.liveness import KEPT_DAYS, Addresses, reason_not_public

PAGE = {"content-type": "text/html"}
Asked = list[tuple[str, str]]


def addresses(
    answer: Callable[[httpx2.Request], httpx2.Response], kept: Path | None = None, **more: object
) -> tuple[Addresses, Asked]:
    asked: Asked = []

    def handle(request: httpx2.Request) -> httpx2.Response:
        asked.append((request.method, str(request.url)))
        return answer(request)

    settings = {"public": lambda host: "", "pause_s": 0.0, **more}
    return Addresses(kept, transport=httpx2.MockTransport(handle), **settings), asked  # type: ignore[arg-type]


def site(request: httpx2.Request) -> httpx2.Response:
    host, path = request.url.host, request.url.path
    if host == "down.example.org":
        raise httpx2.ConnectTimeout("no answer")
    if path == "/no-head" and request.method == "HEAD":
        return httpx2.Response(405)
    if path == "/gone":
        return httpx2.Response(404)
    if path == "/soft":
        return httpx2.Response(200, headers=PAGE, text="<html><title>Page Not Found | Example</title></html>")
    if path == "/about-404":
        return httpx2.Response(200, headers={"content-type": "text/plain"}, text="<title>404</title>")
    if path == "/moved":
        return httpx2.Response(301, headers={"location": "https://new.example.com/home"})
    if path == "/loop":
        return httpx2.Response(302, headers={"location": "/loop"})
    if path == "/inside":
        return httpx2.Response(302, headers={"location": "http://inside.example.org/admin"})
    if path == "/file":
        return httpx2.Response(302, headers={"location": "file:///etc/passwd"})
    return httpx2.Response(200, headers=PAGE, text="<html><title>Home</title></html>")


def test_what_addresses_answer() -> None:
    made, asked = addresses(site, public=lambda host: "it lies inside a network" if host.startswith("inside") else "")
    base = "https://a.example.org"
    seen = made.fetch(
        [base + path for path in ("/", "/no-head", "/gone", "/soft", "/about-404", "/moved", "/loop", "/inside", "/file")]
    )
    told = {address.removeprefix(base): (answer.status, answer.missing) for address, answer in seen.items()}
    assert told == {
        "/": (200, False),
        "/no-head": (200, False),
        "/gone": (404, False),
        "/soft": (200, True),
        "/about-404": (200, False),
        "/moved": (200, False),
        "/loop": (0, False),
        "/inside": (0, False),
        "/file": (0, False),
    }
    assert seen[base + "/moved"].final == "https://new.example.com/home" and seen[base + "/"].final == ""
    assert "more than 5 times" in seen[base + "/loop"].reason and "inside a network" in seen[base + "/inside"].reason
    assert all(answer.date for answer in seen.values())
    assert ("GET", base + "/gone") not in asked and not any(
        "inside" in url.split("/")[2] or url.startswith("file") for _, url in asked
    )


def test_what_cannot_be_reached_was_not_checked() -> None:
    made, _ = addresses(site)
    (answer,) = made.fetch(["https://down.example.org/x"]).values()
    assert answer.status == 0 and answer.reason == "down.example.org could not be reached (ConnectTimeout)"


def test_a_host_is_asked_one_address_at_a_time_and_hosts_side_by_side() -> None:
    lock, running, most = threading.Lock(), dict[str, int](), dict[str, int]()
    together = threading.Barrier(2, timeout=20)

    def answer(request: httpx2.Request) -> httpx2.Response:
        host = request.url.host
        with lock:
            running[host] = running.get(host, 0) + 1
            most[host] = max(most.get(host, 0), running[host])
        if request.url.path == "/0":
            together.wait()  # both hosts are being asked now, else this breaks
        with lock:
            running[host] -= 1
        return httpx2.Response(404)

    made, asked = addresses(answer)
    made.fetch([f"https://{host}.example.org/{number}" for number in range(4) for host in "ab"])
    assert most == {"a.example.org": 1, "b.example.org": 1} and len(asked) == 8


def test_answers_are_kept_for_a_week_and_failures_are_not(tmp_path: Path) -> None:
    kept, now = tmp_path / "deep" / "addresses.json", datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    urls = ["https://a.example.org/gone", "https://down.example.org/"]
    made, asked = addresses(site, kept, now=lambda: now)
    first = made.fetch(urls)
    assert made.fetch(urls)[urls[0]] == first[urls[0]] and len(asked) == 3  # the one that was down is asked again
    again, asked = addresses(site, kept, now=lambda: now + datetime.timedelta(days=KEPT_DAYS - 1))
    assert again.fetch(urls[:1]) == {urls[0]: first[urls[0]]} and asked == []
    late, asked = addresses(site, kept, now=lambda: now + datetime.timedelta(days=KEPT_DAYS + 1))
    assert late.fetch(urls[:1])[urls[0]].date != first[urls[0]].date and len(asked) == 1
    kept.write_text("{broken")
    assert addresses(site, kept)[0].fetch(urls[:1])[urls[0]].status == 404
    assert [entry.name for entry in kept.parent.iterdir()] == ["addresses.json"]


def test_downloads_have_their_digest_and_what_fails_has_none() -> None:
    content = b"x" * 100_000

    def answer(request: httpx2.Request) -> httpx2.Response:
        if request.url.path == "/moved":
            return httpx2.Response(302, headers={"location": "/file"})
        return httpx2.Response(404) if request.url.path == "/gone" else httpx2.Response(200, content=content)

    made, _ = addresses(answer)
    base = "https://a.example.org"
    wanted = {
        base + "/file": "sha256",
        base + "/moved": "sha512",
        base + "/gone": "sha256",
        base + "/other": "crc32",
        "nonsense": "md5",
    }
    assert made.digest(wanted) == {
        base + "/file": "sha256:" + hashlib.sha256(content).hexdigest(),
        base + "/moved": "sha512:" + hashlib.sha512(content).hexdigest(),
    }


@pytest.mark.parametrize("address", ["127.0.0.1", "10.1.2.3", "169.254.169.254", "192.168.0.1", "::1", "fd00::1", "0.0.0.0"])
def test_addresses_inside_a_network_are_not_opened(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [(family, socket.SOCK_STREAM, 6, "", (address, 0))])
    assert "inside a network" in reason_not_public("seems.example.org")
    made, asked = addresses(site, public=reason_not_public)
    (answer,) = made.fetch(["https://seems.example.org/"]).values()
    assert answer.status == 0 and asked == []


def test_a_public_address_is_opened_and_no_resolver_is_no_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda *_, **__: [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("93.184.215.14", 0))]
    )
    assert reason_not_public("example.org") == ""

    def fails(*_: object, **__: object) -> None:
        raise socket.gaierror("no resolver")

    monkeypatch.setattr(socket, "getaddrinfo", fails)
    assert "without a network nothing is checked" in reason_not_public("example.org")
