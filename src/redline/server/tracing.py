"""Traces for OpenTelemetry: a span for each request that asked a model, with spans of its phases inside.

Attributes are those of the conventions for generative AI, of the version that is installed with the SDK; prompts and answers are
never among them. The libraries are the extra `otel` and are imported only where traces are asked for. A span is made at
the end of its request, from the times that were noted, so that nothing is traced while tokens flow. Open `Tracing`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from redline.errors import ConfigError
from redline.server.exchange import Exchange

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter

OPERATIONS = {
    "/v1/chat/completions": "chat",
    "/v1/responses": "chat",
    "/v1/messages": "chat",
    "/v1/completions": "text_completion",
    "/v1/embeddings": "embeddings",
}
PROVIDER = "redline"
SHUTDOWN_MS = 3000
SERVER_ERROR = 500


class Tracing:
    """Makes and sends spans; call it with every exchange that has ended."""

    def __init__(self, exporter: SpanExporter, model: str) -> None:
        """Spans go to `exporter`, in batches and on a thread of their own. Raises ConfigError without the libraries."""
        try:
            from opentelemetry import trace
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
            from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
        except ImportError as error:
            raise _missing() from error
        self._api = trace
        self._propagator = TraceContextTextMapPropagator()
        self._provider = TracerProvider(resource=Resource.create({"service.name": "redline", "redline.model": model}))
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("redline")

    @classmethod
    def to(cls, endpoint: str, model: str) -> Tracing:
        """Tracing to a collector that speaks OTLP over HTTP. Raises ConfigError without the libraries."""
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        except ImportError as error:
            raise _missing() from error
        return cls(OTLPSpanExporter(endpoint=endpoint), model)

    def __call__(self, exchange: Exchange) -> None:
        operation = OPERATIONS.get(exchange.route)
        if operation is None:
            return
        parent = self._propagator.extract({"traceparent": exchange.traceparent} if exchange.traceparent else {})
        model = exchange.model
        span = self._tracer.start_span(
            f"{operation} {model}".strip(),
            context=parent,
            kind=self._api.SpanKind.SERVER,
            start_time=exchange.began_ns,
            attributes=dict(_attributes(exchange, operation)),
        )
        if exchange.status >= SERVER_ERROR or exchange.error and exchange.usage is not None:
            span.set_status(self._api.StatusCode.ERROR, exchange.error or None)
        inside = self._api.set_span_in_context(span)
        for name, begin, end in _phases(exchange):
            child = self._tracer.start_span(name, context=inside, start_time=_ns(exchange, begin))
            child.end(_ns(exchange, end))
        span.end(_ns(exchange, exchange.ended))

    def close(self) -> None:
        """Send what is left, for at most a few seconds."""
        self._provider.force_flush(SHUTDOWN_MS)
        self._provider.shutdown()


def _attributes(exchange: Exchange, operation: str) -> Iterator[tuple[str, Any]]:
    yield "gen_ai.operation.name", operation
    yield "gen_ai.provider.name", PROVIDER
    yield "http.request.method", exchange.method
    yield "http.route", exchange.route
    yield "http.response.status_code", exchange.status
    yield "redline.request_id", exchange.id
    if exchange.key:
        yield "redline.key", exchange.key
    if exchange.error:
        yield "error.type", exchange.error
    if exchange.model:
        yield "gen_ai.request.model", exchange.model
        yield "gen_ai.response.model", exchange.model
    if exchange.usage is not None:
        yield "gen_ai.usage.input_tokens", exchange.usage.prompt_tokens
        yield "gen_ai.usage.output_tokens", exchange.usage.completion_tokens
        yield "gen_ai.usage.cache_read.input_tokens", exchange.usage.cached_tokens
        yield "gen_ai.response.finish_reasons", tuple(exchange.finishes)
        yield "redline.detokenize_s", exchange.detokenize_s
    if exchange.first_token is not None:
        yield "gen_ai.response.time_to_first_chunk", exchange.first_token - exchange.began


def _phases(exchange: Exchange) -> Iterator[tuple[str, float, float]]:
    """Name, begin and end of what the engine did; they end where the answer's last token was made."""
    timing = exchange.timing
    if timing is None:
        return
    begin = exchange.began
    for name, seconds in (("queue", timing.queue_s), ("prefill", timing.prefill_s), ("decode", timing.decode_s)):
        end = min(begin + seconds, exchange.ended)
        yield name, begin, end
        begin = end


def _ns(exchange: Exchange, moment: float) -> int:
    return exchange.began_ns + round((moment - exchange.began) * 1e9)


def _missing() -> ConfigError:
    hint = "pip install '.[otel]' in redline's folder"
    return ConfigError("traces need the OpenTelemetry SDK, which is not installed", hint=hint, param="otlp_endpoint")
