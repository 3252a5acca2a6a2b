"""The engine process is killed, stopped or stuck while people wait: they are told in time, and the next engine answers soon."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx2
import pytest

from fake_server import served
from real_server import RealServer, children, real_server

STREAMS = 32
TOLD_S = 2.0
BODY = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 3000, "ignore_eos": True, "stream": True}
RETRYABLE = {429, 503}
START_S: list[float] = []  # what the start of each server took, as its user sees it


def ask(url: str, begun: threading.Semaphore) -> tuple[float, str]:
    """When the request came to its end, and how: an error code, from an event or from a retryable status."""
    with httpx2.stream("POST", f"{url}/v1/chat/completions", json=BODY, timeout=30) as response:
        begun.release()
        if response.status_code in RETRYABLE:
            assert int(response.headers["retry-after"]) >= 1 and int(response.headers["retry-after-ms"]) >= 1
            return time.monotonic(), str(json.loads(response.read())["error"]["code"])
        assert response.status_code == 200
        last = ""
        for line in response.iter_lines():
            last = line or last
        return time.monotonic(), str(json.loads(last.removeprefix("data: "))["error"]["code"])


def answers(url: str) -> bool:
    return httpx2.post(f"{url}/v1/chat/completions", json={**BODY, "max_tokens": 3, "stream": False}).status_code == 200


def red(url: str, status: str, within_s: float) -> float:
    """Seconds until health is red with `status`, asked all the time."""
    began = time.monotonic()
    while (health := httpx2.get(f"{url}/health")).status_code == 200:
        assert time.monotonic() - began < within_s, "it never turned red"
    assert health.json()["status"] == status, health.text
    return time.monotonic() - began


@pytest.fixture
def server() -> Iterator[RealServer]:
    """Half of the streams run, the others wait in the queue."""
    began = time.monotonic()
    with real_server("--max-model-len", "4096", "--num-pages", "8192", "--max-num-seqs", "16") as running:
        START_S.append(time.monotonic() - began)
        yield running


def test_kill_9_during_32_streams(server: RealServer) -> None:
    begun = threading.Semaphore(0)
    with ThreadPoolExecutor(STREAMS) as pool:
        asking = [pool.submit(ask, server.url, begun) for _ in range(STREAMS)]
        for _ in range(STREAMS // 2):
            assert begun.acquire(timeout=20)
        while server.metric("redline_requests_waiting") < STREAMS // 2:
            time.sleep(0.05)
        os.kill(server.engine_pid, signal.SIGKILL)
        killed = time.monotonic()
        ends = [each.result(30) for each in asking]
    assert {code for _, code in ends} == {"engine_dead"}
    assert max(moment for moment, _ in ends) - killed < TOLD_S
    health = httpx2.get(f"{server.url}/health")
    assert health.status_code == 503 and health.json()["status"] == "restarting"
    while not answers(server.url):
        assert time.monotonic() - killed < START_S[-1] + 2.0, "it does not come back"
        time.sleep(0.02)
    assert server.metric("redline_engine_restarts_total") == 1
    (new_engine,) = [pid for pid in children(server.process.pid) if pid != server.engine_pid]
    server.engine_pid = new_engine
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(15) == 0 and server.engine_is_gone()


def test_a_stopped_engine_is_red_within_three_seconds_and_green_when_it_goes_on(server: RealServer) -> None:
    begun = threading.Semaphore(0)
    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(ask, server.url, begun)
        assert begun.acquire(timeout=20)
        os.kill(server.engine_pid, signal.SIGSTOP)
        assert red(server.url, "stalled", 5.0) < 3.0
        refused = httpx2.post(f"{server.url}/v1/chat/completions", json=BODY)
        assert refused.status_code == 503 and int(refused.headers["retry-after"]) >= 1
        assert httpx2.get(f"{server.url}/health/live").status_code == 200
        os.kill(server.engine_pid, signal.SIGCONT)
        end = time.monotonic() + 2.0
        while httpx2.get(f"{server.url}/health").status_code != 200:
            assert time.monotonic() < end, "it stays red"
        os.kill(server.engine_pid, signal.SIGKILL)
        assert asking.result(30)[1] == "engine_dead"


def test_a_step_that_never_returns_turns_health_red_within_three_seconds_and_ends_with_a_new_engine() -> None:
    with served({"restart_stuck_s": 3.5}, step_s=0.01, hang_after=30) as server, ThreadPoolExecutor(1) as pool:
        before = children(server.process.pid)
        asking = pool.submit(ask, server.url, threading.Semaphore(0))
        while server.metric("redline_generation_tokens_total") < 30:
            time.sleep(0.01)
        assert red(server.url, "stalled", 5.0) < 3.0
        stuck = time.monotonic()
        assert asking.result(10)[1] == "engine_dead"
        assert time.monotonic() - stuck < 1.5
        while httpx2.get(f"{server.url}/health").status_code != 200:
            assert time.monotonic() - stuck < 10
            time.sleep(0.02)
        assert children(server.process.pid) != before


def test_a_server_whose_engine_keeps_dying_ends_with_an_error() -> None:
    """So that whoever restarts servers restarts this one."""
    with served(die_after=1, step_s=0.001, patience={"most_early": 3, "pause_s": 0.05}) as server:
        for _ in range(2000):
            try:
                answers(server.url)
            except httpx2.HTTPError:
                break
            time.sleep(0.01)
        assert server.process.wait(10) == 1
