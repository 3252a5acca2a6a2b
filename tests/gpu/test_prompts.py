"""Whole prompts on a card: our own kernel or cuDNN where it is trusted, the paged kernel for the rest of the same step."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import kernel_checks
from families import CASES, FAMILIES, PROMPTS, check_decided, half_precision_prompts, redline_model, reference_model
from paging import PagedSequences, chunked, whole
from redline import log
from redline.kernels import attention, attention_plan, attention_triton, whole_attention
from redline.kernels.tolerance import TOLERANCES, check

pytestmark = pytest.mark.gpu


@pytest.fixture(autouse=True)
def hopper() -> None:
    if torch.cuda.get_device_capability() < (9, 0):
        pytest.skip("cuDNN is used from sm_90 on")


@pytest.fixture
def cuda() -> torch.device:
    return torch.device("cuda", torch.cuda.current_device())


@pytest.fixture
def used(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The numbers of rows of cuDNN's calls."""
    rows: list[int] = []
    plain = whole_attention.causal

    def causal(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float) -> torch.Tensor:
        rows.append(q.shape[0] * q.shape[2])
        return plain(q, k, v, scale)

    monkeypatch.setattr(whole_attention, "causal", causal)
    log.FALLBACKS.clear()
    yield rows
    assert {name for name, _ in log.FALLBACKS} <= {"chain"}, "small models have heads that other kernels lack"


@pytest.mark.parametrize("heads", [(32, 8, 128), (32, 8, 64), (9, 3, 64), (16, 16, 80), (14, 2, 64), (8, 4, 256)])
def test_cudnn_is_trusted(heads: tuple[int, int, int], cuda: torch.device) -> None:
    """With grouped heads, two prompts at once, and a prompt read past its end."""
    assert whole_attention.check(whole_attention.CUDNN, (cuda, *heads)) <= TOLERANCES["attention"]["bf16"]


@pytest.mark.parametrize("heads", [(32, 8, 128), (32, 8, 64), (5, 5, 128), (12, 2, 64)])
@pytest.mark.parametrize(
    ("start", "count", "length"), [(0, 1, 100), (7, 1, 513), (0, 2, 512), (5, 3, 300), (0, 1, 2048), (3, 2, 1537)]
)
def test_own_kernel(heads: tuple[int, int, int], start: int, count: int, length: int, cuda: torch.device) -> None:
    """Prompts of any length from any row on, and not a row more; twice with the same bits."""
    from redline.kernels import prompt_attention_cuda

    if torch.cuda.get_device_capability() != (9, 0):
        pytest.skip("our own kernel is Hopper's")
    torch.manual_seed(length)
    rows = start + count * length + 3
    q, k, v = (torch.randn(rows, number, heads[2], device=cuda).bfloat16() for number in (heads[0], heads[1], heads[1]))
    found, again = torch.full_like(q, 7.0), torch.full_like(q, 7.0)
    for output in (found, again):
        prompt_attention_cuda.attend(attention_plan.Whole(start, count, length, length), q, k, v, 0.1, output)
    for first in range(start, rows - 3, length):
        part = slice(first, first + length)
        check("output", whole_attention._exact(q[part], k[part], v[part], 0.1), found[part], "attention", "bf16")
    assert (found[:start] == 7).all() and (found[rows - 3 :] == 7).all() and torch.equal(found, again)


CHUNKS = [
    [(128, 128)],
    [(17, 17)],
    [(100, 1000)],
    [(512, 512)],
    [(300, 5000), (64, 64), (129, 257), (33, 160)],
    [(700, 700), (20, 4100), (31, 95)],
]


@pytest.mark.parametrize("heads", [(32, 8, 128), (32, 8, 64), (5, 1, 128), (16, 16, 64), (8, 1, 128)])
@pytest.mark.parametrize("page_size", [16, 64, 256])
@pytest.mark.parametrize("lengths", CHUNKS, ids=lambda lengths: "-".join(f"{queries}of{context}" for queries, context in lengths))
def test_own_kernel_over_pages(
    lengths: list[tuple[int, int]], page_size: int, heads: tuple[int, int, int], cuda: torch.device
) -> None:
    """Chunks behind cached keys, among pages of nobody that hold NaN; with padding behind the last as a captured step has it; twice with the same bits."""
    from redline.kernels import prompt_attention_cuda

    if torch.cuda.get_device_capability() != (9, 0):
        pytest.skip("our own kernel is Hopper's")
    num_heads, kv_heads, size = heads
    queries, contexts = [q for q, _ in lengths], [c for _, c in lengths]
    ragged, pages = attention.make_ragged(queries, contexts, page_size, cuda, seed=4)
    torch.manual_seed(len(lengths))
    tokens, padding = sum(queries), 40 if len(lengths) == 1 else 0
    q = torch.randn(tokens + padding, num_heads, size, device=cuda).bfloat16()
    used = attention._used_slots(ragged, pages, page_size).to(cuda)[..., None, None]
    caches = [torch.randn(pages, page_size, kv_heads, size, device=cuda).bfloat16().where(used, torch.nan) for _ in range(2)]
    run = attention_plan.Run(0, len(lengths), 0, tokens + padding, max(queries), max(contexts))
    found, again = torch.full_like(q, 7.0), torch.full_like(q, 7.0)
    for output in (found, again):
        prompt_attention_cuda.attend_run(run, q, *caches, ragged, 0.1, output)
    exact = attention.paged_attention(q[:tokens].float(), *(cache.float() for cache in caches), ragged, 0.1)
    check("output", exact, found[:tokens], "attention", "bf16")
    assert (found[tokens:] == 7).all() and torch.equal(found, again)


LENGTHS = [
    [(512, 512)],
    [(1000, 1000)],
    [(640, 640)] * 7,
    [(1, 900), (1, 64), (600, 600), (18, 70), (1000, 1000), (100, 700), (513, 513)],
]


@pytest.mark.parametrize("way", [whole_attention.OWN, whole_attention.CUDNN])
@pytest.mark.parametrize("window", [0, 800])
@pytest.mark.parametrize("heads", [(32, 8, 128), (32, 8, 64)])
@pytest.mark.parametrize("lengths", LENGTHS, ids=lambda lengths: "-".join(str(queries) for queries, _ in lengths))
def test_every_sequence_gets_its_attention(
    lengths: list[tuple[int, int]],
    heads: tuple[int, int, int],
    window: int,
    way: str,
    cuda: torch.device,
    used: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The mixed step, whole prompts by either way, against the paged kernel's float32 twin, sequence by sequence."""
    if way == whole_attention.OWN and torch.cuda.get_device_capability() != (9, 0):
        pytest.skip("our own kernel is Hopper's")
    monkeypatch.setattr(whole_attention, "_way", lambda *asked: way)
    num_heads, kv_heads, size = heads
    ragged, pages = attention.make_ragged([q for q, _ in lengths], [c for _, c in lengths], 64, cuda, seed=2)
    tokens = sum(queries for queries, _ in lengths)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, device=cuda).bfloat16()

    q_TNH, k_cache, v_cache = (
        random(tokens, num_heads, size),
        random(pages, 64, kv_heads, size),
        random(pages, 64, kv_heads, size),
    )
    split = attention.plan_prompts(ragged, window, heads, torch.bfloat16, cuda)
    if split is None:
        assert window and max(queries for queries, _ in lengths) > window
        return
    used.clear()
    new = []
    for cache in (k_cache, v_cache):
        rows = []
        for b, (queries, context) in enumerate(lengths):
            keys = torch.arange(context - queries, context, device=cuda)
            rows.append(cache[ragged.page_table_BP[b].long()[keys // 64], keys % 64])
        new.append(torch.cat([*rows, cache.new_zeros((split.tail, kv_heads, size))]))
    q_RNH = torch.cat((q_TNH, q_TNH.new_zeros((split.tail, num_heads, size))))
    found = attention.prompt_attention((q_RNH, new[0], new[1]), split, k_cache, v_cache, ragged, 0.1, window)
    alike, _ = attention.make_ragged([q for q, _ in lengths], [c for _, c in lengths], 64, cuda, seed=2, known=False)
    exact = attention.paged_attention(q_TNH.float(), k_cache.float(), v_cache.float(), alike, 0.1, window)
    check("output", exact, found, "attention", "bf16")
    assert bool(used) == (way == whole_attention.CUDNN)


@pytest.mark.parametrize("window", [0, 700])
@pytest.mark.parametrize("size", [64, 128])
def test_tiles_fetched_by_descriptor(size: int, window: int, cuda: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    """The paged kernel's variant for the tensor memory accelerator, over pages that hold NaN where nothing was written."""
    tiling = attention_triton.Tiling(64, 64, 4, 4, tma=True)
    monkeypatch.setattr(attention_triton, "choose_tiling", lambda *asked: tiling)
    case = {"B": 3, "Q": 600, "C": 3000, "N": 16, "K": 4, "H": size, "S": 128, "W": window, "PAD": 1, "EMPTY": 1}
    kernel_checks.check_case(attention.SPEC, attention.paged_attention, "bf16", case, cuda)


def test_a_plan_is_made_ahead(cuda: torch.device, used: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """In the thread that asks, at the very shape and strides that a prompt comes with."""
    monkeypatch.setattr(whole_attention, "_way", lambda *asked: whole_attention.CUDNN)
    heads, rows = (32, 8, 128), attention_plan.padded(1111)
    whole_attention._is_trusted(whole_attention.CUDNN, (cuda, *heads))

    def seconds() -> float:
        torch.cuda.synchronize()
        began = time.perf_counter()
        whole_attention.prepare(rows, heads, 0.1, torch.bfloat16, cuda)
        torch.cuda.synchronize()
        return time.perf_counter() - began

    used.clear()
    assert seconds() > 10 * min(seconds() for _ in range(3))
    assert used == [rows] * 4


@pytest.mark.parametrize("name", FAMILIES)
def test_models_stay_within_the_table(name: str, tmp_path: Path, used: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole models, with prompts as short as the tests' taken for long, and in chunks behind cached keys."""
    monkeypatch.setattr(attention_plan, "WHOLE_TOKENS", 18)
    reference = reference_model(CASES[name], torch.bfloat16)
    model = redline_model(reference, tmp_path, torch.bfloat16, "cuda")
    prompts = half_precision_prompts(reference)
    for steps in (whole(prompts), chunked(prompts, chunk=19, decodes=3)):
        check_decided(name, reference, PagedSequences(model, prompts).run(steps), "bf16")


@pytest.mark.parametrize("name", FAMILIES)
@torch.inference_mode()
def test_wanted_rows_are_those_of_the_whole(
    name: str, tmp_path: Path, cuda: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last layer for few rows alone gives what it gives for all."""
    monkeypatch.setattr("redline.layers.attention.LEAST_TOKENS", 1)
    model = redline_model(reference_model(CASES[name]), tmp_path, torch.float32, "cuda")
    sequences = PagedSequences(model, PROMPTS)
    batch = sequences._batch([len(prompt) for prompt in PROMPTS])
    every = model.forward(batch, sequences._cache)
    for rows in ([len(every) - 1], [0, 40, len(every) - 1]):
        wanted = torch.tensor(rows, device=cuda)
        found = model.forward(dataclasses.replace(batch, rows_R=wanted), sequences._cache)
        check(name, every[wanted], found, "model", "f32")
