"""The load generator keeps its plan, times from it, and counts what goes wrong; what it sums up is right."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import time
from collections.abc import AsyncIterator, Callable

import numpy as np
import pytest

from redline.bench import serve
from redline.bench.load import Fixed, Planned, Seen, ShareGpt, Target, arrivals, offer, one_by_one

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _event(body: object) -> bytes:
    return b"data: %b\n\n" % json.dumps(body, separators=(",", ":")).encode()


class Server:
    """Answers completions token by token; what goes wrong is decided by the prompt's first token."""

    def __init__(self, pause_s: float = 0.0, split: bool = False) -> None:
        self.pause_s, self.split = pause_s, split
        self.prompts: list[list[int]] = []
        self.connections = 0

    @contextlib.asynccontextmanager
    async def run(self) -> AsyncIterator[Target]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        async with server:
            yield Target(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", key="secret")
            await asyncio.sleep(0.05)  # in which the connections that were left are let go

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        with contextlib.closing(writer), contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                assert b"authorization: Bearer secret" in head
                length = int(head.split(b"content-length: ")[1].split(b"\r\n")[0])
                body = json.loads(await reader.readexactly(length))
                self.prompts.append(body["prompt"])
                await self._answer(body, writer)

    async def _answer(self, body: dict[str, object], writer: asyncio.StreamWriter) -> None:
        kind = body["prompt"][0]  # type: ignore[index]
        if kind == 429:
            writer.write(b"HTTP/1.1 429 Too Many Requests\r\ncontent-length: 4\r\n\r\nfull")
            return
        count = int(body["max_tokens"])  # type: ignore[call-overload]
        parts = [_event({"choices": [{"text": "x"}]}) for _ in range(count - (kind == 1))]
        writer.write(HEAD)
        for number, part in enumerate(parts):
            await asyncio.sleep(self.pause_s)
            if kind == 500 and number == 1:
                writer.close()
                return
            data = _chunk(part)
            if self.split:
                writer.write(data[:9])
                await writer.drain()
                await asyncio.sleep(0.002)
                data = data[9:]
            writer.write(data)
        usage = _event({"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": len(parts), "total_tokens": 9}})
        writer.write(_chunk(usage + b"data: [DONE]\n\n") + b"0\r\n\r\n")


def _offered(server: Server, plan: list[Planned], offering: Callable[..., object] = offer) -> list[Seen]:
    async def run() -> list[Seen]:
        async with server.run() as target:
            return await offering(target, plan)  # type: ignore[no-any-return,misc]

    return asyncio.run(run())


def test_arrivals_are_poisson_with_the_lengths_of_the_mix() -> None:
    plan = arrivals(50.0, 100.0, Fixed(7, 9), 512, np.random.default_rng(1))
    assert len(plan) == pytest.approx(5000, rel=0.05)
    assert all(len(planned.prompt) == 7 and planned.output == 9 and max(planned.prompt) < 512 for planned in plan)
    gaps = np.diff([planned.at_s for planned in plan])
    assert gaps.min() > 0 and gaps.std() == pytest.approx(gaps.mean(), rel=0.1)
    assert len(arrivals(0.001, 0.001, Fixed(1, 2), 9, np.random.default_rng(1))) == 1


def test_the_sharegpt_mix_has_the_published_means() -> None:
    random = np.random.default_rng(0)
    drawn = np.array([ShareGpt(longest=10**6).draw(random) for _ in range(20_000)])
    assert drawn.mean(0) == pytest.approx([161, 338], rel=0.05)
    cut = np.array([ShareGpt(longest=64).draw(random) for _ in range(1000)])
    assert cut.max() == 64 and cut.min() >= 4


@pytest.mark.parametrize("split", [False, True])
def test_every_token_has_a_time(split: bool) -> None:
    (seen,) = _offered(Server(pause_s=0.01, split=split), [Planned(0.0, [5, 6], 4)])
    assert seen.failure == "" and seen.tokens == 4 and len(seen.events) == 4
    assert seen.ttft_s >= 0.01 and seen.per_token_s >= 0.009
    assert seen.whole_s == pytest.approx(seen.ttft_s + 3 * seen.per_token_s)


@pytest.mark.parametrize("id", ["", "an id of another's\r\n"])
def test_a_server_without_receipts_says_nothing_of_its_device(id: str) -> None:
    async def run() -> None:
        async with Server().run() as target:
            (seen,) = await offer(target, [Planned(0.0, [5, 6], 4)])
            assert (seen.failure, seen.id) == ("", "")
            seen.id = id
            assert await asyncio.to_thread(serve._computed_s, target, seen) is None

    asyncio.run(run())


def test_requests_leave_on_time_whatever_became_of_those_before() -> None:
    server = Server(pause_s=0.1)
    plan = [Planned(0.02 * i, [5], 4) for i in range(10)]
    began = time.perf_counter()
    seen = _offered(server, plan)
    assert time.perf_counter() - began < 2.0  # one after another they would take 4 s
    assert [one.due - seen[0].due for one in seen] == pytest.approx([planned.at_s for planned in plan])
    assert all(one.sent >= one.due for one in seen)
    assert server.connections > 5


def test_a_wait_before_sending_counts() -> None:
    late = Seen(due=10.0, sent=13.0, asked=2, events=[13.5, 13.6], tokens=2)
    assert late.ttft_s == 3.5


def test_one_by_one_keeps_its_connection() -> None:
    server = Server()
    seen = _offered(server, [Planned(0.0, [i], 2) for i in range(2, 7)], one_by_one)
    assert [one.failure for one in seen] == [""] * 5 and server.connections == 1
    assert server.prompts == [[2], [3], [4], [5], [6]]


def test_pauses_lie_before_the_requests_and_are_not_counted() -> None:
    seen = _offered(Server(), [Planned(0.0, [i], 1) for i in (2, 3)], functools.partial(one_by_one, pause_s=0.2))
    assert seen[1].due >= seen[0].events[-1] + 0.2 and seen[1].ttft_s < 0.2


def test_what_goes_wrong_is_counted_and_the_rest_goes_on() -> None:
    seen = _offered(Server(), [Planned(0.0, [kind], 3) for kind in (5, 429, 1, 500, 6)])
    assert [one.failure for one in seen] == ["", "status 429", "2 tokens instead of 3", "the stream broke off", ""]
    row = serve.summary(2.0, seen, 10.0, 10.0)
    assert (row["requests"], row["failed"]) == (5, 3)
    assert row["good_share"] == 0.4
    assert any("status 429" in note for note in row["notes"])


def test_nobody_at_the_address_is_a_failure_of_every_request() -> None:
    seen = asyncio.run(offer(Target("http://127.0.0.1:9"), [Planned(0.0, [1], 2)]))
    assert seen[0].failure.startswith("connection: ")
    row = serve.summary(1.0, seen, 1.0, 1.0)
    assert row["failed"] == 1 and row["ttft_ms"]["p50"] is None and row["goodput_per_s"] is None


def test_an_answer_that_never_ends_is_a_failure() -> None:
    async def run() -> list[Seen]:
        async with Server(pause_s=5.0).run() as target:
            return await offer(target, [Planned(0.0, [5], 2)], longest_s=0.05)

    assert asyncio.run(run())[0].failure == "no whole answer within 0.05 s"


def test_goodput_needs_both_goals() -> None:
    def seen(ttft: float, gap: float) -> Seen:
        return Seen(due=0.0, sent=0.0, asked=3, events=[ttft, ttft + gap, ttft + 2 * gap], tokens=3)

    row = serve.summary(4.0, [seen(0.1, 0.01), seen(0.9, 0.01), seen(0.1, 0.5), seen(0.2, 0.02)], 0.5, 0.05)
    assert row["seconds"] == pytest.approx(1.1)
    assert row["goodput_per_s"] == pytest.approx(2 / 1.1, rel=1e-3)
    assert row["output_tokens_per_s"] == pytest.approx(12 / 1.1, rel=1e-3)
    assert row["itl_ms"]["max"] == 500.0 and row["ttft_ms"]["p50"] == 100.0
