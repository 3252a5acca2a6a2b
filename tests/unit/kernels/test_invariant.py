"""Batch invariance to the bit, in Triton's interpreter: products, attention, whole models, and the engine."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from families import CASES, PROMPTS, expected_logits, redline_model, reference_model
from paging import PagedSequences, chunked, whole
from redline import LLM, SamplingParams
from redline.kernels import attention, invariant, op
from redline.kernels.op import DTYPES, Inputs
from redline.kernels.ragged import Ragged
from redline.kernels.tolerance import check
from redline.layers.attention import Attention
from redline.models import registry
from redline.plan import determinism

pytestmark = pytest.mark.usefixtures("interpreter", "places_change_no_product")

CPU = torch.device("cpu")
SHAPES = [{"N": 130, "K": 1100, "BIAS": 1}, {"N": 70, "K": 515}, {"N": 640, "K": 64, "WIDE": 1}]
PLACES = (0, 63, 64, 130)


@pytest.fixture
def places_change_no_product(monkeypatch: pytest.MonkeyPatch) -> None:
    """As of a matrix unit. The interpreter asks BLAS, where a row's last bits depend on its place (OpenBLAS without AVX-512)."""
    from triton.runtime import interpreter

    def dot(builder: Any, a: Any, b: Any, sums: Any, *_: object) -> Any:
        left, right = (np.ascontiguousarray(data, sums.data.dtype) for data in (a.data, np.swapaxes(b.data, -1, -2)))
        product = np.einsum("...mk,...nk->...mn", left, right)
        return interpreter.TensorHandle(product + sums.data, sums.dtype.scalar)

    monkeypatch.setattr(interpreter.InterpreterBuilder, "create_dot", dot)


def product(inputs: Inputs, rows: slice = slice(None)) -> torch.Tensor:
    from redline.kernels import invariant_triton

    return invariant_triton.invariant_linear(**{**inputs, "x_TK": inputs["x_TK"][rows]})


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", ["f32", "f16"])
def test_a_row_alone_or_among_others(dtype: str, shape: dict[str, int], effort: int) -> None:
    """In batches of 2, 7, 64 and 256, wherever it stands in them."""
    if effort == 1 and dtype == "f32":
        pytest.skip("part of --soak: float16 takes the same way")
    inputs = invariant.make_inputs({"T": 256, **shape}, DTYPES[dtype], CPU, seed=5)
    together = product(inputs)
    for row in PLACES:
        assert torch.equal(product(inputs, slice(row, row + 1)), together[row : row + 1])
    for count in (2, 7, 64):
        assert torch.equal(product(inputs, slice(256 - count, 256)), together[-count:])


@pytest.mark.parametrize("dtype", ["f32", "f16"])
def test_who_adds_the_segments_changes_no_sum(dtype: str, monkeypatch: pytest.MonkeyPatch, effort: int) -> None:
    """A program each, or one for all, over few rows or many."""
    if effort == 1 and dtype == "f32":
        pytest.skip("part of --soak: float16 takes the same way")
    from redline.kernels import invariant_triton

    inputs = invariant.make_inputs({"T": 130, "N": 130, "K": 1100, "BIAS": 1}, DTYPES[dtype], CPU, seed=6)
    tile = invariant_triton.choose_tile(1100, DTYPES[dtype], op.INTERPRETER)
    assert invariant_triton.segment_length(130, 1100, tile) < 1100
    found = []
    for split in (True, False):
        monkeypatch.setattr(invariant_triton, "is_split", lambda *asked, split=split: split)
        found.append(product(inputs))
    assert torch.equal(*found)
    assert torch.equal(product(inputs, slice(3, 5)), found[0][3:5])


def attend(inputs: Inputs) -> torch.Tensor:
    from redline.kernels import invariant_attention_triton

    return invariant_attention_triton.invariant_attention(**inputs)


def part(inputs: Inputs, sequence: int, begin: int, end: int, bound: int = 0) -> Inputs:
    """Query tokens [begin, end) of one sequence alone, as a step of their own. `bound`: of contexts, beyond the true one."""
    ragged: Ragged = inputs["ragged"]
    starts, contexts = ragged.query_start_B1.tolist(), ragged.context_B.tolist()
    queries = starts[sequence + 1] - starts[sequence]
    context = contexts[sequence] - queries + end
    alone = Ragged(
        query_start_B1=torch.tensor([0, end - begin], dtype=torch.int32),
        context_B=torch.tensor([context], dtype=torch.int32),
        page_table_BP=ragged.page_table_BP[sequence : sequence + 1],
        max_query=end - begin,
        max_context=max(context, bound),
    )
    tokens = slice(starts[sequence] + begin, starts[sequence] + end)
    return {**inputs, "q_TNH": inputs["q_TNH"][tokens], "ragged": alone}


QUERIES = [("f16", 64, 70), ("f32", 64, 0), ("f16", 80, 600), ("f16", 128, 0)]


@pytest.mark.parametrize(("dtype", "size", "window"), QUERIES)
def test_a_query_alone_or_in_any_chunk(dtype: str, size: int, window: int, effort: int) -> None:
    """Prompts whole, in chunks and a token at a time, beside others or not, under whatever bound: the same bits."""
    if effort == 1 and (dtype, size, window) != QUERIES[0]:
        pytest.skip("part of --soak: seconds each in the interpreter")
    axes = {"B": 3, "Q": 24, "C": 1150, "N": 6, "K": 2, "H": size, "S": 16, "W": window, "EMPTY": 1, "PAD": 1}
    inputs = attention.make_inputs(axes, DTYPES[dtype], CPU, seed=8)
    together = attend(inputs)
    check("output", attention.reference(**inputs)[0], together, "attention", dtype)
    starts = inputs["ragged"].query_start_B1.tolist()
    for sequence in (0, 2, 3):
        queries = starts[sequence + 1] - starts[sequence]
        mine = together[starts[sequence] : starts[sequence + 1]]
        assert torch.equal(attend(part(inputs, sequence, 0, queries)), mine)
        cuts = sorted({0, min(7, queries), queries // 2, queries - 1, queries})
        for begin, end in zip(cuts, cuts[1:], strict=False):
            assert torch.equal(attend(part(inputs, sequence, begin, end)), mine[begin:end])
        assert torch.equal(attend(part(inputs, sequence, queries - 1, queries, bound=4096)), mine[-1:])


@pytest.mark.parametrize("window", [0, 600])
def test_a_decoded_token_is_that_of_a_batch(window: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Segments as programs, or walked by one."""
    from redline.kernels import invariant_attention_triton

    axes = {"B": 5, "Q": 1, "C": 1300, "N": 4, "K": 2, "H": 64, "S": 32, "W": window, "PAD": 2}
    inputs = attention.make_inputs(axes, torch.float16, CPU, seed=9)
    found = []
    for split in (True, False):
        monkeypatch.setattr(invariant_attention_triton, "is_split", lambda *asked, split=split: split)
        found.append(attend(inputs))
        for sequence in range(5):
            assert torch.equal(attend(part(inputs, sequence, 0, 1)), found[-1][sequence : sequence + 1])
    assert torch.equal(*found)
    assert not found[0][-2:].any()


@pytest.fixture
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every op of a step by its Triton kernel, on CPU tensors."""
    for name in ("norm", "activation", "prepare", "invariant", "invariant_attention"):
        monkeypatch.setattr(importlib.import_module(f"redline.kernels.{name}"), "use_triton", lambda x: True)
    monkeypatch.setattr(Attention, "_attend_in_steps", Attention.attend)
    yield


@pytest.mark.usefixtures("as_on_a_gpu")
@pytest.mark.parametrize("name", ["llama_tied_biases", "qwen3_sliding"])
def test_logits_of_whole_models(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, effort: int) -> None:
    """Right, and the same bits alone, together, whole, in chunks and token by token."""
    if effort == 1:
        pytest.skip("part of --soak: 16 s each in the interpreter")
    plain = registry.build
    monkeypatch.setattr("families.build", lambda *asked, **more: plain(*asked, **more, invariant=True))
    reference = reference_model(CASES[name])
    model = redline_model(reference, tmp_path)
    together = PagedSequences(model, PROMPTS).run(whole(PROMPTS))
    for want, got in zip(expected_logits(reference), together, strict=True):
        check(name, want, got, "model", "f32")
    for got, want in zip(PagedSequences(model, PROMPTS).run(chunked(PROMPTS, chunk=5, decodes=7)), together, strict=True):
        assert torch.equal(got, want)
    for prompt, want in list(zip(PROMPTS, together, strict=True))[3:]:
        assert torch.equal(PagedSequences(model, [prompt], page_size=8).run([[1]] * len(prompt))[0], want)


@pytest.mark.usefixtures("as_on_a_gpu")
def test_an_engine_gives_the_same_answers_whatever_shares_their_batch(monkeypatch: pytest.MonkeyPatch, effort: int) -> None:
    """Tokens and the bits of their log-probabilities: alone, together, chunked, from the prefix cache."""
    if effort == 1:
        pytest.skip("part of --soak: half a minute in the interpreter")
    monkeypatch.setattr(determinism, "check", lambda *asked, **more: None)  # it asks for a GPU
    prompts = [[(7 * i * i + seed) % 256 for i in range(length)] for seed, length in enumerate((9, 1, 12))]
    sampling = SamplingParams(temperature=0.9, seed=3, max_tokens=4, ignore_eos=True, logprobs=2)
    settings: dict[str, object] = {"dtype": "float32", "max_model_len": 64, "num_threads": 1, "receipts": False}

    def answers(asked: Callable[[LLM], list[object]], **options: object) -> list[object]:
        with LLM("random:tiny-llama", device="cpu", determinism="batch_invariant", **{**settings, **options}) as llm:
            return asked(llm)

    def told(llm: LLM, group: list[list[int]]) -> list[object]:
        return [(done.choices[0].tokens, done.choices[0].logprobs) for done in llm.generate(group, sampling)]

    alone = answers(lambda llm: [told(llm, [prompt])[0] for prompt in prompts], enable_prefix_caching=False)
    assert answers(lambda llm: told(llm, prompts)) == alone
    assert answers(lambda llm: told(llm, prompts), max_num_batched_tokens=5, max_num_seqs=4) == alone

    def again(llm: LLM) -> list[object]:
        told(llm, prompts)
        return told(llm, prompts)

    assert answers(again, page_size=4) == alone


def test_the_records_of_a_place_differ_by_the_mode_alone() -> None:
    from redline.layers.linear import linear, product
    from redline.layers.weights import Place
    from redline.parallel.ranks import Ranks

    place = Place(torch.float32, CPU, Ranks.single())
    assert product(place) is linear
    assert product(dataclasses.replace(place, invariant=True)) is invariant.invariant_linear
