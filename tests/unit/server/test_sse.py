"""Events: one write per batch, an early error keeps its status, a late one ends the stream as an event, silence is filled."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, Iterable
from typing import Any

import pytest

from redline.errors import EngineDead
from redline.server import sse
from redline.server.sse import BEAT, DONE, event, send_events


def sent(*batches: list[object] | Exception | float) -> list[dict[str, Any]]:
    """The messages of a stream of `batches`; a number is seconds of silence."""
    messages: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        messages.append(message)

    async def source() -> AsyncGenerator[Iterable[object]]:
        for batch in batches:
            if isinstance(batch, Exception):
                raise batch
            if isinstance(batch, float):
                await asyncio.sleep(batch)
            else:
                yield batch

    asyncio.run(send_events(send, source()))
    return messages


def test_an_event_is_one_line_of_json_whatever_the_text() -> None:
    data = event({"text": 'line\nbreak "quoted" \u2028 é'})
    assert data.startswith(b"data: ") and data.endswith(b"\n\n") and data.count(b"\n") == 2
    assert json.loads(data[6:]) == {"text": 'line\nbreak "quoted" \u2028 é'}


def test_all_events_of_a_batch_leave_in_one_write_and_empty_batches_not_at_all() -> None:
    start, first, second, end = sent([], [1, 2], [], [3])
    assert start["type"] == "http.response.start" and start["status"] == 200
    assert first["body"] == event(1) + event(2) and second["body"] == event(3)
    assert end["body"] == DONE and not end.get("more_body")


def test_an_error_before_the_first_event_is_left_to_the_status_line() -> None:
    with pytest.raises(EngineDead):
        sent([], EngineDead("gone"))


def test_a_later_error_is_an_event_and_the_end() -> None:
    *_, end = sent([1], EngineDead("gone", hint="retry"))
    assert json.loads(end["body"][6:])["error"]["message"] == "gone (retry)" and not end.get("more_body")


def test_a_bug_in_a_stream_is_logged_and_not_told(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        *_, end = sent([1], KeyError("secret"))
    assert b"secret" not in end["body"] and json.loads(end["body"][6:])["error"]["code"] == "internal_error"
    assert "secret" in caplog.text


def test_silence_is_filled_with_comments_and_a_busy_stream_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "BEAT_S", 0.05)
    bodies = [message.get("body") for message in sent([1], 0.18, [2])]
    assert bodies[1] == event(1) and bodies[-2:] == [event(2), DONE]
    assert 2 <= bodies.count(BEAT) <= 3 and bodies[2:-2] == [BEAT] * bodies.count(BEAT)
    monkeypatch.setattr(sse, "BEAT_S", 0.2)
    assert BEAT not in [message.get("body") for message in sent(*([1], 0.05) * 8)]


def test_before_the_first_event_the_status_line_leaves_with_the_first_comment(monkeypatch: pytest.MonkeyPatch) -> None:
    """So an error after it can only be an event."""
    monkeypatch.setattr(sse, "FIRST_BEAT_S", 0.03)
    start, beat, end = sent(0.06, EngineDead("gone"))
    assert start["type"] == "http.response.start" and start["status"] == 200 and beat["body"] == BEAT
    assert json.loads(end["body"][6:])["error"]["code"] == "engine_dead"
    with pytest.raises(EngineDead):
        sent(0.01, EngineDead("gone"))
