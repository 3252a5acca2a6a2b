"""Keeps an engine running: starts it, watches that it moves, ends one that does not, and starts the next.

Has the face of an `EngineClient`, and stands before one after the other. What is open when an engine dies ends with an
error at once; what comes while none is ready is refused with the time that is left. The queue's bounds (gate.py) are
kept here too, so nothing reaches the engine that was not admitted. Torch-free; knows nothing of HTTP. Open
`Supervisor.health` and `Supervisor.submit`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from redline import log
from redline.config import EngineConfig
from redline.engine.client import EngineClient, Launcher, Stream
from redline.engine.gate import Gate
from redline.engine.launch import launch
from redline.engine.message import EngineInfo, Progress, Stats, error_of
from redline.errors import Draining, EngineDead, NotReady, RedlineError
from redline.types import Failure, Request

TICK_S = 0.1
LATE_S = 0.1  # a tick that comes so late means that this process did not listen
STALLED_S = 2.8  # of silence, for an engine that speaks every second: it is told as stuck within 3 s of the moment it is
STALLED_FACTOR = 5.0  # or so many times what it said it would be silent
KILLED_FACTOR = 20.0  # the same until it is ended, if `Patience.stuck_s` is over too
LOADING_S, LOADING_FACTOR = 1800.0, 20.0  # without progress, while it loads: so long, or so many times a whole start
EARLY_S = 30.0  # an engine that dies within so long of being ready died early
MOST_EARLY = 6  # deaths of that kind, one after the other
LONGEST_PAUSE_S = 30.0
FIRST_START_S = 10.0  # told to those who wait for the first start, before anything is known of it

Status = Literal["loading", "ready", "stalled", "restarting", "draining", "dead"]
State = Literal["new", "loading", "ready", "restarting", "dead", "closed"]


@dataclass(frozen=True)
class Patience:
    """How long things may take. `stuck_s`: an engine that does not move for so long is ended; 0 never ends one."""

    stuck_s: float = 30.0
    stalled_s: float = STALLED_S
    early_s: float = EARLY_S
    most_early: int = MOST_EARLY
    pause_s: float = 1.0  # before the third start in a row, and twice as long before each one after it


@dataclass(frozen=True)
class Health:
    """Whether requests are taken, and if not, why and for about how long (`retry_after_s`)."""

    status: Status
    reason: str | None = None
    stage: str | None = None
    percent: float | None = None
    retry_after_s: float | None = None


class Supervisor:
    """One model's engine, whichever process that is. Use from one event loop."""

    def __init__(
        self,
        config: EngineConfig,
        *,
        launcher: Launcher = launch,
        on_progress: Callable[[Progress], None] | None = None,
        patience: Patience = Patience(),
    ) -> None:
        self.config = config
        self.gate = Gate(config.scheduler)
        self.restarts = 0
        self.draining = False
        self._launcher = launcher
        self._on_progress = on_progress
        self._patience = patience
        self._engine = self._new_engine()
        self._info: EngineInfo | None = None
        self._state: State = "new"
        self._failure: Failure | None = None
        self._began = time.monotonic()  # the start that is under way, or its pause
        self._start_s: float | None = None  # what a start took, the last time
        self._ready_at = 0.0
        self._ticked = time.monotonic()
        self._early = 0
        self._watching: asyncio.Task[None] | None = None
        self._keeping: asyncio.Task[None] | None = None
        self._over = asyncio.Event()

    @property
    def state(self) -> State:
        return self._state

    @property
    def info(self) -> EngineInfo | None:
        """What the engine is, from the first time it is ready; engines that follow it are the same."""
        return self._info

    @property
    def progress(self) -> Progress:
        return self._engine.progress

    @property
    def stats(self) -> Stats:
        return self._engine.stats

    @property
    def failure(self) -> Failure | None:
        """Why there is no engine."""
        return self._failure

    @property
    def alive(self) -> bool:
        """Whether requests are taken."""
        return self.health.status == "ready"

    @property
    def silent_s(self) -> float:
        """Seconds since the engine was last heard, without those in which this process did not listen."""
        return max(0.0, self._engine.silent_s - self._deaf_s())

    @property
    def open_requests(self) -> int:
        return self._engine.open_requests

    @property
    def health(self) -> Health:
        """The truth, now: ready only while the engine moves."""
        if self._state in ("dead", "closed"):
            return Health("dead", reason=self._failure.message if self._failure else "the engine was closed")
        if self.draining:
            return Health("draining", reason="the server is about to end", retry_after_s=1.0)
        if self._state == "ready" and self._engine.alive:
            return Health("ready") if not self._is_stalled() else self._stalled()
        progress, left = self._engine.progress, self._until_ready_s()
        if self._info is None:
            return Health("loading", None, progress.stage, progress.percent, left)
        lost = self._failure or self._engine.failure
        return Health("restarting", lost.message if lost else None, progress.stage, progress.percent, left)

    def ready(self) -> EngineInfo:
        """The engine's facts. Raises NotReady, Draining or EngineDead, with the time to wait, where none takes requests."""
        health = self.health
        if health.status == "ready":
            assert self._info is not None
            return self._info
        if health.status == "dead":
            raise EngineDead(health.reason or "there is no engine", hint="its log says why")
        if health.status == "draining":
            raise Draining("the server is about to end", hint="retry elsewhere", retry_after_s=health.retry_after_s)
        if health.status == "stalled":
            raise NotReady(health.reason or "", hint="retry later", retry_after_s=health.retry_after_s)
        done = f"{health.stage}, {health.percent:.0f} %"
        if health.status == "restarting":
            raise NotReady(f"the engine is being restarted: {done}", hint="retry", retry_after_s=health.retry_after_s)
        raise NotReady(f"the model is not ready: {done}", hint="retry", retry_after_s=health.retry_after_s)

    async def start(self) -> EngineInfo:
        """Start the first engine and wait until it is ready; from then on there always is one, or one on its way.

        Raises the engine's own error where it cannot start.
        """
        assert self._state == "new"
        self._state, self._began = "loading", time.monotonic()
        self._watching = asyncio.create_task(self._watch())
        try:
            info = await self._engine.start()
        except RedlineError:
            if self._state == "loading":
                self._give_up(self._engine.failure)
            raise
        self._opened(info)
        self._keeping = asyncio.create_task(self._keep())
        return info

    async def gave_up(self) -> None:
        """Wait until there will be no engine any more. Raises EngineDead, unless this was closed."""
        await self._over.wait()
        if self._state == "dead":
            raise error_of(self._failure) if self._failure else EngineDead("there is no engine")

    def submit(self, *requests: Request) -> Stream:
        """Send requests and return the stream of their chunks. Raises what `ready`, `Gate.admit` and the client do."""
        self.ready()
        self.gate.admit(requests)
        try:
            return self._engine.submit(*requests)
        except BaseException:
            for request in requests:
                self.gate.roster.ended(request.id)
            raise

    def cancel(self, request_id: str, index: int | None = None) -> None:
        """Ask the engine to end a request, or one choice of it, early; its finish still comes."""
        self._engine.cancel(request_id, index)

    def drain(self) -> None:
        """Take no new requests; what is open goes on."""
        self.draining = True

    async def close(self) -> None:
        """End the engine, and start no other. What is open ends with an error. Safe to repeat."""
        if self._state == "closed":
            return
        self._state = "closed"
        tasks = [task for task in (self._keeping, self._watching) if task is not None]
        for task in tasks:
            task.cancel()
        await self._engine.close()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._over.set()

    def _new_engine(self) -> EngineClient:
        return EngineClient(self.config, launcher=self._launcher, on_progress=self._tell, roster=self.gate.roster)

    def _tell(self, progress: Progress) -> None:
        if self._on_progress is not None and self._info is None:
            self._on_progress(progress)

    def _opened(self, info: EngineInfo) -> None:
        """The engine is ready."""
        self._info, self._failure = info, None
        self._start_s = time.monotonic() - self._began
        self._engine.restart_s = self._start_s
        self._ready_at = time.monotonic()
        self.gate.opened(info)
        self._state = "ready"

    def _give_up(self, failure: Failure | None) -> None:
        self._state, self._failure = "dead", failure
        self._over.set()

    async def _keep(self) -> None:
        """Start an engine whenever one is lost, until too many die too early."""
        while True:
            if self._state == "ready":
                failure = await self._engine.lost()
                self._early = self._early + 1 if time.monotonic() - self._ready_at < self._patience.early_s else 1
            else:
                assert self._engine.failure is not None
                failure = self._engine.failure
                self._early += 1
            self._state, self._failure = "restarting", failure
            log.get("engine").error("the engine is lost: %s", failure.message)
            await self._end(failure.message)  # whatever is left of it goes, so that what it held is free for the next
            if self._early >= self._patience.most_early:
                log.get("engine").error("%d engines died early, one after the other: giving up", self._early)
                self._give_up(failure)
                return
            await self._restart()

    async def _restart(self) -> None:
        """One more start; a failure is left in the engine."""
        self.restarts += 1
        self._engine = self._new_engine()
        pause = 0.0 if self._early < 2 else min(LONGEST_PAUSE_S, self._patience.pause_s * 2.0 ** (self._early - 2))
        self._began = time.monotonic() + pause
        await asyncio.sleep(pause)
        try:
            info = await self._engine.start()
        except RedlineError as error:
            log.get("engine").error("the engine does not start: %s", error.sentence())
            return
        self._opened(info)
        log.get("engine").warning("the engine is ready again after %.1f s", self._start_s)

    def _until_ready_s(self) -> float:
        """About how long a start that is under way will still take."""
        elapsed, share = time.monotonic() - self._began, self._engine.progress.percent / 100
        if self._start_s is not None and elapsed < self._start_s:
            return self._start_s - elapsed
        if share >= 0.05:
            return elapsed * (1 - share) / share
        return max(1.0, FIRST_START_S - elapsed)

    def _is_stalled(self) -> bool:
        return self.silent_s > max(self._patience.stalled_s, STALLED_FACTOR * self._engine.expected.seconds)

    def _kill_after_s(self) -> float:
        return max(self._patience.stuck_s, self._patience.stalled_s, KILLED_FACTOR * self._engine.expected.seconds)

    def _deaf_s(self) -> float:
        """How late the next tick is: so long nothing was read, whoever wrote."""
        late = time.monotonic() - self._ticked - TICK_S
        return late if late > LATE_S else 0.0

    def _stalled(self) -> Health:
        silent = self.silent_s
        doing = f" in {self._engine.expected.what}" if self._engine.expected.what else ""
        left = max(0.0, self._kill_after_s() - silent) + (self._start_s or 0.0)
        return Health("stalled", f"the engine has been silent for {silent:.1f} s{doing}", retry_after_s=left)

    async def _watch(self) -> None:
        """Note when this process itself does not listen, and end an engine that does not move."""
        while True:
            self._ticked = time.monotonic()
            await asyncio.sleep(TICK_S)
            self._engine.forgive(self._deaf_s())
            self._ticked = time.monotonic()
            silent = self.silent_s
            if self._state == "ready" and self._patience.stuck_s and silent > self._kill_after_s():
                await self._end(f"the engine was silent for {silent:.0f} s and is restarted")
            elif self._state in ("loading", "restarting") and silent > max(LOADING_S, LOADING_FACTOR * (self._start_s or 0.0)):
                await self._end(f"the engine made no progress for {silent:.0f} s while {self._engine.progress.stage}")

    async def _end(self, why: str) -> None:
        try:
            await self._engine.kill(why)
        except Exception:
            log.get("engine").exception("the engine process does not end")
