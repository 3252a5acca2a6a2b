"""Connections that hold the server for nothing: slow and broken headers, floods of them, clients that do not read or half leave."""

from __future__ import annotations

import asyncio
import json
import resource
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState

from redline.server import protocol
from redline.server.connection import read_body, while_connected
from redline.server.protocol import MAX_HEADER_BYTES, Protocol, Wire, limited, raise_file_limit

GET = b"GET /here HTTP/1.1\r\nHost: x\r\n\r\n"


class App:
    """Answers with the path, after `wait_s`; streams for ever on /stream. Remembers what became of requests."""

    def __init__(self) -> None:
        self.wait_s = 0.0
        self.seen: list[str] = []
        self.left: list[str] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        self.seen.append(path)
        await receive()

        async def work() -> None:
            await asyncio.sleep(self.wait_s)
            headers = [] if path == "/stream" else [(b"content-length", str(len(path)).encode())]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            while path == "/stream":
                await send({"type": "http.response.body", "body": b"x" * 65536, "more_body": True})
                await asyncio.sleep(0)
            await send({"type": "http.response.body", "body": path.encode()})

        done = False
        try:
            await while_connected(receive, work())
            done = True
        finally:
            self.left.append(f"{path} {'ended' if done else 'broke'}")


@asynccontextmanager
async def listening(app: App, most: int = 100) -> AsyncIterator[Callable[[], Awaitable[Any]]]:
    """A listener of the protocol alone; what comes out opens a connection to it."""
    config = uvicorn.Config(
        app, http=limited(most), lifespan="off", log_config=None, h11_max_incomplete_event_size=MAX_HEADER_BYTES
    )
    config.load()
    state = ServerState()
    made: list[Protocol] = []

    def protocol_of_connection() -> Protocol:
        made.append(config.http_protocol_class(config=config, server_state=state, app_state={}))  # type: ignore[arg-type,call-arg]
        return made[-1]

    server = await asyncio.get_running_loop().create_server(protocol_of_connection, "127.0.0.1", 0)
    opened: list[asyncio.StreamWriter] = []

    async def connect() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        opened.append(writer)
        return reader, writer

    try:
        yield connect
    finally:
        for writer in opened:
            writer.close()
        server.close()
        for each in made:
            each.transport.abort()
        await asyncio.sleep(0.01)
        assert not state.connections
        assert all(each._headers_timer is each._unread_timer is each._linger_timer is None for each in made)


def run(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 20))  # type: ignore[arg-type]


def error(answer: bytes, status: int) -> dict[str, Any]:
    """The one error of an answer, in the envelope, on a connection that ends with it."""
    head, _, body = answer.partition(b"\r\n\r\n")
    lines = head.decode().lower().split("\r\n")
    assert lines[0].startswith(f"http/1.1 {status} ") and "connection: close" in lines
    assert "content-type: application/json" in lines and f"content-length: {len(body)}" in lines
    told: dict[str, Any] = json.loads(body)["error"]
    assert set(told) == {"message", "type", "param", "code"}
    return told


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),  # a TLS handshake
        (b"NOT HTTP AT ALL\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),  # without a Host
        (b"GET / HTTP/1.1\r\nHost: x\r\nbad header\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n", 501),
        (b"GET /" + b"x" * (2 * MAX_HEADER_BYTES), 431),
        (b"GET / HTTP/1.1\r\nHost: x\r\n" + b"a: b\r\n" * MAX_HEADER_BYTES, 431),
        (GET + b"\x00\x01\r\n\r\n", 400),
    ],
)
def test_what_is_not_http_gets_the_envelope(sent: bytes, status: int) -> None:
    async def test() -> None:
        async with listening(App()) as connect:
            reader, writer = await connect()
            writer.write(sent)
            answer = await reader.read()
            last = answer[answer.rindex(b"HTTP/1.1") :]
            assert error(last, status)["code"] == "invalid_request"

    run(test)


_CHUNKED = b"POST /here HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
_WHITE = b" \t" * (MAX_HEADER_BYTES // 2)


@pytest.mark.parametrize(
    "sent",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\na:" + _WHITE + b"\x00\r\n\r\n",
        _CHUNKED + b"1;" + _WHITE + b"\nx\r\n",
        _CHUNKED + b"0\r\na:" + _WHITE + b"\x00\r\n\r\n",
        GET + b"GET / HTTP/1.1\r\nHost: x\r\na:" + _WHITE + b"\x00\r\n\r\n",
    ],
)
def test_white_space_before_a_bad_byte_takes_no_time(sent: bytes) -> None:
    """h11's own patterns look back: a header of this size holds up everybody for a second, and needs no key."""

    async def test() -> None:
        async with listening(App()) as connect:
            reader, writer = await connect()
            began = time.process_time()
            writer.write(sent)
            answer = await reader.read()
            assert time.process_time() - began < 0.15  # some 0.01
            assert error(answer[answer.rindex(b"HTTP/1.1") :], 400)["code"] == "invalid_request"

    run(test)


def test_little_is_read_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """What came in one read is parsed in one go: 256 KiB of chunks of one byte would hold up everybody for two seconds."""
    reads: list[int] = []
    received = Protocol.data_received
    monkeypatch.setattr(Protocol, "data_received", lambda self, data: (reads.append(len(data)), received(self, data))[1])

    async def test() -> None:
        async with listening(App()) as connect:
            reader, writer = await connect()
            writer.write(_CHUNKED + b"1\r\n \r\n" * 10_000 + b"0\r\n\r\n")
            assert (await reader.readuntil(b"/here")).startswith(b"HTTP/1.1 200")
        assert sum(reads) > 60_000 and max(reads) <= protocol.READ_BYTES

    run(test)


def test_a_body_of_known_length_is_read_in_large_pieces_and_nothing_behind_it(monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[int] = []
    received = Protocol.data_received
    monkeypatch.setattr(Protocol, "data_received", lambda self, data: (reads.append(len(data)), received(self, data))[1])
    size = 120_000
    head = b"POST /here HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % size

    class Reading(App):
        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            await read_body(receive)
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"5")]})
            await send({"type": "http.response.body", "body": b"/here"})

    async def test() -> None:
        async with listening(Reading()) as connect:
            reader, writer = await connect()
            writer.write(head + b"x" * size + _CHUNKED + b"1\r\n \r\n" * 10_000 + b"0\r\n\r\n")
            for _ in range(2):
                assert (await reader.readuntil(b"/here")).startswith(b"HTTP/1.1 200")

    run(test)
    left, most = len(head) + size, 0
    for read in reads:
        assert read <= max(protocol.READ_BYTES, left), "what follows a body is read a little at a time"
        most = max(most, read) if left > 0 else most
        left -= read
    assert most > protocol.READ_BYTES


class Written:
    """A transport that remembers each write."""

    def __init__(self) -> None:
        self.writes: list[bytes] = []
        self.closed = False

    def write(self, data: bytes) -> None:
        assert not self.closed
        self.writes.append(data)

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed


def test_a_head_leaves_with_what_follows_at_once_or_alone() -> None:
    head = b"HTTP/1.1 200 OK\r\n\r\n"

    async def test() -> None:
        below: Any = Written()
        wire = Wire(below, asyncio.get_running_loop())
        for data in (b"HTTP/1.1 100 Continue\r\n\r\n", head, b"one", b"two"):
            wire.write(data)
        await asyncio.sleep(0)
        assert below.writes == [b"HTTP/1.1 100 Continue\r\n\r\n", head + b"one", b"two"]
        wire.write(head)
        await asyncio.sleep(0)
        assert below.writes[3:] == [head], "nobody waits for a head whose body takes its time"
        wire.write(head)
        wire.close()
        await asyncio.sleep(0)
        assert below.writes[4:] == [head] and wire.is_closing()

    run(test)


def test_headers_that_never_end_are_closed_and_others_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "HEADERS_S", 0.3)

    async def test() -> None:
        app = App()
        async with listening(app) as connect:
            silent, _ = await connect()
            slow, writing = await connect()
            writing.write(b"GET / HTTP/1.1\r\n")
            again, second = await connect()
            second.write(GET)
            assert (await again.readuntil(b"/here")).startswith(b"HTTP/1.1 200")
            idle, third = await connect()
            third.write(GET)
            await idle.readuntil(b"/here")
            second.write(b"GET /next")  # the second request of a connection, which never comes
            app.wait_s = 0.6
            patient, fourth = await connect()
            fourth.write(GET)  # an answer that takes longer than headers may
            for _ in range(10):
                writing.write(b"x")
                await asyncio.sleep(0.02)
            assert error(await slow.read(), 408)["code"] == "request_timeout"
            assert await silent.read() == b""
            assert error(await again.read(), 408)["code"] == "request_timeout"
            assert await patient.readuntil(b"/here")
            app.wait_s = 0.0
            third.write(GET)  # kept alive all the while
            assert await idle.readuntil(b"/here")

    run(test)


def test_connections_beyond_the_limit_are_told_and_the_others_served() -> None:
    async def test() -> None:
        app = App()
        async with listening(app, most=3) as connect:
            kept = [await connect() for _ in range(3)]
            await asyncio.sleep(0.01)
            refused, _ = await connect()
            told = error(await refused.read(), 503)
            assert told["code"] == "not_ready" and "3 connections" in told["message"]
            for reader, writer in kept:
                writer.write(GET)
                assert (await reader.readuntil(b"/here")).startswith(b"HTTP/1.1 200")
            kept[0][1].close()
            await asyncio.sleep(0.02)
            reader, writer = await connect()
            writer.write(GET)
            assert (await reader.readuntil(b"/here")).startswith(b"HTTP/1.1 200")

    run(test)


def test_a_client_that_does_not_read_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "UNREAD_S", 0.3)

    async def test() -> None:
        app = App()
        async with listening(app) as connect:
            _, writer = await connect()
            writer.transport.pause_reading()  # type: ignore[attr-defined]
            writer.write(GET.replace(b"/here", b"/stream"))
            for _ in range(500):
                if app.left:
                    break
                await asyncio.sleep(0.01)
            assert app.left == ["/stream ended"] or app.left == ["/stream broke"]

    run(test)


def test_a_client_that_closes_its_sending_side_has_left() -> None:
    """What uvicorn can know: the request is cancelled, and nothing hangs."""

    async def test() -> None:
        app = App()
        app.wait_s = 10.0
        async with listening(app) as connect:
            reader, writer = await connect()
            writer.write(GET)
            while not app.seen:
                await asyncio.sleep(0.01)
            writer.write_eof()
            assert await reader.read() == b""
            while not app.left:
                await asyncio.sleep(0.01)
            assert app.left == ["/here ended"]

    run(test)


def test_the_limit_of_open_files_is_raised_and_leaves_some_to_others() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        most = raise_file_limit()
        now = resource.getrlimit(resource.RLIMIT_NOFILE)
        assert now[1] == hard and (now[0] >= soft or now[0] == resource.RLIM_INFINITY)
        assert now[0] == resource.RLIM_INFINITY or 16 <= most < now[0]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
