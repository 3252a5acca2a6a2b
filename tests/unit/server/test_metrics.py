"""/metrics: valid text, both names of each number, nothing shared between servers, nothing that grows with traffic."""

from __future__ import annotations

import bisect
import random
from collections.abc import Iterator
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from redline import log
from redline.engine.message import EngineInfo, Sample, Stats
from redline.server.histogram import Histogram
from redline.server.metrics import MEASURES, Metrics
from redline.types import Timing

INFO = EngineInfo(
    model="m", dtype="float32", device="cpu", max_model_len=64, vocab_size=512, num_pages=10, page_size=16, start_s=2.5
)


class Engine:
    alive = True
    info: EngineInfo | None = INFO
    open_requests = 5
    restarts = 2
    stats = Stats(
        running=2, waiting=3, pages_total=10, pages_used=4, prefix_queries=100, prefix_hits=60, prompt_tokens=100,
        generation_tokens=50, preemptions=1, steps=7, step_s=0.5, more={"drafts": 9.0, "idle_joules_per_second": 75.0},
        samples=[
            Sample("roofline_ratio", {"phase": "decode"}, 0.5),
            Sample("roofline_rest_ratio", {"phase": "decode", "cause": "host"}, 0.3),
            Sample("roofline_rest_ratio", {"phase": "decode", "cause": "padding"}, 0.2),
            Sample("throttled_seconds_total", {"reason": "sw_thermal"}, 4.0),
        ],
        fallbacks=[("attention", "no GPU", 2)],
    )  # fmt: skip


@pytest.fixture(autouse=True)
def no_fallbacks() -> Iterator[None]:
    log.FALLBACKS.clear()
    yield
    log.FALLBACKS.clear()


def samples(metrics: Metrics) -> dict[str, float]:
    """Value by name and labels, but for the model's and the engine's, which are checked."""
    families = text_string_to_metric_families(metrics.page().decode())
    found: dict[str, float] = {}
    for sample in (sample for family in families for sample in family.samples):
        labels = dict(sample.labels)
        if sample.name.startswith(("redline_", "vllm:")):
            assert labels.pop("model_name") == "m"
        if sample.name.startswith("vllm:"):
            assert labels.pop("engine") == "0"
        found[sample.name + "".join(f",{name}={value}" for name, value in sorted(labels.items()))] = sample.value
    return found


def test_the_engines_state_has_the_names_that_dashboards_know() -> None:
    found = samples(Metrics(Engine(), "m"))
    for name, value in {
        "vllm:num_requests_running": 2,
        "vllm:num_requests_waiting": 3,
        "vllm:kv_cache_usage_perc": 0.4,
        "vllm:prefix_cache_queries_total": 100,
        "vllm:prefix_cache_hits_total": 60,
        "vllm:prompt_tokens_total": 100,
        "vllm:generation_tokens_total": 50,
        "vllm:num_preemptions_total": 1,
        "redline_engine_ready": 1,
        "redline_requests_running": 2,
        "redline_requests_open": 5,
        "redline_engine_restarts_total": 2,
        "redline_kv_usage_ratio": 0.4,
        "redline_steps_total": 7,
        "redline_drafts_total": 9,
        "redline_idle_joules_per_second": 75,
        "redline_roofline_ratio,phase=decode": 0.5,
        "redline_roofline_rest_ratio,cause=host,phase=decode": 0.3,
        "redline_roofline_rest_ratio,cause=padding,phase=decode": 0.2,
        "redline_throttled_seconds_total,reason=sw_thermal": 4,
        "redline_fallbacks_total,name=attention,process=engine,reason=no GPU": 2,
    }.items():
        assert found[name] == value, name


def test_what_the_inference_gateway_asks_for_is_there_with_the_right_types() -> None:
    """Its model server protocol: gauges of queued and running requests and KV use, and the pages' size and number."""
    families = {f.name: f for f in text_string_to_metric_families(Metrics(Engine(), "m").page().decode())}
    for name in ("vllm:num_requests_waiting", "vllm:num_requests_running", "vllm:kv_cache_usage_perc", "vllm:cache_config_info"):
        assert families[name].type == "gauge", name
    (pages,) = families["vllm:cache_config_info"].samples
    assert (pages.labels["block_size"], pages.labels["num_gpu_blocks"], pages.value) == ("16", "10", 1)


def test_a_model_that_is_still_loading_has_a_page_too() -> None:
    class Loading(Engine):
        alive, info, stats = False, None, Stats()

    found = samples(Metrics(Loading(), "m"))
    assert found["redline_engine_ready"] == 0 and found["redline_kv_usage_ratio"] == 0
    assert not any(name.startswith("vllm:cache_config_info") for name in found)


def test_latencies_are_one_measurement_under_two_names() -> None:
    metrics = Metrics(Engine(), "m")
    metrics.first_token(0.03)
    metrics.next_tokens(0.08, 4)
    metrics.request_ended(0.2, 0.004)
    metrics.request_asked(n=2, max_tokens=100)
    timing = Timing(queue_s=0.5, prefill_s=0.25, decode_s=1.0)
    metrics.choice_ended("stop", 11, timing)
    metrics.choice_ended("stop")
    metrics.request_ran(timing, prompt_tokens=30)
    found = samples(metrics)
    for prefix in ("redline_", "vllm:"):
        assert found[prefix + "time_to_first_token_seconds_count"] == 1
        assert found[prefix + "time_to_first_token_seconds_bucket,le=0.04"] == 1
        assert found[prefix + "time_to_first_token_seconds_bucket,le=0.02"] == 0
        assert found[prefix + "inter_token_latency_seconds_count"] == 4
        assert found[prefix + "inter_token_latency_seconds_sum"] == pytest.approx(0.08)
        assert found[prefix + "request_time_per_output_token_seconds_sum"] == pytest.approx(0.1)
        assert found[prefix + "e2e_request_latency_seconds_sum"] == 0.2
        assert found[prefix + "request_queue_time_seconds_sum"] == 0.5
        assert found[prefix + "request_prefill_time_seconds_sum"] == 0.25
        assert found[prefix + "request_decode_time_seconds_sum"] == 1.0
        assert found[prefix + "request_inference_time_seconds_sum"] == 1.25
        assert found[prefix + "request_prompt_tokens_sum"] == 30
        assert found[prefix + "request_generation_tokens_sum"] == 11
        assert found[prefix + "request_params_n_sum"] == 2
        assert found[prefix + "request_params_max_tokens_sum"] == 100
    assert found["redline_request_detokenize_time_seconds_sum"] == 0.004
    assert found["vllm:request_success_total,finished_reason=stop"] == found["redline_requests_total,finished_reason=stop"] == 2


def test_answers_are_counted_by_route_and_errors_by_reason() -> None:
    metrics = Metrics(Engine(), "m")
    for status in (200, 200, 404):
        metrics.answered("/v1/models/{model:path}", "GET", status)
    metrics.answered("other", "BREW" * 100, 404)
    metrics.refused("overloaded")
    found = samples(metrics)
    assert found["redline_http_requests_total,method=GET,route=/v1/models/{model:path},status=200"] == 2
    assert found["redline_http_requests_total,method=other,route=other,status=404"] == 1
    assert found["http_requests_total,handler=/v1/models/{model:path},method=GET,status=4xx"] == 1
    assert found["redline_refused_requests_total,reason=overloaded"] == 1


def test_fallbacks_of_both_processes_are_shown_apart() -> None:
    log.fallback("tokenizer", "no fast path")
    found = samples(Metrics(Engine(), "m"))
    assert found["redline_fallbacks_total,name=tokenizer,process=server,reason=no fast path"] == 1
    assert found["redline_fallbacks_total,name=attention,process=engine,reason=no GPU"] == 2


def test_two_servers_share_nothing() -> None:
    one, other = Metrics(Engine(), "m"), Metrics(Engine(), "m")
    one.first_token(1.0)
    assert samples(other)["redline_time_to_first_token_seconds_count"] == 0


def test_a_histogram_counts_what_an_upper_bound_includes() -> None:
    """Against a count by hand of every value against every bound."""
    draw = random.Random(1)
    bounds = (0.1, 0.5, 1.0, 10.0)
    histogram, values = Histogram(bounds), [draw.choice([0.1, 0.5, 1.0, 10.0, 10.1, draw.uniform(0, 12)]) for _ in range(500)]
    for value in values:
        histogram.observe(value)
    histogram.observe(0.2, 7)
    values += [0.2] * 7
    shown: dict[str, Any] = {
        sample.labels.get("le", sample.name): sample.value for sample in histogram.family("h", "", {}).samples
    }
    for bound in bounds:
        assert shown[str(float(bound))] == sum(value <= bound for value in values)
    assert shown["+Inf"] == shown["h_count"] == len(values) and shown["h_sum"] == pytest.approx(sum(values))


def test_every_measure_has_buckets_that_rise() -> None:
    for measure in MEASURES:
        assert list(measure.bounds) == sorted(set(measure.bounds)) and bisect.bisect(measure.bounds, 0) == 0, measure.name
