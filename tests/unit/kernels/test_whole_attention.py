"""Whole prompts apart from the cache, with cuDNN played by torch and the paged kernel in Triton's interpreter."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from redline import log
from redline.kernels import attention, attention_plan, whole_attention
from redline.kernels.tolerance import check

CPU = torch.device("cpu")
KIND = (CPU, 4, 2, 16)


def exact(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """Laid out as cuDNN's is: like q."""
    found = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale, enable_gqa=True)
    return found.transpose(1, 2).contiguous().transpose(1, 2)


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(whole_attention, "_trusted", {})
    monkeypatch.setattr(whole_attention, "causal", exact)
    monkeypatch.setattr(whole_attention, "_supports", lambda way, kind, dtype: way == whole_attention.CUDNN)
    monkeypatch.setattr(attention_plan, "WHOLE_TOKENS", 20)
    monkeypatch.setattr(attention_plan, "LEAST_STEP", 8)
    log.FALLBACKS.clear()
    yield
    log.FALLBACKS.clear()


def step(lengths: list[tuple[int, int]], window: int = 0) -> tuple[dict[str, object], Tensor]:
    """Arguments of `plan` and `attend` for prompts, chunks and decoding rows over a cache that holds their keys, and the result."""
    ragged, pages = attention.make_ragged([q for q, _ in lengths], [c for _, c in lengths], 16, CPU, seed=3)
    generator = torch.Generator().manual_seed(1)
    tokens = sum(q for q, _ in lengths)
    q_TNH = torch.randn((tokens, 4, 16), generator=generator)
    k_cache, v_cache = (torch.randn((pages, 16, 2, 16), generator=generator) for _ in range(2))
    new = []
    for cache in (k_cache, v_cache):
        rows = []
        for b, (queries, context) in enumerate(lengths):
            keys = torch.arange(context - queries, context)
            rows.append(cache[ragged.page_table_BP[b].long()[keys // 16], keys % 16])
        new.append(torch.cat(rows))
    (expected,) = attention.reference(q_TNH, k_cache, v_cache, ragged, 0.25, window)
    return {"ragged": ragged, "new": (q_TNH, *new), "caches": (k_cache, v_cache), "window": window}, expected


def run(given: dict[str, object]) -> Tensor:
    ragged, (q, k, v), caches, window = given["ragged"], given["new"], given["caches"], given["window"]
    split = whole_attention.plan(ragged, window, KIND[1:], q.dtype, CPU)
    if split is None:
        from redline.kernels import paged_runs

        return paged_runs.paged_attention(q, *caches, ragged, 0.25, window)
    heads = tuple(torch.cat((x, x.new_zeros((split.tail, *x.shape[1:])))) for x in (q, k, v))
    return whole_attention.attend(split, heads, *caches, ragged, 0.25, window)


@pytest.mark.usefixtures("interpreter")
@pytest.mark.parametrize(
    "lengths",
    [
        [(24, 24)],
        [(21, 21)],
        [(24, 24)] * 5,
        [(1, 9), (1, 40), (21, 21), (18, 50), (37, 37), (24, 24), (24, 24)],
        [(30, 30), (1, 1), (40, 41), (19, 19)],
        [(50, 50), (0, 0), (33, 33)],
    ],
    ids=str,
)
@pytest.mark.parametrize("window", [0, 28])
def test_every_sequence_gets_its_attention(lengths: list[tuple[int, int]], window: int) -> None:
    given, expected = step(lengths, window)
    check("output", expected, run(given), "attention", "f32")
    assert not log.FALLBACKS


@pytest.mark.usefixtures("interpreter")
@pytest.mark.parametrize("wrong", ["different", "nan", "raises"])
def test_what_fails_the_check_is_not_used(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def causal(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        calls.append(1)
        if wrong == "raises":
            raise RuntimeError("No execution plans support the graph.\ndetails")
        return exact(q, k, v, scale) * (torch.nan if wrong == "nan" else 1.02)

    monkeypatch.setattr(whole_attention, "causal", causal)
    given, expected = step([(24, 24), (1, 5)])
    check("output", expected, run(given), "attention", "f32")
    asked = len(calls)
    check("output", expected, run(given), "attention", "f32")
    assert len(calls) == asked and sum(log.FALLBACKS.values()) == 1


@pytest.mark.usefixtures("interpreter")
def test_a_failure_later_leaves_the_step_to_the_paged_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    given, expected = step([(24, 24), (1, 5)])
    run(given)

    def causal(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        raise RuntimeError("CUDNN_STATUS_EXECUTION_FAILED")

    monkeypatch.setattr(whole_attention, "causal", causal)
    check("output", expected, run(given), "attention", "f32")
    assert log.FALLBACKS[whole_attention.NAME, "cuDNN failed: CUDNN_STATUS_EXECUTION_FAILED"] == 1
    assert whole_attention.plan(given["ragged"], 0, KIND[1:], torch.float32, CPU) is None


def test_memory_that_runs_out_is_no_fault_of_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    def causal(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    given, _ = step([(24, 24)])
    monkeypatch.setattr(whole_attention, "causal", causal)
    with pytest.raises(torch.OutOfMemoryError):
        run(given)
    monkeypatch.setattr(whole_attention, "causal", exact)
    assert whole_attention.plan(given["ragged"], 0, KIND[1:], torch.float32, CPU) is not None


def test_no_plan_without_lengths_or_prompts() -> None:
    given, _ = step([(1, 5), (18, 18)])
    assert whole_attention.plan(given["ragged"], 0, KIND[1:], torch.float32, CPU) is None
    ragged, _ = attention.make_ragged([40], [40], 16, CPU, seed=0, known=False)
    assert whole_attention.plan(ragged, 0, KIND[1:], torch.float32, CPU) is None


def test_plans_are_made_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the shape and the strides that `attend` will have; what fails then is known before a prompt comes."""
    shapes = []

    def causal(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        shapes.append((q.shape, q.stride(), k.stride(), v.stride(), scale))
        return exact(q, k, v, scale)

    given, _ = step([(21, 21)])
    run(given)
    monkeypatch.setattr(whole_attention, "causal", causal)
    whole_attention.prepare(attention_plan.padded(21), KIND[1:], 0.25, torch.float32, CPU)
    run(given)
    assert len(shapes) == 2 and shapes[0] == shapes[1] and not log.FALLBACKS

    def broken(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        raise RuntimeError("no engine")

    monkeypatch.setattr(whole_attention, "causal", broken)
    for _ in range(2):
        whole_attention.prepare(32, KIND[1:], 0.25, torch.float32, CPU)
    assert sum(log.FALLBACKS.values()) == 1


def test_our_own_kernel_is_asked_on_its_card_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Elsewhere nothing of it is imported, for what it is launched with may be missing; where that is so on its card, cuDNN takes its place."""
    monkeypatch.undo()
    monkeypatch.setattr(whole_attention, "_trusted", {})
    cards = {"cuda:0": 80, "cuda:1": whole_attention.HOPPER}
    monkeypatch.setattr(
        whole_attention.op, "device_of", lambda device: SimpleNamespace(target=SimpleNamespace(capability=cards[str(device)]))
    )
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)

    def check(way: str, kind: whole_attention.Kind) -> float:
        if way == whole_attention.OWN:
            assert str(kind[0]) == "cuda:1" and kind[3] in (64, 128)
            raise ImportError("No module named 'cuda'")
        return 0.0

    monkeypatch.setattr(whole_attention, "check", check)
    for device in cards:
        for size in (64, 128, 256):
            kind = (torch.device(device), 4, 2, size)
            assert not whole_attention._may(whole_attention.OWN, kind, torch.bfloat16)
    long = attention_plan.Whole(0, 1, 512, 512)
    assert whole_attention._way(long, (torch.device("cuda:1"), 4, 2, 128), torch.bfloat16) == whole_attention.CUDNN
    assert sum(log.FALLBACKS.values()) == 2
