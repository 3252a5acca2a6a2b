"""An engine without a model, for tests: the protocol of engine/message.py over a deterministic token function.

Choice `index` of a request repeats its prompt, beginning `index` tokens in, once through; then it ends with the end
token. So every test can say what the text must be. `python -m fake_worker FD [JSON]` is a process that `launch` can start;
`in_thread` gives the same over a socket pair inside the test's own process. Faults are switched on by `Switches`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import math
import os
import select
import socket
import struct
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field

import msgspec

from redline.config import EngineConfig
from redline.engine.client import Launcher
from redline.engine.launch import launch
from redline.engine.message import (
    Cancel,
    Channel,
    ChannelClosed,
    Configure,
    EngineInfo,
    Expect,
    Failed,
    Output,
    Progress,
    Ready,
    Stats,
    Stop,
    Submit,
)
from redline.types import Chunk, Failure, Finish, Pooling, Request, TokenLogprob, Usage

VOCAB = 512
HIDDEN = 8
POOLED_AT_ONCE = 64
EOS = 257  # of the byte tokenizer


@dataclass(frozen=True)
class Switches:
    step_s: float = 0.0
    load_s: float = 0.0
    fail_load: str = ""  # error code
    die_loading: bool = False
    die_after: int = 0  # tokens, of all requests together
    hang_after: int = 0  # tokens, of all requests together: then comes a step that never returns
    rows: int = 0  # choices that run together, in the order of their arrival; 0: all
    max_open: int = 10_000  # requests; one more is refused as overloaded
    max_model_len: int = 4096
    max_num_seqs: int = 0
    defaults: dict[str, float] = field(default_factory=dict)
    mark: int | None = None  # a token: what follows the last one of a prompt is repeated, not all of it
    pooling: str | None = None
    matryoshka: bool = False
    matryoshka_dimensions: tuple[int, ...] = ()


@dataclass
class Choice:
    request: Request
    index: int
    made: int = 0
    computed: int = 0  # prompt tokens, of one that pools
    said: list[int] = field(default_factory=list)  # what it repeats
    tokens: list[int] = field(default_factory=list)

    def next_token(self) -> int:
        prompt, limit = self.said, len(self.said)
        if self.made == limit and not self.request.sampling.ignore_eos:
            return EOS
        return prompt[(self.made + self.index) % limit]


class FakeEngine:
    """One round of `run` is one step: a token for every open choice."""

    def __init__(self, channel: HangingChannel, switches: Switches) -> None:
        self.channel, self.switches = channel, switches
        self.open: dict[tuple[str, int], Choice] = {}
        self.seen_prompts: set[tuple[int, ...]] = set()
        self.made = 0
        self.told_started: set[str] = set()
        self.cancelled = 0
        self.prompt_tokens = 0
        self.stopping = False

    def run(self) -> None:
        self.load()
        while not (self.stopping and not self.open):
            outputs: list[Chunk] = []
            for message in self.channel.poll(0 if self.open else 0.2):
                outputs += self.handle(message)
            running = list(self.open.items())[: self.switches.rows or None]
            started = list(dict.fromkeys(key[0] for key, _ in running if key[0] not in self.told_started))
            self.told_started = {key[0] for key in self.open} & {*self.told_started, *started}
            for key, choice in running:
                chunk = self.step(choice)
                outputs.append(chunk)
                if chunk.finish:
                    del self.open[key]
            if outputs:
                self.channel.send(Output(outputs, started))
                self.report()
            elif not self.open:
                self.channel.send(Expect(0.0))  # a sign of life
            if self.open and self.switches.step_s:
                time.sleep(self.switches.step_s)

    def load(self) -> None:
        configure = self.channel.poll(10.0)[0]
        assert isinstance(configure, Configure)
        self.channel.send(Progress("loading weights", 62.0))
        time.sleep(self.switches.load_s)
        if self.switches.die_loading:
            os._exit(3)
        if self.switches.fail_load:
            self.channel.send(Failed(Failure(code=self.switches.fail_load, message="it does not load", hint="try another")))
            raise ChannelClosed
        info = EngineInfo(
            model=configure.config.model.model or "fake",
            dtype="float32",
            device="cpu",
            max_model_len=self.switches.max_model_len,
            max_num_seqs=self.switches.max_num_seqs or self.switches.rows,
            vocab_size=VOCAB,
            num_pages=64,
            page_size=16,
            eos_ids=(EOS,),
            defaults=self.switches.defaults,
            receipts=configure.config.device.receipts,
            weight_bytes=1000,
            notes=("max_num_seqs: as asked",),
            hidden_size=HIDDEN,
            pooling=self.switches.pooling,
            matryoshka=self.switches.matryoshka,
            matryoshka_dimensions=tuple(self.switches.matryoshka_dimensions),
        )
        self.channel.send(Ready(info))

    def handle(self, message: object) -> list[Chunk]:
        match message:
            case Submit():
                return [chunk for request in message.whole() for chunk in self.admit(request)]
            case Cancel(ids, index):
                keys = [key for key in self.open if key[0] in ids and index in (None, key[1])]
                self.cancelled += len(keys)
                return [self.ended(self.open.pop(key), "abort") for key in keys]
            case Stop(drain):
                self.stopping = True
                keys = [] if drain else list(self.open)
                return [self.ended(self.open.pop(key), "abort") for key in keys]
        raise AssertionError(message)

    def admit(self, request: Request) -> list[Chunk]:
        if len({key[0] for key in self.open}) >= self.switches.max_open:
            failure = Failure(code="overloaded", message="the queue is full", hint="retry later")
            return [Chunk(id=request.id, finish="error", failure=failure)]
        self.prompt_tokens += len(request.prompt)
        for index in range(request.sampling.n):
            self.open[request.id, index] = Choice(request, index, said=self.after_mark(request.prompt))
        if request.sampling.prompt_logprobs is None:
            return []
        logprobs = [None, *(logprob(token, request.sampling.prompt_logprobs) for token in request.prompt[1:])]
        return [Chunk(id=request.id, prompt_logprobs=logprobs)]

    def after_mark(self, prompt: list[int]) -> list[int]:
        marks = [place for place, token in enumerate(prompt) if token == self.switches.mark]
        return prompt[marks[-1] + 1 :] if marks else prompt

    def step(self, choice: Choice) -> Chunk:
        request, sampling = choice.request, choice.request.sampling
        if request.deadline is not None and time.monotonic() > request.deadline:
            return self.ended(choice, "deadline")
        if request.pooling is not None:
            return self.pooled(choice)
        token = choice.next_token()
        choice.made += 1
        self.made += 1
        if self.switches.die_after and self.made > self.switches.die_after:
            os._exit(9)
        if self.switches.hang_after and self.made > self.switches.hang_after:
            self.channel.hang()
        logprobs = None if sampling.logprobs is None else [logprob(token, sampling.logprobs)]
        stops = {*sampling.stop_token_ids, *(() if sampling.ignore_eos else (EOS,))}
        if token in stops and choice.made >= sampling.min_tokens:
            return self.ended(choice, "stop", token, logprobs)
        longest = self.switches.max_model_len - len(request.prompt)
        if choice.made >= min(sampling.max_tokens or longest, longest):
            return self.ended(choice, "length", token, logprobs)
        return Chunk(id=request.id, index=choice.index, tokens=[token], logprobs=logprobs)

    def pooled(self, choice: Choice) -> Chunk:
        """A vector after one step for each `POOLED_AT_ONCE` tokens of its prompt."""
        choice.computed += POOLED_AT_ONCE
        request = choice.request
        if choice.computed < len(request.prompt) or request.pooling is None:
            return Chunk(id=request.id, index=choice.index)
        return msgspec.structs.replace(self.ended(choice, "stop"), embedding=vector(request.prompt, request.pooling))

    def ended(
        self, choice: Choice, finish: Finish, token: int | None = None, logprobs: list[TokenLogprob] | None = None
    ) -> Chunk:
        request = choice.request
        prompt = tuple(request.prompt)
        cached = len(prompt) // 2 if prompt in self.seen_prompts else 0
        self.seen_prompts.add(prompt)
        return Chunk(
            id=request.id,
            index=choice.index,
            tokens=[] if token is None else [token],
            logprobs=logprobs,
            finish=finish,
            stop_token=token if finish == "stop" else None,
            usage=Usage(prompt_tokens=len(prompt), completion_tokens=choice.made, cached_tokens=cached),
            receipt={"measured_ms": 1.5, "tokens": choice.made} if request.want_receipt else None,
        )

    def report(self) -> None:
        self.channel.send(
            Stats(
                running=min(len(self.open), self.switches.rows or len(self.open)),
                waiting=len(self.open) - min(len(self.open), self.switches.rows or len(self.open)),
                pages_total=64,
                pages_used=len(self.open),
                prompt_tokens=self.prompt_tokens,
                generation_tokens=self.made,
                more={"cancelled": float(self.cancelled)},
            )
        )


def vector(prompt: list[int], pooling: Pooling) -> bytes:
    """Waves of the last token, or of the mean of all."""
    base = prompt[-1] if pooling == "last" else sum(prompt) / len(prompt)
    return struct.pack(f"<{HIDDEN}f", *(2 * math.cos(base * (i + 1)) for i in range(HIDDEN)))


def logprob(token: int, count: int) -> TokenLogprob:
    """The chosen token at -0.5, then its successors by number, each one lower."""
    return TokenLogprob(token, -0.5, [((token + i) % VOCAB, -0.5 - i) for i in range(count)])


class HangingChannel(Channel):
    def hang(self) -> None:
        """Never return; the thread of an engine that was killed ends all the same."""
        poller = select.poll()
        poller.register(self._socket, select.POLLRDHUP)
        poller.poll()
        raise ChannelClosed


def run(sock: socket.socket, switches: Switches) -> None:
    channel = HangingChannel(sock)
    try:
        FakeEngine(channel, switches).run()
    except ChannelClosed:
        pass
    finally:
        channel.close()


class ThreadProcess:
    """A thread with the face of a process."""

    def __init__(self, thread: threading.Thread, sock: socket.socket) -> None:
        self.thread, self.sock = thread, sock

    def wait(self, timeout: float | None = None) -> int:
        self.thread.join(timeout)
        if self.thread.is_alive():
            raise subprocess.TimeoutExpired("fake", timeout or 0.0)
        return 0

    def terminate(self) -> None:
        with contextlib.suppress(OSError):  # it has ended, and closed it
            self.sock.shutdown(socket.SHUT_RDWR)

    kill = terminate


def in_thread(**switches: object) -> Launcher:
    """A launcher whose engine is a thread of this process."""

    def start(config: EngineConfig) -> tuple[ThreadProcess, socket.socket]:
        ours, theirs = socket.socketpair()
        Channel(ours).send(Configure(config))
        thread = threading.Thread(target=run, args=(theirs, Switches(**switches)), daemon=True)  # type: ignore[arg-type]
        thread.start()
        return ThreadProcess(thread, theirs), ours

    return start


def as_process(**switches: object) -> Launcher:
    """A launcher whose engine is a process; the tests folder must be on PYTHONPATH."""
    arguments = (json.dumps(dataclasses.asdict(Switches(**switches))),)  # type: ignore[arg-type]
    return functools.partial(launch, module="fake_worker", arguments=arguments)


if __name__ == "__main__":
    run(socket.socket(fileno=int(sys.argv[1])), Switches(**json.loads(sys.argv[2] if len(sys.argv) > 2 else "{}")))
