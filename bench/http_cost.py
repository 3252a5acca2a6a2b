"""What one API process spends on a token: `python bench/http_cost.py --rate 5000 20000`, 256 streams over real sockets.

Four processes: an engine that emits a token for every open stream at a fixed total rate, the API process over it, this
one as all of its clients, and nothing else. CPU time is the API process's alone, over a window in which every stream is
open. A token's text is the clock of its emission, so the client knows how long each was under way; what a token waited
longer than its own step took is what it was held. One JSON line last.

`--first 128 4000` measures instead what a first token costs over HTTP: prompts of so many token ids, one at a time after a
quarter of a second of silence, to an engine that answers at once. The processes' and the client's own time is all there is.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import selectors
import socket
import statistics
import string
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
CLOCK = (string.digits + string.ascii_letters + "!#$%&()*+,-./:;=?@[]^_{|}~").encode()  # one character is one tick
TICK_S = 0.002
READ_BYTES = 1 << 16
VOCAB_SIZE = 512
WARM = 8  # requests of `--first` that are not counted


def main() -> None:
    if sys.argv[2:3] == ["engine"]:
        _engine(int(sys.argv[1]), float(sys.argv[3]))
    elif sys.argv[1:2] == ["server"]:
        _server(float(sys.argv[2]))
    elif (options := _options()).first:
        print(json.dumps({"first_token": [_first(options, tokens) for tokens in options.first]}))
    else:
        reports = [_measure(options, rate) for rate in options.rate]
        print(json.dumps({"streams": options.streams, "api": options.api, "rates": reports}))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, default=256)
    parser.add_argument(
        "--rate", type=float, nargs="+", default=[2500, 5000, 10_000, 20_000], help="tokens a second, all together"
    )
    parser.add_argument(
        "--first", type=int, nargs="+", metavar="TOKENS", help="first tokens of prompts of so many tokens instead"
    )
    parser.add_argument("--requests", type=int, default=60, help="of each size, for --first")
    parser.add_argument("--seconds", type=float, default=5.0, help="of the window that is measured")
    parser.add_argument("--api", choices=("chat", "completions"), default="chat")
    parser.add_argument("--profile", help="write the API process's profile to this file")
    return parser.parse_args()


@dataclass
class Reading:
    """What the clients saw of one window."""

    events: int = 0
    tokens: int = 0
    delays_s: list[float] = field(default_factory=list)  # of the oldest token of each event


def _measure(options: argparse.Namespace, rate: float) -> dict[str, Any]:
    with _server_process(rate, options.profile) as (server, port):
        streams = [_connect(port, options.api) for _ in range(options.streams)]
        _read(streams, 1.0)  # until all are open, and the server is warm
        cpu_s, began = _cpu_s(server.pid), time.monotonic()
        seen = _read(streams, options.seconds)
        cpu_s, seconds = _cpu_s(server.pid) - cpu_s, time.monotonic() - began
        for stream in streams:
            stream.close()
    delays = sorted(seen.delays_s)
    report = {
        "tokens_per_s_asked": rate,
        "tokens_per_s": round(seen.tokens / seconds),
        "tokens_per_event": round(seen.tokens / seen.events, 2),
        "cpu_us_per_token": round(cpu_s / seen.tokens * 1e6, 1),
        "cpu_us_per_event": round(cpu_s / seen.events * 1e6, 1),
        "cpu_share": round(cpu_s / seconds, 3),
        "delay_ms_p50": round(delays[len(delays) // 2] * 1e3, 1),
        "delay_ms_p99": round(delays[int(len(delays) * 0.99)] * 1e3, 1),
        "delay_ms_max": round(delays[-1] * 1e3, 1),
    }
    print("  ".join(f"{name} {value}" for name, value in report.items()), file=sys.stderr)
    return report


def _first(options: argparse.Namespace, tokens: int) -> dict[str, Any]:
    """Milliseconds from a request's first byte to its first event, on a server that slept before it."""
    from redline.bench.load import IDLE_S, Planned, Target, one_by_one

    draw = random.Random(tokens)
    plan = [Planned(0.0, [draw.randrange(VOCAB_SIZE) for _ in range(tokens)], 1) for _ in range(WARM + options.requests)]
    with _server_process(0.0, options.profile) as (_, port):
        seen = asyncio.run(one_by_one(Target(f"http://127.0.0.1:{port}"), plan, pause_s=IDLE_S))[WARM:]
    failed = [each.failure for each in seen if each.failure]
    if failed:
        raise RuntimeError(f"{len(failed)} requests failed: {failed[0]}")
    times = statistics.quantiles([(each.events[0] - each.sent) * 1e3 for each in seen], n=4)
    report = {"tokens": tokens, **dict(zip(("ms_p25", "ms_p50", "ms_p75"), (round(ms, 3) for ms in times), strict=True))}
    print("  ".join(f"{name} {value}" for name, value in report.items()), file=sys.stderr)
    return report


@contextlib.contextmanager
def _server_process(rate: float, profile: str | None) -> Iterator[tuple[subprocess.Popen[str], int]]:
    path = [str(ROOT / "tests"), str(ROOT / "src"), str(ROOT / "bench"), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, path))}
    profiler = ["-m", "cProfile", "-o", profile] if profile else []
    command = [sys.executable, *profiler, str(Path(__file__)), "server", str(rate)]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        if not line:
            raise RuntimeError("the server ended before it was ready")
        yield process, int(line.rsplit(":", 1)[1])
    finally:
        process.terminate()
        process.terminate()  # the second one ends what is open
        process.wait(30)
        process.stdout.close()


def _connect(port: int, api: str) -> socket.socket:
    asked: dict[str, Any] = {"max_tokens": 1_000_000, "stream": True, "ignore_eos": True, "temperature": 0}
    if api == "chat":
        path, body = "/v1/chat/completions", {"messages": [{"role": "user", "content": "hello"}], **asked}
    else:
        path, body = "/v1/completions", {"prompt": "hello", **asked}
    data = json.dumps(body).encode()
    stream = socket.create_connection(("127.0.0.1", port))
    stream.sendall(b"POST %b HTTP/1.1\r\nhost: test\r\ncontent-length: %d\r\n\r\n%b" % (path.encode(), len(data), data))
    stream.setblocking(False)
    return stream


def _read(streams: list[socket.socket], seconds: float) -> Reading:
    """Read all streams for a while. An event that is cut in two by a read counts as one all the same."""
    seen = Reading()
    ticks = {character: number for number, character in enumerate(CLOCK)}
    with selectors.DefaultSelector() as selector:
        for stream in streams:
            selector.register(stream, selectors.EVENT_READ)
        end = time.monotonic() + seconds
        while (now := time.monotonic()) < end:
            for key, _ in selector.select(end - now):
                data = key.fileobj.recv(READ_BYTES)  # type: ignore[union-attr]
                now = time.monotonic()
                if not data:
                    raise RuntimeError("a stream ended early")
                for part in data.split(b"data: ")[1:]:
                    text = _text(part)
                    if text:
                        seen.events += 1
                        seen.tokens += len(text)
                        age = (int(now / TICK_S) - ticks[text[0]]) % len(CLOCK)
                        seen.delays_s.append(age * TICK_S)
    return seen


def _text(event: bytes) -> bytes:
    for mark in (b'"content":"', b'"text":"'):
        _, found, rest = event.partition(mark)
        if found:
            return rest.partition(b'"')[0]
    return b""


def _cpu_s(pid: int) -> float:
    """User and system time of a process, from its own CPU clock (clock_getcpuclockid(3) says how it is numbered)."""
    return time.clock_gettime((~pid << 3) | 2)


def _server(rate: float) -> None:
    """The API process, over a tokenizer whose tokens are bytes."""
    from fake_server import _open_text, engine_config
    from redline.config import ServerConfig
    from redline.engine.client import Process
    from redline.engine.launch import launch
    from redline.server.run import Callbacks, serve

    def launcher(config: Any) -> tuple[Process, socket.socket]:
        return launch(config, module="http_cost", arguments=["engine", str(rate)])

    callbacks = Callbacks(ready=lambda url, info: print(url, flush=True))
    serve(engine_config(), ServerConfig(port=0), callbacks, open_text=_open_text, launcher=launcher)


def _engine(descriptor: int, rate: float) -> None:
    """One token for every open stream a step, `rate` of them a second; a step that comes too late is not made up for.

    With a rate of 0 each request is answered at once, with a token and its end.
    """
    from redline.engine.message import Cancel, Channel, ChannelClosed, EngineInfo, Output, Ready, Stop, Submit
    from redline.types import Chunk, Usage

    channel = Channel(socket.socket(fileno=descriptor))
    channel.poll(10.0)
    info = EngineInfo(
        model="clock", dtype="float32", device="cpu", max_model_len=1 << 30, vocab_size=VOCAB_SIZE, num_pages=64, page_size=16
    )
    channel.send(Ready(info))
    live: dict[str, None] = {}
    due = time.monotonic()
    with contextlib.suppress(ChannelClosed):
        while True:
            now = time.monotonic()
            for message in channel.poll(max(0.0, due - now) if live else None):
                match message:
                    case Submit() if not rate:
                        for request in message.whole():
                            usage = Usage(prompt_tokens=len(request.prompt), completion_tokens=1)
                            channel.send(Output([Chunk(id=request.id, tokens=[CLOCK[0]])], [request.id]))
                            channel.send(Output([Chunk(id=request.id, finish="length", usage=usage)]))
                    case Submit(requests):
                        live |= dict.fromkeys(request.id for request in requests)
                    case Cancel(ids):
                        for id in ids:
                            live.pop(id, None)
                    case Stop():
                        return
            now = time.monotonic()
            if live and now >= due:
                tokens = [CLOCK[int(now / TICK_S) % len(CLOCK)]]
                channel.send(Output([Chunk(id=id, tokens=tokens) for id in live]))
                due = max(now, due + len(live) / rate)


if __name__ == "__main__":
    main()
