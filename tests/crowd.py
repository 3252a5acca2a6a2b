"""A crowd of raw clients on sockets: good ones, ones that leave, ones that send garbage. Cheap, so that it can be large.

Each client has one exchange at a time. Without a period it begins the next at once, and there are always as many exchanges
as clients: a flood. With one it begins an exchange per period, whatever the server does, so the load is the same however
slow the answers are. Good clients check everything they are told; `Tally` holds what all saw.

`run` lets good clients work all the time and bad ones in every other window, so that the latencies of both kinds of window
can be compared although the machine is not the same from minute to minute. Knows nothing of processes or metrics. Open
`run` first.
"""

from __future__ import annotations

import asyncio
import json
import random
import socket
import struct
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import msgspec

LONGEST_S = 30.0  # that anybody waits: longer is a hang
MODEL = "random:tiny-llama"
LEAST_BYTES = 40  # of an answer, per token
_END = b"0\r\n\r\n"


@dataclass
class Latency:
    """One good exchange: when it began, and its seconds to the first bytes and to the last."""

    began: float
    first_s: float
    whole_s: float


@dataclass
class Tally:
    """What the clients saw. `taken` requests were certainly let in, `unsure` ones perhaps."""

    good: list[Latency] = field(default_factory=list)
    ends: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)  # of the server: none may be
    taken: int = 0
    unsure: int = 0
    open: int = 0  # streams at this moment
    most_open: int = 0


class Connection(asyncio.Protocol):
    """One socket. `ask` sends bytes and gives what came back until the answer is whole, the patience over, or the peer gone."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.lost = False
        self.first = 0.0
        self._received = bytearray()
        self._patience = 0
        self._whole: asyncio.Future[None] | None = None

    @classmethod
    async def to(cls, host: str, port: int) -> Connection:
        _, made = await asyncio.get_running_loop().create_connection(cls, host, port)
        return made

    async def ask(self, data: bytes, *, patience: int = 1 << 62) -> bytes:
        """`patience` is the number of bytes after which nobody reads on. Raises TimeoutError for a hang."""
        assert self.transport is not None
        self._received = bytearray()
        self._patience, self.first = patience, 0.0
        self._whole = asyncio.get_running_loop().create_future()
        if not self.lost:
            self.transport.write(data)
            async with asyncio.timeout(LONGEST_S):
                await self._whole
        return bytes(self._received)

    def leave(self, *, reset: bool = False) -> None:
        """Go away; with `reset` as a process that was killed goes."""
        assert self.transport is not None
        if reset:
            sock: socket.socket = self.transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.first = self.first or time.perf_counter()
        self._received += data
        if self._received.endswith(_END) or len(self._received) >= self._patience or _is_whole(self._received):
            self._done()

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        self._done()

    def _done(self) -> None:
        if self._whole is not None and not self._whole.done():
            self._whole.set_result(None)


def _is_whole(received: bytearray) -> bool:
    """Whether an answer that tells its length is there."""
    head, found, body = bytes(received[:4096]).partition(b"\r\n\r\n")
    if not found or b"content-length: " not in head.lower():
        return False
    length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n", 1)[0])
    return len(received) >= len(head) + 4 + length


def request(path: str, body: object, *, method: str = "POST") -> bytes:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return (
        f"{method} {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(data)}\r\n\r\n".encode()
        + data
    )


def stream_of(prompt: str, tokens: int) -> bytes:
    body = {
        "model": MODEL,
        "prompt": prompt,
        "max_tokens": tokens,
        "ignore_eos": True,
        "temperature": 0.0,
        "stream": True,
        "echo": True,
        "stream_options": {"include_usage": True},
    }
    return request("/v1/completions", body)


def fault_of(answer: bytes, prompt: str, tokens: int) -> str | None:
    """What is wrong with a stream that should be whole: one end, all tokens, the right prompt's; None: nothing."""
    head, _, body = answer.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200 "):
        return f"{_status(answer)} {body[:200]!r}"
    events = _unchunked(body).split(b"\n\n")
    if events[-2:] != [b"data: [DONE]", b""]:
        return f"ended with {events[-2:]!r}"
    told = [msgspec.json.decode(event.removeprefix(b"data: ")) for event in events[:-2] if not event.startswith(b":")]
    choices = [choice for event in told for choice in event["choices"]]
    finishes = [choice["finish_reason"] for choice in choices if choice["finish_reason"]]
    if finishes != ["length"] or not choices[-1]["finish_reason"]:
        return f"finished {finishes}"
    if not "".join(choice["text"] for choice in choices).startswith(prompt):
        return "told another prompt's text"
    if told[-1]["usage"]["completion_tokens"] != tokens:
        return f"counted {told[-1]['usage']}"
    return None


def _status(answer: bytes) -> str:
    return repr(answer.partition(b"\r\n")[0][:40])


def _unchunked(body: bytes) -> bytes:
    parts, at = [], 0
    while at < len(body):
        end = body.index(b"\r\n", at)
        size = int(body[at:end], 16)
        parts.append(body[end + 2 : end + 2 + size])
        at = end + 4 + size
    return b"".join(parts)


class Pace:
    """The moments at which a client begins: one in each period, from a random one on; at once where the last took longer."""

    def __init__(self, period_s: float, draw: random.Random) -> None:
        self._period_s = period_s
        self._next = time.perf_counter() + draw.random() * period_s

    async def next(self) -> bool:
        """Wait for it; always true."""
        now = time.perf_counter()
        await asyncio.sleep(max(0.0, self._next - now))
        self._next = max(self._next, now) + self._period_s
        return True


class Crowd:
    """Clients of one server until `over` is set; bad ones only while `bad` is."""

    def __init__(self, url: str, *, tokens: int, period_s: float, seed: int) -> None:
        """`tokens` of each answer; `period_s` 0: no pause between two exchanges of a client."""
        parts = urlsplit(url)
        assert parts.hostname is not None and parts.port is not None
        self.address = parts.hostname, parts.port
        self.tokens = tokens
        self.period_s = period_s
        self.seed = seed
        self.tally = Tally()
        self.over = asyncio.Event()
        self.bad = asyncio.Event()

    async def good(self, number: int) -> None:
        """Streams read to their end: in a flood on one connection, else on a new one each, for idle ones are closed."""
        connection = await Connection.to(*self.address)
        turn = 0
        pace = Pace(self.period_s, random.Random(number))
        while await pace.next() and not self.over.is_set():
            prompt = f"client {number} asks for the {turn}th time"
            turn += 1
            began = time.perf_counter()
            self.tally.taken += 1
            if self.period_s:
                connection.leave()
                connection = await Connection.to(*self.address)
            answer = await self._counted(connection.ask(stream_of(prompt, self.tokens)))
            ended = time.perf_counter()
            fault = fault_of(answer, prompt, self.tokens)
            self.tally.ends["good" if fault is None else "bad answer"] += 1
            if fault is not None:
                self.tally.faults[fault] += 1
                return
            self.tally.good.append(Latency(began, connection.first - began, ended - began))
        connection.leave()

    async def leaving(self, number: int) -> None:
        """Streams that nobody reads to their end: left before the first byte, or after some of it, with and without a reset."""
        draw = random.Random(self.seed * 1000 + number)
        pace = Pace(self.period_s, draw)
        while await pace.next() and await self._wanted():
            connection = await Connection.to(*self.address)
            if draw.random() < 0.2:
                self.tally.unsure += 1
                connection.transport.write(stream_of("nobody waits", self.tokens))  # type: ignore[union-attr]
                await asyncio.sleep(draw.random() * 0.05)
            else:
                patience = draw.randrange(200, LEAST_BYTES * self.tokens)
                answer = await self._counted(connection.ask(stream_of("somebody leaves", self.tokens), patience=patience))
                if answer.startswith(b"HTTP/1.1 200 "):
                    self.tally.taken += 1
                else:
                    self.tally.unsure += 1
                    self.tally.faults[f"a leaving client: {_status(answer)}"] += 1
            connection.leave(reset=draw.random() < 0.5)
            self.tally.ends["left"] += 1

    async def garbage(self, number: int) -> None:
        """What no client should send. Each is answered with a 4xx or a closed connection, soon."""
        draw = random.Random(self.seed * 2000 + number)
        pace = Pace(self.period_s or 0.1, draw)  # ten a second are a nuisance; more are a flood of another kind
        while await pace.next() and await self._wanted():
            connection = await Connection.to(*self.address)
            kind = draw.choice(list(GARBAGE))
            try:
                answer = await connection.ask(GARBAGE[kind](draw))
            except TimeoutError:
                self.tally.faults[f"{kind}: no answer"] += 1
                return
            if answer and not answer.startswith((b"HTTP/1.1 4", b"HTTP/1.0 4")):
                self.tally.faults[f"{kind}: {_status(answer)}"] += 1
            connection.leave()
            self.tally.ends[f"garbage {kind}"] += 1

    async def lingering(self, number: int) -> None:
        """Connections that say half of something and nothing more, then go."""
        draw = random.Random(self.seed * 3000 + number)
        pace = Pace(self.period_s, draw)
        while await pace.next() and await self._wanted():
            connection = await Connection.to(*self.address)
            whole = stream_of("half of a request", self.tokens)
            assert connection.transport is not None
            connection.transport.write(whole[: draw.randrange(len(whole))])
            await asyncio.sleep(draw.random())
            connection.leave(reset=draw.random() < 0.5)
            self.tally.ends["half a request"] += 1

    async def _wanted(self) -> bool:
        """Wait until bad clients are wanted; False when all is over."""
        if not self.bad.is_set():
            await self.bad.wait()
        return not self.over.is_set()

    async def _counted(self, exchange: Awaitable[bytes]) -> bytes:
        tally = self.tally
        tally.open += 1
        tally.most_open = max(tally.most_open, tally.open)
        try:
            return await exchange
        finally:
            tally.open -= 1


def _deep(draw: random.Random) -> bytes:
    return request("/v1/chat/completions", b'{"messages":' + b"[" * draw.choice((100, 10_000)))


def _mutated(draw: random.Random) -> bytes:
    """A sound request with one byte of its body changed to one that JSON cannot hold there."""
    head, _, body = stream_of("mutated", 9).partition(b"\r\n\r\n")
    at = draw.randrange(len(body))
    return head + b"\r\n\r\n" + body[:at] + b"\x00" + body[at + 1 :]


GARBAGE: dict[str, Callable[[random.Random], bytes]] = {
    "noise": lambda draw: draw.randbytes(200) + b"\r\n\r\n",
    "not JSON": lambda draw: request("/v1/completions", draw.randbytes(300)),
    "depth": _deep,
    "a wrong byte": _mutated,
    "a wrong type": lambda draw: request("/v1/completions", {"prompt": draw.choice((1, None, {}, [[]], [-1], True))}),
    "a wrong number": lambda draw: request("/v1/completions", {"prompt": "x", draw.choice(("n", "seed", "max_tokens")): 1 << 80}),
    "an unknown field": lambda draw: request("/v1/completions", {"prompt": "x", f"f{draw.randrange(99)}": 1}),
    "far too long": lambda draw: request("/v1/completions", {"prompt": "x" * draw.choice((3000, 300_000))}),
    "a path": lambda draw: request(draw.choice(("/v1/../../etc/passwd", "/%2e%2e/", "//", "/v1/nothing")), b"", method="GET"),
    "a lie about length": lambda draw: b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: -5\r\n\r\n",
    "a huge length": lambda draw: b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999999\r\n\r\n",
    "a flood of headers": lambda draw: (
        b"GET /health HTTP/1.1\r\n" + b"".join(b"x-%d: %d\r\n" % (i, i) for i in range(9000)) + b"\r\n"
    ),
}


@dataclass(frozen=True)
class Window:
    """A stretch of time, in which bad clients were at work or not. Seconds of time.perf_counter."""

    began: float
    ended: float
    bad: bool

    def holds(self, latency: Latency, settle_s: float) -> bool:
        """Whether an exchange lay in it from beginning to end, not before what the window changed had come into effect."""
        return self.began + settle_s <= latency.began and latency.began + latency.whole_s <= self.ended


async def run(
    url: str,
    *,
    clients: tuple[int, int, int],
    tokens: int,
    windows: list[bool],
    window_s: float,
    period_s: float = 0.0,
    seed: int = 0,
) -> tuple[Tally, list[Window]]:
    """Let a crowd of (good, leaving, garbage) clients work through `windows`, the bad ones in those that are true."""
    crowd = Crowd(url, tokens=tokens, period_s=period_s, seed=seed)
    good, leaving, garbage = clients
    jobs = [asyncio.create_task(crowd.good(i)) for i in range(good)]
    jobs += [asyncio.create_task(crowd.leaving(i)) for i in range(leaving)]
    jobs += [asyncio.create_task((crowd.lingering if i % 3 == 0 else crowd.garbage)(i)) for i in range(garbage)]
    been = []
    for bad in windows:
        (crowd.bad.set if bad else crowd.bad.clear)()
        began = time.perf_counter()
        await asyncio.sleep(window_s)
        been.append(Window(began, time.perf_counter(), bad))
    crowd.over.set()
    crowd.bad.set()  # whoever waits shall see that it is over
    await asyncio.gather(*jobs)
    return crowd.tally, been
