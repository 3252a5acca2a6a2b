"""The grammars of running requests: compiled beside the loop, followed token by token, and asked for masks.

One thread compiles; a request whose grammar is not ready waits in the scheduler while others run. Owned by the loop, which is
the only caller. Knows nothing of pages, devices or text. Open `Constraints.follow` first.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from collections.abc import Sequence as Seq
from queue import SimpleQueue
from typing import TYPE_CHECKING

import numpy as np

from redline.engine.grammar import COMPILE_STACK_BYTES, Compiler, Matcher
from redline.engine.message import failure_of
from redline.engine.request import Follow, Sequence
from redline.errors import InternalError, RedlineError, UnsupportedField
from redline.types import Failure, Request

if TYPE_CHECKING:
    from llguidance import LLExecutor

MASK_S = 0.25  # for one mask: a row that takes longer holds up all others, and is ended
ALONE = 8
NOTHING_ALLOWED = "the grammar allows nothing that the model's tokens could spell"


class Constraints:
    """Matchers by sequence, and the thread that makes them. `compiler` is called once, in that thread, for the first grammar."""

    def __init__(self, compiler: Callable[[], Compiler], *, num_threads: int = 1) -> None:
        """`num_threads` fill the masks of a step where several rows need one."""
        self._make_compiler = compiler
        self._num_threads = num_threads
        self._executor: LLExecutor | None = None
        self._compiler: Compiler | None = None
        self._asked: SimpleQueue[Request | None] = SimpleQueue()
        self._answered: SimpleQueue[tuple[str, Matcher | Failure]] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._pending: dict[str, Request] = {}
        self._matchers: dict[Sequence, Matcher] = {}
        self._templates: dict[str, Matcher] = {}  # by request: where its choices begin
        self._open: dict[str, int] = {}  # by request: choices that have not ended
        self._failures: dict[str, Failure] = {}
        self._alone = 0  # steps in which rows are filled one by one

    @property
    def vocab_size(self) -> int:
        assert self._compiler is not None, "no grammar was compiled yet"
        return self._compiler.vocab_size

    @property
    def pending(self) -> bool:
        """Whether a grammar is being compiled."""
        return bool(self._pending)

    def open(self, request: Request) -> None:
        """Begin to compile the grammar of a request."""
        self._pending[request.id] = request
        self._open[request.id] = request.sampling.n
        if self._thread is None:
            self._thread = _with_stack(threading.Thread(target=self._compile, name="redline-grammar", daemon=True))
        self._asked.put(request)

    def settle(self) -> list[tuple[str, Follow | Failure]]:
        """The requests whose grammars have become ready, with what must be at the beginning, or that cannot have one."""
        found: list[tuple[str, Follow | Failure]] = []
        while not self._answered.empty():
            request_id, answer = self._answered.get()
            request = self._pending.pop(request_id, None)
            if request is None:
                continue  # it ended meanwhile
            if isinstance(answer, Failure):
                found.append((request_id, answer))
                continue
            self._templates[request_id] = answer
            forced = [] if _is_scored(request) else answer.forced()
            found.append((request_id, Follow(forced, self._complete_after(answer, forced))))
        return found

    def wait(self, timeout: float) -> None:
        """Until a grammar is ready, for at most `timeout` seconds."""
        end = time.monotonic() + timeout
        while self._answered.empty() and time.monotonic() < end:
            time.sleep(0.001)

    def follow(self, sequence: Sequence, token: int) -> Follow:
        """Go on with a sampled token. A matcher that cannot ends its request: see `take_failures`."""
        matcher = self._matcher(sequence)
        if not matcher.consume(token) or matcher.error:
            self._fail(sequence, matcher.error or f"token {token} does not fit the grammar")
            return Follow()
        if matcher.complete:
            return Follow([], True)
        if _is_scored(sequence.request):
            return Follow()
        forced = matcher.forced()
        for number, following in enumerate(forced):
            if not matcher.consume(following):
                self._fail(sequence, f"{matcher.error} after {number} forced tokens")
                return Follow()
        return Follow(forced, matcher.complete)

    def masks(self, sequences: Seq[Sequence], words: np.ndarray) -> None:
        """Fill a row of `words` for each sequence. One that cannot go on gets all tokens, and its request ends."""
        matchers = [self._matcher(sequence) for sequence in sequences]
        if len(matchers) > 1 and self._num_threads > 1 and not self._alone:
            began = time.perf_counter()
            self._fill_together(matchers, words)
            self._alone = ALONE if time.perf_counter() - began > MASK_S else 0  # to find out whose doing it was
            slow: set[int] = set()
        else:
            self._alone = max(0, self._alone - 1)
            slow = {number for number, matcher in enumerate(matchers) if _fill_alone(matcher, words[number]) > MASK_S}
        for number, (sequence, matcher, row) in enumerate(zip(sequences, matchers, words, strict=True)):
            if matcher.error or number in slow:
                self._fail(sequence, matcher.error or "it takes too long to say what may come next")
                row[:] = -1
                continue
            if sequence.request.sampling.ignore_eos:
                self._without_ends(row)
            if not row.any():
                self._fail(sequence, NOTHING_ALLOWED)
                row[:] = -1

    def take_failures(self) -> list[tuple[str, Failure]]:
        """The requests that cannot go on, once."""
        failures, self._failures = self._failures, {}
        return list(failures.items())

    def close(self, sequence: Sequence) -> None:
        """Forget an ended sequence."""
        self._matchers.pop(sequence, None)
        request_id = sequence.request.id
        self._open[request_id] -= 1
        if not self._open[request_id]:
            for kept in (self._open, self._templates, self._pending, self._failures):
                kept.pop(request_id, None)

    def stop(self) -> None:
        """Let the thread end after what it is at."""
        if self._thread is not None:
            self._asked.put(None)

    def _matcher(self, sequence: Sequence) -> Matcher:
        matcher = self._matchers.get(sequence)
        if matcher is None:
            matcher = self._matchers[sequence] = self._templates[sequence.request.id].copy()
        return matcher

    def _complete_after(self, matcher: Matcher, forced: Seq[int]) -> bool:
        """Whether nothing can follow `forced` at the beginning. Leaves `matcher` behind them."""
        for token in forced:
            matcher.consume(token)
        return matcher.complete and not matcher.error

    def _fill_together(self, matchers: Seq[Matcher], words: np.ndarray) -> None:
        if self._executor is None:
            from llguidance import LLExecutor

            self._executor = LLExecutor(self._num_threads)
        pairs = [(matcher.inner, row) for row, matcher in enumerate(matchers)]
        self._executor.unsafe_compute_mask_ptr(pairs, words.ctypes.data, words.strides[0], len(words))

    def _without_ends(self, row: np.ndarray) -> None:
        """Forbid the end tokens where something else is allowed."""
        assert self._compiler is not None
        ends = [(id_ // 32, np.int32(np.uint32(1 << id_ % 32).astype(np.int32))) for id_ in self._compiler.eos_ids]
        had = [(word, row[word]) for word, _ in ends]
        for word, bit in ends:
            row[word] &= ~bit
        if not row.any():
            for word, value in reversed(had):
                row[word] = value

    def _fail(self, sequence: Sequence, why: str) -> None:
        error = UnsupportedField(f"the answer could not be held to its grammar: {why}", param="grammar")
        self._failures[sequence.request.id] = failure_of(error)

    def _compile(self) -> None:
        while (request := self._asked.get()) is not None:
            if request.id not in self._pending:
                continue  # cancelled before its turn
            assert request.grammar is not None
            try:
                if self._compiler is None:
                    self._compiler = self._make_compiler()
                self._answered.put((request.id, self._compiler.matcher(request.grammar)))
            except RedlineError as error:
                self._answered.put((request.id, failure_of(error)))
            except BaseException as error:  # llguidance's panics are no Exceptions
                wrapped = InternalError(f"a grammar could not be compiled: {type(error).__name__}: {error}"[:300])
                self._answered.put((request.id, failure_of(wrapped)))


def masked_rows(sampling: Iterable[tuple[int, int, Sequence]]) -> list[tuple[int, Sequence]]:
    """Of (row, position, sequence) that a step samples, those that need a mask: constrained, alive and not forced meanwhile."""
    return [
        (row, sequence)
        for row, position, sequence in sampling
        if sequence.constrained and sequence.finish is None and position == len(sequence.tokens)
    ]


def _fill_alone(matcher: Matcher, row: np.ndarray) -> float:
    """Seconds of this thread that the mask of one row took."""
    began = time.thread_time()
    matcher.fill(row)
    return time.thread_time() - began


def _is_scored(request: Request) -> bool:
    """Whether each token must be sampled, as its log-probability is asked for."""
    return request.sampling.logprobs is not None or request.sampling.prompt_logprobs is not None


def _with_stack(thread: threading.Thread) -> threading.Thread:
    """Start `thread` with a stack that a deeply nested grammar does not exhaust."""
    before = threading.stack_size(COMPILE_STACK_BYTES)
    try:
        thread.start()
    finally:
        threading.stack_size(before)
    return thread
