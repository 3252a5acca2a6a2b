"""`make demo`: fetch a small model, measure the machine, serve, ask one question over HTTP, show the receipt, stop.

Everything goes through doors a user has: the `redline` command and its HTTP API. Ends with exit code 1 and one sentence where
a step fails. Open `main` first.
"""

from __future__ import annotations

import json
import queue
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2

from redline.plan.receipt import summary

REDLINE = [sys.executable, "-m", "redline.cli.main"]
QUESTION = "In two sentences, why is the sky blue?"
MAX_TOKENS = 96
READY_S = 120.0
STOP_S = 30.0


class DemoFailed(Exception):
    """One sentence that says which step failed."""


def main(model: str) -> int:
    """Run the demo with `model`; 0 if every step worked."""
    try:
        step("the model")
        run("pull", model)
        step("this machine")
        run("doctor")
        step("the server")
        with serving(model) as url:
            step(f"a question: {QUESTION}")
            receipt = ask(url, QUESTION)
            step("the receipt of this answer")
            print(summary(receipt))
        step("the server has stopped cleanly")
        print(f"\nYour turn:  {Path(sys.executable).parent}/redline chat {model}")
    except DemoFailed as failure:
        print(f"\nmake demo: {failure}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def step(title: str) -> None:
    print(f"\n== {title}", flush=True)


def run(*arguments: str) -> None:
    """A redline command that must succeed; 3 means findings, which it has printed."""
    code = subprocess.run([*REDLINE, *arguments]).returncode
    if code not in (0, 3):
        raise DemoFailed(f"`redline {' '.join(arguments)}` ended with exit code {code}; its message is above.")


@contextmanager
def serving(model: str) -> Iterator[str]:
    """The URL of a server on a free port, stopped with SIGTERM on the way out."""
    with subprocess.Popen(
        [*REDLINE, "serve", "--log-level", "warning", model, "--port", "0"], stdout=subprocess.PIPE, text=True
    ) as server:
        urls: queue.Queue[str] = queue.Queue()
        echo = threading.Thread(target=_echo, args=(server, urls), daemon=True)
        echo.start()
        try:
            yield wait_ready(server, urls)
            stop(server)
        finally:
            server.kill()  # nothing happens if it has ended
            echo.join()


def stop(server: subprocess.Popen[str]) -> None:
    """SIGTERM, after which the server must end with exit code 0."""
    server.send_signal(signal.SIGTERM)
    try:
        code = server.wait(STOP_S)
    except subprocess.TimeoutExpired:
        raise DemoFailed(f"the server did not stop within {STOP_S:.0f} s of SIGTERM.") from None
    if code != 0:
        raise DemoFailed(f"the server ended with exit code {code} after SIGTERM, not 0.")


def wait_ready(server: subprocess.Popen[str], urls: queue.Queue[str]) -> str:
    """The URL of the server's ready block, once /health agrees."""
    try:
        url = urls.get(timeout=READY_S)
    except queue.Empty:
        raise DemoFailed(f"the server was not ready within {READY_S:.0f} s.") from None
    if not url:
        raise DemoFailed(f"the server ended with exit code {server.wait()} before it was ready; its message is above.")
    try:
        health = httpx2.get(f"{url}/health", timeout=10)
    except httpx2.HTTPError as error:
        raise DemoFailed(f"{url}/health did not answer: {error}") from error
    if health.status_code != 200:
        raise DemoFailed(f"{url}/health answered {health.status_code}: {health.text}")
    return url


def _echo(server: subprocess.Popen[str], urls: queue.Queue[str]) -> None:
    """Print the server's lines as they come, to its end; put the first URL among them, or an empty one at the end."""
    assert server.stdout is not None
    for line in server.stdout:
        print(line, end="", flush=True)
        if found := re.search(r"https?://[^\s/]+:\d+", line):
            urls.put(found.group())
    urls.put("")


def ask(url: str, question: str) -> dict[str, Any]:
    """Stream one chat completion to standard output; the receipt that came with it."""
    body = {
        "messages": [{"role": "user", "content": question}],
        "max_tokens": MAX_TOKENS,
        "temperature": 0,
        "stream": True,
        "redline": True,
    }
    receipt: dict[str, Any] = {}
    text = ""
    try:
        with httpx2.stream("POST", f"{url}/v1/chat/completions", json=body, timeout=120) as response:
            if response.status_code != 200:
                raise DemoFailed(f"the server answered {response.status_code}: {response.read().decode()}")
            for event in events(response):
                for choice in event.get("choices", []):
                    piece = choice["delta"].get("content") or ""
                    print(piece, end="", flush=True)
                    text += piece
                receipt = event.get("redline") or receipt
    except httpx2.HTTPError as error:
        raise DemoFailed(f"the connection to {url} failed: {error}") from error
    print()
    if not text.strip() or not receipt:
        raise DemoFailed("the answer has no text." if receipt else "the answer came without a receipt.")
    return receipt


def events(response: httpx2.Response) -> Iterator[dict[str, Any]]:
    """The JSON objects of a stream of server-sent events, up to [DONE]."""
    for line in response.iter_lines():
        if not line.startswith("data:"):
            continue
        data = line.removeprefix("data:").strip()
        if data == "[DONE]":
            return
        event = json.loads(data)
        if "error" in event:
            raise DemoFailed(f"the server broke off: {event['error']}")
        yield event


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
