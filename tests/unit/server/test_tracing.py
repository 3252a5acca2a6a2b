"""Spans of requests, read from the SDK's in-memory exporter: attributes of the conventions, phases inside, no text anywhere."""

from __future__ import annotations

import asyncio
import builtins
import subprocess
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

pytest.importorskip("opentelemetry.sdk")

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes as gen_ai
from opentelemetry.trace import SpanKind, StatusCode

from fake_server import live
from redline.errors import ConfigError
from redline.server.exchange import Exchange
from redline.server.tracing import Tracing
from redline.types import Timing, Usage

CHAT = "/v1/chat/completions"
SECRET = "the-secret-prompt"
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def exporter(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    """Where the spans of servers with tracing go."""
    memory = InMemorySpanExporter()
    monkeypatch.setattr(Tracing, "to", classmethod(lambda cls, endpoint, model: cls(memory, model)))
    return memory


def run(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 20))  # type: ignore[arg-type]


def spans_of(exporter: InMemorySpanExporter) -> dict[str, ReadableSpan]:
    return {span.name: span for span in exporter.get_finished_spans()}


def ended(**fields: Any) -> Exchange:
    exchange = Exchange(id="req_1", method="POST", path=CHAT, **fields)
    exchange.route, exchange.status, exchange.ended = CHAT, 200, exchange.began + 2.0
    return exchange


def test_a_request_is_a_server_span_with_the_conventions_attributes(exporter: InMemorySpanExporter) -> None:
    async def test() -> None:
        body = {"messages": [{"role": "user", "content": SECRET}], "stream": True, "user": SECRET}
        async with live(server={"otlp_endpoint": "http://unused"}) as server:
            for headers in ({"traceparent": PARENT}, {"traceparent": "nonsense"}, {}):
                assert (await server.http.post(CHAT, json=body, headers=headers)).status_code == 200
            assert (await server.http.get("/health")).status_code == 200
        first, second, third = exporter.get_finished_spans()
        assert first.name == "chat fake-model" and first.kind is SpanKind.SERVER and first.status.status_code is StatusCode.UNSET
        attributes = dict(first.attributes or {})
        assert attributes[gen_ai.GEN_AI_OPERATION_NAME] == "chat"
        assert attributes[gen_ai.GEN_AI_REQUEST_MODEL] == attributes[gen_ai.GEN_AI_RESPONSE_MODEL] == "fake-model"
        assert attributes[gen_ai.GEN_AI_USAGE_INPUT_TOKENS] == len(SECRET)
        assert attributes[gen_ai.GEN_AI_USAGE_OUTPUT_TOKENS] == len(SECRET) + 1
        assert attributes[gen_ai.GEN_AI_RESPONSE_FINISH_REASONS] == ("stop",)
        assert 0 < attributes[gen_ai.GEN_AI_RESPONSE_TIME_TO_FIRST_CHUNK] < 20
        assert attributes["http.route"] == CHAT and attributes["http.response.status_code"] == 200
        assert first.parent is not None and f"{first.parent.trace_id:032x}" in PARENT and f"{first.parent.span_id:016x}" in PARENT
        assert second.parent is None and third.parent is None and second.context.trace_id != third.context.trace_id
        assert all(SECRET not in span.to_json() for span in (first, second, third))

    run(test)


def test_the_phases_are_spans_inside_end_to_end() -> None:
    exporter = InMemorySpanExporter()
    tracing = Tracing(exporter, "m")
    exchange = ended(
        model="m",
        usage=Usage(prompt_tokens=3, completion_tokens=4),
        timing=Timing(queue_s=0.5, prefill_s=0.25, decode_s=1.0),
        finishes=["stop", "length"],
    )
    tracing(exchange)
    tracing.close()
    spans = spans_of(exporter)
    whole = spans["chat m"]
    assert (whole.start_time, whole.end_time) == (exchange.began_ns, pytest.approx(exchange.began_ns + 2e9, abs=1e3))
    at = exchange.began_ns
    for name, seconds in (("queue", 0.5), ("prefill", 0.25), ("decode", 1.0)):
        span = spans[name]
        assert span.parent is not None and span.parent.span_id == whole.context.span_id
        assert span.start_time == pytest.approx(at, abs=1e3)
        at += round(seconds * 1e9)
        assert span.end_time == pytest.approx(at, abs=1e3)


def test_an_error_has_its_code_and_only_the_servers_own_are_errors_of_the_span() -> None:
    exporter = InMemorySpanExporter()
    tracing = Tracing(exporter, "m")
    for status, code in ((400, "invalid_request"), (503, "overloaded"), (200, "engine_dead")):
        exchange = ended(error=code, usage=Usage() if status == 200 else None)
        exchange.status = status
        tracing(exchange)
    tracing.close()
    spans = exporter.get_finished_spans()
    assert [span.attributes["error.type"] for span in spans if span.attributes] == [
        "invalid_request",
        "overloaded",
        "engine_dead",
    ]
    assert [span.status.status_code for span in spans] == [StatusCode.UNSET, StatusCode.ERROR, StatusCode.ERROR]


def test_without_the_libraries_it_is_a_config_error(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name.startswith("opentelemetry"):
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigError, match="OpenTelemetry") as refused:
        Tracing.to("http://localhost:4318/v1/traces", "m")
    assert refused.value.param == "otlp_endpoint" and ".[otel]" in refused.value.hint


def test_nothing_of_it_is_imported_without_being_asked_for() -> None:
    program = "import sys, redline.server.app; sys.exit(any(name.startswith('opentelemetry') for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", program], env={"PYTHONPATH": ":".join(sys.path)}, timeout=60).returncode == 0
