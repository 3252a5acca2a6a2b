"""API keys: how one is written, what is kept of it, and that the keys in memory follow the file."""

from __future__ import annotations

import asyncio
import hashlib
import math
import sqlite3
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from redline.errors import ExpiredKey, InvalidKey, InvalidRequest, MalformedKey, NotFound, RevokedKey
from redline.server import keys
from redline.server.database import Database
from redline.server.keys import Changes, KeyRing, Settings, id_of, new_token


def run(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 20))  # type: ignore[arg-type]


def opened(path: Path) -> Database:
    return Database(path / keys.FILE, keys.MIGRATIONS)


def test_a_key_has_256_random_bits_and_says_its_id() -> None:
    tokens = {new_token("abcDEF12") for _ in range(200)}
    assert len(tokens) == 200 and {id_of(token.encode()) for token in tokens} == {"abcDEF12"}
    secrets = [token[len("rl-abcDEF12-") : -6] for token in tokens]
    assert {len(secret) for secret in secrets} == {43} and 62**43 > 2**256
    assert all(len({secret[i] for secret in secrets}) > 30 for i in range(1, 43)), "every digit varies; the first has few values"


@given(position=st.integers(0, 60), other=st.sampled_from("09AZaz-_ \x00\xe9"), cut=st.integers(1, 60))
def test_one_wrong_character_or_a_cut_is_seen_without_a_look_at_the_file(position: int, other: str, cut: int) -> None:
    token = "rl-abcDEF12-3WZ0Hq8yXoLr2PdNv5TkCmB1sQeUjGfA9iKxRtYwMn4"
    token += keys._checksum(token)
    assert len(token) == 61 and id_of(token.encode()) == "abcDEF12"
    changed = token[:position] + other + token[position + 1 :]
    if changed != token:
        assert id_of(changed.encode()) is None
    assert id_of(token[:cut].encode() if cut < 61 else b"") is None and id_of((token + "0").encode()) is None


def test_nothing_in_the_file_opens_anything(tmp_path: Path) -> None:
    database = opened(tmp_path)
    key, token = database.run(lambda connection: keys.add(connection, Settings(name="Ada")))
    database.close()
    secret = token[len(f"rl-{key.id}-") :]
    for path in tmp_path.iterdir():
        assert secret.encode() not in path.read_bytes() and path.stat().st_mode & 0o077 == 0
    (row,) = sqlite3.connect(tmp_path / keys.FILE).execute("SELECT hash FROM keys")
    assert row[0] == hashlib.sha256(token.encode()).digest()
    assert "token" not in key.document() and token not in str(key.document())


def test_the_ring_tells_wrong_keys_apart_only_for_who_has_the_whole_key() -> None:
    async def test() -> None:
        database = Database(":memory:", keys.MIGRATIONS)
        ring = KeyRing(database)
        good, token = await ring.make(Settings(name="good", priority=2, weight=3.0, models=("m",)))
        over, over_token = await ring.make(Settings(name="over", expires=int(time.time()) + 1000))
        gone, gone_token = await ring.make(Settings(name="gone"))
        await ring.update(over.id, Changes(expires=1))
        await ring.revoke(gone.id)
        caller = ring.find(token.encode()).caller
        assert (caller.id, caller.name, caller.priority, caller.weight, caller.models) == (good.id, "good", 2, 3.0, {"m"})
        assert caller.scopes == {"inference", "files", "read"}
        with pytest.raises(ExpiredKey):
            ring.find(over_token.encode())
        with pytest.raises(RevokedKey):
            ring.find(gone_token.encode())
        for text in ("", "rl-", "sk-proj-1234", token[:-1], token + "x", token.upper()):
            with pytest.raises(MalformedKey):
                ring.find(text.encode())
        told = set()
        for key_id in (good.id, over.id, gone.id, "AAAAAAAA"):  # with another secret: is there such a key?
            with pytest.raises(InvalidKey) as caught:
                ring.find(new_token(key_id).encode())
            told.add((type(caught.value), str(caught.value)))
        assert told == {(InvalidKey, "this API key is not known here")}
        assert len(ring) == 3, "revoked keys stay, or the server would open when the last one is revoked"
        database.close()

    run(test)


def test_the_ring_follows_another_process_within_its_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        database, other = opened(tmp_path), opened(tmp_path)
        ring = KeyRing(database)
        key, token = other.run(lambda connection: keys.add(connection, Settings(name="Ada")))
        await ring.follow()
        assert len(ring) == 0, "not looked at again yet"
        monkeypatch.setattr(keys, "TTL_S", 0.0)
        await asyncio.gather(*(ring.follow() for _ in range(50)))
        assert ring.find(token.encode()).id == key.id
        other.run(lambda connection: keys.revoke(connection, key.id))
        await ring.follow()
        with pytest.raises(RevokedKey):
            ring.find(token.encode())
        database.close()
        other.close()

    run(test)


def test_a_file_that_cannot_be_read_again_leaves_the_known_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that fails must not turn every request into a 500, and must not open the server."""

    async def test() -> None:
        monkeypatch.setattr(keys, "TTL_S", 0.01)
        database = opened(tmp_path)
        ring = KeyRing(database)
        _, token = await ring.make(Settings(name="Ada"))

        async def broken(work: object) -> object:
            raise sqlite3.OperationalError("disk I/O error")

        monkeypatch.setattr(database, "read", broken)
        await asyncio.sleep(0.02)
        await ring.follow()
        assert ring.find(token.encode()) and len(ring) == 1
        database.close()

    run(test)


def test_a_revocation_is_not_lost_when_its_caller_leaves_or_an_older_look_ends_later() -> None:
    async def test() -> None:
        database = Database(":memory:", keys.MIGRATIONS)
        ring = KeyRing(database)
        key, token = await ring.make(Settings(name="Ada"))
        for _ in range(20):  # a look is under way, the revocation is asked for, and its caller is gone at once
            ring._checked = -math.inf
            looking = asyncio.ensure_future(ring.follow())
            await asyncio.sleep(0)
            revoking = asyncio.ensure_future(ring.revoke(key.id))
            await asyncio.sleep(0)
            revoking.cancel()
            await asyncio.gather(looking, revoking, return_exceptions=True)
            await ring.follow()
            with pytest.raises(RevokedKey):
                ring.find(token.encode())
            key, token = await ring.make(Settings(name="Ada"))
        database.close()

    run(test)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"name": ""}, "name"),
        ({"name": "x" * 101}, "name"),
        ({"name": "a\nb"}, "name"),
        ({"scopes": ()}, "scopes"),
        ({"scopes": ("open",)}, "scopes"),
        ({"models": ()}, "models"),
        ({"models": ("",)}, "models"),
        ({"expires": 1}, "expires"),
        ({"expires": -5}, "expires"),
        ({"tokens_per_minute": 0}, "tokens_per_minute"),
        ({"tokens_per_day": 10**16}, "tokens_per_day"),
        ({"concurrency": -1}, "concurrency"),
        ({"requests_per_minute": 0}, "requests_per_minute"),
        ({"priority": 1 << 40}, "priority"),
        ({"weight": 0.0}, "weight"),
        ({"weight": float("nan")}, "weight"),
        ({"weight": float("inf")}, "weight"),
    ],
)
def test_settings_that_make_no_sense_are_refused_by_name(fields: dict[str, Any], param: str) -> None:
    database = Database(":memory:", keys.MIGRATIONS)
    with pytest.raises(InvalidRequest) as caught:
        database.run(lambda connection: keys.add(connection, Settings(**{"name": "a", **fields})))
    assert caught.value.param == param and database.run(keys.every) == []
    database.close()


def test_changes_name_every_setting_and_null_takes_a_limit_away() -> None:
    assert set(Changes.__struct_fields__) == set(Settings.__struct_fields__)
    before = Settings(name="a", tokens_per_day=5, models=("m",), weight=2.0)
    body = msgspec.json.decode(b'{"tokens_per_day": null, "concurrency": 3}', type=Changes)
    assert body.of(before) == Settings(name="a", concurrency=3, models=("m",), weight=2.0)
    with pytest.raises(InvalidRequest, match="weight"):
        Changes(weight=-1.0).of(before)
    database = Database(":memory:", keys.MIGRATIONS)
    for change in (lambda c: keys.update(c, "x" * 9999, Changes()), lambda c: keys.revoke(c, "nope")):
        with pytest.raises(NotFound) as caught:
            database.run(change)
        assert len(str(caught.value)) < 200
    database.close()


def test_finding_a_key_costs_microseconds() -> None:
    async def test() -> None:
        database = Database(":memory:", keys.MIGRATIONS)
        ring = KeyRing(database)
        tokens = [(await ring.make(Settings(name=f"k{i}")))[1].encode() for i in range(50)]
        best = 1.0
        for _ in range(5):
            began = time.perf_counter()
            for token in tokens * 10:
                await ring.follow()
                ring.find(token)
            best = min(best, (time.perf_counter() - began) / 500)
        assert best < 100e-6, f"{best * 1e6:.1f} us"  # about 6 us on an idle core
        database.close()

    run(test)
