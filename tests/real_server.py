"""`redline serve` on a small random model, as a process with a port of its own: what only the real engine can show."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx2

from fake_server import Served

MODEL = "random:tiny-llama"


@dataclass
class RealServer(Served):
    """A server process and the engine process under it."""

    engine_pid: int

    def rss_bytes(self) -> tuple[int, int]:
        """Resident memory of the server and of the engine."""
        return _rss_bytes(self.process.pid), _rss_bytes(self.engine_pid)

    def engine_is_gone(self) -> bool:
        """Whether the engine process has ended; one that nobody waited for yet counts as ended."""
        return not is_running(self.engine_pid)


@contextlib.contextmanager
def real_server(*options: str) -> Iterator[RealServer]:
    """`redline serve random:tiny-llama` with `options`, ready; stopped on the way out if it still runs.

    Its engine computes with one thread: two that share their cores with other work wait for each other at every barrier.
    """
    with launched(*options) as process:
        assert process.stdout is not None
        url = next((found.group() for line in process.stdout if (found := re.search(r"http://[^\s/]+:\d+", line))), None)
        assert url is not None, f"the server ended with exit code {process.wait(10)} before it was ready"
        (engine_pid,) = children(process.pid)
        until(lambda: httpx2.get(f"{url}/health").status_code == 200)
        yield RealServer(url, process, engine_pid)


@contextlib.contextmanager
def launched(*options: str) -> Iterator[subprocess.Popen[str]]:
    """The server process, not ready yet."""
    command = [sys.executable, "-m", "redline.cli.main", "serve", MODEL, "--port", "0", "--num-threads", "1", *options]
    with contextlib.ExitStack() as stack:
        state = stack.enter_context(tempfile.TemporaryDirectory())  # never the keys and files of whoever runs the tests
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "REDLINE_DATA": state}
        process = stack.enter_context(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True))
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(15)
            finally:
                process.kill()  # nothing happens if it has ended


def children(pid: int) -> list[int]:
    """Child processes of `pid`."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        found += [int(child) for child in (task / "children").read_text().split()]
    return found


def is_running(pid: int) -> bool:
    """Whether process `pid` is there and not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def until(condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
    """Wait for `condition`, which must come true."""
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.02)


def _rss_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
