"""GET /v1/plan: promise beside truth, from what the engine tells, and servers that make no receipts."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest

from fake_server import live
from redline.engine.message import EngineInfo, Foreseen, Stats
from redline.engine.scheduler import SchedulerStats
from redline.engine.stats import Accounts
from redline.hardware import Ceilings
from redline.plan.contract import FEW
from redline.plan.meter import Meter
from redline.plan.roofline import StepWork
from redline.server.plan import Plan, plan_of
from redline.shapes import known

CEILINGS = Ceilings("cpu", "a cpu", 1e10, {"float32": 1e11}, "2026-01-01T00:00:00+00:00")
INFO = EngineInfo(
    model="m",
    dtype="float32",
    device="cpu",
    max_model_len=64,
    vocab_size=512,
    num_pages=10,
    page_size=16,
    weight_bytes=1000,
    predicted={"decode_limit_ms": 1.0},
    foreseen=Foreseen(0.004, 0.0),
)
IDLE: dict[str, Any] = dict.fromkeys(
    "waiting running pages_free pages_cached pages_used steps tokens_planned preemptions prefix_query_tokens prefix_hit_tokens".split(),
    0,
)


def run(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 30))  # type: ignore[arg-type]


def stats_of(meter: Meter) -> Stats:
    """As they cross from the engine's process."""
    told = Accounts(meter, 0).stats(SchedulerStats(**IDLE))
    return msgspec.msgpack.decode(msgspec.msgpack.encode(told), type=Stats)


def test_an_engine_that_has_run_tells_promise_truth_and_lever() -> None:
    """Decode steps at half their limit's speed, a fifth of whose time the device waits for the host."""
    meter = Meter(known("tiny-llama"), "float32", 4, 4, CEILINGS, 0)
    work = StepWork.of([(9, 1)], logit_rows=1)
    limit = meter.limit_s(work)
    assert limit is not None
    for _ in range(20):
        meter.step(meter.due(work), 1.2 * limit, 0.8 * limit)
    plan = plan_of("mine", INFO, stats_of(meter))
    (steps,) = plan.steps
    assert (plan.model, steps.doing, steps.tokens_from, steps.tokens_to, steps.steps) == (
        "mine",
        "decode",
        1,
        1,
        20,
    ) and steps.steps_before == 0
    assert steps.measured_ms == pytest.approx(2e3 * limit, rel=1e-3) and steps.promised_ms == pytest.approx(
        1.3e3 * limit, rel=1e-3
    )
    assert steps.correction == pytest.approx(2 / 1.3, rel=1e-3) and steps.corrected_error < steps.error
    assert plan.deviations == steps.deviations == FEW
    decode = plan.phases["decode"]
    assert decode.ratio == 0.5 and decode.rest["host"] == 0.4 and decode.rest["unattributed"] == pytest.approx(0, abs=1e-3)
    assert decode.rest["weights_over"] + decode.rest["kv_over"] == pytest.approx(0.1, rel=1e-3)
    assert decode.ratio + sum(decode.rest.values()) == pytest.approx(1.0, abs=1e-3)
    assert plan.advice == (
        "40% of all steps' time goes to the device waiting for the host in decode: fewer, larger steps would give up to 1.7x."
    )
    assert plan.energy == dataclass_of_nothing(plan.energy) and "energy" in plan.absent
    assert plan.next["step_ms"] is not None and plan.next["step_ms"] > 0


def dataclass_of_nothing(energy: msgspec.Struct) -> msgspec.Struct:
    return type(energy)(**dict.fromkeys(energy.__struct_fields__))


def test_causes_of_steps_are_told_apart() -> None:
    """The limit, sampling, and what steps take beyond them, of which none is left unattributed where all are alike."""
    meter = Meter(known("tiny-llama"), "float32", 4, 4, CEILINGS, 0)
    work = StepWork.of([(9, 1)], logit_rows=1)
    limit = meter.limit_s(work)
    assert limit is not None
    for _ in range(4):
        seen = meter.step(meter.due(work), 2 * limit, 0.0, sampling_s=0.1 * limit)
    rest = plan_of("m", INFO, stats_of(meter)).phases["decode"].rest
    assert rest["sampling"] == pytest.approx(0.05) and rest["unattributed"] == pytest.approx(0, abs=1e-3)
    assert rest["kv_over"] == pytest.approx(0.25 * seen.kv_limit_s / (2 * limit), rel=1e-2), "at the usual 0.8 of the read rate"
    assert 0.5 + sum(rest.values()) == pytest.approx(1.0, abs=1e-3)


def test_before_anything_ran_the_start_speaks_and_nothing_is_guessed() -> None:
    plan = plan_of("mine", INFO, stats_of(Meter(known("tiny-llama"), "float32", 4, 4, None, 0)))
    assert plan.steps == [] and plan.phases == {} and plan.next == {"step_ms": 4.0, "prompt_token_ms": None}
    assert "redline doctor" in plan.absent["limit"] and plan.predicted == {"decode_limit_ms": 1.0}
    assert "Nothing has run" in plan.advice


def test_the_route() -> None:
    async def test() -> None:
        async with live() as server:
            answer = await server.http.get("/v1/plan")
            plan = msgspec.json.decode(answer.content, type=Plan)
            assert answer.status_code == 200 and plan.memory.weight_bytes == 1000 and plan.choices == ["max_num_seqs: as asked"]
            document = (await server.http.get("/openapi.json")).json()
            assert document["paths"]["/v1/plan"]["get"]["responses"]["200"]
        async with live(start=False) as server:
            assert (await server.http.get("/v1/plan")).status_code == 503

    run(test)


def test_a_server_without_receipts_says_so() -> None:
    async def test() -> None:
        async with live() as server:
            config = server.engine.config
            device = dataclasses.replace(config.device, receipts=False)
        async with live(config=dataclasses.replace(config, device=device)) as server:
            chat = {"messages": [{"role": "user", "content": "abc"}]}
            answer = await server.http.post("/v1/chat/completions", json=chat)
            assert answer.status_code == 200
            for path, body in (
                ("/v1/chat/completions", chat),
                ("/v1/completions", {"prompt": "a"}),
                ("/v1/embeddings", {"input": "a"}),
                ("/v1/responses", {"input": "a"}),
                ("/v1/messages", {**chat, "model": server.service.served_name, "max_tokens": 4}),
            ):
                refused = await server.http.post(path, json={**body, "redline": True})
                assert refused.status_code == 400 and "--no-receipts" in refused.text, path
            gone = await server.http.get(f"/v1/receipt/{answer.json()['id']}")
            assert gone.status_code == 404 and "--no-receipts" in gone.text

    run(test)
