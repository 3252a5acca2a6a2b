"""The supervisor over engines that die, hang and come back: every open request is told, health is the truth, the next one runs."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from fake_worker import EOS, as_process, in_thread
from redline.config import EngineConfig, SchedulerConfig
from redline.engine.client import Launcher
from redline.engine.message import Expect
from redline.engine.supervisor import STALLED_S, Patience, Supervisor
from redline.errors import DoesNotFit, Draining, EngineDead, NotReady, Overloaded
from redline.types import Chunk, Request, SamplingParams

TESTS = Path(__file__).parents[2]
USUAL, PLAIN = Patience(), SchedulerConfig()
SHORT = Patience(stuck_s=0.6, stalled_s=0.3, early_s=5.0, most_early=3, pause_s=0.05)


@pytest.fixture(autouse=True)
def fake_worker_on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(TESTS), str(TESTS.parent / "src")]))


@asynccontextmanager
async def running(
    launcher: Launcher, patience: Patience = USUAL, scheduler: SchedulerConfig = PLAIN
) -> AsyncIterator[Supervisor]:
    engine = Supervisor(EngineConfig(scheduler=scheduler), launcher=launcher, patience=patience)
    try:
        await engine.start()
        yield engine
    finally:
        await engine.close()


def request(id: str = "a", prompt: tuple[int, ...] = (1, 2, 3, 4), **sampling: object) -> Request:
    return Request(id=id, prompt=list(prompt), sampling=SamplingParams(**sampling))  # type: ignore[arg-type]


async def ends(engine: Supervisor, *requests: Request) -> list[Chunk]:
    return [chunk async for batch in engine.submit(*requests) for chunk in batch if chunk.finish]


async def until(condition: Callable[[], bool], timeout_s: float = 10.0) -> float:
    """Wait for `condition`, and say how long that took."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() < began + timeout_s, "it never happened"
        await asyncio.sleep(0.005)
    return time.monotonic() - began


def run(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 30))  # type: ignore[arg-type]


def test_a_dead_engine_is_replaced_and_what_was_open_is_told_to_retry() -> None:
    async def test() -> None:
        async with running(as_process(step_s=0.002, die_after=300, load_s=0.3)) as engine:
            streams = [engine.submit(request(f"r{i}", n=2, ignore_eos=True)) for i in range(8)]
            told = [chunk for stream in streams async for batch in stream for chunk in batch if chunk.finish]
            assert len(told) == 16 and {chunk.finish for chunk in told} == {"error"}
            failures = [chunk.failure for chunk in told if chunk.failure]
            assert {failure.code for failure in failures} == {"engine_dead"} and len(failures) == 16
            assert all(failure.retry_after_s and failure.retry_after_s > 0.2 for failure in failures)
            assert engine.health.status == "restarting" and not engine.alive and engine.open_requests == 0
            with pytest.raises(NotReady, match="restarted") as refused:
                engine.submit(request("early"))
            took = await until(lambda: engine.alive)
            assert refused.value.retry_after_s is not None and 0.5 * took < refused.value.retry_after_s < 2 * took + 0.5
            assert engine.restarts == 1 and engine.failure is None
            assert [chunk.finish for chunk in await ends(engine, request("b"))] == ["stop"]

    run(test)


def test_an_engine_that_hangs_turns_red_is_killed_and_replaced() -> None:
    async def test() -> None:
        async with running(as_process(step_s=0.002, hang_after=40), SHORT) as engine:
            stream = engine.submit(request(ignore_eos=True))
            await until(lambda: engine.silent_s > 0.1)
            assert engine.alive, "a little silence is nothing"
            await until(lambda: engine.health.status == "stalled", 1.0)
            with pytest.raises(NotReady, match="silent") as refused:
                engine.submit(request("late"))
            assert refused.value.retry_after_s is not None
            (last,) = [chunk async for batch in stream for chunk in batch if chunk.finish]
            assert last.failure is not None and "silent" in last.failure.message and last.failure.code == "engine_dead"
            await until(lambda: engine.alive)
            assert [chunk.finish for chunk in await ends(engine, request("b"))] == ["stop"]

    run(test)


def test_a_stopped_engine_process_is_red_within_three_seconds() -> None:
    """The measured demand: at most 3 s after the engine stopped moving, and not before it was silent for long."""

    async def test() -> None:
        async with running(as_process(step_s=0.01), Patience(stuck_s=60)) as engine:
            stream = engine.submit(request(ignore_eos=True))
            await anext(stream)
            process = engine._engine._process
            assert process is not None
            os.kill(process.pid, signal.SIGSTOP)  # type: ignore[attr-defined]
            took = await until(lambda: engine.health.status == "stalled", 5.0)
            assert STALLED_S - 0.2 < took < 3.0
            os.kill(process.pid, signal.SIGCONT)  # type: ignore[attr-defined]
            await until(lambda: engine.health.status == "ready", 1.0)
            stream.close()

    run(test)


def test_what_was_announced_is_no_silence_and_our_own_deafness_neither() -> None:
    async def test() -> None:
        async with running(in_thread(step_s=0.002, hang_after=10), Patience(stuck_s=60, stalled_s=0.2)) as engine:
            stream = engine.submit(request(ignore_eos=True))
            await until(lambda: engine.silent_s > 0.1)
            engine._engine._receive(Expect(0.2, "a long step"))
            await asyncio.sleep(0.5)
            assert engine.alive and engine.silent_s > 0.4
            await until(lambda: engine.health.status == "stalled", 2.0)
            assert "a long step" in str(engine.health.reason) and engine.silent_s > 1.0
            engine._engine._receive(Expect(0.0))
            time.sleep(0.5)  # nothing is heard because nobody listens
            assert engine.alive and engine.silent_s < 0.15
            await asyncio.sleep(0.01)
            assert engine.alive
            await until(lambda: not engine.alive, 2.0)
            stream.close()
            await engine._engine.kill("it would wait for its last step")

    run(test)


def test_an_idle_engine_stays_green() -> None:
    async def test() -> None:
        async with running(in_thread(), Patience(stalled_s=0.7)) as engine:
            for _ in range(30):
                assert engine.alive
                await asyncio.sleep(0.05)

    run(test)


def test_an_engine_that_dies_again_and_again_is_given_up() -> None:
    async def test() -> None:
        async with running(as_process(die_after=1), SHORT) as engine:
            for _ in range(3):
                await until(lambda: engine.alive)
                await ends(engine, request())
            with pytest.raises(EngineDead, match="ended"):
                await engine.gave_up()
            assert engine.health.status == "dead" and engine.restarts == 2
            with pytest.raises(EngineDead):
                engine.ready()

    run(test)


def test_an_engine_that_cannot_start_at_all_is_its_own_error() -> None:
    async def test() -> None:
        engine = Supervisor(EngineConfig(), launcher=in_thread(fail_load="does_not_fit"))
        with pytest.raises(DoesNotFit):
            await engine.start()
        assert engine.health.status == "dead"
        await engine.close()

    run(test)


def test_draining_refuses_what_is_new_and_finishes_what_is_open() -> None:
    async def test() -> None:
        async with running(in_thread(step_s=0.005)) as engine:
            stream = engine.submit(request())
            engine.drain()
            assert engine.health.status == "draining"
            with pytest.raises(Draining):
                engine.submit(request("b"))
            last = [chunk async for batch in stream for chunk in batch][-1]
            assert last.finish == "stop" and last.stop_token == EOS

    run(test)


def test_closing_interrupts_a_restart() -> None:
    async def test() -> None:
        async with running(as_process(die_after=5, load_s=0.5)) as engine:
            await ends(engine, request(ignore_eos=True))
            await until(lambda: engine.restarts == 1)
            began = time.monotonic()
            await engine.close()
            assert time.monotonic() - began < 2.0 and engine.state == "closed"
            await engine.gave_up()

    run(test)


def test_the_gate_counts_what_is_open_and_forgets_it_with_its_end() -> None:
    async def test() -> None:
        config = SchedulerConfig(max_queued_requests=2)
        async with running(in_thread(step_s=0.005, rows=1), scheduler=config) as engine:
            streams = [engine.submit(request(f"r{i}", ignore_eos=True)) for i in range(2)]
            with pytest.raises(Overloaded, match="1 requests are waiting"):
                engine.submit(request("one more"))
            roster = engine.gate.roster
            await until(lambda: roster.waiting == 1)
            for stream in streams:
                stream.close()
            assert roster.waiting == 0 and not roster.lines and roster.free_rows(time.monotonic()) == 1
            assert [chunk.finish for chunk in await ends(engine, request("again"))] == ["stop"]

    run(test)
