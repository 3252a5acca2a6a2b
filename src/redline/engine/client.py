"""The asyncio end of an engine: starts it, sends it requests, and hands each request its chunks.

One `EngineClient` owns one engine process. `submit` returns a `Stream`: every choice of every request in it ends with
exactly one finish, whatever happens to the engine, and a reader that falls behind gets its tokens merged into fewer
chunks, never a longer queue. Knows nothing of HTTP or text; does not restart an engine that died. Open `EngineClient`.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
import time
from collections.abc import Callable
from typing import Any, Literal, Protocol, cast

import msgspec

from redline.config import EngineConfig
from redline.engine.launch import launch
from redline.engine.message import (
    Cancel,
    ChannelClosed,
    EngineInfo,
    Expect,
    Failed,
    FrameReader,
    FromEngine,
    Output,
    Progress,
    Ready,
    Stats,
    Stop,
    Submit,
    ToEngine,
    error_of,
    failure_of,
    frame,
)
from redline.engine.pace import Pace
from redline.engine.roster import Roster
from redline.errors import EngineDead, Overloaded, TooLarge
from redline.types import Chunk, Failure, Request

MAX_UNSENT_BYTES = 64 << 20
MERGE_AT = 32  # pending chunks of one choice before they become one
STOP_S = 5.0
KILL_S = 2.0

State = Literal["new", "loading", "ready", "dead", "closed"]
_NOTHING = Expect(0.0)


class Process(Protocol):
    """What the client needs of an engine process; `subprocess.Popen` is one."""

    def wait(self, timeout: float | None = None) -> int: ...
    def terminate(self) -> None: ...
    def kill(self) -> None: ...


Launcher = Callable[[EngineConfig], tuple[Process, socket.socket]]


def merged(chunks: list[Chunk]) -> Chunk:
    """Consecutive chunks of one choice as one."""
    if len(chunks) == 1:
        return chunks[0]
    last = chunks[-1]
    with_logprobs = [chunk.logprobs for chunk in chunks if chunk.logprobs is not None]
    return Chunk(
        id=last.id,
        index=last.index,
        tokens=[token for chunk in chunks for token in chunk.tokens],
        logprobs=[entry for entries in with_logprobs for entry in entries] if with_logprobs else None,
        prompt_logprobs=next((chunk.prompt_logprobs for chunk in chunks if chunk.prompt_logprobs is not None), None),
        finish=last.finish,
        stop_token=last.stop_token,
        failure=last.failure,
        usage=last.usage,
        timing=last.timing,
        receipt=last.receipt,
        embedding=last.embedding,
    )


def _without_text(request: Request) -> Request:
    """The part of a request that the engine reads: stop strings are looked for on this side, and may be long."""
    if not request.sampling.stop:
        return request
    return msgspec.structs.replace(request, sampling=msgspec.structs.replace(request.sampling, stop=()))


class Stream:
    """The chunks of the requests of one `submit`, as lists: all that arrived since the last read, one chunk a choice.

    Ends after the finish of the last choice. An error ends all choices of its request. `close` gives up what is still
    open; call it in a `finally`.
    """

    def __init__(self, client: EngineClient, requests: tuple[Request, ...]) -> None:
        self._client = client
        self._open = {request.id: set(range(request.sampling.n)) for request in requests}
        self._pending: dict[tuple[str, int], list[Chunk]] = {}
        self._begun = False
        self._reader: asyncio.Future[None] | None = None

    def __aiter__(self) -> Stream:
        return self

    async def __anext__(self) -> list[Chunk]:
        while not self._pending:
            if not self._open:
                raise StopAsyncIteration
            self._reader = asyncio.get_running_loop().create_future()
            await self._reader
        taken, self._pending = self._pending, {}
        return [merged(chunks) for chunks in taken.values()]

    @property
    def open_ids(self) -> list[str]:
        """Requests with a choice that has not finished."""
        return list(self._open)

    def push(self, chunk: Chunk) -> bool:
        """Take a chunk from the engine; True when its request has no open choice left.

        One for a choice that has ended, or never was, is dropped.
        """
        choices = self._open.get(chunk.id, set())
        if chunk.finish == "error":
            for index in list(choices):
                self._append(Chunk(id=chunk.id, index=index, finish="error", failure=chunk.failure))
            self._open.pop(chunk.id, None)
        elif chunk.index in choices:
            self._append(chunk)
            if chunk.finish is not None:
                choices.discard(chunk.index)
            if not choices:
                del self._open[chunk.id]
        return chunk.id not in self._open

    def close(self) -> None:
        """Drop what is pending and cancel what is open. Safe to call again."""
        self._client.release(self.open_ids)
        self._open.clear()
        self._pending.clear()
        self._wake()

    def _append(self, chunk: Chunk) -> None:
        waiting = self._pending.setdefault((chunk.id, chunk.index), [])
        waiting.append(chunk)
        if len(waiting) >= MERGE_AT:
            waiting[:] = [merged(waiting)]
        if self._begun and chunk.finish is None:
            self._client.pace.wait(self._wake)
        else:
            self._begun = True
            self._wake()  # a first token and an end wait for nobody

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)


class EngineClient:
    """One engine process, from its start to its end; use from one event loop."""

    def __init__(
        self,
        config: EngineConfig,
        *,
        launcher: Launcher = launch,
        on_progress: Callable[[Progress], None] | None = None,
        roster: Roster | None = None,
    ) -> None:
        """`roster` is told of everything that becomes of requests; who fills it knows what is sent."""
        self.config = config
        self.state: State = "new"
        self.progress = Progress("starting", 0.0)
        self.stats = Stats()
        self.failure: Failure | None = None
        self.pace = Pace()
        self.restart_s: float | None = None  # what a caller is told to wait when this engine dies
        self.expected = Expect(0.0)  # how long it may be silent now, and why
        self._roster = roster or Roster()
        self._info: EngineInfo | None = None
        self._heard_at = time.monotonic()
        self._launcher = launcher
        self._on_progress = on_progress
        self._streams: dict[str, Stream] = {}
        self._process: Process | None = None
        self._transport: asyncio.WriteTransport | None = None
        self._changed = asyncio.Event()

    @property
    def info(self) -> EngineInfo | None:
        """What the engine is, from the moment it is ready."""
        return self._info

    @property
    def alive(self) -> bool:
        return self.state == "ready"

    @property
    def silent_s(self) -> float:
        """Seconds since the engine was last heard. One that turns its loop is heard every second or every step."""
        return time.monotonic() - self._heard_at

    def forgive(self, seconds: float) -> None:
        """Do not count `seconds` as silence: this process did not listen."""
        self._heard_at = min(self._heard_at + seconds, time.monotonic())

    @property
    def open_requests(self) -> int:
        return len(self._streams)

    async def start(self) -> EngineInfo:
        """Start the process and wait until it is ready. Raises the engine's own error where it cannot start."""
        assert self.state == "new"
        self.state = "loading"
        loop = asyncio.get_running_loop()
        try:
            self._process, sock = self._launcher(self.config)
        except OSError as error:
            self._end(failure_of(EngineDead(f"the engine process cannot be started: {error}")))
            raise EngineDead(f"the engine process cannot be started: {error}") from error
        transport, _ = await loop.create_unix_connection(lambda: _Receiver(self._receive, self._lost), sock=sock)
        self._transport = cast(asyncio.WriteTransport, transport)
        while self.state == "loading":
            self._changed.clear()
            await self._changed.wait()
        if self._info is None:
            raise error_of(self.failure) if self.failure else EngineDead("the engine was closed while it was starting")
        return self._info

    def submit(self, *requests: Request) -> Stream:
        """Send requests, whose ids must be unique among the open ones, and return the stream of their chunks.

        Raises EngineDead where no engine is ready, Overloaded where the engine takes nothing from its socket, TooLarge
        for more tokens than one message can hold.
        """
        if self.state != "ready" or self._transport is None:
            raise error_of(self.failure) if self.failure else EngineDead(f"the engine is {self.state}, not ready")
        if self._transport.get_write_buffer_size() > MAX_UNSENT_BYTES:
            raise Overloaded("the engine is not taking requests fast enough", hint="retry later")
        assert not any(request.id in self._streams for request in requests)
        try:
            data = frame(Submit.of(_without_text(request) for request in requests))
        except ValueError as error:
            raise TooLarge("the prompts of one request are too large together", hint="send fewer at a time") from error
        stream = Stream(self, requests)
        self._streams.update((request.id, stream) for request in requests)
        self._transport.write(data)
        return stream

    def cancel(self, request_id: str, index: int | None = None) -> None:
        """Ask the engine to end a request, or one choice of it, early; its finish still comes."""
        if request_id in self._streams:
            self._send(Cancel([request_id], index))

    def release(self, request_ids: list[str]) -> None:
        """Cancel requests and forget them: nothing of theirs is handed out any more. `Stream.close` calls this."""
        known = [request_id for request_id in request_ids if self._streams.pop(request_id, None) is not None]
        if known:
            self._send(Cancel(known))
        for request_id in known:
            self._roster.ended(request_id)

    async def close(self, *, drain: bool = False, timeout_s: float = STOP_S) -> None:
        """End the engine: asked first, then terminated, then killed. What is open ends with an error. Safe to repeat.

        One that is loading does not read what it is asked, and is terminated at once.
        """
        if self.state == "closed":
            return
        if self.state == "loading" and self._process is not None:
            self._process.terminate()
        self._send(Stop(drain))
        if drain and self.state == "ready":
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._until_lost(), timeout_s)
        self._end(failure_of(EngineDead("the server is shutting down", hint="retry elsewhere or later")))
        self.state = "closed"
        if self._process is not None:
            await asyncio.to_thread(_reap, self._process, timeout_s)
        if self._transport is not None:
            self._transport.abort()

    async def kill(self, why: str) -> None:
        """End an engine that does not end by itself, at once, and all that is open with it."""
        self._end(failure_of(EngineDead(why, hint="retry", retry_after_s=self.restart_s)))
        if self._transport is not None:
            self._transport.abort()
        if self._process is not None:
            self._process.kill()
            await asyncio.to_thread(_reap, self._process, KILL_S)

    async def lost(self) -> Failure:
        """Wait until the engine is over; why."""
        await self._until_lost()
        assert self.failure is not None
        return self.failure

    async def _until_lost(self) -> None:
        while self.state == "ready":
            self._changed.clear()
            await self._changed.wait()

    def _send(self, message: ToEngine) -> None:
        if self._transport is not None and self.state in ("loading", "ready"):
            self._transport.write(frame(message))

    def _receive(self, message: Any) -> None:
        self._heard_at = time.monotonic()
        self.expected = message if isinstance(message, Expect) else _NOTHING
        match message:
            case Output(chunks, started):
                self._roster.heard(chunks, started)
                for chunk in chunks:
                    self._deliver(chunk)
                self.pace.beat()
            case Stats():
                self.stats = message
                self._roster.pages(message.pages_used, message.pages_total)
                self._roster.foreseen(message.foreseen)
            case Progress():
                self.progress = message
                if self._on_progress is not None:
                    self._on_progress(message)
            case Ready(info) if self.state == "loading":
                self._info, self.state = info, "ready"
                self._changed.set()
            case Failed(failure) if self.state == "ready":
                self._end(failure_of(EngineDead(failure.message, hint="its log says why; retry", retry_after_s=self.restart_s)))
            case Failed(failure):
                self._end(failure)

    def _deliver(self, chunk: Chunk) -> None:
        if chunk.finish is not None:
            self._roster.choice_ended(chunk)
        stream = self._streams.get(chunk.id)
        if stream is not None and stream.push(chunk):
            del self._streams[chunk.id]
            self._roster.ended(chunk.id)

    def _lost(self, reason: Exception | None) -> None:
        while_doing = f"while {self.progress.stage}" if self.state == "loading" else f"with {len(self._streams)} open requests"
        detail = f": {reason}" if reason else ""
        error = EngineDead(
            f"the engine process ended {while_doing}{detail}", hint="its log says why; retry", retry_after_s=self.restart_s
        )
        self._end(failure_of(error))

    def _end(self, failure: Failure) -> None:
        """The engine is over: remember why, and end every open request with it. Only the first reason counts."""
        if self.state not in ("loading", "ready"):
            return
        self.state, self.failure = "dead", failure
        streams, self._streams = self._streams, {}
        for request_id, stream in streams.items():
            stream.push(Chunk(id=request_id, finish="error", failure=failure))
        self._roster.clear()
        self._changed.set()


class _Receiver(asyncio.Protocol):
    """Cuts what arrives on the socket into messages; a broken frame is the end of the connection."""

    def __init__(self, receive: Callable[[Any], None], lost: Callable[[Exception | None], None]) -> None:
        self._receive = receive
        self._lost = lost
        self._reader = FrameReader(FromEngine)
        self._transport: asyncio.BaseTransport | None = None
        self._broken: Exception | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        try:
            messages = self._reader.feed(data)
        except ChannelClosed as error:
            self._broken = error
            assert self._transport is not None
            self._transport.close()
            return
        for message in messages:
            self._receive(message)

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost(self._broken or exc)


def _reap(process: Process, timeout_s: float) -> None:
    """Wait for a process that was asked to end; insist where it does not."""
    for insist in (process.terminate, process.kill):
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout_s)
            return
        insist()
        timeout_s = KILL_S
    process.wait(timeout_s)
