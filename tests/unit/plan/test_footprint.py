"""Memory by part: the same bytes as the engine's own plan where it has one, and as published files where it has none."""

from __future__ import annotations

import pytest

from redline.errors import ConfigError
from redline.plan.footprint import PAGE, footprint
from redline.plan.memory import CUDA_CONTEXT_BYTES, Limits, needed_workspace, page_bytes, weights_bytes
from redline.plan.place import on_chips
from redline.plan.precision import KV, WEIGHTS, kv_format, weight_format
from redline.plan.roofline import weight_count, weight_parts
from redline.plan.split import Layout, layouts, rank_shape
from redline.shapes import known

LIMITS = Limits(8, 2048, 4096, graphs=True, gpu=True)


def of(model: str, weights: str = "bfloat16", kv: str = "bfloat16", layout: Layout | None = None, on: str = "h200"):
    return footprint(known(model), on_chips(on), WEIGHTS[weights], KV[kv], layout or Layout(), LIMITS)


@pytest.mark.parametrize("model", ["llama-3.1-8b", "llama-3.2-1b", "qwen2.5-7b", "gemma-3-1b", "mixtral-8x7b", "qwen3-30b-a3b"])
def test_in_16_bits_it_is_what_the_engine_plans(model: str) -> None:
    shape, found = known(model), of(model)
    assert sum(count for _, count in weight_parts(shape)) == weight_count(shape)
    assert found.weights_bytes == weights_bytes(shape, 2)
    needed = needed_workspace(shape, 2, PAGE, LIMITS)
    assert found.workspace + found.driver == needed.total + CUDA_CONTEXT_BYTES
    assert found.kv_token * PAGE == page_bytes(shape, PAGE, 2)


@pytest.mark.parametrize(
    ("model", "weights", "gigabytes"),
    [  # sizes of the files that llama.cpp's tools write
        ("llama-2-7b", "q4_k_m", 4.08),
        ("llama-3.1-8b", "q4_k_m", 4.92),
        ("llama-3.1-8b", "q8_0", 8.54),
        ("llama-3.1-70b", "q4_k_m", 42.5),
    ],
)
def test_quantised_files_are_as_large_as_published_ones(model: str, weights: str, gigabytes: float) -> None:
    assert of(model, weights).weights_bytes / 1e9 == pytest.approx(gigabytes, rel=0.012)


def test_a_group_shares_weights_and_cache() -> None:
    whole, half = of("llama-3.1-70b"), of("llama-3.1-70b", layout=Layout(2))
    norms = next(size for kind, _, size in whole.weights if kind == "norms")
    assert half.weights_bytes == pytest.approx((whole.weights_bytes - norms) / 2 + norms)
    assert half.kv_token == whole.kv_token / 2
    staged = of("llama-3.1-70b", layout=Layout(1, 4))
    assert staged.kv_token == whole.kv_token / 4
    # Eight KV heads over sixteen chips: each keeps one.
    assert rank_shape(known("llama-3.1-70b"), Layout(16)).num_kv_heads == 1


def test_what_is_left_holds_sequences() -> None:
    found = of("llama-3.1-8b")
    users, context = found.sequences(4096), 4096
    assert users * context * found.kv_token <= found.kv_room < (users + 1) * context * found.kv_token
    assert found.longest(users) >= 4096 and found.sequences(found.longest(3)) >= 3
    assert of("llama-3.1-70b").kv_room < 0 and of("llama-3.1-70b").kv_tokens == 0
    told = found.as_dict(2, 4096)
    assert told["kv_mib"] == 2 * 4096 * 128 // 1024
    assert sum(told["weights_mib"].values()) >= told["weights_total_mib"]


def test_layouts_use_all_chips_and_cut_heads_evenly() -> None:
    assert [(each.tensor, each.pipeline) for each in layouts(known("llama-3.1-8b"), 6)] == [(1, 6), (2, 3)]
    assert all(each.chips == 8 for each in layouts(known("llama-3.1-8b"), 8))
    assert str(Layout()) == "one chip" and str(Layout(4, 2)) == "tensor parallel 4, pipeline parallel 2"


def test_formats_have_short_names_and_unknown_ones_are_refused() -> None:
    assert weight_format("bf16") is WEIGHTS["bfloat16"] and weight_format("Q4_K_M") is WEIGHTS["q4_k_m"]
    assert kv_format("fp8") is KV["fp8"]
    with pytest.raises(ConfigError, match="int5"):
        weight_format("int5")
    with pytest.raises(ConfigError, match="q4_k_m"):
        kv_format("q4_k_m")
