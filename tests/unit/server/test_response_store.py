"""Stored responses: nobody sees another's, chains end somewhere, what is kept is bounded, and what ran has one end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from redline.errors import InvalidRequest, NotFound
from redline.server import response_store
from redline.server.database import Database
from redline.server.lease import Lease
from redline.server.paging import Page
from redline.server.response_store import MIGRATIONS, ResponseStore

Json = dict[str, Any]


def run(test: Callable[[ResponseStore], Awaitable[None]], folder: Path | None = None) -> None:
    database = Database(":memory:" if folder is None else folder / "responses.sqlite", MIGRATIONS)
    lease = Lease(None if folder is None else folder / "locks")
    try:
        asyncio.run(test(ResponseStore(database, lease)))  # type: ignore[arg-type]
    finally:
        database.close()
        lease.release()


def document(id: str, *, previous: str | None = None, status: str = "completed", output: str | None = None) -> Json:
    items = [item(f"{id}-out", output)] if output is not None else []
    return {"id": id, "previous_response_id": previous, "status": status, "background": False, "output": items}


def item(id: str, text: str = "") -> Json:
    return {"id": id, "type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}


def test_what_was_put_comes_back_even_from_a_new_process(tmp_path: Path) -> None:
    told = document("a", output="out")

    async def put(store: ResponseStore) -> None:
        await store.put("me", told, [item("a-in", "in")])

    async def get(store: ResponseStore) -> None:
        assert await store.get("me", "a") == told
        assert await store.input_items("me", "a", Page(9, None, False)) == ([item("a-in", "in")], False)
        await store.delete("me", "a")
        with pytest.raises(NotFound):
            await store.get("me", "a")

    run(put, tmp_path)
    assert (tmp_path / "responses.sqlite").stat().st_mode & 0o077 == 0
    run(get, tmp_path)


def test_another_callers_response_is_not_there() -> None:
    async def test(store: ResponseStore) -> None:
        await store.put("me", document("a", output="secret"), [item("a-in", "secret")])
        for tenant in ("you", "", "me "):
            attempts: list[Awaitable[Any]] = [
                store.get(tenant, "a"),
                store.delete(tenant, "a"),
                store.input_items(tenant, "a", Page(1, None, False)),
                store.chain(tenant, "a", set()),
            ]
            for attempt in attempts:
                with pytest.raises(NotFound):
                    await attempt
            assert await store.chain(tenant, None, {"a-in", "a-out"}) == ([], {})
            await store.change(tenant, document("a", status="failed"))
        assert (await store.get("me", "a"))["output"] == [item("a-out", "secret")]

    run(test)


def test_a_chain_is_all_turns_and_never_another_callers() -> None:
    async def test(store: ResponseStore) -> None:
        await store.put("me", document("a", output="2"), [item("a-in", "1")])
        await store.put("me", document("b", previous="a", output="4"), [item("b-in", "3")])
        await store.put("you", document("c", output="x"), [item("c-in", "x")])
        items, found = await store.chain("me", "b", {"a-out", "c-in", "none"})
        assert [each["content"][0]["text"] for each in items] == ["1", "2", "3", "4"]
        assert found == {"a-out": item("a-out", "2")}
        pages, more = await store.input_items("me", "b", Page(2, None, False))
        assert [each["id"] for each in pages] == ["a-in", "a-out"] and more
        pages, more = await store.input_items("me", "b", Page(2, "a-out", True))
        assert [each["id"] for each in pages] == ["a-in"] and not more
        with pytest.raises(NotFound) as caught:
            await store.input_items("me", "b", Page(2, "c-in", False))
        assert caught.value.param == "after"

    run(test)


def test_a_chain_with_a_lost_turn_is_refused_and_never_cut_short() -> None:
    async def test(store: ResponseStore) -> None:
        await store.put("me", document("a"), [item("a-in")])
        await store.put("me", document("b", previous="a"), [item("b-in")])
        await store.delete("me", "a")
        with pytest.raises(NotFound, match="not kept any more") as caught:
            await store.chain("me", "b", set())
        assert caught.value.param == "previous_response_id"

    run(test)


@pytest.mark.parametrize(("links", "size"), [(300, 1), (3, 6 << 20)])
def test_a_chain_is_bounded_in_length_and_size(links: int, size: int) -> None:
    async def test(store: ResponseStore) -> None:
        previous = None
        for number in range(links):
            await store.put("me", document(str(number), previous=previous), [item(f"{number}-in", "x" * size)])
            previous = str(number)
        with pytest.raises(InvalidRequest, match="longer than") as caught:
            await store.chain("me", previous, set())
        assert caught.value.param == "previous_response_id"
        assert len((await store.chain("me", "1", set()))[0]) == 2

    run(test)


def test_a_circle_that_a_damaged_file_may_have_ends() -> None:
    async def test(store: ResponseStore) -> None:
        await store.put("me", document("a", previous="b"), [item("a-in")])
        await store.put("me", document("b", previous="a"), [item("b-in")])
        with pytest.raises(InvalidRequest, match="longer than"):
            await store.chain("me", "a", set())

    run(test)


def test_the_oldest_of_a_caller_go_first_and_no_one_elses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(response_store, "MAX_CALLER_RESPONSES", 3)

    async def test(store: ResponseStore) -> None:
        await store.put("you", document("yours"), [])
        for id in "abcde":
            await store.put("me", document(id), [item(id)])
        kept = [id for id in ("yours", *"abcde") if await there(store, "you" if id == "yours" else "me", id)]
        assert kept == ["yours", "c", "d", "e"]
        assert await store.chain("me", None, {"a"}) == ([], {})  # their items went with them

    run(test)


def test_bytes_are_bounded_for_a_caller_and_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(response_store, "MAX_CALLER_BYTES", 10_000)
    monkeypatch.setattr(response_store, "MAX_BYTES", 25_000)

    async def test(store: ResponseStore) -> None:
        for tenant in "wxyz":
            for number in range(4):
                await store.put(tenant, document(f"{tenant}{number}"), [item("i", "x" * 3000)])
        kept = [id for tenant in "wxyz" for number in range(4) if await there(store, tenant, id := f"{tenant}{number}")]
        assert kept == ["x3", "y1", "y2", "y3", "z1", "z2", "z3"]

    run(test)


def test_the_totals_that_bound_the_store_are_its_content() -> None:
    async def test(store: ResponseStore) -> None:
        for number in range(5):
            await store.put("me", document(str(number), status="queued"), [item("i", "x" * number)])
        await store.change("me", document("1", output="long answer"))
        await store.delete("me", "2")
        await store.put("you", document("a"), [])
        await store.delete("you", "a")
        row = store._database.run(lambda c: [tuple(row) for row in c.execute("SELECT * FROM totals")])
        counted = store._database.run(
            lambda c: [tuple(row) for row in c.execute("SELECT tenant, COUNT(*), SUM(bytes) FROM responses GROUP BY tenant")]
        )
        assert row == counted and row[0][:2] == ("me", 4)

    run(test)


def test_age_ends_a_response_but_not_one_that_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(store: ResponseStore) -> None:
        await store.put("me", document("old"), [])
        await store.put("me", document("running", status="in_progress"), [])
        monkeypatch.setattr(response_store, "MAX_AGE_S", 0.0)
        await store.put("me", document("new"), [])
        assert not await there(store, "me", "old") and await there(store, "me", "running")

    run(test)


def test_a_response_that_runs_ends_once() -> None:
    async def test(store: ResponseStore) -> None:
        await store.put("me", document("a", status="queued"), [])
        with pytest.raises(InvalidRequest, match="still runs"):
            await store.chain("me", "a", set())
        await store.change("me", document("a", status="in_progress"))
        await store.change("me", document("a", status="cancelled"))
        await store.change("me", document("a", output="too late"))
        store.change_now("me", document("a", status="failed"))
        assert (await store.get("me", "a")) == document("a", status="cancelled")
        assert await store.ended(["a"]) == ["a"]

    run(test)


def test_a_response_whose_server_died_has_failed(tmp_path: Path) -> None:
    async def first(store: ResponseStore) -> None:
        await store.put("me", document("a", status="in_progress"), [item("a-in")])
        await store.put("me", document("b", status="queued"), [item("b-in")])
        assert await store.ended(["a", "b"]) == []

    async def second(store: ResponseStore) -> None:
        told = await store.get("me", "a")
        assert told["status"] == "failed" and told["error"]["code"] == "server_error"
        assert [each["id"] for each in (await store.chain("me", "a", set()))[0]] == ["a-in"]
        await store.put("me", document("c", status="queued"), [])  # writes down what has become of the others
        assert await store.ended(["a", "b", "c"]) == ["a", "b"]
        assert await store.get("me", "a") == told
        await store.change("me", document("a", output="a ghost's answer"))
        assert await store.get("me", "a") == told and (await store.get("me", "c"))["status"] == "queued"

    run(first, tmp_path)
    run(second, tmp_path)


async def there(store: ResponseStore, tenant: str, id: str) -> bool:
    try:
        await store.get(tenant, id)
    except NotFound:
        return False
    return True
