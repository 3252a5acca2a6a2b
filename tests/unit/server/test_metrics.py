"""/metrics: valid text, both names of each number, nothing shared between servers."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from redline.engine.message import Stats
from redline.server.metrics import Metrics


class Engine:
    alive = True
    stats = Stats(
        running=2, waiting=3, pages_total=10, pages_used=4, prefix_queries=100, prefix_hits=60, prompt_tokens=100,
        generation_tokens=50, preemptions=1, steps=7, step_s=0.5, more={"drafts": 9.0, "decode_roofline_ratio": 0.5},
    )  # fmt: skip


def samples(metrics: Metrics) -> dict[str, float]:
    families = text_string_to_metric_families(metrics.page().decode())
    found: dict[str, float] = {}
    for sample in (sample for family in families for sample in family.samples):
        assert sample.labels.get("model_name") == "m"
        extra = "".join(f",{name}={value}" for name, value in sorted(sample.labels.items()) if name != "model_name")
        found[sample.name + extra] = sample.value
    return found


def test_the_engines_state_has_the_names_that_dashboards_know() -> None:
    found = samples(Metrics(Engine(), "m"))
    assert found["redline_drafts_total"] == 9.0 and found["redline_decode_roofline_ratio"] == 0.5
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
        "redline_kv_usage_ratio": 0.4,
        "redline_steps_total": 7,
        "redline_drafts_total": 9,
    }.items():
        assert found[name] == value, name


def test_latencies_are_one_measurement_under_two_names() -> None:
    metrics = Metrics(Engine(), "m")
    metrics.first_token(0.03)
    metrics.next_tokens(0.08, 4)
    metrics.request_ended(0.2)
    metrics.choice_ended("stop")
    metrics.choice_ended("stop")
    found = samples(metrics)
    for prefix in ("redline_", "vllm:"):
        assert found[prefix + "time_to_first_token_seconds_count"] == 1
        assert found[prefix + "time_to_first_token_seconds_bucket,le=0.04"] == 1
        assert found[prefix + "time_to_first_token_seconds_bucket,le=0.02"] == 0
        assert found[prefix + "inter_token_latency_seconds_count"] == 4
        assert abs(found[prefix + "inter_token_latency_seconds_sum"] - 0.08) < 1e-9
        assert found[prefix + "e2e_request_latency_seconds_sum"] == 0.2
    assert found["vllm:request_success_total,finished_reason=stop"] == found["redline_requests_total,finished_reason=stop"] == 2


def test_two_servers_share_nothing() -> None:
    one, other = Metrics(Engine(), "m"), Metrics(Engine(), "m")
    one.first_token(1.0)
    assert samples(other)["redline_time_to_first_token_seconds_count"] == 0
