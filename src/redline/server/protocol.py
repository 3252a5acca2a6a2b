"""One HTTP connection below the application: uvicorn's h11 protocol, made safe against clients that hold it for nothing.

- Headers have `HEADERS_S` to arrive, from the connection on or from their first byte; then it is closed, with 408 if there was one.
- What is not HTTP, or has more than `MAX_HEADER_BYTES` of headers, gets its 400 or 431 in the envelope of every other error.
- No bytes cost more time than in proportion to their number, and few are read at a time, so that nobody holds up all others.
- Connections beyond `Protocol.most` get 503 and are closed; those that are open already stay.
- The head of an answer leaves together with what follows at once, in one write, for which a client wakes once.
- A client that takes nothing of its answer for `UNREAD_S` is cut off. Its request ended in the engine long before: slow
  readers hold no pages (engine/client.py).

A client that closes its sending side has left, as far as uvicorn can tell: TCP shows no difference between that and a
client that is gone, so what it asked is cancelled. Knows nothing of the API. Open `Protocol`.
"""

from __future__ import annotations

import asyncio
import http
import re
import resource
import sys
from typing import Any, cast

import h11
import h11._readers
from uvicorn.protocols.http.h11_impl import H11Protocol

from redline import log
from redline.errors import InvalidRequest, NotReady, RedlineError, SlowBody
from redline.server import failures

HEADERS_S = 10.0
UNREAD_S = 120.0
LINGER_S = 1.0  # for a refused client to read why, while what it still sends is thrown away: closing at once would take both
MAX_HEADER_BYTES = 16 << 10  # reading them takes time in which nobody else is served
READ_BYTES = 16 << 10  # at a time from one connection; asyncio's 256 KiB of chunks of one byte take seconds
BODY_BYTES = 256 << 10  # the same of a body whose length is known, which is one piece however much of it there is
MOST_CONNECTIONS = 16_384
SPARE_FILES = 128  # descriptors that are no connections: the engine, SQLite, logs, files of batches
_HEAD = (b"HTTP/1.1 2", b"HTTP/1.1 4", b"HTTP/1.1 5")  # not that of "100 Continue", after which nothing follows

# h11 reads a header with `[ \t]*(...)?[ \t]*` and a chunk's extension with `.*[ \t]*`: before a byte that neither takes, their
# time is the square of the white space, seconds for what fits in a header. These take the same language, but for a line break
# inside an extension, and the possessive `*+` never looks back.
_HEADER = re.compile(
    rb"(?P<field_name>[-!#$%&'*+.^_`|~0-9a-zA-Z]+):[ \t]*+(?P<field_value>(?:[^\x00\s]+(?:[ \t]+[^\x00\s]+)*)?)[ \t]*"
)
_CHUNK = re.compile(rb"(?P<chunk_size>[0-9A-Fa-f]{1,20})(?P<chunk_ext>;[^\r\n]*+)?[ \t]*\r\n")
for _name, _pattern in (("header_field_re", _HEADER), ("chunk_header_re", _CHUNK)):
    setattr(h11._readers, _name, _pattern)


def raise_file_limit() -> int:
    """Let this process open as many files as it may, and return how many connections that makes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_CONNECTIONS + SPARE_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_CONNECTIONS + SPARE_FILES)
    if soft != resource.RLIM_INFINITY and wanted > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    return MOST_CONNECTIONS if soft == resource.RLIM_INFINITY else max(16, min(MOST_CONNECTIONS, soft - SPARE_FILES))


def limited(most: int) -> type[Protocol]:
    """The protocol of a listener that takes `most` connections."""
    return type("Protocol", (Protocol,), {"most": most})


class Wire:
    """A connection's transport, which keeps the head of an answer until the next write, or until the loop turns."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._head = b""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        if self._head:
            data, self._head = self._head + data, b""
        elif data.startswith(_HEAD):
            self._head = data
            self._loop.call_soon(self._let_go)
            return
        self._transport.write(data)

    def write_eof(self) -> None:
        self._let_go()
        self._transport.write_eof()

    def close(self) -> None:
        self._let_go()
        self._transport.close()

    def read_at_most(self, size: int) -> None:
        """Take so many bytes at a time: of asyncio's own transports; others have their own limit."""
        if hasattr(self._transport, "max_size"):
            self._transport.max_size = size

    def _let_go(self) -> None:
        if self._head:
            self.write(b"")


class Protocol(H11Protocol):
    """uvicorn makes one for every connection. `most` is how many there may be."""

    most = MOST_CONNECTIONS

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._headers_timer: asyncio.TimerHandle | None = None
        self._unread_timer: asyncio.TimerHandle | None = None
        self._linger_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._wire = Wire(transport, self.loop)
        self._wire.read_at_most(READ_BYTES)
        super().connection_made(cast(asyncio.Transport, self._wire))
        if len(self.connections) > self.most:
            self._refuse(NotReady(f"{self.most} connections are open already", hint="retry later", retry_after_s=1.0))
        else:
            self._headers_timer = self.loop.call_later(HEADERS_S, self._headers_late)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_headers_timer()
        self._stop_unread_timer()
        if self._linger_timer is not None:
            self._linger_timer.cancel()
            self._linger_timer = None
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing() or self._linger_timer is not None:
            return
        super().data_received(data)
        self._watch_headers()
        # What is left of a body of known length, and nothing that follows it; h11 keeps that to itself.
        rest = getattr(getattr(self.conn, "_reader", None), "_remaining", 0)
        self._wire.read_at_most(max(READ_BYTES, min(rest, BODY_BYTES)))

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch_headers()  # of a next request that came with the one before

    def pause_writing(self) -> None:
        super().pause_writing()
        self._unread_timer = self.loop.call_later(UNREAD_S, self._unread)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stop_unread_timer()

    def send_400_response(self, msg: str) -> None:
        """What h11 cannot read; its own status says whether it was too long."""
        error = sys.exception()
        status = error.error_status_hint if isinstance(error, h11.RemoteProtocolError) else http.HTTPStatus.BAD_REQUEST
        if status == http.HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE:
            self._refuse(InvalidRequest(f"the headers exceed {MAX_HEADER_BYTES} bytes", hint="send fewer"), status, linger=True)
        else:
            why = str(error).partition(": bytearray")[0]  # without what the client wrote
            self._refuse(InvalidRequest(f"the request is not valid HTTP: {why}"), status, linger=True)

    def _watch_headers(self) -> None:
        """Time runs while a part of some headers is here, and not while a whole request is or nothing at all."""
        if self.conn.their_state is not h11.IDLE or not self.conn.trailing_data[0]:
            self._stop_headers_timer()
        elif self._headers_timer is None and not self.transport.is_closing():
            self._headers_timer = self.loop.call_later(HEADERS_S, self._headers_late)

    def _headers_late(self) -> None:
        self._headers_timer = None
        if not self.conn.trailing_data[0]:
            self.transport.close()
            return
        self._refuse(SlowBody(f"the request's headers did not arrive within {HEADERS_S:g} s", hint="send them at once"))

    def _unread(self) -> None:
        self._unread_timer = None
        log.get("server").info("a client took nothing of its answer for %g s and is cut off", UNREAD_S)
        self.transport.abort()

    def _stop_headers_timer(self) -> None:
        if self._headers_timer is not None:
            self._headers_timer.cancel()
            self._headers_timer = None

    def _stop_unread_timer(self) -> None:
        if self._unread_timer is not None:
            self._unread_timer.cancel()
            self._unread_timer = None

    def _refuse(self, error: RedlineError, status: int | None = None, *, linger: bool = False) -> None:
        """Answer a connection on which there is no request, and close it. Nothing is said in the midst of an answer."""
        self._stop_headers_timer()
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            response = failures.response(error)
            headers = [(name, value) for name, value in response.raw_headers if name != b"content-length"]
            headers += [(b"content-length", str(len(response.body)).encode()), (b"connection", b"close")]
            code = status or error.status
            head = h11.Response(status_code=code, headers=headers, reason=http.HTTPStatus(code).phrase.encode())
            for event in (head, h11.Data(data=bytes(response.body)), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event))
        if linger and self.transport.can_write_eof() and not self.transport.is_closing():
            if self.cycle is not None and not self.cycle.response_complete:
                self.cycle.disconnected = True  # what it would have answered has no place any more
                self.cycle.message_event.set()
            self.flow.resume_reading()
            self.transport.write_eof()
            self._linger_timer = self.loop.call_later(LINGER_S, self.transport.close)
        else:
            self.transport.close()
