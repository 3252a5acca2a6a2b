"""Answers the lines of one batch: so many together, again where the server was too busy, each to one result.

The server and `redline run-batch` both run their lines here. Knows neither where lines come from nor where results go.
Open `LineRunner.run`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol

import msgspec

from redline.errors import NotReady, Overloaded
from redline.server.batch_lines import answered, body_of, unanswered
from redline.server.batch_store import Line, Result
from redline.server.caller import Caller
from redline.server.inside import Reply

MAX_ATTEMPTS = 50  # of a line in whose company the server ended: it may be the reason
MAX_FAILURES = 3  # of a line that made, or saw, the server fail
MAX_PAUSE_S = 30.0
FAILED_PAUSE_S = 0.5

Post = Callable[[str, bytes, Caller], Awaitable[Reply]]


class Source(Protocol):
    """Where lines come from and results go to."""

    async def take(self, count: int) -> list[Line]: ...
    async def read(self, line: Line) -> bytes: ...
    async def finish(self, results: list[Result]) -> None: ...


class LineRunner:
    """Runs lines through `post` on behalf of `caller()`, which is asked anew for each."""

    def __init__(
        self,
        post: Post,
        caller: Callable[[], Caller],
        slots: asyncio.Semaphore,
        *,
        width: int,
        may_start: Callable[[], Awaitable[None]],
    ) -> None:
        """`slots` bounds what runs together, of several runners too, and `width` the lines of this one, those that wait to
        be asked again included. `may_start` returns when one more line may begin."""
        self._post = post
        self._caller = caller
        self._slots = slots
        self._width = width
        self._open = asyncio.Semaphore(width)
        self._may_start = may_start
        self._done: list[Result] = []
        self._kept = asyncio.Event()

    async def run(self, source: Source) -> None:
        """Answer every line of `source`. Cancelling it cancels what is under way; finished results are kept first."""
        ended = False

        async def keep() -> None:
            # One write for all results that came while the last one was under way.
            while not ended or self._done:
                await self._kept.wait()
                self._kept.clear()
                results, self._done = self._done, []
                if results:
                    await source.finish(results)

        keeping = asyncio.create_task(keep())
        try:
            async with asyncio.TaskGroup() as group:
                while lines := await source.take(2 * self._width):
                    for line in lines:
                        await self._open.acquire()
                        # Given back even by a line that is cancelled before it begins.
                        group.create_task(self._line(source, line, keeping)).add_done_callback(lambda _: self._open.release())
        except ExceptionGroup as group:  # of the tasks; the first is the reason, the others were told to stop
            raise group.exceptions[0] from group
        finally:
            ended = True
            self._kept.set()
            await keeping

    async def _line(self, source: Source, line: Line, keeping: asyncio.Task[None]) -> None:
        if keeping.done():
            keeping.result()  # nothing can be kept any more: that is the end of the run
        result = await self._answer(source, line)  # not inside the call below: the list may be another one by then
        self._done.append(result)
        self._kept.set()

    async def _answer(self, source: Source, line: Line) -> Result:
        if line.attempts > MAX_ATTEMPTS:
            text = unanswered(line.custom_id, "attempts_exhausted", f"the server ended {line.attempts - 1} times while this ran")
            return Result(line.number, False, text)
        path, body = body_of(await source.read(line))
        failed = 0
        while True:
            await self._may_start()
            async with self._slots:
                reply = await self._post(path, body, self._caller())
            again_s = _again_s(reply)
            if reply.status >= 500 and not _is_refusal(reply):
                failed += 1
                again_s = FAILED_PAUSE_S if again_s is None else again_s
            if again_s is None or failed >= MAX_FAILURES:
                return answered(line, reply.status, reply.headers.get("x-request-id", ""), reply.body)
            await asyncio.sleep(min(again_s, MAX_PAUSE_S))


def _again_s(reply: Reply) -> float | None:
    """Seconds until the same request may be accepted, where it may at all."""
    if reply.status not in (429, 503):
        return None
    for name, scale in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        value = reply.headers.get(name, "")
        if value.isascii() and value.isdigit():
            return int(value) * scale
    return None


class _Code(msgspec.Struct):
    code: str | None = None


class _Envelope(msgspec.Struct):
    error: _Code


def _is_refusal(reply: Reply) -> bool:
    """Whether a server error says that nothing was begun: the engine is loading, or restarting."""
    try:
        code = msgspec.json.decode(reply.body, type=_Envelope).error.code
    except msgspec.MsgspecError:
        return False
    return code in (NotReady.code, Overloaded.code)
