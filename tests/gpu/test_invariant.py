"""Batch invariance on a card, to the bit: products, attention, the logits of a model, and answers with and without graphs."""

from __future__ import annotations

import dataclasses
import random

import pytest
import torch

from paging import PagedSequences, chunked, whole
from redline import LLM, SamplingParams
from redline.kernels import attention, invariant
from redline.kernels.invariant_attention import invariant_attention
from redline.kernels.op import DTYPES
from redline.kernels.tolerance import check
from redline.models.registry import Model, build
from redline.shapes import known
from unit.kernels.test_invariant import part

pytestmark = pytest.mark.gpu

# (N, K) of Llama 3.2 1B and Qwen3 8B, a head, and sizes that fill no tile.
SHAPES = [(3072, 2048), (2048, 8192), (4096, 4096), (24576, 4096), (4096, 12288), (32064, 2048), (1031, 1088), (130, 515)]
COUNTS = (1, 2, 7, 8, 33, 64, 65, 128, 129, 256, 300, 1000, 4099)
MODEL = "llama-3.2-1b"


@pytest.fixture
def cuda() -> torch.device:
    return torch.device("cuda", torch.cuda.current_device())


@pytest.fixture(autouse=True)
def sixteen_bit_sums_stay_float32() -> None:
    torch.set_float32_matmul_precision("highest")


@pytest.mark.parametrize("dtype", ["bf16", "f16", "f32"])
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: f"N{shape[0]}-K{shape[1]}")
def test_a_row_of_a_product_among_any_number(shape: tuple[int, int], dtype: str, cuda: torch.device) -> None:
    """First, last and in between, in batches from 1 to thousands, through both ways of adding segments."""
    if dtype == "f32" and shape[0] > 5000:
        pytest.skip("float32 products are exact and slow: the small shapes are enough")
    most = COUNTS[-1] if dtype != "f32" else 300
    generator = torch.Generator(cuda).manual_seed(1)
    x_TK = torch.randn((most, shape[1]), generator=generator, device=cuda).to(DTYPES[dtype])
    weight_NK = (torch.randn(shape, generator=generator, device=cuda) / shape[1] ** 0.5).to(DTYPES[dtype])
    bias_N = torch.randn(shape[0], generator=generator, device=cuda).to(DTYPES[dtype])
    together = invariant.invariant_linear(x_TK, weight_NK, bias_N)
    check("output", invariant.reference(x_TK[:64], weight_NK, bias_N)[0], together[:64], "product", dtype)
    for count in [count for count in COUNTS if count <= most]:
        assert torch.equal(invariant.invariant_linear(x_TK[:count], weight_NK, bias_N), together[:count]), count
        assert torch.equal(invariant.invariant_linear(x_TK[most - count :], weight_NK, bias_N), together[most - count :]), count


@pytest.mark.parametrize("window", [0, 700])
@pytest.mark.parametrize("dtype", ["bf16", "f16", "f32"])
@pytest.mark.parametrize("heads", [(32, 8, 64), (32, 8, 128), (14, 2, 64), (16, 16, 80), (8, 4, 256), (16, 1, 128)])
def test_a_query_among_others_or_in_any_chunk(heads: tuple[int, int, int], dtype: str, window: int, cuda: torch.device) -> None:
    """Whole, in chunks, a token at a time; split over programs or not; beside others and under other bounds."""
    num_heads, kv_heads, size = heads
    axes = {"B": 4, "Q": 150, "C": 2600, "N": num_heads, "K": kv_heads, "H": size, "S": 64, "W": window, "EMPTY": 1, "PAD": 2}
    inputs = attention.make_inputs(axes, DTYPES[dtype], cuda, seed=3)
    together = invariant_attention(**inputs)
    check("output", attention.reference(**inputs)[0], together, "attention", dtype)
    starts = inputs["ragged"].query_start_B1.tolist()

    def alone(sequence: int, begin: int, end: int, bound: int = 0) -> torch.Tensor:
        step = part(inputs, sequence, begin, end, bound)
        ragged = step["ragged"]
        moved = {name: getattr(ragged, name).to(cuda) for name in ("query_start_B1", "context_B", "page_table_BP")}
        return invariant_attention(**{**step, "ragged": dataclasses.replace(ragged, **moved)})

    for sequence in (0, 2, 3):
        queries = starts[sequence + 1] - starts[sequence]
        mine = together[starts[sequence] : starts[sequence + 1]]
        assert torch.equal(alone(sequence, 0, queries), mine)
        cuts = sorted({0, min(7, queries), queries // 2, queries - 1, queries})
        for begin, end in zip(cuts, cuts[1:], strict=False):
            assert torch.equal(alone(sequence, begin, end), mine[begin:end]), (begin, end)
        assert torch.equal(alone(sequence, queries - 1, queries, bound=16384), mine[-1:])


@pytest.fixture(params=["bfloat16", "float16"])
def model(request: pytest.FixtureRequest, cuda: torch.device) -> Model:
    """The 1B's widths in four layers."""
    shape = dataclasses.replace(known(MODEL), num_layers=4, vocab_size=32064)
    made = build(shape, getattr(torch, request.param), cuda, max_len=2048, invariant=True)
    generator = torch.Generator(cuda).manual_seed(2)
    for name, slot in made.slots():
        spread = 0.0 if "norm" in name else slot.target.shape[-1] ** -0.5
        slot.target.copy_(torch.randn(slot.target.shape, generator=generator, device=cuda) * spread + (spread == 0.0))
    return made


def test_logits_alone_and_in_a_batch_of_256(model: Model) -> None:
    """Every prompt token's and every decoded token's, whatever the chunks."""
    draw = random.Random(4)
    lengths = [3, 40, 700, *(draw.randrange(2, 40) for _ in range(253))]
    prompts = [[draw.randrange(model.shape.vocab_size) for _ in range(length)] for length in lengths]
    kept = (0, 1, 2, 100, 255)

    def logits(group: list[list[int]], steps: list[list[int]], wanted: tuple[int, ...]) -> list[torch.Tensor]:
        found = PagedSequences(model, group, page_size=64).run(steps)
        return [found[i] for i in wanted]

    decodes = 2
    prefill = [len(prompt) - decodes for prompt in prompts]
    together = logits(prompts, [prefill, *[[1] * 256] * decodes], kept)
    assert all(row.isfinite().all() and row.std() > 0 for row in together)
    for i, want in zip(kept, together, strict=True):
        own = [prompts[i]]
        for steps in (whole(own), chunked(own, chunk=17, decodes=decodes), [[prefill[i]], *[[1]] * decodes]):
            assert torch.equal(logits(own, steps, (0,))[0], want), (i, steps[:2])


@pytest.mark.parametrize("eager", [True, False], ids=["op by op", "graphs"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_answers_alone_and_in_a_batch_of_256(dtype: str, eager: bool) -> None:
    """Tokens, and the bits of their log-probabilities, through the engine; sampled and greedy."""
    draw = random.Random(5)
    prompts = [[draw.randrange(256) for _ in range(draw.randrange(1, 200))] for _ in range(256)]
    ways = [
        SamplingParams(temperature=0.0, max_tokens=24, ignore_eos=True, logprobs=2),
        SamplingParams(temperature=1.0, seed=7, max_tokens=24, ignore_eos=True),
    ]
    options = {"dtype": dtype, "max_model_len": 1024, "max_num_seqs": 256, "receipts": False, "enforce_eager": eager, "seed": 0}
    with LLM(f"random:{MODEL}", device="cuda:0", determinism="batch_invariant", **options) as llm:
        while llm._engine.prepare():
            pass

        def told(group: list[list[int]], way: SamplingParams) -> list[object]:
            return [(done.choices[0].tokens, done.choices[0].logprobs) for done in llm.generate(group, way)]

        for way in ways:
            together = told(prompts, way)
            for i in (0, 1, 77, 255):
                assert told([prompts[i]], way)[0] == together[i]
            assert told(prompts[:7], way) == together[:7]
        assert (llm.stats.more.get("graph_steps_total", 0) > 0) is not eager
