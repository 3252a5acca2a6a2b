"""The engine process: `python -m redline.engine.worker FD`, started by launch.py.

Loads the model named by the first message, says Ready, then turns the loop and the socket: messages in, one step,
chunks out. Whoever listens hears it at least every second, or is told before how long it will be silent (`Voice`), so silence
means that it is stuck. It ends when told to stop, when the socket closes, or after an error it has reported; a device that
answers nothing but errors is such an error. Knows nothing of HTTP or text. Open `serve` first.
"""

from __future__ import annotations

import contextlib
import gc
import socket
import sys
import time
from typing import TYPE_CHECKING, Any

import msgspec

from redline import env, log
from redline.config import EngineConfig
from redline.engine.early import Early
from redline.engine.message import (
    Cancel,
    Channel,
    ChannelClosed,
    Configure,
    Expect,
    Failed,
    Message,
    Output,
    Progress,
    Ready,
    Stop,
    Submit,
    failure_of,
)
from redline.engine.stages import IMPORTING, Stages, process_began
from redline.engine.step_time import StepTime
from redline.errors import InternalError, RedlineError, TooLarge
from redline.types import Chunk

if TYPE_CHECKING:
    from redline.engine.build import Engine
    from redline.engine.draft import Plan
    from redline.engine.loop import Loop

STATS_EVERY_S = 1.0
ANNOUNCED_S = 0.5  # a longer step is announced
QUIET_S = 0.25  # after so long without a word the next step is announced, however short
MEASURE_S = 5.0  # what measuring the machine takes at the most
PREPARE_S = 5.0  # the same for a piece of what is left to prepare, kernels that it compiles not counted
COMPILE_S = 20.0  # the same for one kernel
MOST_FAILED_STEPS = 16  # one after the other


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
        stages = Stages(lambda stage, percent: channel.send(Progress(stage, percent)), began=process_began())
        stages(IMPORTING, 0)
        with contextlib.closing(Early(config.model.model, config.model.revision, config.device.device)):
            # Torch loads here, after the socket is known to work, so that a wrong call costs nothing.
            from redline.engine.build import build

            engine = build(config, stages, has_idle_moments=True)
            channel.send(Ready(engine.info))
        voice = Voice(channel, StepTime(engine.loop.meter, on_cpu=engine.info.device == "cpu", window=_window(engine)))
        if engine.info.device != "cpu":
            _announce_compilations(voice)
        _freeze()  # after Ready, for it takes a moment
        try:
            _turn(voice, engine)
        finally:
            engine.keeper.close()
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


class Voice:
    """Sends, and announces what will keep the engine silent for long. `compiling` may be called from any thread."""

    def __init__(self, channel: Channel, step_time: StepTime) -> None:
        self.channel = channel
        self._step_time = step_time
        self._said = time.monotonic()
        self._expected = Expect(0.0)
        self._compiling_since = 0.0
        self._compiled_s = 0.0  # within the step that is being waited for
        self._ended: tuple[Plan, float] | None = None  # a step that is to be learned from, and its seconds

    def send(self, message: Message) -> None:
        self.channel.send(message)
        self._said = time.monotonic()

    def expect(self, seconds: float, what: str) -> None:
        """Announce `seconds` of silence if it matters: they are many, or nothing was said for a while."""
        self._expected = Expect(seconds, what)
        if seconds > ANNOUNCED_S or time.monotonic() - self._said > QUIET_S:
            self.send(self._expected)

    def step(self, loop: Loop) -> None:
        """One step of the loop, announced if it is long. Call `learn` when those were told who wait for what it brought."""
        waits_for, failed = loop.in_flight, loop.failed_steps
        self._compiled_s = 0.0
        if waits_for is not None:
            self.expect(self._step_time.predict(waits_for), "a step")
        else:  # a step is started, and none waited for: nobody needs to hear of that before
            self._expected = Expect(0.0)
        began = time.monotonic()
        loop.step()
        if waits_for is not None and loop.failed_steps <= failed:
            self._ended = waits_for, max(0.0, time.monotonic() - began - self._compiled_s)

    def learn(self) -> None:
        """Remember how long the last step took, for announcements of later ones."""
        if self._ended is not None:
            self._step_time.learn(*self._ended)
            self._ended = None

    def compiling(self, what: str | None) -> None:
        """A kernel is compiled now (`what`), or was (None), in the midst of something else."""
        if what is not None:
            self._compiling_since = time.monotonic()
            self.send(Expect(COMPILE_S, f"compiling {what}"))
        else:
            self._compiled_s += time.monotonic() - self._compiling_since
            self.send(self._expected)


def _turn(voice: Voice, engine: Engine) -> None:
    """Messages in, a step, chunks out, until told to stop. Waits for messages only when there is nothing to compute."""
    loop, open_for_work, told, prepares = engine.loop, True, 0.0, True
    while open_for_work or loop.has_work:
        messages = voice.channel.poll(0 if loop.has_work or prepares else STATS_EVERY_S)
        for message in messages:
            open_for_work = _obey(message, loop) and open_for_work
        if prepares and not (messages or loop.has_work):
            voice.expect(PREPARE_S, "getting ready for more requests")
            prepares = engine.prepare()  # a piece at a time: whoever comes meanwhile is served first
            if not prepares:
                _freeze()  # what was captured and compiled, too
        elif not (messages or loop.has_work or engine.measured):
            voice.expect(MEASURE_S, "measuring the machine")
            engine.measure()  # once in a machine's life, and never while a request waits
        elif not (messages or loop.has_work) and loop.unprepared:
            voice.expect(PREPARE_S, "capturing a step that was asked for")
            engine.prepare()  # after a second without a request: the next one may not be far
        started: list[str] = []
        if loop.has_work:
            voice.step(loop)
            started = loop.started
        chunks = loop.take()
        if chunks or started:
            _send(voice, loop, chunks, started)
        elif not loop.has_work:
            loop.check()
            engine.keeper.idle()
        voice.learn()
        if (now := time.monotonic()) - told >= STATS_EVERY_S:
            stats = loop.stats  # the ratio: 1 where nothing is left to prepare in idle moments
            voice.send(msgspec.structs.replace(stats, more=stats.more | {"prepared_ratio": float(not prepares)}))
            told = now
        if loop.failed_steps:
            _check_device(engine)
    loop.close()


def _freeze() -> None:
    """The collector never walks through what there is now again: through torch and the model that takes a tenth of a second."""
    gc.collect()
    gc.freeze()


def _check_device(engine: Engine) -> None:
    """Raise after a step that failed if no step can work any more: one bad request is no reason to end, a lost device is."""
    if engine.loop.failed_steps >= MOST_FAILED_STEPS:
        raise InternalError(f"{engine.loop.failed_steps} steps failed, one after the other")
    if engine.info.device != "cpu":
        import torch

        torch.cuda.synchronize(engine.info.device)  # raises what the device died of, again and again


def _announce_compilations(voice: Voice) -> None:
    """Have Triton say when it compiles: the first request of a new shape waits seconds for it."""
    try:
        from triton import knobs
    except ImportError:
        return

    def begins(**about: Any) -> None:
        voice.compiling(about["fn"].name)

    def ended(**about: Any) -> None:
        voice.compiling(None)

    knobs.runtime.jit_cache_hook = begins
    knobs.runtime.jit_post_compile_hook = ended


def _window(engine: Engine) -> int:
    return engine.checkpoint.shape.sliding_window


def _send(voice: Voice, loop: Loop, chunks: list[Chunk], started: list[str]) -> None:
    """What one step produced, in as many messages as it takes; a chunk that fits into none ends its request."""
    try:
        voice.send(Output(chunks, started))
    except ValueError:
        if len(chunks) > 1:
            middle = len(chunks) // 2
            _send(voice, loop, chunks[:middle], started)
            _send(voice, loop, chunks[middle:], [])
            return
        if started:
            voice.send(Output([], started))
        (chunk,) = chunks
        error = TooLarge("the log-probabilities are too large for one message", hint="ask for fewer", param="prompt_logprobs")
        loop.fail(chunk.id, failure_of(error))
        if chunk.finish is not None:  # the loop has ended this choice already, and its end is what does not fit
            ended = Chunk(id=chunk.id, index=chunk.index, finish="error", failure=failure_of(error))
            voice.send(Output([ended]))


def _obey(message: Any, loop: Loop) -> bool:
    """Do what `message` asks; False if it asked to stop."""
    if isinstance(message, Submit):
        for request in message.whole():
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
