"""`--unknown-fields warn`: what nobody knows is dropped and named, wherever it is; everything else stays as strict as it was."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest

from fake_server import live
from redline.server.exchange import MAX_WARNINGS, Exchange
from redline.server.schema import Record
from redline.server.unknown import MAX_DROPPED, converted

CHAT = "/v1/chat/completions"


class Inner(Record, frozen=True, kw_only=True):
    a: int = 0


class Outer(Record, frozen=True, kw_only=True):
    one: Inner | None = None
    many: list[Inner] = []
    named: dict[str, Inner] = {}
    numbers: dict[int, float] = {}


def read(value: Any) -> tuple[Outer, list[str]]:
    exchange = Exchange(id="")
    return converted(value, Outer, exchange), exchange.warnings


def test_unknown_fields_are_dropped_at_every_depth_and_named_by_their_place() -> None:
    body, warnings = read({"x": 1, "one": {"a": 1, "y": 2}, "many": [{"a": 2}, {"z": 3, "a": 4}], "numbers": {"7": 1}})
    assert body == Outer(one=Inner(a=1), many=[Inner(a=2), Inner(a=4)], numbers={7: 1.0})
    assert sorted(warnings) == [f"there is no field {name}: ignored" for name in ("many[1].z", "one.y", "x")]


@pytest.mark.parametrize("value", [{"one": {"a": "text"}}, {"many": {}}, {"one": {"a": 1.5}, "x": 1}, [], 3])
def test_a_wrong_type_is_still_an_error(value: Any) -> None:
    with pytest.raises(msgspec.ValidationError):
        read(value)


def test_a_field_in_a_map_of_free_keys_is_still_an_error() -> None:
    with pytest.raises(msgspec.ValidationError, match="unknown"):
        read({"named": {"k": {"x": 1}}})


def test_many_unknown_fields_end_in_an_error_and_a_short_header() -> None:
    with pytest.raises(msgspec.ValidationError, match="unknown"):
        read({f"x{i}": i for i in range(MAX_DROPPED + 1)})
    _, warnings = read({f"x{i}": i for i in range(MAX_DROPPED)})
    assert len(warnings) == MAX_WARNINGS


def test_the_header_names_them_and_the_answer_is_the_same() -> None:
    async def test() -> None:
        body = {"messages": [{"role": "user", "content": "hello", "colour": 1}], "temprature": 0, "a\r\nset-cookie: é": 1}
        async with live(server={"unknown_fields": "warn"}) as server:
            answer = await server.http.post(CHAT, json=body)
            assert answer.status_code == 200 and answer.json()["choices"][0]["message"]["content"] == "hello"
            told = answer.headers["x-redline-warnings"]
            assert "messages[0].colour" in told and "temprature" in told and "set-cookie" in told
            assert "set-cookie" not in answer.headers
            clean = await server.http.post(CHAT, json={"messages": [{"role": "user", "content": "hello"}]})
            assert "x-redline-warnings" not in clean.headers
            wrong = await server.http.post(CHAT, json={**body, "temperature": "hot"})
            assert wrong.status_code == 400 and wrong.json()["error"]["param"] == "temperature"
        async with live() as server:
            refused = await server.http.post(CHAT, json=body)
            assert refused.status_code == 400 and "x-redline-warnings" not in refused.headers

    run(test)


def test_two_requests_at_once_do_not_hear_of_each_others_fields() -> None:
    async def test() -> None:
        async with live(server={"unknown_fields": "warn"}) as server:
            bodies = [{"messages": [{"role": "user", "content": "hello"}], f"odd{i}": 1} for i in range(8)]
            answers = await asyncio.gather(*(server.http.post(CHAT, json=body) for body in bodies))
            assert [a.headers["x-redline-warnings"] for a in answers] == [f"there is no field odd{i}: ignored" for i in range(8)]

    run(test)


def run(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 20))  # type: ignore[arg-type]
