"""Many impatient clients at once on the real engine with far too few KV pages: afterwards nothing is held, lost or grown."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx2
import pytest

from real_server import RealServer, real_server, until

CLIENTS = 32
PARTS = 4
REQUESTS = 4 * PARTS * CLIENTS
LEAVING = 0.3
GROWTH_BYTES = 12 << 20  # of one process, over the last part of the storm, when it is warm
STOPS: tuple[list[str], ...] = (
    ["a"],
    ["é", "日本"],
    ["the end of " * 60],
    ["aab", "ab", "b"],
    ["\ufffd"],
    ["q" * 3 + "r", "qqqq"],
)


@pytest.fixture(scope="module")
def server() -> Iterator[RealServer]:
    """Every page holds 8 tokens and there are 24: two long answers fill them, so preemption never ends.

    oneDNN keeps the code it made for a thousand shapes, 20 MB in a quarter of the storm on processors with AVX2 alone; where it makes
    none, the engine's memory shows what is ours.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ONEDNN_MAX_CPU_ISA", "SSE41")
        patch.setenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "8")
        with real_server(
            "--num-pages", "24", "--page-size", "8", "--max-model-len", "160", "--max-num-seqs", "16", "--no-look-ahead"
        ) as running:
            yield running


@dataclass
class Tally:
    """What the clients saw. `choices` are those of requests that were certainly taken in, `unsure` of the others."""

    ends: Counter[str] = field(default_factory=Counter)
    choices: int = 0
    unsure: int = 0


def drawn(draw: random.Random) -> tuple[str, dict[str, Any]]:
    """A path and a body of everything that a request may ask for."""
    text = "".join(draw.choice("abcdefg é日 ") for _ in range(draw.randrange(1, 50)))
    body: dict[str, Any] = {
        "max_tokens": draw.choice((1, 2, 8, 20, 40)),
        "stream": draw.random() < 0.7,
        "temperature": draw.choice((0.0, 0.7, 1.5)),
        "priority": draw.choice((0, 0, 1, -1)),
        "n": draw.choice((1, 1, 1, 2, 4)),
        "cache_salt": draw.choice(("", "x")),
    }
    optional = {
        "stop": draw.choice(STOPS),
        "seed": draw.randrange(1000),
        "deadline_ms": draw.choice((1, 50, 400, 60_000)),
        "ignore_eos": True,
        "frequency_penalty": 0.5,
        "logit_bias": {str(draw.randrange(256)): 5},
        "top_k": 5,
        "min_tokens": 1,
        "redline": True,
    }
    if draw.random() < 0.12:
        shared = {name: body[name] for name in ("priority", "cache_salt")}
        if draw.random() < 0.2:
            shared["deadline_ms"] = optional["deadline_ms"]
        return "/v1/embeddings", {**shared, "input": [text, "b" + text, text], "pooling": draw.choice(("last", "mean"))}
    body |= {name: value for name, value in optional.items() if draw.random() < 0.3}
    if draw.random() < 0.5:
        if draw.random() < 0.3:
            body |= {"logprobs": True, "top_logprobs": draw.randrange(6), "prompt_logprobs": draw.choice((None, 0, 3))}
        return "/v1/chat/completions", {**body, "messages": [{"role": "user", "content": text}]}
    if draw.random() < 0.3:
        body |= {"logprobs": draw.randrange(6)}
    elif draw.random() < 0.3:
        body |= {"logprobs": 2, "echo": True, "n": 1}
    return "/v1/completions", {**body, "prompt": draw.choice((text, [text, "b" + text]))}


async def client(http: httpx2.AsyncClient, draw: random.Random, tally: Tally, count: int) -> None:
    for _ in range(count):
        path, body = drawn(draw)
        prompts = body.get("input", body.get("prompt"))
        choices = body.get("n", 1) * (len(prompts) if isinstance(prompts, list) else 1)
        leaves = draw.random() < LEAVING
        if leaves and draw.random() < 0.5:
            tally.unsure += choices
            task = asyncio.create_task(ask(http, path, body, choices, None))
            await asyncio.sleep(draw.random() * 0.05)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            tally.ends["left"] += 1
            continue
        end = await ask(http, path, body, choices, draw.randrange(1, 6) if leaves else None)
        tally.choices += choices if end != "overloaded" else 0
        tally.ends[end] += 1


async def ask(http: httpx2.AsyncClient, path: str, body: dict[str, Any], choices: int, patience: int | None) -> str:
    """How the request ended, told in exactly one way. A stream is left after `patience` events."""
    async with http.stream("POST", path, json=body) as response:
        if not body.get("stream") or response.status_code != 200:
            document = json.loads(await response.aread())
            if response.status_code == 200 and "input" in body:
                assert [entry["index"] for entry in document["data"]] == list(range(choices))
                assert document["data"][0]["embedding"] == pytest.approx(document["data"][2]["embedding"], abs=0.05)
                return "embedded"
            if response.status_code == 200:
                assert sorted(entry["index"] for entry in document["choices"]) == list(range(choices))
                assert all(entry["finish_reason"] in ("stop", "length") for entry in document["choices"])
                return "whole"
            # Cut by its deadline, or turned away because it would certainly be.
            assert "deadline_ms" in body and response.status_code in (504, 429), (body, document)
            assert document["error"]["param"] == "deadline_ms", document
            return str(document["error"]["code"])
        finishes: Counter[int] = Counter()
        events = 0
        last = ""
        async for line in response.aiter_lines():
            if not line:
                continue
            assert last != "[DONE]" and not last.startswith('{"error"'), "something came after the end"
            last = line.removeprefix("data: ")
            events += 1
            if events == patience:
                return "left"
            if last != "[DONE]":
                finishes.update(entry["index"] for entry in json.loads(last).get("choices", ()) if entry["finish_reason"])
        if last == "[DONE]":
            assert finishes == Counter(range(choices)), body
            return "streamed"
        assert json.loads(last)["error"]["code"] == "deadline_exceeded" and "deadline_ms" in body, last
        return "cut by its deadline"


def storm(url: str, seed: int, requests: int) -> Tally:
    """`requests` in all from `CLIENTS` clients that work side by side."""
    tally = Tally()

    async def run() -> None:
        limits = httpx2.Limits(max_connections=CLIENTS, max_keepalive_connections=CLIENTS)
        async with httpx2.AsyncClient(base_url=url, timeout=60, limits=limits) as http:
            draws = [random.Random(seed * CLIENTS + i) for i in range(CLIENTS)]
            await asyncio.gather(*(client(http, draw, tally, requests // CLIENTS) for draw in draws))

    asyncio.run(run())
    return tally


def settled(server: RealServer) -> bool:
    """Nothing runs, waits or holds a page."""
    names = ("redline_requests_running", "redline_requests_waiting", "redline_kv_usage_ratio")
    return all(server.metric(name) == 0 for name in names)


def ended(server: RealServer) -> int:
    """Choices that ended, as the server counts them."""
    page = httpx2.get(f"{server.url}/metrics").text.splitlines()
    return int(sum(float(line.rsplit(" ", 1)[1]) for line in page if line.startswith("redline_requests_total")))


def test_a_storm_leaves_nothing_behind(server: RealServer, effort: int) -> None:
    """Every choice that was taken in ends once, for its client and in the counters; pages and memory come back."""
    ends: Counter[str] = Counter()
    choices = unsure = 0
    sizes = []
    for part in range(PARTS):
        tally = storm(server.url, part, REQUESTS * effort // PARTS)
        ends += tally.ends
        choices += tally.choices
        unsure += tally.unsure
        until(lambda: settled(server))
        sizes.append(server.rss_bytes())
    assert sum(ends.values()) == REQUESTS * effort
    assert choices <= ended(server) <= choices + unsure
    assert min(ends[kind] for kind in ("whole", "streamed", "embedded", "left", "deadline_exceeded")) > 0, ends
    assert server.metric("redline_preemptions_total") > REQUESTS * effort / 10, "the pool was not small enough to test anything"
    assert all(after - before < GROWTH_BYTES for before, after in zip(sizes[-2], sizes[-1], strict=True)), sizes
    assert httpx2.get(f"{server.url}/health").json() == {"status": "ready"}
