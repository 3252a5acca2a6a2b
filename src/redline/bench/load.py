"""Load as users make it: arrivals that do not wait for answers, lengths that vary, raw streams whose every event has a time.

`arrivals` and a `Mix` say what is asked when, all before the first request leaves; `offer` keeps to that plan however slow the
server is, and times are counted from the planned moment, so that a request which could not leave in time counts its wait
(no coordinated omission). The client is a bare asyncio protocol: a thousand streams must cost less than the server they
measure. Knows nothing of goals or tables. Open `offer` first.
"""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import urlsplit

import numpy as np

LONGEST_S = 600.0  # that anybody waits for a whole answer
IDLE_S = 0.25
"""Before a prompt whose first token is timed on an idle engine. One prompt of 4,096 tokens after the other holds an H200 at its 700 W, where each takes a
fifteenth longer."""
_TAIL = 6  # bytes that may begin the mark of an event whose rest comes with the next read
_MARK = b"data: {"
_KEPT = 8192  # of the end of an answer: its usage is in there
_END = b"0\r\n\r\n"


@dataclass(frozen=True)
class Planned:
    """One request of the plan: seconds after the beginning, the prompt's tokens, the answer's length."""

    at_s: float
    prompt: list[int]
    output: int


@dataclass
class Seen:
    """What came of one request. Times are time.perf_counter(), `due` the moment of the plan; `failure` says what went wrong."""

    due: float
    sent: float
    asked: int = 0
    events: list[float] = field(default_factory=list)
    tokens: int = 0
    failure: str = ""
    id: str = ""  # of a whole answer, as the server calls it; empty where it does not

    @property
    def ttft_s(self) -> float:
        """From the planned moment to the first token."""
        return self.events[0] - self.due

    @property
    def per_token_s(self) -> float:
        """Between tokens, on average after the first."""
        return (self.events[-1] - self.events[0]) / max(1, self.tokens - 1)

    @property
    def whole_s(self) -> float:
        return self.events[-1] - self.due


class Mix(Protocol):
    """Lengths of prompts and answers."""

    @property
    def name(self) -> str: ...

    def draw(self, random: np.random.Generator) -> tuple[int, int]: ...


@dataclass(frozen=True)
class Fixed:
    """Every prompt and every answer of one length."""

    prompt: int
    output: int
    name: str = "fixed"

    def draw(self, random: np.random.Generator) -> tuple[int, int]:
        return self.prompt, self.output


@dataclass(frozen=True)
class ShareGpt:
    """Lengths like ShareGPT's conversations: means of 161 and 338 tokens (Kwon et al., PagedAttention, 2023, section 6.1).

    Only the means are published there; the log-normal form and its spread are ours, cut off at `longest` tokens.
    """

    longest: int = 1024
    name: str = "sharegpt"

    def draw(self, random: np.random.Generator) -> tuple[int, int]:
        return self._length(random, 161.0, 1.2), self._length(random, 338.0, 0.9)

    def _length(self, random: np.random.Generator, mean: float, sigma: float) -> int:
        drawn = random.lognormal(math.log(mean) - sigma * sigma / 2, sigma)
        return int(min(self.longest, max(4, round(drawn))))


def arrivals(rate: float, seconds: float, mix: Mix, vocab_size: int, random: np.random.Generator) -> list[Planned]:
    """Poisson arrivals at `rate` a second for `seconds`, at least one, with prompts of random tokens."""
    plan: list[Planned] = []
    at = random.exponential(1 / rate)
    while at < seconds or not plan:
        prompt, output = mix.draw(random)
        plan.append(Planned(at, random.integers(0, vocab_size, prompt).tolist(), output))
        at += random.exponential(1 / rate)
    return plan


@dataclass(frozen=True)
class Target:
    """A server: its address, the model's name there, and the key it wants, if any."""

    url: str
    model: str | None = None
    key: str | None = None

    def request(self, planned: Planned) -> bytes:
        """The bytes of a streamed completion."""
        body: dict[str, Any] = {
            "prompt": planned.prompt,
            "max_tokens": planned.output,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if self.model is not None:
            body["model"] = self.model
        data = json.dumps(body).encode()
        key = f"authorization: Bearer {self.key}\r\n" if self.key else ""
        path = urlsplit(self.url).path.rstrip("/")
        head = f"POST {path}/v1/completions HTTP/1.1\r\nhost: {urlsplit(self.url).netloc}\r\n{key}"
        return f"{head}content-type: application/json\r\ncontent-length: {len(data)}\r\n\r\n".encode() + data


async def offer(target: Target, plan: Sequence[Planned], *, longest_s: float = LONGEST_S) -> list[Seen]:
    """Send every request of `plan` at its moment, whatever became of those before; what came of each."""
    idle: list[_Stream] = []
    messages = [target.request(planned) for planned in plan]  # made before, so that sending is all there is to do in time
    began = time.perf_counter()
    tasks = []
    for planned, message in zip(plan, messages, strict=True):
        due = began + planned.at_s
        if (wait := due - time.perf_counter()) > 0:
            await asyncio.sleep(wait)
        tasks.append(asyncio.ensure_future(_one(target, planned, message, due, idle, longest_s)))
    seen = await asyncio.gather(*tasks)
    await _leave(idle)
    return seen


async def one_by_one(target: Target, plan: Sequence[Planned], *, pause_s: float = 0.0) -> list[Seen]:
    """Send the requests one after another over one connection, each on a server that has been idle for `pause_s`; `at_s` is not read."""
    idle: list[_Stream] = []
    seen = []
    for planned in plan:
        await asyncio.sleep(pause_s)
        seen.append(await _one(target, planned, target.request(planned), time.perf_counter(), idle, LONGEST_S))
    await _leave(idle)
    return seen


async def _leave(idle: Sequence[_Stream]) -> None:
    for stream in idle:
        stream.close()
    await asyncio.sleep(0)  # in which the loop lets the sockets go


async def _one(target: Target, planned: Planned, message: bytes, due: float, idle: list[_Stream], longest_s: float) -> Seen:
    seen = Seen(due=due, sent=time.perf_counter(), asked=planned.output)
    stream: _Stream | None = None
    try:
        async with asyncio.timeout(longest_s):
            stream = idle.pop() if idle else await _Stream.to(target.url)
            await stream.ask(message, seen)
    except TimeoutError:
        seen.failure = f"no whole answer within {longest_s:g} s"
    except OSError as error:
        seen.failure = f"connection: {type(error).__name__}"
    if stream is not None:
        if seen.failure or stream.lost:
            stream.close()
        else:
            idle.append(stream)
    return seen


class _Stream(asyncio.Protocol):
    """One connection with one exchange at a time."""

    def __init__(self) -> None:
        self.lost = False
        self._transport: asyncio.Transport | None = None
        self._seen: Seen | None = None
        self._done: asyncio.Future[None] | None = None
        self._status = b""
        self._rest = b""
        self._last = bytearray()

    @classmethod
    async def to(cls, url: str) -> _Stream:
        where = urlsplit(url)
        _, made = await asyncio.get_running_loop().create_connection(cls, where.hostname or "", where.port or 80)
        return made

    async def ask(self, message: bytes, seen: Seen) -> None:
        """Send `message` and fill `seen` until the answer is whole or the server gone."""
        assert self._transport is not None
        self._seen, self._status, self._rest = seen, b"", b""
        self._last.clear()
        self._done = asyncio.get_running_loop().create_future()
        if self.lost:
            raise ConnectionResetError
        seen.sent = time.perf_counter()
        self._transport.write(message)
        await self._done
        _read_end(seen, self._status, bytes(self._last))

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        now = time.perf_counter()
        if self._seen is None or self._done is None or self._done.done():
            return
        if not self._status:
            self._status = data.split(b"\r\n", 1)[0]
        text = self._rest + data
        self._seen.events += [now] * text.count(_MARK)
        self._rest = text[-_TAIL:]
        self._last += data
        del self._last[:-_KEPT]
        if self._last.endswith(_END) or (b" 200 " not in self._status and _is_whole(self._last)):
            self._done.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        if self._done is not None and not self._done.done():
            self._done.set_result(None)


def _is_whole(received: bytearray) -> bool:
    """Whether an error's answer, which tells its length, is there."""
    head, found, body = bytes(received).partition(b"\r\n\r\n")
    length = head.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0].strip()
    return bool(found) and length.isdigit() and len(body) >= int(length)


def _read_end(seen: Seen, status: bytes, last: bytes) -> None:
    """The number of tokens that the answer's own usage tells; a failure where it is not the answer that was asked for."""
    if b" 200 " not in status:
        code = status.split(b" ")[1:2]
        seen.failure = f"status {code[0].decode()}" if code else "connection lost"
        return
    if b"data: [DONE]" not in last:
        seen.failure = "the stream broke off"
        return
    _, found, rest = last.rpartition(b'"id":"')
    seen.id = rest.partition(b'"')[0].decode(errors="replace") if found else ""
    found = last.rpartition(b'"completion_tokens":')[2]
    digits = found[: next((i for i, byte in enumerate(found) if not 48 <= byte <= 57), len(found))]
    seen.tokens = int(digits or 0)
    seen.events.pop()  # the usage has an event of its own
    if seen.tokens != seen.asked or not seen.events:
        seen.failure = f"{seen.tokens} tokens instead of {seen.asked}"
