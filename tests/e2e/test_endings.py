"""How the two processes end: every open stream is told, and the engine never outlives its server."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx2
import pytest

from real_server import RealServer, children, is_running, launched, real_server, until

STREAMS = 8
LONG = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 100_000, "ignore_eos": True, "stream": True}


@pytest.fixture
def server() -> Iterator[RealServer]:
    """Rotary positions reach far beyond what an answer of this test uses: none ends by itself."""
    with real_server("--max-model-len", "4096", "--num-pages", "4096") as running:
        yield running


def lines_of_streams(server: RealServer, do: Callable[[], None], tokens: int = 3000) -> list[list[str]]:
    """The lines of `STREAMS` open streams; `do` is called once all of them have begun."""
    begun = threading.Barrier(STREAMS + 1)
    body = {**LONG, "max_tokens": tokens}

    def read() -> list[str]:
        with httpx2.stream("POST", f"{server.url}/v1/chat/completions", json=body, timeout=30) as response:
            lines = response.iter_lines()
            seen = [next(lines)]
            begun.wait(20)
            return [line for line in seen + list(lines) if line]

    with ThreadPoolExecutor(STREAMS) as pool:
        reading = [pool.submit(read) for _ in range(STREAMS)]
        begun.wait(20)
        do()
        return [future.result(30) for future in reading]


def error_of(line: str) -> str:
    return str(json.loads(line.removeprefix("data: "))["error"]["code"])


def test_an_engine_that_hangs_still_ends_with_its_server(server: RealServer) -> None:
    os.kill(server.engine_pid, signal.SIGSTOP)
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(20) == 0 and server.engine_is_gone()


def test_a_killed_server_takes_its_engine_along(server: RealServer) -> None:
    with pytest.raises(httpx2.HTTPError):
        lines_of_streams(server, server.process.kill)
    until(server.engine_is_gone)


def test_a_server_killed_while_the_model_loads_takes_its_engine_along() -> None:
    with launched() as process:
        until(lambda: bool(children(process.pid)))
        (engine,) = children(process.pid)
        time.sleep(0.3)
        process.kill()
        until(lambda: not is_running(engine))


def test_one_signal_lets_streams_end_and_refuses_what_is_new(server: RealServer) -> None:
    """Until the last of them has ended the port stays open, so that a balancer is told, not turned away."""

    def drain() -> None:
        server.process.send_signal(signal.SIGTERM)
        until(lambda: httpx2.get(f"{server.url}/health").json()["status"] == "draining")
        assert httpx2.get(f"{server.url}/health/ready").status_code == 503
        assert httpx2.get(f"{server.url}/health/live").status_code == 200
        refused = httpx2.post(f"{server.url}/v1/chat/completions", json={**LONG, "stream": False})
        assert refused.status_code == 503 and refused.json()["error"]["code"] == "draining" and refused.headers["retry-after"]

    streams = lines_of_streams(server, drain, tokens=1000)
    assert all(lines[-1] == "data: [DONE]" for lines in streams)
    assert server.process.wait(10) == 0 and server.engine_is_gone()


def test_two_interrupts_end_open_streams(server: RealServer) -> None:
    def interrupt_twice() -> None:
        server.process.send_signal(signal.SIGINT)
        time.sleep(0.3)
        server.process.send_signal(signal.SIGINT)

    streams = lines_of_streams(server, interrupt_twice)
    assert [error_of(lines[-1]) for lines in streams] == ["engine_dead"] * STREAMS
    assert server.process.wait(10) in (0, 130) and server.engine_is_gone()
