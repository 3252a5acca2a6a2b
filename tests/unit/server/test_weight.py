"""What a body costs to read is bounded before it is read, and texts are not mistaken for values."""

from __future__ import annotations

import asyncio
import json
import threading
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from redline.errors import TooLarge
from redline.server import schema
from redline.server.chat_schema import ChatBody
from redline.server.output_format import wanted_of
from redline.server.schema import body_of, decode
from redline.server.weight import _weight, check_weight

MESSAGE = {"role": "user", "content": "hi"}


@pytest.mark.parametrize(
    "value",
    ["{}", "[]", "[1]", '""', "1", '{"role":"user","content":""}', '{"a":""}', '"\\"\\\\"'],
)
def test_many_values_are_refused(value: str) -> None:
    data = b'{"messages":[' + b",".join([value.encode()] * (10_000_000 // (len(value) + 1))) + b"]}"
    with pytest.raises(TooLarge, match="too many values"):
        decode(data, ChatBody)


@pytest.mark.parametrize("text", ["{[,:", '"{', "\\", '\\"', 'x = {"a": [1, 2]}\n', "é,"])
def test_a_long_text_is_light_whatever_it_says(text: str) -> None:
    check_weight(json.dumps({"messages": [{**MESSAGE, "content": text * (4_000_000 // len(text))}]}).encode())


def test_what_long_contexts_need_is_taken() -> None:
    check_weight(json.dumps({"prompt": list(range(1_000_000))}).encode())
    node = {"type": "string", "description": "what it is"}
    tool = {"type": "function", "function": {"name": "f", "parameters": {"properties": {f"p{i}": node for i in range(20)}}}}
    check_weight(json.dumps({"messages": [MESSAGE] * 1000, "tools": [tool] * 1000}).encode())


_JSON = st.recursive(st.none() | st.integers() | st.text(), lambda of: st.lists(of) | st.dictionaries(st.text(), of))


@settings(max_examples=150, derandomize=True, deadline=None)
@given(value=_JSON, ascii=st.booleans())
def test_the_weight_is_that_of_the_values_alone(
    value: Any,
    ascii: bool,
) -> None:
    def weight(of: Any) -> int:
        if isinstance(of, str):
            return 3
        if isinstance(of, list):
            return 3 + sum(map(weight, of)) + max(0, len(of) - 1)
        if isinstance(of, dict):
            return 10 + sum(5 + weight(each) for each in of.values()) + max(0, len(of) - 1)
        return 0

    most = weight(value)
    data = json.dumps(value, ensure_ascii=ascii).encode("utf-8", "surrogatepass")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("redline.server.weight.MAX_WEIGHT", most)
        check_weight(data)
        patch.setattr("redline.server.weight.MAX_WEIGHT", most - 1)
        if most:
            with pytest.raises(TooLarge):
                check_weight(data)
    assert _weight(data) >= most


def test_a_schema_sent_as_text_is_weighed_too() -> None:
    body = decode(json.dumps({"messages": [MESSAGE], "guided_json": "[" + "{}," * 200_000 + "{}]"}).encode(), ChatBody)
    with pytest.raises(TooLarge):
        wanted_of(body)


def test_a_long_body_is_decoded_beside_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[bool] = []

    def spied(data: bytes, kind: type[ChatBody]) -> ChatBody:
        threads.append(threading.current_thread() is threading.main_thread())
        return decode(data, kind)

    monkeypatch.setattr(schema, "decode", spied)
    for length in (1, schema.INLINE_BYTES):
        data = json.dumps({"messages": [{**MESSAGE, "content": "x" * length}]}).encode()

        async def receive(data: bytes = data) -> dict[str, Any]:
            return {"type": "http.request", "body": data}

        assert asyncio.run(body_of(receive, ChatBody)).messages[0].content == "x" * length
    assert threads == [True, False]
