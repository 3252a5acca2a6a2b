"""Whether a grammar can be used, found out before the engine sees it: `Service.grammars`.

Grammars are tried in processes of their own (engine/grammar_trial.py) that are ended when they take too long, so a schema bomb
costs its sender a 400 and nobody else anything. What was found out is kept, refusals too. Open `Grammars.check` first.
"""

from __future__ import annotations

import asyncio
import json
import selectors
import subprocess
import sys
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from redline.errors import InternalError, Overloaded, UnsupportedField, by_code

TRIAL = "redline.engine.grammar_trial"
TRY_S = 1.5  # for one grammar to compile
START_S = 60.0
TRIALS = 2  # grammars tried at a time
MAX_WAITING = 64
MAX_KNOWN = 2048
RETRY_AFTER_S = 2.0

Verdict = tuple[str, str, str] | None
"""Code, message and hint of a refusal; None for a grammar that can be used."""


class Grammars:
    """The verdicts, and the processes that find them. `vocabulary` says what the model's is, once the engine is ready."""

    def __init__(self, vocabulary: Callable[[], dict[str, Any]], timed: Callable[[float], None] = lambda seconds: None) -> None:
        """`timed` hears how long each grammar took."""
        self._vocabulary = vocabulary
        self._timed = timed
        self._known: OrderedDict[str, Verdict] = OrderedDict()
        self._running: dict[str, asyncio.Future[Verdict]] = {}
        self._pool = ThreadPoolExecutor(TRIALS, thread_name_prefix="grammar")
        self._local = threading.local()
        self._trials: list[_Trial] = []
        self._ended = weakref.finalize(self, _end, self._trials, self._pool)

    async def check(self, grammar: str, param: str) -> None:
        """Raise UnsupportedField or InvalidRequest, with `param`, for a grammar that cannot be used; Overloaded for too many."""
        if grammar not in self._known:
            await self._find_out(grammar)
        self._known.move_to_end(grammar)
        verdict = self._known[grammar]
        if verdict is not None:
            code, message, hint = verdict
            raise by_code(code)(message, hint=hint, param=param)

    def close(self) -> None:
        """End the processes. Safe to repeat."""
        self._ended()

    async def _find_out(self, grammar: str) -> None:
        running = self._running.get(grammar)
        if running is None:
            if len(self._running) >= MAX_WAITING:
                raise Overloaded("too many new grammars are waiting to be compiled", retry_after_s=RETRY_AFTER_S)
            running = asyncio.get_running_loop().run_in_executor(self._pool, self._try, grammar)
            self._running[grammar] = running
            running.add_done_callback(lambda done: self._keep(grammar, done))
        await asyncio.shield(running)

    def _keep(self, grammar: str, done: asyncio.Future[Verdict]) -> None:
        del self._running[grammar]
        if not done.cancelled() and done.exception() is None:
            self._known[grammar] = done.result()
            while len(self._known) > MAX_KNOWN:
                self._known.popitem(last=False)

    def _try(self, grammar: str) -> Verdict:
        """In a thread of the pool, each of which has a process of its own."""
        trial: _Trial | None = getattr(self._local, "trial", None)
        if trial is None or not trial.alive:
            trial = self._local.trial = _Trial(self._vocabulary())
            self._trials[:] = [*(other for other in self._trials if other.alive), trial]
        began = time.monotonic()
        try:
            return trial.verdict(grammar)
        finally:
            self._timed(time.monotonic() - began)


class _Trial:
    """One process. Used from one thread."""

    def __init__(self, vocabulary: dict[str, Any]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", TRIAL], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        )
        if self._asked(vocabulary, START_S) is None:
            self.end()
            raise InternalError("the process that tries grammars does not start")

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def verdict(self, grammar: str) -> Verdict:
        began = time.monotonic()
        told = self._asked({"grammar": grammar}, TRY_S)
        if told is None:
            late = time.monotonic() - began >= TRY_S
            self.end()
            cost = f"{TRY_S:g} s" if late else "the memory there is for one"
            return UnsupportedField.code, f"the grammar is too complex: to compile it takes more than {cost}", "make it smaller"
        return None if told["code"] is None else (told["code"], told["message"], told["hint"])

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except OSError:
                    pass  # what was not written, nobody will read

    def _asked(self, question: dict[str, Any], timeout: float) -> dict[str, Any] | None:
        """The answer to `question`, or None if none comes in time. The process reads before it works, so writing never waits."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None and stdout is not None
        try:
            stdin.write(json.dumps(question).encode() + b"\n")
            stdin.flush()
        except OSError:
            return None
        with selectors.DefaultSelector() as selector:
            selector.register(stdout, selectors.EVENT_READ)
            if not selector.select(timeout):
                return None
        line = stdout.readline()
        return json.loads(line) if line.endswith(b"\n") else None


def _end(trials: list[_Trial], pool: ThreadPoolExecutor) -> None:
    for trial in trials:
        trial.end()
    pool.shutdown(wait=False, cancel_futures=True)
