"""The engine process: what a step produced travels whole, what will take long is announced, and a lost device is the end."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest

from redline.engine.loop import Loop
from redline.engine.message import Channel, Expect, FromEngine, Output, Stats, Stop
from redline.engine.scheduler import Plan
from redline.engine.step_time import StepTime
from redline.engine.worker import COMPILE_S, MOST_FAILED_STEPS, Voice, _announce_compilations, _send, _turn
from redline.errors import InternalError
from redline.types import Chunk, Failure, TokenLogprob

if TYPE_CHECKING:
    from redline.engine.build import Engine


class FakeLoop:
    def __init__(self) -> None:
        self.failed: list[tuple[str, str]] = []

    def fail(self, id: str, failure: Failure) -> None:
        self.failed.append((id, failure.code))


def test_output_too_large_for_one_message_is_cut_and_a_chunk_too_large_ends_its_request_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("redline.engine.message.MAX_FRAME_BYTES", 1000)
    ours, theirs = socket.socketpair()
    loop = FakeLoop()
    large: list[TokenLogprob | None] = [TokenLogprob(i, -0.5) for i in range(500)]
    chunks = [Chunk(id=f"r{i}", tokens=list(range(100))) for i in range(9)]
    chunks.insert(4, Chunk(id="large", prompt_logprobs=large))
    sending, reading = Channel(theirs), Channel(ours, FromEngine)
    _send(Voice(sending, cast(StepTime, None)), cast(Loop, loop), chunks, ["r0"])
    got = [chunk for message in reading.poll(1) if isinstance(message, Output) for chunk in message.chunks]
    sending.close()
    reading.close()
    assert [chunk.id for chunk in got] == [chunk.id for chunk in chunks if chunk.id != "large"]
    assert loop.failed == [("large", "too_large")]


def test_an_end_that_does_not_fit_is_told_as_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop has ended the choice, so nobody else will."""
    monkeypatch.setattr("redline.engine.message.MAX_FRAME_BYTES", 1000)
    ours, theirs = socket.socketpair()
    sending, reading = Channel(theirs), Channel(ours, FromEngine)
    large: list[TokenLogprob | None] = [TokenLogprob(i, -0.5) for i in range(500)]
    ended = Chunk(id="large", prompt_logprobs=large, finish="length")
    _send(Voice(sending, cast(StepTime, None)), cast(Loop, FakeLoop()), [ended], ["large"])
    got = [chunk for message in reading.poll(1) if isinstance(message, Output) for chunk in message.chunks]
    sending.close()
    reading.close()
    assert [(chunk.finish, chunk.failure and chunk.failure.code) for chunk in got] == [("error", "too_large")]


class Predicted:
    """A `StepTime` that always says the same and remembers what it was taught."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.learned: list[float] = []

    def predict(self, plan: Plan) -> float:
        return self.seconds

    def learn(self, plan: Plan, seconds: float) -> None:
        self.learned.append(seconds)


class SteppingLoop:
    """A loop with one step in flight, each of which takes `seconds`, does `meanwhile`, and may fail."""

    def __init__(self, seconds: float = 0.0, meanwhile: Callable[[], None] = lambda: None, fails: bool = False) -> None:
        self.in_flight: Plan | None = Plan(0, [], [], 0)
        self.failed_steps = 0
        self.has_work = True
        self.started: list[str] = []
        self.stats = Stats()
        self._seconds, self._meanwhile, self._fails = seconds, meanwhile, fails

    def step(self) -> None:
        time.sleep(self._seconds)
        self._meanwhile()
        self.failed_steps += self._fails

    def take(self) -> list[Chunk]:
        return []


@pytest.fixture
def wire() -> Iterator[tuple[Channel, Channel]]:
    ours, theirs = socket.socketpair()
    sending, reading = Channel(theirs), Channel(ours, FromEngine)
    yield sending, reading
    sending.close()
    reading.close()


def test_a_long_step_is_announced_and_learned_and_a_short_one_is_not(wire: tuple[Channel, Channel]) -> None:
    long, short = Predicted(3.0), Predicted(0.001)
    for predicted, loop in ((long, SteppingLoop(0.05)), (short, SteppingLoop())):
        voice = Voice(wire[0], cast(StepTime, predicted))
        voice.step(cast(Loop, loop))
        assert not predicted.learned, "first those are told who wait for its tokens"
        voice.learn()
        voice.learn()
    assert wire[1].poll(0.1) == [Expect(3.0, "a step")]
    assert len(long.learned) == 1 and long.learned[0] >= 0.05 and len(short.learned) == 1


def test_after_some_silence_even_a_short_step_is_announced(
    wire: tuple[Channel, Channel], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Silence is counted from the beginning of the step, not from whatever was said before."""
    monkeypatch.setattr("redline.engine.worker.QUIET_S", 0.01)
    voice = Voice(wire[0], cast(StepTime, Predicted(0.001)))
    time.sleep(0.02)
    voice.step(cast(Loop, SteppingLoop()))
    assert wire[1].poll(0.1) == [Expect(0.001, "a step")]


def test_a_step_that_is_only_started_is_not_announced(wire: tuple[Channel, Channel], monkeypatch: pytest.MonkeyPatch) -> None:
    """A first token would wait for the message; what was expected before is over all the same."""
    monkeypatch.setattr("redline.engine.worker.QUIET_S", 0.0)
    voice, loop = Voice(wire[0], cast(StepTime, Predicted(3.0))), SteppingLoop()
    voice.step(cast(Loop, loop))
    loop.in_flight = None
    voice.step(cast(Loop, loop))
    voice.compiling("a_kernel")
    voice.compiling(None)
    assert wire[1].poll(0.1) == [Expect(3.0, "a step"), Expect(COMPILE_S, "compiling a_kernel"), Expect(0.0)]


def test_a_step_that_fails_teaches_nothing(wire: tuple[Channel, Channel]) -> None:
    times = Predicted(0.0)
    voice = Voice(wire[0], cast(StepTime, times))
    voice.step(cast(Loop, SteppingLoop(fails=True)))
    voice.learn()
    assert times.learned == []


def test_a_compilation_in_a_step_is_announced_by_tritons_own_hooks_and_not_taken_for_the_steps_time(
    wire: tuple[Channel, Channel],
) -> None:
    knobs = pytest.importorskip("triton.knobs", reason="this torch brings no Triton")
    times = Predicted(1.0)
    voice = Voice(wire[0], cast(StepTime, times))
    before = knobs.runtime.jit_cache_hook, knobs.runtime.jit_post_compile_hook
    try:
        _announce_compilations(voice)

        def compile() -> None:
            about = {"key": "k", "repr": "r", "compile": {}, "is_manual_warmup": False, "already_compiled": False}
            assert not knobs.runtime.jit_cache_hook(fn=SimpleNamespace(name="a_kernel"), **about), "or Triton would not compile"
            time.sleep(0.2)
            knobs.runtime.jit_post_compile_hook(fn=SimpleNamespace(name="a_kernel"), **about)

        voice.step(cast(Loop, SteppingLoop(meanwhile=compile)))
        voice.learn()
    finally:
        knobs.runtime.jit_cache_hook, knobs.runtime.jit_post_compile_hook = before
    assert wire[1].poll(0.1) == [Expect(1.0, "a step"), Expect(COMPILE_S, "compiling a_kernel"), Expect(1.0, "a step")]
    assert times.learned[0] < 0.15


def turn_idle(wire: tuple[Channel, Channel], **of_engine: object) -> None:
    """An engine without requests, until it is told to stop."""
    ending = {"take": list, "check": lambda: None, "close": lambda: None}
    loop = SimpleNamespace(has_work=False, started=[], failed_steps=0, stats=Stats(), unprepared=True, **ending)
    engine = SimpleNamespace(loop=loop, measured=True, info=SimpleNamespace(device="cpu"), **of_engine)
    _turn(Voice(wire[0], cast(StepTime, Predicted(0.0))), cast("Engine", engine))


def test_an_idle_engine_keeps_what_steps_took(wire: tuple[Channel, Channel]) -> None:
    kept: list[str] = []
    wire[1].send(Stop(drain=True))
    turn_idle(wire, prepare=lambda: False, keeper=SimpleNamespace(idle=lambda: kept.append("idle")))
    assert kept == ["idle"]


def test_what_was_asked_for_is_captured_after_a_second_of_silence(
    wire: tuple[Channel, Channel], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not at once: the next request of somebody who has just been answered would wait for it. What is left of the start is."""
    monkeypatch.setattr("redline.engine.worker.STATS_EVERY_S", 0.05)
    began, prepared = time.monotonic(), list[float]()

    def prepare() -> bool:
        prepared.append(time.monotonic() - began)
        if len(prepared) == 3:
            wire[1].send(Stop(drain=True))
        return False

    turn_idle(wire, prepare=prepare, keeper=SimpleNamespace(idle=lambda: None))
    at_once, *later = prepared
    assert at_once < 0.04 <= later[0] - at_once and later[1] - later[0] >= 0.04


def test_an_engine_whose_steps_all_fail_ends(wire: tuple[Channel, Channel]) -> None:
    """A lost device fails every step for ever, and only a new process helps; one bad request fails a few."""
    loop = SteppingLoop(fails=True)
    engine = SimpleNamespace(loop=loop, measured=True, info=SimpleNamespace(device="cpu"))
    with pytest.raises(InternalError, match="16 steps failed"):
        _turn(Voice(wire[0], cast(StepTime, Predicted(0.0))), cast("Engine", engine))
    assert loop.failed_steps == MOST_FAILED_STEPS
