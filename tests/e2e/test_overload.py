"""Ten times what the engine can do, over HTTP: who is let in is served as if nothing was, who is not is told when to come.

The engine is a fake with eight rows and steps of 50 ms, so what is right is known beforehand. Every caller that is refused
comes again when it was told to, except a few that try all the time.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from dataclasses import dataclass
from typing import Any

import httpx2

from fake_server import Served, served

ROWS, STEP_S, TOKENS = 8, 0.05, 20
SERVICE_S = STEP_S * TOKENS
OVERLOAD_S = 3.0  # in which new callers come
WATCHED_S = 3.0  # callers that are told to come within that are followed to their end
IMPATIENT = 6  # every so manieth caller


@dataclass
class Caller:
    """What one caller saw. `told_s` and `waited_s` are from the first refusal on."""

    number: int
    impatient: bool
    refused_at: float | None = None
    told_s: float = 0.0
    waited_s: float | None = None
    latency_s: float | None = None

    def body(self) -> dict[str, Any]:
        content = f"{self.number:04} asks"
        return {"messages": [{"role": "user", "content": content}], "max_tokens": TOKENS, "ignore_eos": True}


async def follow(http: httpx2.AsyncClient, caller: Caller, refusals_s: list[float]) -> None:
    """Ask until let in, or until it is clear that this takes longer than the test."""
    while True:
        asked = time.monotonic()
        answer = await http.post("/v1/chat/completions", json=caller.body())
        now = time.monotonic()
        if answer.status_code == 200:
            caller.latency_s = now - asked
            if caller.refused_at is not None:
                caller.waited_s = asked - caller.refused_at
            return
        assert answer.status_code == 429 and answer.json()["error"]["code"] == "overloaded", answer.text
        refusals_s.append(now - asked)
        told_s = int(answer.headers["retry-after-ms"]) / 1000
        assert int(answer.headers["retry-after"]) - 1 < told_s <= int(answer.headers["retry-after"])
        if caller.refused_at is None:
            caller.refused_at, caller.told_s = asked, told_s
        if caller.told_s > WATCHED_S:
            return
        await asyncio.sleep(0.05 if caller.impatient else told_s)


async def at_capacity(http: httpx2.AsyncClient) -> list[float]:
    """Latencies of as many callers as there are rows, three times each."""

    async def one(number: int) -> list[float]:
        found = []
        for turn in range(3):
            caller = Caller(9000 + 10 * number + turn, False)
            await follow(http, caller, [])
            assert caller.latency_s is not None
            found.append(caller.latency_s)
        return found

    return [latency for found in await asyncio.gather(*map(one, range(ROWS))) for latency in found]


async def flood(http: httpx2.AsyncClient) -> tuple[list[Caller], list[float], list[float]]:
    """The callers, what their refusals took, and what the least of all questions took meanwhile."""
    draw = random.Random(3)
    callers: list[Caller] = []
    refusals_s: list[float] = []
    probes_s: list[float] = []
    tasks: list[asyncio.Task[None]] = []
    end = time.monotonic() + OVERLOAD_S
    while (now := time.monotonic()) < end:
        callers.append(Caller(len(callers), len(callers) % IMPATIENT == 0))
        tasks.append(asyncio.create_task(follow(http, callers[-1], refusals_s)))
        if len(callers) % 3 == 0:
            tasks.append(asyncio.create_task(probe(http, probes_s)))
        await asyncio.sleep(max(0.0, draw.expovariate(10 * ROWS / SERVICE_S) - (time.monotonic() - now)))
    await asyncio.gather(*tasks)
    return callers, refusals_s, probes_s


async def probe(http: httpx2.AsyncClient, probes_s: list[float]) -> None:
    began = time.monotonic()
    assert (await http.get("/health/live")).status_code == 200
    probes_s.append(time.monotonic() - began)


def errors(callers: list[Caller]) -> list[float]:
    """How far what was told is from when a caller was let in, beyond one step, as a share of the latter."""
    found = [(caller.told_s, caller.waited_s) for caller in callers if caller.waited_s]
    return sorted(max(0.0, abs(told - waited) - STEP_S) / waited for told, waited in found)


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def test_overload() -> None:
    async def measure(server: Served) -> tuple[list[float], list[Caller], list[float], list[float]]:
        limits = httpx2.Limits(max_connections=600, max_keepalive_connections=600)
        async with httpx2.AsyncClient(base_url=server.url, timeout=30, limits=limits) as http:
            return await at_capacity(http), *await flood(http)

    with served(scheduler={"max_queue_s": 0.15 * SERVICE_S}, rows=ROWS, step_s=STEP_S) as server:
        usual, callers, refusals_s, probes_s = asyncio.run(measure(server))
    admitted = [caller.latency_s for caller in callers if caller.latency_s is not None]
    patient, impatient = (errors([each for each in callers if each.impatient is kind]) for kind in (False, True))
    told = (
        f"{statistics.median(usual):.3f} s usual, {percentile(admitted, 0.95):.3f} s admitted, {len(admitted)} of {len(callers)}"
    )
    assert len(callers) > 100 and len(admitted) > ROWS * OVERLOAD_S / SERVICE_S, told
    assert percentile(admitted, 0.95) <= 1.2 * statistics.median(usual), told
    noise_s = percentile(probes_s, 0.95) if percentile(probes_s, 0.5) > 0.01 else 0.0  # this machine has other work, too
    assert percentile(refusals_s, 0.95) < 0.05 + noise_s, [percentile(refusals_s, share) for share in (0.5, 0.9, 0.95, 1.0)]
    assert len(patient) > 12 and percentile(patient, 0.9) <= 0.3, patient
    assert len(impatient) > 1 and percentile(impatient, 0.8) <= 0.3, impatient
