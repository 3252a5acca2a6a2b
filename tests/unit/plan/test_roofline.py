"""Bytes, FLOPs and limits against figures from outside: published parameter counts, and limits computed elsewhere."""

from __future__ import annotations

import dataclasses

import pytest

from redline.hardware import Ceilings
from redline.plan.roofline import StepWork, cost, limit_s, linear_weights, weight_count
from redline.shapes import ModelShape, MoeShape, known

H200 = Ceilings("cuda:0", "NVIDIA H200", 4.59e12, {"bfloat16": 766e12}, "")

# Two layers that can be counted by hand: D 8, N 4, K 2, H 4, F 16, V 32.
SMALL = ModelShape(
    family="llama",
    num_layers=2,
    hidden_size=8,
    intermediate_size=16,
    num_heads=4,
    num_kv_heads=2,
    head_size=4,
    vocab_size=32,
    max_position=128,
)
SMALL_LAYER = 8 * 16 + 2 * 8 * 8 + 16 * 8 + 3 * 8 * 16  # q, k and v, o, gate up down
SMALL_NORMS = 2 * 2 * 8 + 8


def changed(**fields: object) -> ModelShape:
    return dataclasses.replace(SMALL, **fields)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [  # as the model cards and the safetensors indices say
        ("llama-3.1-8b", 8_030_261_248),
        ("llama-3.1-70b", 70_553_706_496),
        ("llama-3.2-1b", 1_235_814_400),
        ("qwen2.5-0.5b", 494_032_768),
        ("qwen2.5-7b", 7_615_616_512),
        ("qwen3-8b", 8_190_735_360),
        ("qwen3-30b-a3b", 30_532_122_624),
        ("mixtral-8x7b", 46_702_792_704),
        ("gemma-3-1b", 999_885_952),
        ("smollm2-135m", 134_515_008),
    ],
)
def test_parameter_counts_are_the_published_ones(name: str, parameters: int) -> None:
    assert weight_count(known(name)) == parameters


@pytest.mark.parametrize(("name", "gigabytes"), [("llama-3.1-8b", 15.01), ("llama-3.2-1b", 2.47), ("qwen3-8b", 15.14)])
def test_bytes_of_one_decoded_token_in_bfloat16(name: str, gigabytes: float) -> None:
    """All weights but the input embedding; the first two are facts of the field's reports, the third by hand."""
    due = cost(known(name), 2, 2, StepWork.of([(0, 1)], logit_rows=1))
    assert due.weight_bytes / 1e9 == pytest.approx(gigabytes, abs=0.005)


# Limits in ms of one H200 at 4.59 TB/s and 766 TFLOP/s, computed by other code for a comparison of engines. Decode rows
# stand at p + 144 tokens; that code counted half of the causal square without the diagonal, hence 0.3 %.
@pytest.mark.parametrize(
    ("name", "sequences", "prompt", "limit_ms"),
    [
        ("qwen3-8b", 1, 128, 3.306),
        ("qwen3-8b", 8, 512, 3.466),
        ("qwen3-8b", 32, 512, 3.972),
        ("qwen3-8b", 128, 512, 5.995),
        ("qwen3-8b", 256, 512, 10.454),
        ("llama-3.2-1b", 1, 128, 0.540),
        ("llama-3.2-1b", 8, 512, 0.576),
        ("llama-3.2-1b", 32, 512, 0.688),
        ("llama-3.2-1b", 128, 512, 1.138),
        ("llama-3.2-1b", 256, 512, 2.025),
    ],
)
def test_decode_limits_agree_with_an_independent_count(name: str, sequences: int, prompt: int, limit_ms: float) -> None:
    work = StepWork.of([(prompt + 143, 1)] * sequences, logit_rows=sequences)
    assert limit_s(cost(known(name), 2, 2, work), H200, "bfloat16") * 1e3 == pytest.approx(limit_ms, rel=3e-3)


@pytest.mark.parametrize(
    ("name", "sequences", "limit_ms"),
    [("qwen3-8b", 8, 646), ("qwen3-8b", 1, 81.0), ("llama-3.2-1b", 8, 94.9), ("llama-3.2-1b", 1, 12.0)],
)
def test_prefill_limits_agree_with_an_independent_count(name: str, sequences: int, limit_ms: float) -> None:
    work = StepWork.of([(0, 4096)] * sequences, logit_rows=sequences)
    assert limit_s(cost(known(name), 2, 2, work), H200, "bfloat16") * 1e3 == pytest.approx(limit_ms, rel=4e-3)


def test_a_small_model_counted_by_hand() -> None:
    """Two sequences: 3 new tokens after 5, and 1 after 9; both sample."""
    work = StepWork.of([(5, 3), (9, 1)], logit_rows=2)
    assert (work.tokens, work.sequences, work.context_reads, work.score_pairs) == (4, 2, 8 + 10, 6 + 7 + 8 + 10)
    due = cost(SMALL, 2, 1, work)
    head = 32 * 8
    assert due.weight_bytes == 2 * (2 * SMALL_LAYER + head + 4 * 8) + 4 * SMALL_NORMS  # 4 rows of the embedding
    assert due.kv_read_bytes == 2 * 18 * 2 * (2 * 4)
    assert due.kv_write_bytes == 2 * 4 * 2 * (2 * 4)
    assert due.flops_linear == 2 * 4 * 2 * SMALL_LAYER + 2 * 2 * head
    assert due.flops_attention == 4 * 2 * 4 * 4 * 31
    assert due.bytes == sum(stage.bytes for stage in due.stages)
    assert due.flops == sum(stage.flops for stage in due.stages)


def test_what_sequences_have_in_common_is_read_once_and_multiplied_for_each() -> None:
    alone = StepWork.of([(20, 1), (30, 1)], logit_rows=2)
    due, together = cost(SMALL, 2, 1, alone), cost(SMALL, 2, 1, dataclasses.replace(alone, common_reads=16))
    assert due.kv_read_bytes - together.kv_read_bytes == 2 * 16 * 2 * (2 * 4)
    assert due.flops == together.flops and due.weight_bytes == together.weight_bytes


def test_the_head_is_read_only_where_a_token_samples() -> None:
    without, with_head = (cost(SMALL, 2, 2, StepWork.of([(0, 4)], logit_rows=rows)) for rows in (0, 1))
    assert with_head.weight_bytes - without.weight_bytes == 2 * 32 * 8


def test_weight_counts_by_hand() -> None:
    assert linear_weights(SMALL) == 2 * SMALL_LAYER + 32 * 8
    assert weight_count(SMALL) == linear_weights(SMALL) + SMALL_NORMS + 32 * 8
    assert weight_count(changed(tie_embeddings=True)) == weight_count(SMALL) - 32 * 8
    biases = weight_count(changed(qkv_bias=True, o_bias=True, mlp_bias=True)) - weight_count(SMALL)
    assert biases == 2 * ((16 + 8 + 8) + 8 + (16 + 16 + 8))
    assert weight_count(changed(qk_norm=True)) == weight_count(SMALL) + 2 * 2 * 4


def test_a_step_is_a_chain_so_limits_of_its_stages_add_up() -> None:
    """Reading bound projections and compute bound attention do not hide behind each other."""
    ceilings = Ceilings("cpu", "c", 1e9, {"float32": 1e9}, "")
    due = cost(SMALL, 4, 4, StepWork.of([(0, 64)], logit_rows=1))
    by_stage = sum(max(stage.bytes, stage.flops) for stage in due.stages) / 1e9
    assert limit_s(due, ceilings, "float32") == pytest.approx(by_stage)
    assert by_stage > max(due.bytes, due.flops) / 1e9


def test_without_a_rate_for_the_type_only_bytes_limit() -> None:
    due = cost(SMALL, 2, 2, StepWork.of([(0, 64)], logit_rows=1))
    assert limit_s(due, H200, "float16") == pytest.approx(due.bytes / 4.59e12)


def brute_force(spans: list[tuple[int, int]], window: int) -> tuple[int, int]:
    """(distinct keys read, visible pairs), by listing them."""
    reads = pairs = 0
    for start, count in spans:
        seen: set[int] = set()
        for position in range(start, start + count):
            visible = range(max(0, position - window + 1), position + 1)
            pairs += len(visible)
            seen |= set(visible)
        reads += len(seen)
    return reads, pairs


@pytest.mark.parametrize("spans", [[(0, 5)], [(0, 20)], [(30, 1)], [(3, 9), (7, 1), (0, 1)], [(8, 8)]])
def test_windows_cut_reads_and_pairs(spans: list[tuple[int, int]]) -> None:
    work = StepWork.of(spans, logit_rows=0, window=8)
    assert (work.window_reads, work.window_pairs) == brute_force(spans, 8)
    assert (work.context_reads, work.score_pairs) == brute_force(spans, 10**6)


def test_only_sliding_layers_are_cut() -> None:
    """Three of four layers slide over 8 tokens; the step stands at 100."""
    shape = changed(num_layers=4, sliding_window=8, sliding_layers=(True, True, False, True))
    due = cost(shape, 2, 2, StepWork.of([(99, 1)], logit_rows=1, window=8))
    assert due.kv_read_bytes == (3 * 8 + 1 * 100) * 2 * (2 * 4) * 2
    assert due.flops_attention == (3 * 8 + 1 * 100) * 4 * 4 * 4


def test_of_a_sparse_layer_only_the_touched_experts_are_read() -> None:
    """8 experts, 2 a token: one token reads 2 of them, a thousand read all, and FLOPs follow the chosen ones."""
    shape = changed(moe=MoeShape(num_experts=8, experts_per_token=2, intermediate_size=16))
    one_expert = 3 * 8 * 16
    dense = 2 * (8 * 16 + 2 * 8 * 8 + 16 * 8 + 8 * 8) + 32 * 8  # projections and router of two layers, head
    one = cost(shape, 1, 1, StepWork.of([(0, 1)], logit_rows=1))
    many = cost(shape, 1, 1, StepWork.of([(0, 1000)], logit_rows=1))
    fixed = 4 * SMALL_NORMS
    assert one.weight_bytes == pytest.approx(dense + 2 * 2 * one_expert + fixed + 8)
    assert many.weight_bytes == pytest.approx(dense + 2 * 8 * one_expert + fixed + 8000)
    assert one.flops_linear == 2 * (dense + 2 * 2 * one_expert)
    assert linear_weights(shape) == dense + 2 * 8 * one_expert


def test_two_tokens_touch_the_expected_number_of_experts() -> None:
    """Of 4 experts with 1 a token, two tokens pick the same one in a quarter of all cases: 1.75 experts."""
    shape = changed(num_layers=1, moe=MoeShape(num_experts=4, experts_per_token=1, intermediate_size=16))
    stages = {stage.name: stage for stage in cost(shape, 1, 1, StepWork.of([(0, 1), (0, 1)], logit_rows=0)).stages}
    assert stages["experts_down"].bytes == pytest.approx(1.75 * 8 * 16)
