"""Carries batches from their input file to their output files, beside the traffic that somebody waits for.

Its lines run at a lower priority than any request, on at most half of the engine's seats, and none begins while requests
queue. What it does is in the database before it goes on, so it may be killed at any moment. Open `BatchWorker._carry_on`.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import time
from typing import BinaryIO

from redline import log
from redline.errors import RedlineError
from redline.server import batch_lines
from redline.server.batch_lines import Fault
from redline.server.batch_runner import LineRunner
from redline.server.batch_store import Batch, Line, Outcome, Result
from redline.server.caller import ANYONE, NOBODY, Caller
from redline.server.file_store import StoredFile, Writer
from redline.server.inside import Inside
from redline.server.service import Service

BATCH_PRIORITY = 1 << 32  # behind whatever priority a request may ask for
MAX_ACTIVE = 32  # batches together
MAX_OF_OWNER = 2  # of one caller: one whose budget is used up must not keep others from theirs
MAX_WIDTH = 64  # lines together, of all batches
IDLE_S = 5.0  # between looks for work that another server left
WATCH_S = 0.5  # between looks whether a batch was cancelled
BUSY_S = 0.1
RETRY_S = 10.0  # after a fault of our own
SWEEP_S = 600.0
CHUNK = 1000  # lines read, kept or written in one go


class BatchWorker:
    """`start` it beside the server and `stop` it before the engine."""

    def __init__(self, service: Service, inside: Inside) -> None:
        self._service = service
        self._jobs = service.jobs
        self._inside = inside
        self._models = frozenset({service.served_name, service.client.config.model.model})
        self._slots: asyncio.Semaphore | None = None
        self._width = 1
        self._task: asyncio.Task[None] | None = None
        self._active: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        self._task = asyncio.create_task(self._look_for_work())

    async def stop(self) -> None:
        """Leave everything as it is; whoever comes next goes on from there."""
        tasks = [*self._active, *filter(None, (self._task,))]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._jobs.batches.release()  # one may have been claimed in the very moment

    async def _look_for_work(self) -> None:
        swept = float("-inf")
        while True:
            try:
                if time.monotonic() - swept > SWEEP_S:
                    swept = time.monotonic()
                    await self._jobs.sweep()
                self._jobs.changed.clear()
                while len(self._active) < MAX_ACTIVE:
                    batch = await self._jobs.batches.claim(self._models, MAX_OF_OWNER)
                    if batch is None:
                        break
                    task = asyncio.create_task(self._keep_on(batch))
                    self._active.add(task)
                    task.add_done_callback(self._left)
            except Exception:
                log.get("batches").exception("looking for batches failed")
            # Not asyncio.wait_for: in Python 3.11 that loses a cancellation which comes together with the event.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(IDLE_S):
                    await self._jobs.changed.wait()

    def _left(self, task: asyncio.Task[None]) -> None:
        self._active.discard(task)
        self._jobs.changed.set()

    async def _keep_on(self, batch: Batch) -> None:
        """One batch as far as it goes; whatever happens, it is given back."""
        try:
            await self._carry_on(batch)
        except Exception as error:
            why = error.sentence() if isinstance(error, RedlineError) else repr(error)
            log.get("batches").error("%s stopped and will be tried again: %s", batch.id, why, exc_info=error)
            await asyncio.sleep(RETRY_S)
        finally:
            await self._jobs.batches.release(batch)

    async def _carry_on(self, batch: Batch) -> None:
        """From wherever it is to its end."""
        store = self._jobs.batches
        if batch.outcome is None:
            if batch.status == "validating" and batch.expires_at > time.time():
                begun = await self._validate(batch)
                if begun is None:
                    return
                batch = begun
            batch = await store.decide(batch, await self._run(batch))
        await self._write(batch)
        log.get("batches").info("%s is %s", batch.id, batch.outcome)

    async def _validate(self, batch: Batch) -> Batch | None:
        """Read the whole input and make a row of each line; None where it is not valid, and the batch has failed."""
        store = self._jobs.batches
        await store.forget_lines(batch)
        faults: list[Fault] = []
        total = 0
        try:
            file = self._jobs.files.path(batch.input_file).open("rb")
        except OSError:
            faults.append(Fault("input_file_missing", "the input file cannot be read", None, "input_file_id"))
        else:
            with file:
                found = batch_lines.read_lines(file, batch.endpoint)
                while chunk := await asyncio.to_thread(lambda: list(itertools.islice(found, CHUNK))):
                    faults += [item for item in chunk if isinstance(item, Fault)]
                    lines = [item for item in chunk if isinstance(item, Line)]
                    total += len(lines)
                    if not faults:
                        await store.add_lines(batch, lines)
        if faults:
            await store.fail(batch, [fault._asdict() for fault in faults])
            return None
        return await store.begin(batch, total)

    async def _run(self, batch: Batch) -> Outcome:
        """Answer its lines, until all have a result or there is a reason to stop."""
        store = self._jobs.batches
        running: asyncio.Task[None] | None = None
        try:
            while True:
                now = await store.again(batch)
                if now.status == "cancelling":
                    return "cancelled"
                if time.time() >= now.expires_at:
                    return "expired"
                if running is None:
                    running = asyncio.create_task(self._lines(batch))
                await asyncio.wait({running}, timeout=min(WATCH_S, max(0.0, now.expires_at - time.time())))
                if running.done():
                    running.result()
                    return "completed"
        finally:
            if running is not None:
                running.cancel()
                await asyncio.gather(running, return_exceptions=True)

    async def _lines(self, batch: Batch) -> None:
        await self._may_start()
        if self._slots is None:
            self._width = max(1, min(MAX_WIDTH, self._service.ready().max_num_seqs // 2))
            self._slots = asyncio.Semaphore(self._width)
        runner = LineRunner(
            self._inside.post, lambda: self._caller(batch.owner), self._slots, width=self._width, may_start=self._may_start
        )
        with self._jobs.files.path(batch.input_file).open("rb") as file:
            await runner.run(_Rows(self, batch, file))

    async def _may_start(self) -> None:
        """Wait until the engine is there and nobody else waits for it."""
        client = self._service.client
        while not client.alive or client.stats.waiting:
            await asyncio.sleep(BUSY_S)

    def _caller(self, owner: str) -> Caller:
        """Whoever made the batch, if the key still allows anything; behind everybody who waits."""
        caller = ANYONE
        if owner:
            key = self._service.keys.get(owner)
            try:
                if key is not None:
                    key.check()
                caller = NOBODY if key is None else key.caller
            except RedlineError:
                caller = NOBODY
        return dataclasses.replace(caller, priority=caller.priority + BATCH_PRIORITY)

    async def _write(self, batch: Batch) -> None:
        """The results as files, in the order of the input, and then the end of the batch."""
        assert batch.output_file is not None and batch.error_file is not None
        paths = [self._jobs.files.path(id) for id in (batch.output_file, batch.error_file)]
        with contextlib.ExitStack() as stack:
            good, bad = [stack.enter_context(Writer(path)) for path in paths]
            past = 0
            while rows := await self._jobs.batches.results(batch, past, CHUNK):
                past = rows[-1][0]
                await asyncio.to_thread(good.write, b"".join(text for _, _, is_good, text in rows if is_good and text))
                await asyncio.to_thread(bad.write, b"".join(_told(batch, row) for row in rows if not row[2]))
            written = [(id, writer) for id, writer in zip((batch.output_file, batch.error_file), (good, bad), strict=True)]
            for _, writer in written:
                if writer.size:
                    await asyncio.to_thread(writer.commit)
            kinds = {batch.output_file: "output", batch.error_file: "error"}
            await self._jobs.batches.end(
                batch, [_row(batch, id, kinds[id], writer.size) for id, writer in written if writer.size]
            )


class _Rows:
    """The lines of a batch in the database, as the runner wants them."""

    def __init__(self, worker: BatchWorker, batch: Batch, file: BinaryIO) -> None:
        self._store = worker._jobs.batches
        self._batch = batch
        self._file = file

    async def take(self, count: int) -> list[Line]:
        return await self._store.take(self._batch, count)

    async def read(self, line: Line) -> bytes:
        # In this thread: a seek and a read of what the validation has just read are microseconds, and must stay together.
        self._file.seek(line.start)
        return self._file.read(line.size)

    async def finish(self, results: list[Result]) -> None:
        await self._store.finish(self._batch, results)


def _told(batch: Batch, row: tuple[int, str, bool, bytes | None]) -> bytes:
    _, custom_id, _, text = row
    if text is not None:
        return text
    return batch_lines.unanswered(custom_id, *(batch_lines.EXPIRED if batch.outcome == "expired" else batch_lines.CANCELLED))


def _row(batch: Batch, id: str, kind: str, size: int) -> StoredFile:
    now = int(time.time())
    return StoredFile(
        id=id,
        owner=batch.owner,
        purpose="batch_output",
        filename=f"{batch.id}_{kind}.jsonl",
        bytes=size,
        created=now,
        expires=None if batch.output_expires_s is None else now + batch.output_expires_s,
    )
