"""GET /v1/plan: what was planned before anything ran, what steps really take, and how the plan was corrected by that.

The engine keeps the contract (plan/contract.py) and tells it every second; this is its last word as one document. What is not
known is null, and `absent` says why. Open `plan_of`.
"""

from __future__ import annotations

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from redline.engine.message import EngineInfo, Foreseen, Stats
from redline.plan.advice import standing_advice
from redline.plan.contract import Kept
from redline.server.endpoint import Endpoint
from redline.server.service import Service


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """What was reserved: weights, and KV pages of `page_size` tokens. Bytes."""

    weight_bytes: int
    kv_bytes: int
    kv_pages: int
    page_size: int


class Steps(msgspec.Struct, frozen=True, kw_only=True):
    """Steps of one kind that compute `tokens_from` to `tokens_to` tokens. Milliseconds are means of the newest.

    Promises are multiplied by `correction`; nine of ten steps then lie within `bar` of them (0.1: 10 % either way), and
    `promised_bar` is what was said before. `error` and `corrected_error` are mean deviations without the correction and with
    it; `deviations` counts the steps beyond the bar. `steps_before` were measured by earlier processes on this machine, whose
    corrections this one began with.
    """

    doing: str
    tokens_from: int
    tokens_to: int
    steps: int
    promised_ms: float
    measured_ms: float
    correction: float
    bar: float
    promised_bar: float
    deviations: int
    error: float
    corrected_error: float
    source: str
    steps_before: int


class Roofline(msgspec.Struct, frozen=True, kw_only=True):
    """All steps of one phase: limit over time, and the shares of the time that each cause beyond the limit took."""

    ratio: float
    rest: dict[str, float]


class Energy(msgspec.Struct, frozen=True, kw_only=True):
    """Of the device since the start, and of its steps alone; watts of the device when nothing runs."""

    joules: float | None
    step_joules: float | None
    joules_per_token: float | None
    idle_watts: float | None
    throttled_s: dict[str, float] | None


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """`predicted` are the numbers of the start by name, `next` what is expected now: a step of all that run, a prompt token."""

    model: str
    device: str
    dtype: str
    format: str
    max_model_len: int
    max_num_seqs: int
    memory: Memory
    choices: list[str]
    predicted: dict[str, float]
    next: dict[str, float | None]
    steps: list[Steps]
    deviations: int
    phases: dict[str, Roofline]
    energy: Energy
    absent: dict[str, str]
    advice: str


def endpoints(service: Service) -> list[Endpoint]:
    async def plan(request: Request) -> Response:
        document = plan_of(service.served_name, service.ready(), service.client.stats)
        return Response(msgspec.json.encode(document), media_type="application/json")

    return [
        Endpoint(
            method="GET",
            path="/v1/plan",
            handler=plan,
            scope="read",
            summary="What was promised of this model on this machine, beside what was measured.",
            answer=Plan,
        )
    ]


def plan_of(name: str, info: EngineInfo, stats: Stats) -> Plan:
    """The plan of a ready engine, as its latest `stats` have it."""
    return Plan(
        model=name,
        device=info.device,
        dtype=info.dtype,
        format=info.stored_dtype or info.dtype,
        max_model_len=info.max_model_len,
        max_num_seqs=info.max_num_seqs,
        memory=Memory(weight_bytes=info.weight_bytes, kv_bytes=info.kv_bytes, kv_pages=info.num_pages, page_size=info.page_size),
        choices=list(info.notes),
        predicted=info.predicted,
        next=_next(stats.foreseen if stats.foreseen.turn_s else info.foreseen),
        steps=[_steps(kept) for kept in stats.kept],
        deviations=sum(kept.deviations for kept in stats.kept),
        phases=_phases(stats),
        energy=_energy(stats),
        absent=stats.absent,
        advice=standing_advice(causes_of(stats)),
    )


def causes_of(stats: Stats) -> dict[str, dict[str, float]]:
    """Seconds by phase and cause."""
    found: dict[str, dict[str, float]] = {}
    for sample in stats.samples:
        if sample.name == "step_cause_seconds_total":
            found.setdefault(sample.labels["phase"], {})[sample.labels["cause"]] = sample.value
    return found


def _next(foreseen: Foreseen) -> dict[str, float | None]:
    return {
        "step_ms": _short(1e3 * foreseen.turn_s) if foreseen.turn_s else None,
        "prompt_token_ms": _short(1e3 * foreseen.prompt_s) if foreseen.prompt_s else None,
    }


def _steps(kept: Kept) -> Steps:
    return Steps(
        doing=kept.doing,
        tokens_from=kept.tokens_from,
        tokens_to=kept.tokens_to,
        steps=kept.steps,
        promised_ms=_short(1e3 * kept.promised_s),
        measured_ms=_short(1e3 * kept.measured_s),
        correction=_short(kept.correction),
        bar=_short(kept.bar),
        promised_bar=_short(kept.promised_bar),
        deviations=kept.deviations,
        error=_short(kept.error),
        corrected_error=_short(kept.corrected_error),
        source=kept.source,
        steps_before=kept.steps_before,
    )


def _phases(stats: Stats) -> dict[str, Roofline]:
    ratios = {sample.labels["phase"]: sample.value for sample in stats.samples if sample.name == "roofline_ratio"}
    rest: dict[str, dict[str, float]] = {phase: {} for phase in ratios}
    for sample in stats.samples:
        if sample.name == "roofline_rest_ratio":
            rest[sample.labels["phase"]][sample.labels["cause"]] = _short(sample.value)
    return {phase: Roofline(ratio=_short(ratio), rest=rest[phase]) for phase, ratio in ratios.items()}


def _energy(stats: Stats) -> Energy:
    joules, steps = stats.more.get("energy_joules_total"), stats.more.get("step_energy_joules_total")
    idle = stats.more.get("idle_joules_per_second")
    throttled = {sample.labels["reason"]: sample.value for sample in stats.samples if sample.name == "throttled_seconds_total"}
    return Energy(
        joules=joules,
        step_joules=steps,
        joules_per_token=None if steps is None or not stats.generation_tokens else _short(steps / stats.generation_tokens),
        idle_watts=None if idle is None else _short(idle),
        throttled_s=None if "throttling" in stats.absent else throttled,
    )


def _short(value: float) -> float:
    return float(f"{value:.4g}")
