"""Memory arithmetic by hand, and the sentences that say what does not fit and what to change."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from redline.errors import DoesNotFit
from redline.plan.memory import (
    GIBI,
    MEBI,
    Budget,
    Limits,
    longest_context,
    most_pages,
    needed_workspace,
    page_bytes,
    plan_memory,
    size,
    weights_bytes,
)
from redline.plan.workspace import Workspace, prompt_tokens, workspace
from redline.shapes import known

LLAMA = known("llama-3.1-8b")
LIMITS = Limits(max_num_seqs=16, max_num_batched_tokens=512, max_model_len=8192, prefix_caching=False)
PAGE = 2 * 32 * 16 * 8 * 128 * 2  # K and V, layers, tokens, kv heads, head size, bytes


def needed(kv_tokens: int | None = None, **limits: Any) -> Workspace:
    """LLAMA's workspace in bfloat16 under LIMITS, some of them changed."""
    return needed_workspace(LLAMA, 2, 16, dataclasses.replace(LIMITS, **limits), kv_tokens)


def fixed() -> int:
    """Weights and workspace of LLAMA in bfloat16 under LIMITS."""
    return weights_bytes(LLAMA, 2) + needed().total


def budget(kv_bytes: int, **rest: int) -> Budget:
    return Budget(fixed() + kv_bytes, "this machine", **rest)


def test_weights_and_pages_by_hand() -> None:
    assert weights_bytes(LLAMA, 2) == 2 * 8_030_261_248 + 2 * 65 * 4096  # 65 norms lie in float32
    assert page_bytes(LLAMA, 16, 2) == PAGE == 2 * MEBI


def test_longer_prompts_are_captured_of_models_that_would_wait_for_launches() -> None:
    """And have their memory."""
    models = ("llama-3.1-70b", "llama-3.1-8b", "llama-3.2-1b", "qwen2.5-0.5b")
    assert [prompt_tokens(known(name)) for name in models] == [1024, 1024, 2048, 4096]
    shape, sizes = known("qwen2.5-0.5b"), {"rows": 1, "tokens": 512, "page_size": 16, "graph_rows": 1}
    short, long = (workspace(shape, 2, **sizes, max_len=most, gpu=True).graphs for most in (1024, 16384))
    assert long == pytest.approx(4 * short, rel=1e-6)


def test_workspace_grows_with_what_may_run_at_once() -> None:
    """A step's tokens hold, in the widest place, the stream in float32 twice, two vectors, and gate, up and their product; logits of
    256 rows of 128256 are 131 MB in float32, and there are a few of them."""
    small, more_rows, more_tokens = needed(), needed(max_num_seqs=256), needed(max_num_batched_tokens=8192)
    assert more_rows.step >= 4 * 256 * 128256 * 4 > small.step
    assert 1.0 < more_tokens.step / (8192 * (12 * 4096 + 6 * 14336)) < 1.5
    assert small.graphs == small.driver == 0, "a CPU has neither"


def test_graphs_have_room_for_one_step_of_all_rows() -> None:
    """The logits of 256 rows in the graphs' memory, and those that graphs hand out; and what the driver keeps of each graph."""
    without, captured = (needed(max_num_seqs=256, gpu=True, graphs=graphs) for graphs in (False, True))
    assert 1.0 < captured.graphs / (256 * (128256 * 4 + 12 * 4096 + 6 * 14336)) < 1.5
    assert captured.step - without.step == 256 * 128256 * 4
    assert 64 * MEBI < captured.driver - without.driver < GIBI // 4


def test_a_step_has_no_more_tokens_than_the_pages_hold() -> None:
    """Of 1,024 tokens in pages of 16 no step has more, nor more than 64 rows; graphs are made for as many as may run."""
    many = {"max_num_seqs": 256, "max_num_batched_tokens": 8192, "gpu": True}
    assert needed(1024, **many).step == needed(**{**many, "max_num_seqs": 64, "max_num_batched_tokens": 1024}).step
    assert needed(1024, **many, graphs=True).graphs == needed(**many, graphs=True).graphs
    limits = dataclasses.replace(LIMITS, **many, num_pages=64, max_model_len=512)
    plan = plan_memory(LLAMA, 2, 16, Budget(24 * GIBI, "cuda:0"), limits)
    assert plan.workspace.step < needed(**many).step / 4


def test_what_is_left_becomes_pages() -> None:
    plan = plan_memory(LLAMA, 2, 16, budget(1000 * PAGE + PAGE // 2), LIMITS)
    assert (plan.num_pages, plan.kv_page_bytes, plan.kv_bytes) == (1000, PAGE, 1000 * PAGE)
    assert plan.total_bytes == plan.weights_bytes + plan.workspace.total + plan.kv_bytes <= plan.budget_bytes


def test_no_more_pages_than_could_be_used() -> None:
    """16 sequences of 8192 tokens are 8192 pages of 16; with the prefix cache as many again are of use."""
    plenty = budget(100_000 * PAGE)
    assert plan_memory(LLAMA, 2, 16, plenty, LIMITS).num_pages == 8192
    cached = dataclasses.replace(LIMITS, prefix_caching=True)
    assert plan_memory(LLAMA, 2, 16, plenty, cached).num_pages == most_pages(cached, 16) == 2 * 8192


def test_a_default_caps_the_pages_and_a_wish_sets_them() -> None:
    assert plan_memory(LLAMA, 2, 16, budget(5000 * PAGE, kv_most=700 * PAGE), LIMITS).num_pages == 700
    assert plan_memory(LLAMA, 2, 16, budget(5000 * PAGE, kv_most=700 * PAGE, kv_asked=900 * PAGE), LIMITS).num_pages == 900
    assert plan_memory(LLAMA, 2, 16, budget(5000 * PAGE), dataclasses.replace(LIMITS, num_pages=600)).num_pages == 600


def test_weights_that_do_not_fit_say_the_numbers_and_the_narrower_type() -> None:
    with pytest.raises(DoesNotFit) as caught:
        plan_memory(LLAMA, 4, 16, Budget(16 * GIBI, "cuda:0"), LIMITS)
    sentence = caught.value.sentence()
    assert "29.9 GiB for weights" in sentence and "16.0 GiB may be used on cuda:0" in sentence
    assert "--dtype bfloat16" in sentence and "smaller model" in sentence
    with pytest.raises(DoesNotFit) as caught:
        plan_memory(LLAMA, 2, 16, Budget(8 * GIBI, "cuda:0"), LIMITS)
    assert "--dtype" not in caught.value.sentence()


def test_a_context_that_does_not_fit_names_the_longest_that_does() -> None:
    with pytest.raises(DoesNotFit) as caught:
        plan_memory(LLAMA, 2, 16, budget(100 * PAGE), LIMITS)
    sentence = caught.value.sentence()
    assert "one sequence of 8192 tokens needs 1.0 GiB" in sentence and "200 MiB are planned" in sentence
    assert "--max-model-len 1600" in sentence and "smaller model" in sentence
    shorter = dataclasses.replace(LIMITS, max_model_len=1600)
    assert plan_memory(LLAMA, 2, 16, budget(100 * PAGE), shorter).num_pages >= 100


def test_a_wish_too_small_for_one_sequence_says_how_much_would_do() -> None:
    with pytest.raises(DoesNotFit) as caught:
        plan_memory(LLAMA, 2, 16, budget(5000 * PAGE, kv_asked=100 * PAGE), LIMITS)
    assert "--kv-cache-memory 1" in caught.value.hint
    enough = budget(5000 * PAGE, kv_asked=GIBI)
    assert plan_memory(LLAMA, 2, 16, enough, LIMITS).num_pages == 512
    with pytest.raises(DoesNotFit) as caught:
        plan_memory(LLAMA, 2, 16, budget(5000 * PAGE), dataclasses.replace(LIMITS, num_pages=10))
    assert "--num-pages 512" in caught.value.hint


def test_a_wish_beyond_the_budget_says_what_is_left() -> None:
    with pytest.raises(DoesNotFit) as caught:
        plan_memory(LLAMA, 2, 16, budget(GIBI), dataclasses.replace(LIMITS, num_pages=1000))
    assert "--num-pages asks for 2.0 GiB" in caught.value.message and "--num-pages 512" in caught.value.hint
    with pytest.raises(DoesNotFit) as caught:
        plan_memory(LLAMA, 2, 16, budget(GIBI, kv_asked=2 * GIBI), LIMITS)
    assert "--kv-cache-memory asks for 2.0 GiB" in caught.value.message and "--kv-cache-memory 1," in caught.value.hint


def test_the_longest_context_is_what_the_pages_hold() -> None:
    assert longest_context(LLAMA, 2, 16, budget(100 * PAGE), LIMITS) == 1600
    assert longest_context(LLAMA, 2, 16, budget(100_000 * PAGE), LIMITS) == 8192
    assert longest_context(LLAMA, 2, 16, Budget(GIBI, "this machine"), LIMITS) == 0


@pytest.mark.parametrize(
    ("count", "text"),
    [(2000, "2 KiB"), (3 * MEBI // 2, "1.5 MiB"), (200 * MEBI, "200 MiB"), (GIBI, "1.0 GiB"), (int(7.94 * GIBI), "7.9 GiB")],
)
def test_sizes_as_people_read_them(count: int, text: str) -> None:
    assert size(count) == text
