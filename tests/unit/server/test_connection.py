"""Work ends with its client, and nothing of it stays behind."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from redline.errors import SlowBody
from redline.server.connection import ClientGone, read_body, while_connected


class Client:
    """The receiving side of a connection: queued messages, then silence until `leave`."""

    def __init__(self, *bodies: bytes) -> None:
        self.messages: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        for i, body in enumerate(bodies):
            self.messages.put_nowait({"type": "http.request", "body": body, "more_body": i + 1 < len(bodies)})

    async def receive(self) -> dict[str, Any]:
        return await self.messages.get()

    def leave(self) -> None:
        self.messages.put_nowait({"type": "http.disconnect"})


def run(test: Coroutine[Any, Any, None]) -> None:
    async def timed() -> None:
        async with asyncio.timeout(10):  # within the one task: the tests count tasks
            await test

    asyncio.run(timed())


def test_a_body_arrives_whole_or_its_client_is_gone() -> None:
    async def test() -> None:
        assert await read_body(Client(b"ab", b"", b"c").receive) == b"abc"
        client = Client()
        client.leave()
        with pytest.raises(ClientGone):
            await read_body(client.receive)

    run(test())


def test_a_body_that_never_ends_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("redline.server.connection.BODY_S", 0.05)

    async def test() -> None:
        client = Client()
        client.messages.put_nowait({"type": "http.request", "body": b"{", "more_body": True})
        with pytest.raises(SlowBody, match="did not arrive") as caught:
            await read_body(client.receive)
        assert caught.value.status == 408 and caught.value.retryable

    run(test())


def test_work_is_cancelled_as_soon_as_the_client_leaves() -> None:
    async def test() -> None:
        client, ended = Client(), asyncio.Event()

        async def work() -> None:
            try:
                await asyncio.sleep(60)
            finally:
                ended.set()

        asyncio.get_running_loop().call_later(0.01, client.leave)
        await while_connected(client.receive, work())
        assert ended.is_set() and len(asyncio.all_tasks()) == 1

    run(test())


def test_work_that_ends_or_fails_says_so_and_leaves_no_watcher() -> None:
    async def test() -> None:
        async def good() -> None: ...

        async def bad() -> None:
            raise ValueError("no")

        await while_connected(Client().receive, good())
        with pytest.raises(ValueError, match="no"):
            await while_connected(Client().receive, bad())
        assert len(asyncio.all_tasks()) == 1

    run(test())


def test_cancelling_the_exchange_cancels_its_work() -> None:
    async def test() -> None:
        ended = asyncio.Event()

        async def work() -> None:
            try:
                await asyncio.sleep(60)
            finally:
                ended.set()

        exchange = asyncio.create_task(while_connected(Client().receive, work()))
        await asyncio.sleep(0.01)
        exchange.cancel()
        with pytest.raises(asyncio.CancelledError):
            await exchange
        assert ended.is_set() and len(asyncio.all_tasks()) == 1

    run(test())
