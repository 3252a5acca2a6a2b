"""Receipts: always made, kept for their caller alone, and never more of them than there is room for."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Awaitable, Callable

import pytest

from fake_server import live
from redline.errors import NotFound
from redline.server.receipt_store import Receipts


def run(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 30))  # type: ignore[arg-type]


def test_the_receipt_of_an_answer_is_there_as_soon_as_the_answer_is() -> None:
    async def test() -> None:
        async with live() as server:
            chat = {"messages": [{"role": "user", "content": "abc"}]}
            first = await server.http.post("/v1/chat/completions", json=chat)
            answer = first.json()
            assert "redline" not in answer, "it is shown in the answer only on request"
            found = await server.http.get(f"/v1/receipt/{answer['id']}")
            assert found.status_code == 200 and found.json()["tokens"] == 4
            number = answer["id"].rpartition("-")[2]
            assert (await server.http.get(f"/v1/receipt/{number}")).json() == found.json()

            assert (await server.http.get(f"/v1/receipt/{first.headers['x-request-id']}")).status_code == 200

            both = (await server.http.post("/v1/completions", json={"prompt": ["ab", "c"], "redline": True})).json()
            told = (await server.http.get(f"/v1/receipt/{both['id']}")).json()
            assert told == both["redline"] and len(told) == 2, "one for each prompt"

            stream = await server.http.post("/v1/chat/completions", json={**chat, "stream": True})
            event = json.loads(stream.text.splitlines()[0].removeprefix("data: "))
            assert (await server.http.get(f"/v1/receipt/{event['id']}")).status_code == 200

            for unknown in (uuid.uuid4().hex, "chatcmpl-1", "..%2f..%2fetc%2fpasswd", "x" * 5000):
                response = await server.http.get(f"/v1/receipt/{unknown}")
                assert response.status_code == 404 and response.json()["error"]["code"] == "not_found"

    run(test)


def test_a_receipt_is_found_by_its_caller_alone() -> None:
    receipts, number = Receipts(), uuid.uuid4().hex
    receipts.keep([f"chatcmpl-{number}-0", "mine"], "alice", {"a": 1})
    assert json.loads(receipts.find("mine", "alice")) == json.loads(receipts.find(f"chatcmpl-{number}", "alice")) == {"a": 1}
    for owner in ("bob", ""):
        with pytest.raises(NotFound):
            receipts.find(f"chatcmpl-{number}", owner)


def test_the_oldest_go_when_there_is_no_room() -> None:
    receipts, numbers = Receipts(most_bytes=100), [uuid.uuid4().hex for _ in range(20)]
    for number in numbers:
        receipts.keep([number], "", "x" * 18)  # 20 bytes each
    kept = [number for number in numbers if _has(receipts, number)]
    assert kept == numbers[-5:]
    receipts.keep([numbers[0]], "", "y" * 500)
    assert not any(_has(receipts, number) for number in numbers), "one that fills all room leaves none for itself either"
    receipts.keep([numbers[0]], "", "z" * 18)
    receipts.keep([numbers[0]], "", "w" * 18)
    assert receipts.find(numbers[0], "") == json.dumps("w" * 18).encode()


def _has(receipts: Receipts, number: str) -> bool:
    try:
        return bool(receipts.find(number, ""))
    except NotFound:
        return False
