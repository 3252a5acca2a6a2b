"""The wire between the two processes: nothing lost or reordered, nothing oversized taken, nobody held for ever."""

from __future__ import annotations

import dataclasses
import random
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from redline.config import EngineConfig, ModelConfig
from redline.engine import message
from redline.engine.message import (
    Cancel,
    Channel,
    ChannelClosed,
    Configure,
    EngineInfo,
    Failed,
    FrameReader,
    FromEngine,
    Output,
    Progress,
    Ready,
    Stats,
    Stop,
    Submit,
    ToEngine,
    error_of,
    failure_of,
    frame,
)
from redline.errors import ContextTooLong, InternalError
from redline.types import Chunk, Failure, Request, SamplingParams, TokenLogprob, Usage

INFO = EngineInfo(
    model="m", dtype="bfloat16", device="cpu", max_model_len=64, vocab_size=512, num_pages=9, page_size=16, eos_ids=(2,)
)
TO_ENGINE = [
    Configure(EngineConfig(model=ModelConfig(model="random:tiny", seed=7))),
    Submit.of(
        [Request(id="a", prompt=[1, 2], sampling=SamplingParams(logit_bias={3: -1.5}, stop=("x",), seed=-5), deadline=1.5)]
    ),
    Cancel(["a", "b"], 1),
    Stop(drain=False),
]
FROM_ENGINE = [
    Progress("loading weights", 62.5),
    Ready(INFO),
    Output(
        [
            Chunk(
                id="a",
                tokens=[5],
                logprobs=[TokenLogprob(5, -0.5, [(5, -0.5), (6, -1.5)])],
                prompt_logprobs=[None, TokenLogprob(2, -3.0)],
            ),
            Chunk(
                id="a", index=1, finish="stop", usage=Usage(prompt_tokens=2, completion_tokens=1), receipt={"x": [1, "y", None]}
            ),
        ]
    ),
    Stats(running=1, more={"spec": 2.0}),
    Failed(Failure(code="does_not_fit", message="no room", hint="a smaller context")),
]


@pytest.fixture
def pair() -> Iterator[tuple[Channel, socket.socket]]:
    ours, theirs = socket.socketpair()
    channel = Channel(theirs, stall_s=0.3)
    yield channel, ours
    channel.close()
    ours.close()


@pytest.mark.parametrize(("kind", "messages"), [(ToEngine, TO_ENGINE), (FromEngine, FROM_ENGINE)])
def test_every_message_survives_the_wire_cut_anywhere(kind: object, messages: list[message.Message]) -> None:
    data = b"".join(frame(m) for m in messages)
    rng = random.Random(0)
    for _ in range(50):
        reader, got, start = FrameReader(kind), [], 0
        while start < len(data):
            size = rng.randint(1, 90)
            got += reader.feed(data[start : start + size])
            start += size
        assert got == messages


def test_a_frame_that_announces_too_much_or_is_garbage_ends_the_connection() -> None:
    with pytest.raises(ChannelClosed, match="exceeds the limit"):
        FrameReader(ToEngine).feed((message.MAX_FRAME_BYTES + 1).to_bytes(4, "little"))
    with pytest.raises(ChannelClosed, match="cannot be read"):
        FrameReader(ToEngine).feed(b"\x02\0\0\0\xff\xff")
    with pytest.raises(ChannelClosed, match="cannot be read"):  # a message of the other direction
        FrameReader(ToEngine).feed(frame(FROM_ENGINE[0]))


def test_a_message_over_the_frame_limit_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(message, "MAX_FRAME_BYTES", 100)
    with pytest.raises(ValueError, match="exceeds the frame limit"):
        frame(Submit.of([Request(id="a", prompt=list(range(200)), sampling=SamplingParams())]))


def test_errors_keep_class_sentence_and_hint_across_the_boundary() -> None:
    error = error_of(failure_of(ContextTooLong("9 tokens of 8", hint="ask for less")))
    assert type(error) is ContextTooLong and error.sentence() == "9 tokens of 8 (ask for less)"
    assert type(error_of(Failure(code="who knows", message="x"))) is InternalError


def test_every_config_field_crosses() -> None:
    (configure,) = FrameReader(ToEngine).feed(frame(TO_ENGINE[0]))
    assert dataclasses.asdict(configure.config) == dataclasses.asdict(TO_ENGINE[0].config)  # type: ignore[union-attr]


def test_poll_returns_at_once_waits_a_while_or_wakes_on_arrival(pair: tuple[Channel, socket.socket]) -> None:
    channel, ours = pair
    assert channel.poll() == []
    start = time.monotonic()
    assert channel.poll(0.05) == []
    assert time.monotonic() - start >= 0.045
    threading.Timer(0.02, ours.sendall, [b"".join(frame(m) for m in TO_ENGINE)]).start()
    got = channel.poll(None)
    while len(got) < len(TO_ENGINE):
        got += channel.poll(1.0)
    assert got == TO_ENGINE


def test_poll_hands_over_the_last_messages_before_it_reports_the_end(pair: tuple[Channel, socket.socket]) -> None:
    channel, ours = pair
    ours.sendall(frame(Stop()))
    ours.close()
    assert channel.poll() == [Stop()]
    with pytest.raises(ChannelClosed, match="closed the connection"):
        channel.poll(None)


def test_send_to_a_gone_process_raises(pair: tuple[Channel, socket.socket]) -> None:
    channel, ours = pair
    ours.close()
    with pytest.raises(ChannelClosed):
        channel.send(FROM_ENGINE[0])


def test_a_slow_reader_does_not_hold_the_sender_and_loses_nothing(pair: tuple[Channel, socket.socket]) -> None:
    channel, ours = pair
    sent = [Output([Chunk(id="a", tokens=list(range(i, i + 1000)))]) for i in range(1000)]  # far over the socket's buffer
    start = time.monotonic()
    for output in sent:
        channel.send(output)
    assert time.monotonic() - start < 2.0
    poller = threading.Thread(target=channel.poll, args=(3.0,))  # an idle engine still sends what is pending
    poller.start()
    reader, got = FrameReader(FromEngine), []
    while len(got) < len(sent):
        got += reader.feed(ours.recv(1 << 20))
    ours.sendall(frame(Stop()))
    poller.join()
    assert got == sent


def test_a_reader_that_takes_nothing_for_the_stall_time_counts_as_gone(pair: tuple[Channel, socket.socket]) -> None:
    channel, _ = pair
    big = Output([Chunk(id="a", tokens=[70_000] * 1_000_000)])
    with pytest.raises(ChannelClosed, match="took nothing"):
        for _ in range(20):
            channel.send(big)


def test_sends_from_many_threads_arrive_whole_and_in_order_per_thread(pair: tuple[Channel, socket.socket]) -> None:
    channel, ours = pair

    def run(name: str) -> None:
        for i in range(200):
            channel.send(Progress(name, float(i)))

    def poll() -> None:
        while not channel.poll(0.02):  # each sends what was left pending before it
            pass

    threads = [threading.Thread(target=run, args=(str(n),)) for n in range(4)]
    threads.append(threading.Thread(target=poll))
    for thread in threads:
        thread.start()
    reader, got = FrameReader(FromEngine), []
    while len(got) < 800:
        got += reader.feed(ours.recv(4096))
    ours.sendall(frame(Stop()))
    for thread in threads:
        thread.join()
    for name in map(str, range(4)):
        assert [p.percent for p in got if p.stage == name] == list(range(200))


def test_a_closed_channel_says_so(pair: tuple[Channel, socket.socket]) -> None:
    channel, _ = pair
    channel.close()
    for use in (lambda: channel.send(Stop()), lambda: channel.poll(1.0)):
        with pytest.raises(ChannelClosed):
            use()
