"""What /metrics shows: the engine's state, read when it is asked for, and the latencies of requests as they pass.

Each number has a `redline_` name and, where dashboards for vLLM know it, the `vllm:` name beside it: one measurement,
two names. One process owns the registry; there is no global one. Open `Metrics` first.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

from redline.engine.message import Stats

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_FIRST_S = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0)
_TOKEN_S = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.04, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
_WHOLE_S = (0.1, 0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0)


class Engine(Protocol):
    """The part of `EngineClient` that is shown."""

    stats: Stats

    @property
    def alive(self) -> bool: ...


class Metrics:
    """The registry of one server and what its request path observes."""

    def __init__(self, engine: Engine, model: str) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        labels, names = {"model_name": model}, ["model_name"]
        first = Histogram(
            "redline_time_to_first_token_seconds", "Arrival to first token.", names, registry=None, buckets=_FIRST_S
        )
        token = Histogram(
            "redline_inter_token_latency_seconds", "Between tokens of a choice.", names, registry=None, buckets=_TOKEN_S
        )
        whole = Histogram(
            "redline_e2e_request_latency_seconds", "Arrival to the end of the request.", names, registry=None, buckets=_WHOLE_S
        )
        ended = Counter("redline_requests", "Choices that ended, by how.", [*names, "finished_reason"], registry=None)
        self._first, self._token, self._whole = first.labels(**labels), token.labels(**labels), whole.labels(**labels)
        self._ended, self._model = ended, model
        self._registry.register(_Named(first, "vllm:time_to_first_token_seconds"))
        self._registry.register(_Named(token, "vllm:inter_token_latency_seconds"))
        self._registry.register(_Named(whole, "vllm:e2e_request_latency_seconds"))
        self._registry.register(_Named(ended, "vllm:request_success"))
        self._registry.register(_EngineState(engine, labels))

    def first_token(self, seconds: float) -> None:
        self._first.observe(seconds)

    def next_tokens(self, seconds: float, count: int) -> None:
        """`count` tokens of one choice came together, `seconds` after the ones before."""
        for _ in range(count):
            self._token.observe(seconds / count)

    def choice_ended(self, finish: str) -> None:
        self._ended.labels(model_name=self._model, finished_reason=finish).inc()

    def request_ended(self, seconds: float) -> None:
        self._whole.observe(seconds)

    def page(self) -> bytes:
        """Everything in the text format, under `CONTENT_TYPE`."""
        return generate_latest(self._registry)


class _Named(Collector):
    """A metric under its own name and under a second one."""

    def __init__(self, metric: Collector, second: str) -> None:
        self._metric = metric
        self._second = second

    def collect(self) -> Iterator[Metric]:
        for metric in self._metric.collect():
            yield metric
            twin = Metric(self._second, metric.documentation, metric.type)
            twin.samples = [_renamed(sample, metric.name, self._second) for sample in metric.samples]
            yield twin


def _renamed(sample: Sample, old: str, new: str) -> Sample:
    return sample._replace(name=new + sample.name.removeprefix(old))


class _EngineState(Collector):
    """The engine's gauges and counters, from its latest `Stats`."""

    def __init__(self, engine: Engine, labels: dict[str, str]) -> None:
        self._engine = engine
        self._labels = labels

    def collect(self) -> Iterable[Metric]:
        stats = self._engine.stats
        usage = stats.pages_used / stats.pages_total if stats.pages_total else 0.0
        gauges = [
            ("redline_engine_ready", "", "1 while the engine takes requests.", float(self._engine.alive)),
            ("redline_requests_running", "vllm:num_requests_running", "Sequences in the running batch.", stats.running),
            ("redline_requests_waiting", "vllm:num_requests_waiting", "Sequences that wait.", stats.waiting),
            ("redline_kv_usage_ratio", "vllm:kv_cache_usage_perc", "Share of the KV pages in use, 0 to 1.", usage),
        ]
        counters = [
            ("redline_prefix_queries", "vllm:prefix_cache_queries", "Prompt tokens looked up.", stats.prefix_queries),
            ("redline_prefix_hits", "vllm:prefix_cache_hits", "Prompt tokens found in the cache.", stats.prefix_hits),
            ("redline_prompt_tokens", "vllm:prompt_tokens", "Prompt tokens taken in.", stats.prompt_tokens),
            ("redline_generation_tokens", "vllm:generation_tokens", "Tokens generated.", stats.generation_tokens),
            ("redline_preemptions", "vllm:num_preemptions", "Sequences preempted.", stats.preemptions),
            ("redline_steps", "", "Steps of the engine.", stats.steps),
            ("redline_step_seconds", "", "Seconds spent in steps.", stats.step_s),
        ]
        for name, value in stats.more.items():
            told, text = (gauges, "A ratio of the engine.") if name.endswith("_ratio") else (counters, "A counter of the engine.")
            told.append((f"redline_{name}", "", text, value))
        for kind, rows in ((GaugeMetricFamily, gauges), (CounterMetricFamily, counters)):
            for own, known, text, value in rows:
                for name in filter(None, (own, known)):
                    family = kind(name, text, labels=list(self._labels))
                    family.add_metric(list(self._labels.values()), value)
                    yield family
