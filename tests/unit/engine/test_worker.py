"""The engine process's end of the socket: what one step produced travels in as many messages as it takes."""

from __future__ import annotations

import socket
from typing import cast

import pytest

from redline.engine.loop import Loop
from redline.engine.message import Channel, FromEngine, Output
from redline.engine.worker import _send
from redline.types import Chunk, TokenLogprob


class FakeLoop:
    def __init__(self) -> None:
        self.cancelled: list[str] = []

    def cancel(self, id: str) -> None:
        self.cancelled.append(id)


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
    assert [chunk.id for chunk in got] == [chunk.id for chunk in chunks]
    assert [chunk.finish for chunk in got].count("error") == 1 and loop.cancelled == ["large"]
    assert got[4].failure is not None and got[4].failure.code == "too_large"
