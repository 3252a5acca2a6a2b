"""The client: one finish for every choice whatever the engine does, bounded memory for slow readers, clean ends."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from fake_worker import EOS, as_process, in_thread
from redline.config import EngineConfig
from redline.engine.client import EngineClient, Launcher, Stream, merged
from redline.engine.message import Progress
from redline.errors import DoesNotFit, EngineDead, TooLarge
from redline.types import Chunk, Request, SamplingParams, TokenLogprob, Usage

TESTS = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def fake_worker_on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(TESTS), str(TESTS.parent / "src")]))


@asynccontextmanager
async def running(launcher: Launcher) -> AsyncIterator[EngineClient]:
    client = EngineClient(EngineConfig(), launcher=launcher)
    try:
        await client.start()
        yield client
    finally:
        await client.close()


def request(id: str = "a", prompt: tuple[int, ...] = (1, 2, 3, 4), **sampling: object) -> Request:
    return Request(id=id, prompt=list(prompt), sampling=SamplingParams(**sampling))  # type: ignore[arg-type]


async def collected(stream: Stream) -> dict[tuple[str, int], Chunk]:
    chunks: dict[tuple[str, int], list[Chunk]] = {}
    async for batch in stream:
        for chunk in batch:
            chunks.setdefault((chunk.id, chunk.index), []).append(chunk)
    finishes = {key: [chunk.finish for chunk in of if chunk.finish] for key, of in chunks.items()}
    assert all(len(of) == 1 for of in finishes.values()), finishes
    return {key: merged(of) for key, of in chunks.items()}


async def until(condition: Callable[[], bool], timeout_s: float = 5.0) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "it never happened"
        await asyncio.sleep(0.005)


def run(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 20))  # type: ignore[arg-type]


def test_a_process_starts_reports_progress_answers_and_ends() -> None:
    async def test() -> None:
        seen: list[Progress] = []
        client = EngineClient(EngineConfig(), launcher=as_process(), on_progress=seen.append)
        info = await client.start()
        assert client.alive and client.info is info and info.eos_ids == (EOS,)
        assert [p.stage for p in seen] == ["loading weights"]
        answer = (await collected(client.submit(request())))["a", 0]
        assert answer.tokens == [1, 2, 3, 4, EOS] and answer.finish == "stop" and answer.stop_token == EOS
        assert answer.usage == Usage(prompt_tokens=4, completion_tokens=5)
        process = client._process
        await client.close()
        await client.close()
        assert process is not None and process.wait(0) == 0 and client.state == "closed"

    run(test)


def test_many_requests_and_choices_share_a_stream_and_do_not_mix() -> None:
    async def test() -> None:
        async with running(in_thread()) as client:
            requests = [request(f"r{i}", tuple(range(i, i + 5)), n=3, max_tokens=4) for i in range(10)]
            answers = await collected(client.submit(*requests))
            assert len(answers) == 30 and client.open_requests == 0
            for (id, index), chunk in answers.items():
                first = int(id[1:])
                assert chunk.tokens == [first + (index + k) % 5 for k in range(4)] and chunk.finish == "length"

    run(test)


def test_a_slow_reader_gets_few_large_chunks() -> None:
    async def test() -> None:
        async with running(in_thread()) as client:
            stream = client.submit(request(ignore_eos=True, max_tokens=3000, logprobs=1))
            await until(lambda: not stream.open_ids)
            assert sum(len(chunks) for chunks in stream._pending.values()) < 32
            (batch,) = [batch async for batch in stream]
            (chunk,) = batch
            assert len(chunk.tokens) == 3000 and chunk.logprobs is not None and [e.token for e in chunk.logprobs] == chunk.tokens

    run(test)


def test_cancel_ends_one_choice_or_all_and_still_finishes() -> None:
    async def test() -> None:
        async with running(in_thread(step_s=0.002)) as client:
            stream = client.submit(request(n=2, ignore_eos=True))
            await anext(stream)
            client.cancel("a", 1)
            while not any(chunk.index == 1 and chunk.finish == "abort" for chunk in await anext(stream)):
                pass
            assert any(chunk.index == 0 for chunk in await anext(stream))
            client.cancel("a")
            finishes = [chunk.finish for batch in [b async for b in stream] for chunk in batch if chunk.finish]
            assert finishes == ["abort"]

    run(test)


def test_a_closed_stream_cancels_in_the_engine_and_hands_out_nothing() -> None:
    async def test() -> None:
        async with running(in_thread(step_s=0.002)) as client:
            stream = client.submit(request(n=2, ignore_eos=True))
            await anext(stream)
            stream.close()
            stream.close()
            assert [batch async for batch in stream] == [] and client.open_requests == 0
            await until(lambda: client.stats.more.get("cancelled") == 2 and client.stats.running == 0)

    run(test)


def test_an_error_ends_every_choice_of_its_request_and_no_other() -> None:
    async def test() -> None:
        async with running(in_thread(max_open=1, step_s=0.001)) as client:
            answers = await collected(client.submit(request("a"), request("b", n=2)))
            assert answers["a", 0].finish == "stop"
            for index in range(2):
                failure = answers["b", index].failure
                assert answers["b", index].finish == "error" and failure is not None and failure.code == "overloaded"

    run(test)


def test_chunks_after_the_end_and_for_strangers_are_dropped() -> None:
    async def test() -> None:
        async with running(in_thread()) as client:
            stream = Stream(client, (request(n=2),))
            for index in (0, 0, 7, 1):
                stream.push(Chunk(id="a", index=index, finish="stop"))
            stream.push(Chunk(id="a", finish="error"))
            stream.push(Chunk(id="stranger", finish="stop"))
            assert [(c.index, c.finish) for batch in [b async for b in stream] for c in batch] == [(0, "stop"), (1, "stop")]

    run(test)


def test_the_engines_death_ends_every_open_request_once() -> None:
    async def test() -> None:
        async with running(as_process(die_after=100)) as client:
            streams = [client.submit(request(f"r{i}", n=2, ignore_eos=True)) for i in range(8)]
            for stream in streams:
                for chunk in (await collected(stream)).values():
                    assert chunk.finish == "error" and chunk.failure is not None and chunk.failure.code == "engine_dead"
            assert client.state == "dead" and not client.alive
            with pytest.raises(EngineDead, match="open requests"):
                client.submit(request("late"))

    run(test)


@pytest.mark.parametrize(
    ("launcher", "error", "sentence"),
    [
        (in_thread(fail_load="does_not_fit"), DoesNotFit, "it does not load"),
        (as_process(die_loading=True), EngineDead, "while loading weights"),
    ],
)
def test_an_engine_that_cannot_start_says_why(launcher: Launcher, error: type[Exception], sentence: str) -> None:
    async def test() -> None:
        client = EngineClient(EngineConfig(), launcher=launcher)
        with pytest.raises(error, match=sentence):
            await client.start()
        assert client.state == "dead"
        await client.close()

    run(test)


def test_a_python_that_cannot_be_started_is_an_error_not_a_hang() -> None:
    def broken(config: EngineConfig) -> tuple[object, object]:
        raise FileNotFoundError("no such file")

    async def test() -> None:
        client = EngineClient(EngineConfig(), launcher=broken)  # type: ignore[arg-type]
        with pytest.raises(EngineDead, match="cannot be started"):
            await client.start()
        await client.close()

    run(test)


def test_closing_ends_what_is_open_and_interrupts_a_start() -> None:
    async def test() -> None:
        async with running(in_thread(step_s=0.002)) as client:
            stream = client.submit(request(ignore_eos=True))
            await client.close()
            assert [c.finish for c in (await collected(stream)).values()] == ["error"]
        loading = EngineClient(EngineConfig(), launcher=in_thread(load_s=0.3))
        start = asyncio.create_task(loading.start())
        await asyncio.sleep(0.05)
        await loading.close()
        with pytest.raises(EngineDead):
            await start

    run(test)


def test_draining_lets_open_requests_end_well() -> None:
    async def test() -> None:
        async with running(in_thread(step_s=0.002)) as client:
            stream = client.submit(request())
            await client.close(drain=True)
            assert [c.finish for c in (await collected(stream)).values()] == ["stop"]

    run(test)


def test_stop_strings_stay_on_this_side() -> None:
    """A long one must not travel once for each of a thousand prompts."""

    async def test() -> None:
        async with running(in_thread()) as client:
            sent: list[bytes] = []
            assert client._transport is not None
            write = client._transport.write
            client._transport.write = lambda data: (sent.append(data), write(data))  # type: ignore[method-assign,assignment]
            await collected(client.submit(*(request(f"r{i}", stop=("x" * 100_000,)) for i in range(100))))
            assert sum(map(len, sent)) < 100_000

    run(test)


def test_what_one_message_cannot_hold_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        async with running(in_thread()) as client:
            monkeypatch.setattr("redline.engine.message.MAX_FRAME_BYTES", 1000)
            with pytest.raises(TooLarge):
                client.submit(request(prompt=tuple(range(1000))))
            assert client.open_requests == 0

    run(test)


def test_merging_keeps_everything() -> None:
    entry = TokenLogprob(1, -0.5)
    chunks = [
        Chunk(id="a", tokens=[1], logprobs=[entry], prompt_logprobs=[None]),
        Chunk(id="a", tokens=[], logprobs=None),
        Chunk(id="a", tokens=[2, 3], logprobs=[entry, entry], finish="stop", stop_token=3, usage=Usage(), receipt={"x": 1}),
    ]
    assert merged(chunks) == Chunk(
        id="a",
        tokens=[1, 2, 3],
        logprobs=[entry] * 3,
        prompt_logprobs=[None],
        finish="stop",
        stop_token=3,
        usage=Usage(),
        receipt={"x": 1},
    )
