"""The engine process's end of the socket: what one step produced travels in as many messages as it takes."""

from __future__ import annotations

import socket
from typing import cast

import pytest

from redline.engine.loop import Loop
from redline.engine.message import Channel, FromEngine, Output
from redline.engine.worker import _send
from redline.types import Chunk, Failure, TokenLogprob


class FakeLoop:
    def __init__(self) -> None:
        self.failed: list[tuple[str, str]] = []

    def fail(self, id: str, failure: Failure) -> None:
        self.failed.append((id, failure.code))


def test_output_too_large_for_one_message_is_cut_and_a_chunk_too_large_ends_its_request_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("redline.engine.message.MAX_FRAME_BYTES", 1000)
    ours, theirs = socket.socketpair()
    loop = FakeLoop()
    large: list[TokenLogprob | None] = [TokenLogprob(i, -0.5) for i in range(500)]
    chunks = [Chunk(id=f"r{i}", tokens=list(range(100))) for i in range(9)]
    chunks.insert(4, Chunk(id="large", prompt_logprobs=large))
    sending, reading = Channel(theirs), Channel(ours, FromEngine)
    _send(sending, cast(Loop, loop), chunks)
    got = [chunk for message in reading.poll(1) if isinstance(message, Output) for chunk in message.chunks]
    sending.close()
    reading.close()
    assert [chunk.id for chunk in got] == [chunk.id for chunk in chunks if chunk.id != "large"]
    assert loop.failed == [("large", "too_large")]


def test_an_end_that_does_not_fit_is_told_as_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop has ended the choice, so nobody else will."""
    monkeypatch.setattr("redline.engine.message.MAX_FRAME_BYTES", 1000)
    ours, theirs = socket.socketpair()
    sending, reading = Channel(theirs), Channel(ours, FromEngine)
    large: list[TokenLogprob | None] = [TokenLogprob(i, -0.5) for i in range(500)]
    _send(sending, cast(Loop, FakeLoop()), [Chunk(id="large", prompt_logprobs=large, finish="length")])
    got = [chunk for message in reading.poll(1) if isinstance(message, Output) for chunk in message.chunks]
    sending.close()
    reading.close()
    assert [(chunk.finish, chunk.failure and chunk.failure.code) for chunk in got] == [("error", "too_large")]
