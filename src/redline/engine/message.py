"""What the API process and the engine process say to each other, and the wire it travels on.

Messages are tagged msgspec structs, packed with msgpack and framed by a 4-byte length over one Unix socket pair: no
pickle, and a frame over `MAX_FRAME_BYTES` ends the connection. To the engine: `Configure` (once, first), `Submit`,
`Cancel`, `Stop`. From the engine: `Progress` and then `Ready` or `Failed`; afterwards `Output`, `Stats`, `Expect`, `Failed`.

`Channel` is the engine's synchronous end; the asyncio end is `EngineClient` in client.py. Knows nothing of HTTP, text
or devices. Open `Channel` first.
"""

from __future__ import annotations

import errno
import select
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Iterable
from typing import Any

import msgspec

from redline import token_ids
from redline.config import EngineConfig
from redline.errors import RedlineError, by_code
from redline.plan.contract import Kept
from redline.types import Chunk, Failure, Request

MAX_FRAME_BYTES = 64 << 20  # prompt log-probabilities of a 128k prompt are about 40 MB
MAX_BACKLOG_BYTES = 16 << 20
STALL_S = 30.0
_HEADER = struct.Struct("<I")
_READ_BYTES = 1 << 18


class Foreseen(msgspec.Struct, frozen=True):
    """What the contract expects at present, 0 where nothing is known: a step of the running sequences, a prompt token."""

    turn_s: float = 0.0
    prompt_s: float = 0.0


class EngineInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What a ready engine is: the resolved plan and the facts the API process answers from.

    `defaults` are the checkpoint's sampling defaults under the names of `SamplingParams` (temperature, top_k, top_p,
    min_p, repetition_penalty ...), only those it sets. `predicted` are the plan's numbers by name, units in the names.
    """

    model: str
    dtype: str
    device: str
    max_model_len: int
    vocab_size: int
    num_pages: int
    page_size: int
    max_num_seqs: int = 0
    stored_dtype: str = ""
    weight_bytes: int = 0
    kv_bytes: int = 0
    planned_bytes: int = 0  # of the device in all, the driver's own among them; 0 on a CPU
    start_s: float = 0.0
    start_stages: dict[str, float] = {}  # seconds by stage, in order
    file_bytes: int = 0  # of the weights; 0 where they are made
    eos_ids: tuple[int, ...] = ()
    hidden_size: int = 0  # of an embedding
    pooling: str | None = None  # as the model's makers pool, if they say
    matryoshka: bool = False  # whether an embedding may be cut: to one of these sizes, or to any where there are none
    matryoshka_dimensions: tuple[int, ...] = ()
    defaults: dict[str, int | float] = {}
    predicted: dict[str, float] = {}
    foreseen: Foreseen = Foreseen()  # with all sequences running
    receipts: bool = True  # whether requests can have one
    notes: tuple[str, ...] = ()  # choices and fallbacks with their reasons, one sentence each


class Configure(msgspec.Struct, frozen=True, tag=True):
    """The first message to an engine: the configuration it loads."""

    config: EngineConfig


class Submit(msgspec.Struct, frozen=True, tag=True):
    """Requests to run. The engine answers each choice of each with exactly one finish, a refusal included.

    Their prompts travel beside them, packed: `of` takes them out, `whole` puts them back.
    """

    requests: list[Request]
    prompts: list[bytes]

    @classmethod
    def of(cls, requests: Iterable[Request]) -> Submit:
        taken = [(msgspec.structs.replace(request, prompt=[]), token_ids.to_bytes(request.prompt)) for request in requests]
        return cls([request for request, _ in taken], [prompt for _, prompt in taken])

    def whole(self) -> list[Request]:
        """The requests with their prompts."""
        pairs = zip(self.requests, self.prompts, strict=True)
        return [msgspec.structs.replace(request, prompt=token_ids.of_bytes(prompt)) for request, prompt in pairs]


class Cancel(msgspec.Struct, frozen=True, tag=True):
    """End requests early: all their choices, or choice `index` alone. Unknown and ended ids are fine."""

    ids: list[str]
    index: int | None = None


class Stop(msgspec.Struct, frozen=True, tag=True):
    """End the engine: after its open requests when `drain`, else with finish "abort" for them."""

    drain: bool = True


class Progress(msgspec.Struct, frozen=True, tag=True):
    """How far loading is: a stage as a person reads it ("loading weights") and the per cent of the whole start."""

    stage: str
    percent: float


class Ready(msgspec.Struct, frozen=True, tag=True):
    """The engine takes requests from now on."""

    info: EngineInfo


class Output(msgspec.Struct, frozen=True, tag=True):
    """What one step produced, for any number of requests, and the requests that left the queue to run (`started`)."""

    chunks: list[Chunk]
    started: list[str] = []


class Sample(msgspec.Struct, frozen=True):
    """One value of a family of figures. The names follow those of `Stats.more`."""

    name: str
    labels: dict[str, str]
    value: float


class Stats(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """The engine's state (gauges) and its counters since it started. Sent about every second, or after a longer step."""

    running: int = 0  # sequences
    waiting: int = 0
    pages_total: int = 0
    pages_used: int = 0  # neither free nor only cached
    prefix_queries: int = 0  # prompt tokens looked up
    prefix_hits: int = 0  # prompt tokens found
    prompt_tokens: int = 0
    generation_tokens: int = 0
    preemptions: int = 0
    steps: int = 0
    step_s: float = 0.0  # seconds spent in steps
    more: dict[str, float] = {}  # further counters, and levels where it ends in _ratio or _per_second: redline_<name>
    samples: list[Sample] = []  # the same by label
    kept: list[Kept] = []  # promise and truth by kind of step
    foreseen: Foreseen = Foreseen()
    absent: dict[str, str] = {}  # what is not known, and why: "energy", "throttling", "limit"
    fallbacks: list[tuple[str, str, int]] = []  # name, reason, how often


class Expect(msgspec.Struct, frozen=True, tag=True):
    """The engine may be silent for about so long from now on, until its next message, and why.

    Sent before whatever is predicted to take longer than half a second: a long step, a compilation, a measurement.
    """

    seconds: float
    what: str = ""


class Failed(msgspec.Struct, frozen=True, tag=True):
    """The engine cannot start or go on; it ends after this message."""

    failure: Failure


ToEngine = Configure | Submit | Cancel | Stop
FromEngine = Progress | Ready | Output | Stats | Expect | Failed
Message = ToEngine | FromEngine


class ChannelClosed(Exception):
    """The other process is gone, stalled for `STALL_S`, or sent what is not a frame."""


def failure_of(error: RedlineError) -> Failure:
    """`error` as it crosses the process boundary."""
    return Failure(code=error.code, message=error.message, hint=error.hint, param=error.param, retry_after_s=error.retry_after_s)


def error_of(failure: Failure) -> RedlineError:
    """The exception that `failure` stands for."""
    return by_code(failure.code)(failure.message, hint=failure.hint, param=failure.param, retry_after_s=failure.retry_after_s)


_encoder = msgspec.msgpack.Encoder()


def frame(message: Message) -> bytes:
    """One message as length and msgpack. Raises ValueError over `MAX_FRAME_BYTES`."""
    payload = _encoder.encode(message)
    if len(payload) > MAX_FRAME_BYTES:
        raise ValueError(f"a message of {len(payload)} bytes exceeds the frame limit of {MAX_FRAME_BYTES}")
    return _HEADER.pack(len(payload)) + payload


class FrameReader:
    """Cuts a byte stream into messages of one direction (`kind`: ToEngine or FromEngine); holds an incomplete rest."""

    def __init__(self, kind: Any) -> None:
        self._decode = msgspec.msgpack.Decoder(kind).decode
        self._rest = bytearray()

    def feed(self, data: bytes) -> list[Any]:
        """The messages that `data` completes. Raises ChannelClosed on an oversized or undecodable frame."""
        self._rest += data
        messages, start, end = [], 0, len(self._rest)
        with memoryview(self._rest) as view:
            while end - start >= _HEADER.size:
                (size,) = _HEADER.unpack_from(view, start)
                if size > MAX_FRAME_BYTES:
                    raise ChannelClosed(f"a frame of {size} bytes exceeds the limit of {MAX_FRAME_BYTES}")
                if end - start - _HEADER.size < size:
                    break
                start += _HEADER.size
                try:
                    messages.append(self._decode(view[start : start + size]))
                except msgspec.MsgspecError as error:
                    raise ChannelClosed(f"a message that cannot be read: {error}") from error
                start += size
        del self._rest[:start]
        return messages


class Channel:
    """The engine's end of the socket: `send` from any thread, `poll` from one.

    Nothing here can hold the engine's loop for ever. A send is buffered when the API process is slow, and waits only
    while more than `MAX_BACKLOG_BYTES` are pending, for at most `stall_s`. Everything raises ChannelClosed once the API
    process is gone, which is the engine's signal to end.
    """

    def __init__(self, sock: socket.socket, kind: Any = ToEngine, *, stall_s: float = STALL_S) -> None:
        sock.setblocking(False)
        self._socket = sock
        self._reader = FrameReader(kind)
        self._stall_s = stall_s
        self._backlog: deque[memoryview] = deque()
        self._backlog_bytes = 0
        self._lock = threading.Lock()

    def send(self, message: Message) -> None:
        """Send or buffer one message; the next `send`, `poll` or `close` sends what is pending. Raises ChannelClosed."""
        data = frame(message)
        with self._lock:
            self._backlog.append(memoryview(data))
            self._backlog_bytes += len(data)
            self._flush()
            end = time.monotonic() + self._stall_s
            while self._backlog_bytes > MAX_BACKLOG_BYTES:
                if not self._wait(select.POLLOUT, end - time.monotonic()):
                    raise ChannelClosed(f"the API process took nothing for {self._stall_s:g} s")
                self._flush()

    def poll(self, timeout: float | None = 0) -> list[Any]:
        """The messages that arrived, in order; waits up to `timeout` s for the first (None: for ever). Raises ChannelClosed."""
        end = None if timeout is None else time.monotonic() + timeout
        while True:
            with self._lock:
                self._flush()
                wanted = select.POLLIN | (select.POLLOUT if self._backlog else 0)
            left = None if end is None else max(0.0, end - time.monotonic())
            events = self._wait(wanted, left)
            messages = self._receive() if events & ~select.POLLOUT else []
            if messages or (not events and end is not None):
                return messages

    def close(self) -> None:
        """Send what is pending for at most a second, then close the socket."""
        end = time.monotonic() + min(1.0, self._stall_s)
        with self._lock:
            try:
                while self._backlog and self._wait(select.POLLOUT, end - time.monotonic()):
                    self._flush()
            except ChannelClosed:
                self._backlog.clear()
            self._socket.close()

    def _wait(self, events: int, timeout: float | None) -> int:
        poller = select.poll()
        try:
            poller.register(self._socket, events)
        except ValueError as error:  # our own end was closed
            raise ChannelClosed("the channel is closed") from error
        ready = poller.poll(None if timeout is None else max(0.0, timeout) * 1000)
        return ready[0][1] if ready else 0

    def _receive(self) -> list[Any]:
        messages: list[Any] = []
        while True:
            try:
                data = self._socket.recv(_READ_BYTES)
            except BlockingIOError:
                return messages
            except OSError as error:
                raise ChannelClosed(f"the connection broke: {error}") from error
            if not data:
                if messages:  # hand over what came before the end; the next poll meets the end again
                    return messages
                raise ChannelClosed("the API process closed the connection")
            messages += self._reader.feed(data)

    def _flush(self) -> None:
        while self._backlog:
            data = self._backlog[0]
            try:
                sent = self._socket.send(data)
            except BlockingIOError:
                return
            except OSError as error:
                gone = error.errno in (errno.EPIPE, errno.ECONNRESET, errno.EBADF)
                raise ChannelClosed("the API process is gone" if gone else f"the connection broke: {error}") from error
            self._backlog_bytes -= sent
            if sent < len(data):
                self._backlog[0] = data[sent:]
            else:
                self._backlog.popleft()
