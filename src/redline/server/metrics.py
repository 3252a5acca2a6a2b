"""What /metrics shows: the engine's state, read when it is asked for, and the requests and their latencies as they pass.

Each number has a `redline_` name and, where dashboards for vLLM know it, the `vllm:` name beside it: one measurement, two
names. Queued and running requests, the share of the KV pages in use, and their size and number have the types and the
meaning that the Kubernetes inference gateway asks of a model server. No label holds anything that a client wrote, so the
page does not grow with traffic. One process owns the registry; there is no global one. Open `Metrics` first.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, Protocol

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from redline import log
from redline.engine.message import EngineInfo, Sample, Stats
from redline.server.histogram import Histogram
from redline.types import Timing

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
METHODS = frozenset({"GET", "POST", "DELETE", "HEAD", "OPTIONS"})

_FIRST_S = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75),
    *(1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0),
)
_TOKEN_S = (
    *(0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.04, 0.05, 0.075, 0.1),
    *(0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 10.0),
)
_REQUEST_S = (
    *(0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5),
    *(5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0, 960.0),
)
_SHORT_S = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
_TOKENS = (1, 2, 5, *(factor * 10**power for power in range(1, 6) for factor in (1, 2, 5)))
_TEXTS = {
    "roofline_ratio": "The machine's limit over the time of steps; with the rests of its phase it adds up to 1.",
    "roofline_rest_ratio": "Shares of the time of steps beyond the limit, by cause.",
    "step_cause_seconds_total": "Seconds of steps by cause; weights and kv are the limit.",
    "prediction_error_ratio": "Mean deviation of the newest steps from the plan, and from the plan as corrected.",
    "prediction_correction_ratio": "What the plan's times are multiplied by, from what steps took.",
    "prediction_bar_ratio": "Within what, either way, nine steps of ten lie.",
    "prediction_deviations_total": "Steps beyond the error bar.",
    "throttled_seconds_total": "Seconds of steps while something held the clocks down.",
}  # of labelled figures
_CHOICES = (1, 2, 5, 10, 20, 50, 100)


class Measure(NamedTuple):
    """A histogram of the page: its name after `redline_`, the names that others know it by, what it is, its buckets."""

    name: str
    known: tuple[str, ...]
    text: str
    bounds: tuple[float, ...]


FIRST = Measure("time_to_first_token_seconds", ("vllm:time_to_first_token_seconds",), "Arrival to first token.", _FIRST_S)
BETWEEN = Measure(
    "inter_token_latency_seconds",
    ("vllm:inter_token_latency_seconds", "vllm:time_per_output_token_seconds"),
    "Between tokens of a choice.",
    _TOKEN_S,
)
PER_TOKEN = Measure(
    "request_time_per_output_token_seconds",
    ("vllm:request_time_per_output_token_seconds",),
    "Decode time of a choice over its tokens after the first.",
    _TOKEN_S,
)
WHOLE = Measure(
    "e2e_request_latency_seconds", ("vllm:e2e_request_latency_seconds",), "Arrival to the end of the request.", _REQUEST_S
)
QUEUE = Measure(
    "request_queue_time_seconds",
    ("vllm:request_queue_time_seconds",),
    "Arrival to the first step that had the request.",
    _REQUEST_S,
)
PREFILL = Measure(
    "request_prefill_time_seconds", ("vllm:request_prefill_time_seconds",), "First step to first token.", _REQUEST_S
)
DECODE = Measure("request_decode_time_seconds", ("vllm:request_decode_time_seconds",), "First token to the last.", _REQUEST_S)
INFERENCE = Measure(
    "request_inference_time_seconds", ("vllm:request_inference_time_seconds",), "First step to the last token.", _REQUEST_S
)
DETOKENIZE = Measure("request_detokenize_time_seconds", (), "Tokens to text, parsed, over the whole request.", _SHORT_S)
PROMPT = Measure("request_prompt_tokens", ("vllm:request_prompt_tokens",), "Prompt tokens of a request.", _TOKENS)
ANSWER = Measure("request_generation_tokens", ("vllm:request_generation_tokens",), "Tokens of a choice.", _TOKENS)
CHOICES = Measure("request_params_n", ("vllm:request_params_n",), "Choices asked for.", _CHOICES)
MAX_TOKENS = Measure("request_params_max_tokens", ("vllm:request_params_max_tokens",), "Longest answer asked for.", _TOKENS)
COMPILE = Measure("grammar_compile_seconds", (), "Compiling a grammar that was not in the cache.", _SHORT_S)
MEASURES = (
    *(FIRST, BETWEEN, PER_TOKEN, WHOLE, QUEUE, PREFILL, DECODE, INFERENCE, DETOKENIZE),
    *(PROMPT, ANSWER, CHOICES, MAX_TOKENS, COMPILE),
)


class Engine(Protocol):
    """The part of `EngineClient` that is shown."""

    @property
    def stats(self) -> Stats: ...
    @property
    def alive(self) -> bool: ...
    @property
    def info(self) -> EngineInfo | None: ...
    @property
    def open_requests(self) -> int: ...
    @property
    def restarts(self) -> int: ...


class Metrics:
    """The registry of one server and what its request path observes. Use from the event loop's thread."""

    def __init__(self, engine: Engine, model: str) -> None:
        self._engine = engine
        self._labels = {"model_name": model}
        self._histograms = {measure: Histogram(measure.bounds) for measure in MEASURES}
        self._between = self._histograms[BETWEEN]
        self._ended: Counter[str] = Counter()
        self._http: Counter[tuple[str, str, str]] = Counter()
        self._refused: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._watched: list[tuple[str, str, Callable[[], float]]] = []
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(_Requests(self))
        self._registry.register(_EngineState(engine, self._labels))
        ProcessCollector(registry=self._registry)

    def first_token(self, seconds: float) -> None:
        self._histograms[FIRST].observe(seconds)

    def next_tokens(self, seconds: float, count: int) -> None:
        """`count` tokens of one choice came together, `seconds` after the ones before."""
        self._between.observe(seconds / count, count)

    def choice_ended(self, finish: str, tokens: int = 0, timing: Timing | None = None) -> None:
        """A choice of `tokens` tokens ended; `timing` is its request's at that moment."""
        self._ended[finish] += 1
        if timing is not None:
            self._histograms[ANSWER].observe(tokens)
            if tokens > 1:
                self._histograms[PER_TOKEN].observe(timing.decode_s / (tokens - 1))

    def request_ran(self, timing: Timing, prompt_tokens: int) -> None:
        """The engine is done with one prompt of a call."""
        self._histograms[QUEUE].observe(timing.queue_s)
        self._histograms[PREFILL].observe(timing.prefill_s)
        self._histograms[DECODE].observe(timing.decode_s)
        self._histograms[INFERENCE].observe(timing.prefill_s + timing.decode_s)
        self._histograms[PROMPT].observe(prompt_tokens)

    def request_asked(self, n: int, max_tokens: int | None) -> None:
        self._histograms[CHOICES].observe(n)
        if max_tokens is not None:
            self._histograms[MAX_TOKENS].observe(max_tokens)

    def request_ended(self, seconds: float, detokenize_s: float = 0.0) -> None:
        """A whole call ended, `seconds` after it arrived; making text of its tokens took `detokenize_s` of them."""
        self._histograms[WHOLE].observe(seconds)
        self._histograms[DETOKENIZE].observe(detokenize_s)

    def grammar_compiled(self, seconds: float) -> None:
        """From any thread."""
        with self._lock:
            self._histograms[COMPILE].observe(seconds)

    def watch(self, name: str, text: str, read: Callable[[], float]) -> None:
        """Show what another part of the server counts."""
        self._watched.append((name, text, read))

    def answered(self, route: str, method: str, status: int) -> None:
        """An HTTP request ended. `route` is one of the server's own paths, placeholders included."""
        self._http[route, method if method in METHODS else "other", str(status)] += 1

    def refused(self, code: str) -> None:
        """A request was answered with an error; `code` is a code of errors.py."""
        self._refused[code] += 1

    def page(self) -> bytes:
        """Everything in the text format, under `CONTENT_TYPE`."""
        return generate_latest(self._registry)

    def families(self) -> Iterator[Metric]:
        """What the request path has observed."""
        for measure, histogram in self._histograms.items():
            for name in (f"redline_{measure.name}", *measure.known):
                yield histogram.family(name, measure.text, _labels_of(name, self._labels))
        for name in ("redline_requests", "vllm:request_success"):
            yield _counters(
                name, "Choices that ended, by how.", ("finished_reason",), self._ended, _labels_of(name, self._labels)
            )
        # The second name and its status classes are those of the usual instrumentation of Python web servers.
        yield _counters(
            "redline_http_requests", "HTTP requests answered.", ("route", "method", "status"), self._http, self._labels
        )
        classes: Counter[tuple[str, str, str]] = Counter()
        for (route, method, status), count in self._http.items():
            classes[route, method, f"{status[0]}xx"] += count
        yield _counters("http_requests", "HTTP requests answered.", ("handler", "method", "status"), classes, {})
        yield _counters("redline_refused_requests", "Requests answered with an error.", ("reason",), self._refused, self._labels)
        fallbacks = Counter({(*key, "server"): count for key, count in list(log.FALLBACKS.items())})
        fallbacks.update({(name, reason, "engine"): count for name, reason, count in self._engine.stats.fallbacks})
        yield _counters(
            "redline_fallbacks", "Things not done the intended way.", ("name", "reason", "process"), fallbacks, self._labels
        )
        for name, text, read in self._watched:
            counter = CounterMetricFamily(name, text, labels=list(self._labels))
            counter.add_metric(list(self._labels.values()), read())
            yield counter
        yield _gauge("redline_requests_open", "Prompts handed to the engine.", self._engine.open_requests, self._labels)


class _Requests(Collector):
    """The request path's half of the page."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        return self._metrics.families()


class _EngineState(Collector):
    """The engine's gauges and counters, from its latest `Stats`."""

    def __init__(self, engine: Engine, labels: dict[str, str]) -> None:
        self._engine = engine
        self._labels = labels

    def collect(self) -> Iterable[Metric]:
        stats, info = self._engine.stats, self._engine.info
        usage = stats.pages_used / stats.pages_total if stats.pages_total else 0.0
        gauges = [
            ("redline_engine_ready", "", "1 while the engine takes requests.", float(self._engine.alive)),
            ("redline_requests_running", "vllm:num_requests_running", "Sequences in the running batch.", stats.running),
            ("redline_requests_waiting", "vllm:num_requests_waiting", "Sequences that wait.", stats.waiting),
            ("redline_kv_usage_ratio", "vllm:kv_cache_usage_perc", "Share of the KV pages in use, 0 to 1.", usage),
            ("redline_kv_pages", "", "KV pages of the pool.", stats.pages_total),
            ("redline_kv_pages_used", "", "KV pages that sequences hold.", stats.pages_used),
        ]
        counters = [
            ("redline_prefix_queries", "vllm:prefix_cache_queries", "Prompt tokens looked up.", stats.prefix_queries),
            ("redline_prefix_hits", "vllm:prefix_cache_hits", "Prompt tokens found in the cache.", stats.prefix_hits),
            ("redline_prompt_tokens", "vllm:prompt_tokens", "Prompt tokens taken in.", stats.prompt_tokens),
            ("redline_generation_tokens", "vllm:generation_tokens", "Tokens generated.", stats.generation_tokens),
            ("redline_preemptions", "vllm:num_preemptions", "Sequences preempted.", stats.preemptions),
            ("redline_steps", "", "Steps of the engine.", stats.steps),
            ("redline_step_seconds", "", "Seconds spent in steps.", stats.step_s),
            ("redline_engine_restarts", "", "Engines started because the one before died.", self._engine.restarts),
        ]
        for name, value in stats.more.items():
            is_level = name.endswith(("_ratio", "_per_second"))
            told, text = (gauges, "A level of the engine.") if is_level else (counters, "A counter of the engine.")
            told.append((f"redline_{name}", "", text, value))
        yield from _labelled(stats.samples, self._labels)
        for kind, rows in ((GaugeMetricFamily, gauges), (CounterMetricFamily, counters)):
            for own, known, text, value in rows:
                for name in filter(None, (own, known)):
                    labels = _labels_of(name, self._labels)
                    family = kind(name, text, labels=list(labels))
                    family.add_metric(list(labels.values()), value)
                    yield family
        if info is not None:
            pages = {"block_size": str(info.page_size), "num_gpu_blocks": str(info.num_pages), "engine": "0"}
            yield _gauge("vllm:cache_config_info", "Size and number of the KV pages.", 1, self._labels | pages)
            facts = {"dtype": info.dtype, "stored_dtype": info.stored_dtype, "device": info.device}
            yield _gauge("redline_model_info", "What is served.", 1, self._labels | facts)
            yield _gauge("redline_weight_bytes", "Memory of the weights.", info.weight_bytes, self._labels)
            yield _gauge("redline_kv_bytes", "Memory of the KV pages.", info.kv_bytes, self._labels)
            yield _gauge("redline_start_seconds", "From the start of the engine to ready.", info.start_s, self._labels)


def _labelled(samples: Iterable[Sample], labels: dict[str, str]) -> Iterator[Metric]:
    """The engine's figures by label, one family for each name."""
    families: dict[str, GaugeMetricFamily | CounterMetricFamily] = {}
    for sample in samples:
        family = families.get(sample.name)
        if family is None:
            kind = GaugeMetricFamily if sample.name.endswith("_ratio") else CounterMetricFamily
            text = _TEXTS.get(sample.name, "Of the engine.")
            family = families[sample.name] = kind(f"redline_{sample.name}", text, labels=[*labels, *sample.labels])
        family.add_metric([*labels.values(), *sample.labels.values()], sample.value)
    yield from families.values()


def _labels_of(name: str, labels: dict[str, str]) -> dict[str, str]:
    """vLLM numbers its engines in a label; ours is the first."""
    return labels | {"engine": "0"} if name.startswith("vllm:") else labels


def _gauge(name: str, text: str, value: float, labels: dict[str, str]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, text, labels=list(labels))
    family.add_metric(list(labels.values()), value)
    return family


def _counters(
    name: str, text: str, keys: tuple[str, ...], counts: Counter[str] | Counter[tuple[str, str, str]], labels: dict[str, str]
) -> CounterMetricFamily:
    """A counter for each key of `counts`; one key is a string, several are a tuple of them."""
    family = CounterMetricFamily(name, text, labels=[*labels, *keys])
    for key, count in counts.items():
        family.add_metric([*labels.values(), *([key] if isinstance(key, str) else key)], count)
    return family
