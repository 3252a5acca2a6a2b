"""What calls cost their keys: reserved before the engine hears of them, settled with the truth, however they end."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest

from fake_server import MODEL, Live, live
from redline.errors import ExpiredKey, Forbidden, RateLimited, RevokedKey
from redline.server.accounts import Bill
from redline.server.keys import Changes, Settings
from redline.server.limits import duration
from redline.server.usage import Count
from redline.types import Chunk, Failure, Request, SamplingParams, Usage

CHAT = "/v1/chat/completions"


def run(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 30))  # type: ignore[arg-type]


async def key(server: Live, **settings: Any) -> tuple[str, dict[str, str]]:
    """A key's id and the headers that bring it."""
    made, token = await server.service.keys.make(Settings(name="k", **settings))
    return made.id, {"authorization": f"Bearer {token}"}


def chat(text: str, **fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], **fields}


async def used(server: Live, key_id: str) -> tuple[int, int, int]:
    """Calls, prompt and completion tokens of a key in the ledger."""
    rows = await server.service.accounts.ledger.read(0, 1 << 40, key_id)
    return sum(r.requests for r in rows), sum(r.prompt_tokens for r in rows), sum(r.completion_tokens for r in rows)


def test_a_budget_is_reserved_settled_and_told_in_the_headers() -> None:
    async def test() -> None:
        async with live() as server:
            key_id, headers = await key(server, tokens_per_minute=100, requests_per_minute=50)
            first = await server.http.post(CHAT, json=chat("a" * 20, max_tokens=30), headers=headers)
            assert first.status_code == 200 and first.json()["usage"]["total_tokens"] == 41
            told = {name: value for name, value in first.headers.items() if name.startswith("x-ratelimit")}
            # The status line leaves before the call is settled: its reservation of 50 is what the headers count.
            assert told["x-ratelimit-limit-tokens"] == "100" and told["x-ratelimit-remaining-tokens"] in ("50", "59")
            assert told["x-ratelimit-limit-requests"] == "50" and told["x-ratelimit-remaining-requests"] == "49"
            assert told["x-ratelimit-reset-tokens"].endswith("s") and told["x-ratelimit-reset-requests"].endswith("s")
            second = await server.http.post(CHAT, json=chat("a" * 30, max_tokens=30), headers=headers)
            assert second.status_code == 429 and second.json()["error"]["code"] == "rate_limit_exceeded"
            assert second.json()["error"]["type"] == "rate_limit_error"
            assert 59 <= int(second.headers["retry-after"]) <= 61 and "x-should-retry" not in second.headers
            assert second.headers["x-ratelimit-remaining-tokens"] == "59"
            third = await server.http.post(CHAT, json=chat("a" * 29, max_tokens=30), headers=headers)
            assert third.status_code == 200, "settled with what was used, 41, not with the reservation, 50"
            assert await used(server, key_id) == (2, 49, 21 + 30)
            assert server.service.accounts._accounts[key_id].held == 0

    run(test)


def test_a_call_above_the_whole_budget_is_told_not_to_come_again() -> None:
    async def test() -> None:
        async with live() as server:
            _, headers = await key(server, tokens_per_minute=100)
            response = await server.http.post(CHAT, json=chat("abc", max_tokens=98), headers=headers)
            assert response.status_code == 429 and response.json()["error"]["code"] == "request_over_limit"
            assert response.headers["x-should-retry"] == "false" and "retry-after" not in response.headers
            assert (await server.http.post(CHAT, json=chat("abc"), headers=headers)).status_code == 200, "no bound, a guess"

    run(test)


def test_streams_that_are_refused_get_a_status_and_not_an_event() -> None:
    async def test() -> None:
        async with live() as server:
            _, headers = await key(server, requests_per_minute=1)
            for status in (200, 429):
                response = await server.http.post(CHAT, json=chat("abc", stream=True), headers=headers)
                assert response.status_code == status
            assert response.json()["error"]["code"] == "rate_limit_exceeded"
            other, other_headers = await key(server)
            assert (await server.http.post(CHAT, json=chat("abc"), headers=other_headers)).status_code == 200
            assert "x-ratelimit-limit-requests" not in (await server.http.get("/v1/models", headers=other_headers)).headers

    run(test)


async def leave_after(server: Live, headers: dict[str, str], body: dict[str, Any], seconds: float) -> None:
    """Ask and hang up: before the first byte, in the middle of the answer, or never, as it happens."""
    gone = asyncio.Event()
    incoming = [{"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}]

    async def receive() -> Any:
        if incoming:
            return incoming.pop()
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        await asyncio.sleep(0)

    listed = [(name.encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "http", "method": "POST", "path": CHAT, "headers": listed, "query_string": b"", "root_path": ""}
    call = asyncio.ensure_future(server.app(scope, receive, send))
    await asyncio.sleep(seconds)
    gone.set()
    await call


@pytest.mark.soak
def test_nothing_leaks_when_callers_leave_at_random(effort: int) -> None:
    async def test() -> None:
        rng = random.Random(7)
        async with live(step_s=0.002, max_open=6) as server:
            key_id, headers = await key(server, concurrency=8, tokens_per_day=10**9)
            for _ in range(4 * effort):
                calls = []
                for _ in range(25):
                    body = chat("x" * rng.randint(1, 40), stream=rng.random() < 0.5, n=rng.choice((1, 3)), max_tokens=20)
                    if rng.random() < 0.2:
                        body["deadline_ms"] = 1
                    if rng.random() < 0.2:
                        body["temperature"] = -1
                    calls.append(leave_after(server, headers, body, rng.choice((0, 0.001, 0.01, 0.05, 0.2))))
                await asyncio.gather(*calls)
                account = server.service.accounts._accounts[key_id]
                assert (account.open, account.held, server.engine.open_requests) == (0, 0, 0)
            count, prompt, completion = await used(server, key_id)
            assert count and prompt and completion and account._day._total == prompt + completion

    asyncio.run(asyncio.wait_for(test(), 30 * effort))


def test_concurrency_counts_calls_that_are_open_and_a_refusal_holds_nothing() -> None:
    async def test() -> None:
        async with live(step_s=0.005) as server:
            key_id, headers = await key(server, concurrency=2)
            ask = chat("x" * 40)
            results = await asyncio.gather(*(server.http.post(CHAT, json=ask, headers=headers) for _ in range(5)))
            assert sorted(response.status_code for response in results) == [200, 200, 429, 429, 429]
            for response in results:
                assert response.status_code == 200 or 1 <= int(response.headers["retry-after"]) <= 5
            assert server.service.accounts.calls_open(key_id) == 0
            assert (await server.http.post(CHAT, json=ask, headers=headers)).status_code == 200

    run(test)


def request(name: str = "a", prompt: int = 10, **sampling: Any) -> Request:
    return Request(id=name, prompt=[1] * prompt, sampling=SamplingParams(**sampling))


def billed(requests: list[Request], chunks: list[Chunk]) -> Count:
    counts: list[Count] = []
    bill = Bill(requests, counts.append)
    bill.count(chunks)
    bill.settle()
    bill.settle()
    (count,) = counts
    return count


REFUSED = Failure(code="overloaded", message="full")


@pytest.mark.parametrize(
    ("chunks", "expected"),
    [
        ([], (10, 0, 0)),  # gone before anything came: the prompt may have been computed
        ([Chunk(id="a", finish="error", failure=REFUSED)], (0, 0, 0)),
        ([Chunk(id="a", tokens=[5, 6]), Chunk(id="a", finish="error", failure=REFUSED)], (10, 0, 2)),
        ([Chunk(id="a", tokens=[5, 6, 7])], (10, 0, 3)),  # gone in the middle
        ([Chunk(id="a", tokens=[5]), Chunk(id="a", tokens=[6], finish="abort")], (10, 0, 2)),
        ([Chunk(id="a", finish="deadline")], (10, 0, 0)),
        (
            [Chunk(id="a", tokens=[5]), Chunk(id="a", finish="stop", usage=Usage(completion_tokens=2, cached_tokens=4))],
            (10, 4, 2),
        ),
        (
            [
                Chunk(id="a", tokens=[5], finish="length", usage=Usage(completion_tokens=1, cached_tokens=4)),
                Chunk(id="a", index=1, tokens=[5, 5], finish="length", usage=Usage(completion_tokens=2, cached_tokens=6)),
            ],
            (10, 6, 3),
        ),
    ],
)
def test_what_is_charged_for_each_end(chunks: list[Chunk], expected: tuple[int, int, int]) -> None:
    count = billed([request(n=2)], chunks)
    assert (count.prompt_tokens, count.cached_tokens, count.completion_tokens) == expected and count.requests == 1


def test_one_prompt_that_was_refused_leaves_the_others_charged() -> None:
    chunks = [Chunk(id="a", finish="error", failure=REFUSED), Chunk(id="b", tokens=[1], finish="stop")]
    assert billed([request("a"), request("b", 7)], chunks).prompt_tokens == 7


def test_a_request_may_step_back_behind_its_keys_priority_and_never_ahead() -> None:
    async def test() -> None:
        async with live() as server:
            _, headers = await key(server, priority=5)
            assert (await server.http.post(CHAT, json=chat("abc", priority=2), headers=headers)).status_code == 200
            response = await server.http.post(CHAT, json=chat("abc", priority=-1), headers=headers)
            assert response.status_code == 403 and response.json()["error"]["param"] == "priority"
        async with live() as server:
            assert (await server.http.post(CHAT, json=chat("abc", priority=-1))).status_code == 200, "nobody else's key"

    run(test)


def test_work_of_a_key_ends_with_the_key() -> None:
    """Jobs ask the engine for a caller of hours ago: nothing but the account says that the key is over."""

    async def test() -> None:
        async with live() as server:
            key_id, _ = await key(server)
            asked = Request(id="a", prompt=[1], sampling=SamplingParams(), tenant=key_id)
            server.service.submit(asked).close()
            await server.service.keys.update(key_id, Changes(expires=1))
            with pytest.raises(ExpiredKey):
                server.service.submit(asked)
            await server.service.keys.revoke(key_id)
            with pytest.raises(RevokedKey):
                server.service.submit(asked)

    run(test)


def test_what_the_engine_does_not_take_gives_its_reservation_back(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        async with live() as server:
            key_id, headers = await key(server, concurrency=1, tokens_per_minute=100)

            def full(*requests: Request) -> Any:
                raise RateLimited("the queue is full")

            with monkeypatch.context() as patched:
                patched.setattr(server.engine, "submit", full)
                for _ in range(3):
                    assert (await server.http.post(CHAT, json=chat("abc"), headers=headers)).status_code == 429
            assert (await server.http.post(CHAT, json=chat("abc"), headers=headers)).status_code == 200
            assert await used(server, key_id) == (1, 3, 4)

    run(test)


def test_the_days_budget_and_the_usage_outlive_the_server(tmp_path: Path) -> None:
    async def test() -> None:
        where = {"state_dir": str(tmp_path)}
        async with live(server=where) as server:
            key_id, headers = await key(server, tokens_per_day=100)
            assert (await server.http.post(CHAT, json=chat("a" * 30, max_tokens=40), headers=headers)).status_code == 200
        async with live(server=where) as server:
            refused = await server.http.post(CHAT, json=chat("a" * 30, max_tokens=20), headers=headers)
            assert refused.status_code == 429 and int(refused.headers["retry-after"]) > 86_000
            mine = (await server.http.get("/v1/usage", headers=headers)).json()
            assert mine["key"] == key_id and mine["tokens"]["limit"] == 100 and mine["tokens"]["remaining"] == 39
            assert mine["total"] == {"requests": 1, "prompt_tokens": 30, "cached_tokens": 0, "completion_tokens": 31}
            (row,) = mine["data"]
            assert row["model"] == MODEL and row["key"] == key_id and row["hour"] % 3600 == 0

    run(test)


def test_a_caller_sees_only_its_own_usage_and_odd_queries_are_refused_by_name() -> None:
    async def test() -> None:
        async with live() as server:
            keys = [await key(server) for _ in range(2)]
            for text, (_, headers) in zip(("ab", "abcd"), keys, strict=True):
                await server.http.post(CHAT, json=chat(text), headers=headers)
            for tokens, (key_id, headers) in zip((2, 4), keys, strict=True):
                mine = (await server.http.get("/v1/usage", headers=headers)).json()
                assert mine["total"]["prompt_tokens"] == tokens and {row["key"] for row in mine["data"]} == {key_id}
                assert mine["tokens"] is None and mine["requests"] is None and mine["has_more"] is False
            for query in ("since=x", "since=-1", "since=9999999999999999", "key=a", "since=1&since=2", "until=\u0661"):
                response = await server.http.get(f"/v1/usage?{query}", headers=headers)
                assert response.status_code == 400 and response.json()["error"]["param"] == query.partition("=")[0], query
            assert (await server.http.get("/v1/usage?since=10&until=5", headers=headers)).status_code == 400
            empty: httpx2.Response = await server.http.get("/v1/usage?until=5", headers=headers)
            assert empty.json()["data"] == []

    run(test)


def test_priority_of_the_account_is_checked_before_anything_is_reserved() -> None:
    async def test() -> None:
        async with live() as server:
            key_id, _ = await key(server, concurrency=1, priority=1)
            ahead = Request(id="a", prompt=[1], sampling=SamplingParams(), tenant=key_id, priority=0)
            for _ in range(3):
                with pytest.raises(Forbidden):
                    server.service.submit(ahead)
            assert server.service.accounts.calls_open(key_id) == 0

    run(test)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0ms"), (0.0204, "20ms"), (1, "1s"), (1.54, "1.5s"), (59.9, "59.9s"), (60, "1m0s"), (366, "6m6s"), (86399.6, "24h0m0s")],
)
def test_a_duration_reads_as_in_the_openai_api(seconds: float, text: str) -> None:
    assert duration(seconds) == text
