"""GET /v1/status: the live state of the engine as one document, for the built-in page and for `redline ps`.

Counters are cumulative since the engine's start, so that a reader makes rates of two of them. Open `status_of`.
"""

from __future__ import annotations

import time
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from redline.engine.message import Stats
from redline.server.endpoint import Endpoint
from redline.server.service import Service


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """What is served; `predicted` are the plan's numbers by name."""

    id: str
    dtype: str
    device: str
    max_model_len: int
    max_num_seqs: int
    page_size: int
    weight_bytes: int
    kv_bytes: int
    start_s: float
    predicted: dict[str, float]


class Phase(msgspec.Struct, frozen=True, kw_only=True):
    """Steps of one kind since the start. `ratio` is limit over time, null where the machine was not measured."""

    tokens: float
    seconds: float
    bytes: float
    flops: float
    ratio: float | None


class Ceilings(msgspec.Struct, frozen=True, kw_only=True):
    """What the machine can do, measured on it."""

    read_bytes_per_s: float
    matmul_flops_per_s: float


class Status(msgspec.Struct, frozen=True, kw_only=True):
    state: str
    stage: str
    percent: float
    uptime_s: float
    model: Model | None
    running: int
    waiting: int
    pages_used: int
    pages_total: int
    prompt_tokens: int
    generation_tokens: int
    prefix_queries: int
    prefix_hits: int
    preemptions: int
    phases: dict[str, Phase]
    ceilings: Ceilings | None


def endpoints(service: Service) -> list[Endpoint]:
    async def status(request: Request) -> Response:
        return Response(msgspec.json.encode(status_of(service)), media_type="application/json")

    return [
        Endpoint(method="GET", path="/v1/status", handler=status, scope="read", summary="The engine's live state.", answer=Status)
    ]


def status_of(service: Service) -> Status:
    """The state now; answers while the engine loads or is dead, too."""
    client, stats = service.client, service.client.stats
    return Status(
        state=client.state,
        stage=client.progress.stage,
        percent=client.progress.percent,
        uptime_s=round(time.time() - service.started, 1),
        model=_model(service),
        running=stats.running,
        waiting=stats.waiting,
        pages_used=stats.pages_used,
        pages_total=stats.pages_total,
        prompt_tokens=stats.prompt_tokens,
        generation_tokens=stats.generation_tokens,
        prefix_queries=stats.prefix_queries,
        prefix_hits=stats.prefix_hits,
        preemptions=stats.preemptions,
        phases={name: phase for name in ("prefill", "decode") if (phase := _phase(stats, name)) is not None},
        ceilings=_ceilings(stats.more),
    )


def _model(service: Service) -> Model | None:
    info = service.client.info
    if info is None:
        return None
    shared: dict[str, Any] = {name: getattr(info, name) for name in Model.__struct_fields__ if name != "id"}
    return Model(id=service.served_name, **shared)


def _phase(stats: Stats, name: str) -> Phase | None:
    more = stats.more
    if f"{name}_tokens_total" not in more:
        return None
    return Phase(
        tokens=more[f"{name}_tokens_total"],
        seconds=more[f"{name}_seconds_total"],
        bytes=more[f"{name}_bytes_total"],
        flops=more[f"{name}_flops_total"],
        ratio=next((s.value for s in stats.samples if s.name == "roofline_ratio" and s.labels["phase"] == name), None),
    )


def _ceilings(more: dict[str, float]) -> Ceilings | None:
    read, matmul = more.get("ceiling_read_bytes_per_second"), more.get("ceiling_matmul_flops_per_second")
    return Ceilings(read_bytes_per_s=read, matmul_flops_per_s=matmul) if read and matmul else None
