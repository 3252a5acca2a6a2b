"""The engine process: `python -m redline.engine.worker FD`, started by launch.py.

Loads the model named by the first message, says Ready, then turns the loop and the socket: messages in, one step,
chunks out. It ends when told to stop, when the socket closes, or after an error it has reported. Knows nothing of HTTP
or text. Open `serve` first.
"""

from __future__ import annotations

import socket
import sys
import time
from typing import TYPE_CHECKING, Any

from redline import env, log
from redline.config import EngineConfig
from redline.engine.message import (
    Cancel,
    Channel,
    ChannelClosed,
    Configure,
    Failed,
    Output,
    Progress,
    Ready,
    Stop,
    Submit,
    failure_of,
)
from redline.errors import InternalError, RedlineError, TooLarge
from redline.types import Chunk

if TYPE_CHECKING:
    from redline.engine.build import Engine
    from redline.engine.loop import Loop

STATS_EVERY_S = 1.0


def main(argv: list[str]) -> int:
    """Serve the socket with file descriptor `argv[1]`; 0 after an orderly end, 1 after a failure."""
    log.setup(env.log_level())
    channel = Channel(socket.socket(fileno=int(argv[1])))
    try:
        configure = _first(channel)
        return serve(channel, configure.config)
    except ChannelClosed as closed:
        log.get("engine").info("engine ends: %s", closed)
        return 0
    finally:
        channel.close()


def serve(channel: Channel, config: EngineConfig) -> int:
    """Load and run until stopped. Every failure is reported as `Failed` before the process ends."""
    try:
        # Torch loads here, after the socket is known to work, so that a wrong call costs nothing.
        from redline.engine.build import build

        engine = build(config, lambda stage, percent: channel.send(Progress(stage, percent)))
        channel.send(Ready(engine.info))
        _turn(channel, engine)
    except ChannelClosed:
        raise
    except RedlineError as error:
        channel.send(Failed(failure_of(error)))
        return 1
    except Exception as error:
        log.get("engine").exception("the engine failed")
        channel.send(Failed(failure_of(InternalError(f"the engine failed: {type(error).__name__}: {error}"))))
        return 1
    return 0


def _turn(channel: Channel, engine: Engine) -> None:
    """Messages in, a step, chunks out, until told to stop. Waits for messages only when there is nothing to compute."""
    loop, open_for_work, told = engine.loop, True, 0.0
    while open_for_work or loop.has_work:
        messages = channel.poll(0 if loop.has_work else STATS_EVERY_S)
        for message in messages:
            open_for_work = _obey(message, loop) and open_for_work
        if not (messages or loop.has_work or engine.measured):
            engine.measure()  # once in a machine's life, and never while a request waits
        if loop.has_work:
            loop.step()
        chunks = loop.take()
        if chunks:
            _send(channel, loop, chunks)
        elif not loop.has_work:
            loop.check()
        if (now := time.monotonic()) - told >= STATS_EVERY_S:
            channel.send(loop.stats)
            told = now
    loop.close()


def _send(channel: Channel, loop: Loop, chunks: list[Chunk]) -> None:
    """What one step produced, in as many messages as it takes; a chunk that fits into none ends its request."""
    try:
        channel.send(Output(chunks))
    except ValueError:
        if len(chunks) > 1:
            middle = len(chunks) // 2
            _send(channel, loop, chunks[:middle])
            _send(channel, loop, chunks[middle:])
            return
        (chunk,) = chunks
        error = TooLarge("the log-probabilities are too large for one message", hint="ask for fewer", param="prompt_logprobs")
        loop.fail(chunk.id, failure_of(error))
        if chunk.finish is not None:  # the loop has ended this choice already, and its end is what does not fit
            channel.send(Output([Chunk(id=chunk.id, index=chunk.index, finish="error", failure=failure_of(error))]))


def _obey(message: Any, loop: Loop) -> bool:
    """Do what `message` asks; False if it asked to stop."""
    if isinstance(message, Submit):
        for request in message.requests:
            loop.submit(request)
    elif isinstance(message, Cancel):
        for id in message.ids:
            loop.cancel(id, message.index)
    elif isinstance(message, Stop):
        if not message.drain:
            loop.cancel_all()
        return False
    return True


def _first(channel: Channel) -> Configure:
    """The configuration, which the other side sends before anything else. Raises ChannelClosed."""
    messages = channel.poll(None)
    if not messages or not isinstance(messages[0], Configure):
        raise ChannelClosed("the first message was not a configuration")
    return messages[0]


if __name__ == "__main__":
    sys.exit(main(sys.argv))
