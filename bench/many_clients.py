"""Many clients at once against a real server: `python bench/many_clients.py random:llama-3.1-8b --clients 64`.

Starts `redline serve`, sends every client's streamed completion at the same time over real HTTP, checks that each gets
its tokens and one end, and prints the receipts' share of the machine's bandwidth. One JSON line last.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import statistics
import subprocess
import sys
import time
from typing import Any

import httpx2

READY_S = 300


def main() -> None:
    options = _options()
    command = [sys.executable, "-m", "redline.cli.main", "serve", options.model, "--port", "0", *options.serve]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        began = time.perf_counter()
        url = ready(server)
        start_s = time.perf_counter() - began
        asyncio.run(wave(url, options, warm=True))
        began = time.perf_counter()
        answers = asyncio.run(wave(url, options, warm=False))
        seconds = time.perf_counter() - began
    finally:
        server.terminate()
        status = server.wait(60)
    report = _report(options, answers, seconds) | {"start_s": round(start_s, 2), "server_exit": status}
    for name, value in report.items():
        print(f"{name:28} {value}")
    print(json.dumps(report))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--prompt", type=int, default=256, help="characters, which a random: model's tokenizer makes tokens of")
    parser.add_argument("serve", nargs="*", help="options for redline serve, after --")
    return parser.parse_args()


def ready(server: subprocess.Popen[str]) -> str:
    """The address in the ready block. Raises RuntimeError if the server ends before it."""
    assert server.stdout is not None
    for line in server.stdout:
        print(line, end="", file=sys.stderr)
        if line.startswith("  try"):
            found = re.search(r"(http://\S+?)/v1", line)
            assert found is not None
            return found.group(1)
    raise RuntimeError(f"the server ended with exit code {server.wait()}")


async def wave(url: str, options: argparse.Namespace, warm: bool, round: int = 0) -> list[dict[str, Any]]:
    limits = httpx2.Limits(max_connections=options.clients)
    async with httpx2.AsyncClient(base_url=url, timeout=READY_S, limits=limits) as client:
        return await asyncio.gather(
            *(_one(client, options, text_of(options, number, warm, round), warm) for number in range(options.clients))
        )


def text_of(options: argparse.Namespace, number: int, warm: bool, round: int = 0) -> str:
    """The prompt of one client; no two begin alike, so that no cache helps."""
    return (f"{'warm' if warm else 'real'} {round:02} {number:04} " + "the quick brown fox " * 1000)[: options.prompt]


async def _one(client: httpx2.AsyncClient, options: argparse.Namespace, text: str, warm: bool) -> dict[str, Any]:
    body = {
        "prompt": text,
        "max_tokens": 8 if warm else options.tokens,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
        "redline": True,
    }
    began, first, events = time.perf_counter(), None, []
    async with client.stream("POST", "/v1/completions", json=body) as answer:
        assert answer.status_code == 200, await answer.aread()
        async for line in answer.aiter_lines():
            if line.startswith("data: {"):
                first = first or time.perf_counter() - began
                events.append(json.loads(line[6:]))
    ends = [choice["finish_reason"] for event in events for choice in event["choices"] if choice["finish_reason"]]
    usage = next(event["usage"] for event in reversed(events) if event.get("usage"))
    assert ends == ["length"] and usage["completion_tokens"] == body["max_tokens"], (ends, usage)
    return {"first_s": first, "seconds": time.perf_counter() - began, "usage": usage, "receipt": events[-1]["redline"]}


def _report(options: argparse.Namespace, answers: list[dict[str, Any]], seconds: float) -> dict[str, Any]:
    total = sum(answer["usage"]["completion_tokens"] for answer in answers)
    decode = [answer["receipt"]["decode"] for answer in answers]
    return {
        "model": options.model,
        "clients": options.clients,
        "prompt_tokens": answers[0]["usage"]["prompt_tokens"],
        "tokens_each": options.tokens,
        "tokens_per_s": round(total / seconds, 1),
        "first_token_ms": round(statistics.median(answer["first_s"] for answer in answers) * 1e3, 1),
        "decode_ms_per_step": round(statistics.median(d["ms_per_token"] for d in decode), 3),
        "decode_ratio": statistics.median(d["ratio"] or 0 for d in decode) or None,
        "share_of_bandwidth": statistics.median(d["share_of_bandwidth"] or 0 for d in decode) or None,
        "receipt": answers[0]["receipt"],
    }


if __name__ == "__main__":
    main()
