"""A server of one's own, as a process: `redline serve` with a free port and a state folder that is thrown away.

Knows nothing of load. Open `served`.
"""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TextIO

from redline import env
from redline.errors import EngineDead

STOP_S = 60.0


@dataclass(frozen=True)
class Server:
    """A ready server, and the seconds from the start of its process until it said so."""

    url: str
    ready_s: float


@contextlib.contextmanager
def served(model: str, engine: Mapping[str, Any], **environment: str) -> Iterator[Server]:
    """`redline serve model` with the options `engine`; ended on the way out. Raises EngineDead if it ends by itself."""
    with tempfile.TemporaryDirectory(prefix="redline-bench-") as state, open(f"{state}/stderr.txt", "w+") as said:
        command = [sys.executable, "-m", "redline.cli.main", "serve", model, "--port", "0", *flags(engine)]
        began = time.monotonic()
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=said,
            text=True,
            env=env.for_child(REDLINE_DATA=state, REDLINE_LOG="error", REDLINE_API_KEY="", **environment),
        )
        try:
            yield Server(_url(process, said), time.monotonic() - began)
        finally:
            process.terminate()
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if process.stdout is not None:
                process.stdout.close()


def flags(engine: Mapping[str, Any]) -> list[str]:
    """Options as they are written on a command line."""
    found: list[str] = []
    for name, value in engine.items():
        flag = name.replace("_", "-")
        found += [f"--{'' if value else 'no-'}{flag}"] if isinstance(value, bool) else [f"--{flag}", str(value)]
    return found


def _url(process: subprocess.Popen[str], stderr: TextIO) -> str:
    """The address in the ready block."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("  try") and (found := re.search(r"http://\S+?(?=/v1)", line)):
            return found.group()
    code = process.wait()
    stderr.seek(0)
    said = stderr.read().strip().splitlines()
    raise EngineDead(f"redline serve ended with exit code {code}: {said[-1] if said else 'it said nothing'}")
