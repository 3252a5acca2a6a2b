"""The decode step of few kernels on a Hopper card: its attention against the reference, its logits against the plain path."""

from __future__ import annotations

import dataclasses
import importlib

import pytest
import torch

from paging import PagedSequences, chunked, whole
from redline import log
from redline.kernels import decode_attention, gated_linear
from redline.kernels.heads import HeadPreparation
from redline.kernels.op import HOPPER, Inputs, device_of
from redline.kernels.ragged import Ragged
from redline.kernels.skinny import FEW_ROWS
from redline.kernels.tolerance import check
from redline.layers import attention, chain, mlp
from redline.layers.attention import Attention
from redline.layers.batch import Batch, KVCache
from redline.layers.chain import Chain
from redline.models.registry import Model, build
from redline.shapes import ModelShape, known

pytestmark = pytest.mark.gpu

CONTEXTS = ([1], [300], [2500], [5000], [1, 2, 255, 256, 257, 1000], [700] * 33, [*range(1, 300, 7)], [20000, 3, 0, 900, 16])


@pytest.fixture
def hopper() -> torch.device:
    device = torch.device("cuda", torch.cuda.current_device())
    if device_of(device).target.capability != HOPPER:
        pytest.skip("needs a Hopper card")
    return device


@pytest.mark.parametrize(
    ("heads", "kv_heads", "size"), [(32, 8, 128), (32, 8, 64), (8, 8, 80), (12, 2, 96), (8, 4, 256), (64, 4, 128)]
)
@pytest.mark.parametrize("contexts", CONTEXTS, ids=lambda contexts: f"{len(contexts)}x{contexts[0]}")
def test_attention(heads: int, kv_heads: int, size: int, contexts: list[int], hopper: torch.device) -> None:
    """Contexts of all lengths in one step, split or not, over random pages."""
    from redline.kernels import begin_cuda, decode_attention_cuda

    inputs = _attention_inputs(heads, kv_heads, size, contexts, hopper)
    context_B = inputs["ragged"].context_B
    expected = decode_attention.reference(**inputs)
    order = begin_cuda.order(context_B, kv_heads)
    torch.cuda.synchronize()  # the order must be there before the kernel starts; in a step the layer before sees to that
    got = decode_attention_cuda.decode_attention(**inputs, order=order)
    live = context_B > 0
    check("attention", expected[0].flatten(1)[live], got[live], decode_attention.SPEC.tolerance, "bf16")
    for want, cache in zip(expected[1:], (inputs["k_cache_PSKH"], inputs["v_cache_PSKH"]), strict=True):
        check("cache", want.nan_to_num(), cache.float().nan_to_num(), decode_attention.SPEC.tolerance, "bf16")


@pytest.mark.parametrize(
    ("heads", "kv_heads", "size"),
    [(32, 8, 128), (32, 8, 64), (4, 4, 64), (64, 4, 128), (40, 40, 128), (64, 8, 128), (96, 8, 128)],
)
@pytest.mark.parametrize("contexts", CONTEXTS, ids=lambda contexts: f"{len(contexts)}x{contexts[0]}")
def test_batch_attention(heads: int, kv_heads: int, size: int, contexts: list[int], hopper: torch.device) -> None:
    """The same by the kernel that deals keys to processors, and twice, with the same bits."""
    from redline.kernels import batch_attention_cuda

    inputs = _attention_inputs(heads, kv_heads, size, contexts, hopper)
    context_B = inputs["ragged"].context_B
    expected = decode_attention.reference(**inputs)
    deal = batch_attention_cuda.deal(inputs["ragged"], heads, kv_heads, size, 16)
    torch.cuda.synchronize()
    got, again = (batch_attention_cuda.batch_attention(**inputs, deal=deal) for _ in range(2))
    live = context_B > 0
    check("attention", expected[0].flatten(1)[live], got[live], decode_attention.SPEC.tolerance, "bf16")
    assert torch.equal(got[live], again[live])
    for want, cache in zip(expected[1:], (inputs["k_cache_PSKH"], inputs["v_cache_PSKH"]), strict=True):
        check("cache", want.nan_to_num(), cache.float().nan_to_num(), decode_attention.SPEC.tolerance, "bf16")


@pytest.mark.parametrize(("heads", "kv_heads", "size"), [(32, 8, 128), (32, 8, 64), (4, 4, 64), (64, 8, 128), (40, 40, 128)])
@pytest.mark.parametrize("rows", [16, 61, 200])
def test_common_prefixes(heads: int, kv_heads: int, size: int, rows: int, hopper: torch.device) -> None:
    """Sequences that begin with the same pages, in two groups of different lengths among others that share nothing: read once for several, with
    the same results."""
    from redline.kernels import batch_attention_cuda

    generator = torch.Generator().manual_seed(rows)
    contexts = (970 + torch.randint(0, 300, (rows,), generator=generator)).tolist()
    contexts[3:5] = [0, 1]
    groups = [[row for row in range(rows) if row % 3 == group and row not in (3, 4)] for group in (0, 1)]
    for group, shared in zip(groups, (784, 960), strict=True):
        contexts[group[1]] = shared + 2  # the shortest that has all of it
    inputs = _attention_inputs(heads, kv_heads, size, contexts, hopper)
    table = inputs["ragged"].page_table_BP
    for group, shared in zip(groups, (784, 960), strict=True):
        table[group, : shared // 16] = table[group[0], : shared // 16].clone()
    table[[2, 5], :10] = table[groups[0][0], :10].clone()  # who leaves a group early does not keep it from its own
    expected = decode_attention.reference(**inputs)
    deal = batch_attention_cuda.deal(inputs["ragged"], heads, kv_heads, size, 16)
    skipped = deal.entries_E4[deal.room :, 2].tolist()
    members = batch_attention_cuda.members_of_bundle(heads // kv_heads)
    for group, shared in zip(groups, (784, 960), strict=True):
        assert all(skipped[row] == (shared // 16 if len(group) >= members > 1 else 0) for row in group)
    assert not any(skipped[row] for row in range(rows) if row not in groups[0] + groups[1])
    got, again = (batch_attention_cuda.batch_attention(**inputs, deal=deal) for _ in range(2))
    live = inputs["ragged"].context_B > 0
    check("attention", expected[0].flatten(1)[live], got[live], decode_attention.SPEC.tolerance, "bf16")
    assert torch.equal(got[live], again[live])


@pytest.mark.parametrize("rows", [1100, 2900])
def test_many_rows_in_strips(rows: int, hopper: torch.device) -> None:
    """More inputs than the level-2 cache is to hold at once: strips of rows, the last one lower or not, leave out none and take none twice."""
    from redline.kernels import product_cuda

    torch.manual_seed(rows)
    x_TK = torch.randn(rows, 12288, device=hopper).bfloat16()
    weight_2FK = (torch.randn(2 * 528, 12288, device=hopper) / 12288**0.5).bfloat16()
    gate_TF, up_TF = (x_TK.double() @ weight_2FK.double().T).float().chunk(2, -1)
    got_TF = product_cuda.gated_linear(x_TK, weight_2FK)
    check("gated", torch.nn.functional.silu(gate_TF) * up_TF, got_TF, gated_linear.SPEC.tolerance, "bf16")


@pytest.mark.parametrize("broken", ["one_row_cuda", "many_rows_cuda", "decode_attention_cuda", "batch_attention_cuda"])
def test_what_gives_wrong_results_is_not_used(broken: str, hopper: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every kernel is tried when a model is first used; the model then runs on portable ones and says so once."""
    kernels = importlib.import_module(f"redline.kernels.{broken}")
    name = {"decode_attention_cuda": "decode_attention", "batch_attention_cuda": "batch_attention"}.get(broken, "launch")
    right = getattr(kernels, name)

    def wrong(*args: object, **named: object) -> object:
        result = right(*args, **named)
        if isinstance(result, torch.Tensor):
            return result + 1
        args[0].output_T.add_(1)  # type: ignore[attr-defined]
        return result

    monkeypatch.setattr(kernels, name, wrong)
    _forget_trust()
    model = build(dataclasses.replace(known("llama-3.2-1b"), num_layers=1), torch.bfloat16, hopper, max_len=64)
    told = {"chain", "gated_linear"} if broken == "many_rows_cuda" else {"chain"}
    assert model._chain is None and {name for name, _ in log.FALLBACKS} == told
    _forget_trust()


def _forget_trust() -> None:
    for cached in (chain.trusted, chain.trusted_attention, gated_linear.is_trusted):
        cached.cache_clear()
    log.FALLBACKS.clear()


@pytest.mark.parametrize("name", ["llama-3.2-1b", "qwen3-0.6b", "qwen2.5-0.5b"])
@pytest.mark.parametrize("rows", [1, 5, 12, 33, 64, 90, 128, 130])
def test_logits(name: str, rows: int, hopper: torch.device) -> None:
    """Within the tolerance of bfloat16 of the plain path's, and the same best token where that has a margin of 0.25. The head chooses what is best
    by its own logits."""
    shape, model = _random_model(name, rows, hopper)
    contexts = torch.randint(1, 1500, (rows,)).tolist()
    plain, fast = _caches(shape, contexts, hopper)
    batch = _batch(contexts, shape.vocab_size, hopper)
    assert isinstance(model._chain, Chain)
    got = model.next_logits(batch, fast)
    chosen = model.next_chosen(batch, fast)  # the same keys and values are written once more
    assert (chosen is None) == (rows > FEW_ROWS) and (chosen is None or torch.equal(chosen.take(), got.argmax(-1)))
    want = torch.cat([_alone(model, batch, plain, row) for row in range(rows)])
    _check_logits(got, want)
    for k_plain, k_fast in zip(plain.k, fast.k, strict=True):
        assert (k_plain.float() - k_fast.float()).norm() / k_plain.float().norm() < 0.03


@pytest.mark.parametrize("name", ["llama-3.2-1b", "qwen3-0.6b", "qwen2.5-0.5b"])
@pytest.mark.parametrize("lengths", [[2], [17], [64], [128], [90, 1, 20], [300]], ids=str)
def test_short_prompts(name: str, lengths: list[int], hopper: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step of few tokens takes the same products: whole prompts, several at once, and chunks behind others, against the usual way."""
    shape, model = _random_model(name, sum(lengths), hopper)
    prompts = [torch.randint(0, shape.vocab_size, (length,)).tolist() for length in lengths]
    steps = whole(prompts) if sum(lengths) <= FEW_ROWS else chunked(prompts, 50, 2)
    taken: list[int] = []
    monkeypatch.setattr(chain, "MOST_LAUNCHED_TOKENS", FEW_ROWS)  # as in a graph
    takes = Chain.takes_tokens
    monkeypatch.setattr(Chain, "takes_tokens", lambda own, batch: taken.append(len(batch.tokens_T)) or takes(own, batch))
    got = torch.cat(PagedSequences(model, prompts).run(steps))
    assert taken and all(count <= FEW_ROWS for count in taken)
    monkeypatch.setattr(Chain, "takes_tokens", lambda own, batch: False)
    want = torch.cat(PagedSequences(model, prompts).run(steps))
    _check_logits(got, want)


@pytest.mark.parametrize("name", ["llama-3.2-1b", "qwen3-0.6b", "qwen2.5-0.5b"])
@pytest.mark.parametrize("lengths", [[300], [512], [129, 400, 1], [1024]], ids=str)
@pytest.mark.parametrize("way", ["all products", "the gated product", "in place"])
def test_many_tokens(name: str, lengths: list[int], way: str, hopper: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    """Own products of many rows, all or the gated one alone or with sums in place, against cuBLAS: whole prompts, and chunks behind them."""
    shape, model = _random_model(name, sum(lengths), hopper)
    prompts = [torch.randint(0, shape.vocab_size, (length,)).tolist() for length in lengths]
    monkeypatch.setattr(Chain, "_pays", lambda own, tokens: way == "all products")
    monkeypatch.setattr(chain, "LEAST_STREAMED_TOKENS", FEW_ROWS + 1 if way == "in place" else 1 << 30)
    monkeypatch.setattr(mlp, "is_faster", lambda weight, rows: rows > FEW_ROWS)
    got = [torch.cat(PagedSequences(model, prompts).run(steps)) for steps in (whole(prompts), chunked(prompts, 260, 1))]
    monkeypatch.setattr(Chain, "takes_tokens", lambda own, batch: False)
    monkeypatch.setattr(mlp, "is_faster", lambda weight, rows: False)
    want = torch.cat(PagedSequences(model, prompts).run(whole(prompts)))
    for logits in got:
        _check_logits(logits, want)


@pytest.mark.parametrize("name", ["llama-3.2-1b", "qwen3-0.6b", "qwen2.5-0.5b"])
@pytest.mark.parametrize("streamed", [True, False])
def test_the_last_layer_for_wanted_rows_alone(
    name: str, streamed: bool, hopper: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Queries and attention of few rows, ends of prompts or not, are those of the whole; so are all keys and values."""
    shape, model = _random_model(name, 7, hopper)
    monkeypatch.setattr(chain, "LEAST_STREAMED_TOKENS", FEW_ROWS + 1 if streamed else 1 << 30)
    monkeypatch.setattr(Chain, "_pays", lambda own, tokens: False)
    monkeypatch.setattr(attention, "LEAST_TOKENS", FEW_ROWS)
    alone: list[int] = []
    attend_rows = Attention._attend_rows
    monkeypatch.setattr(Attention, "_attend_rows", lambda own, *args: alone.append(len(args[-1])) or attend_rows(own, *args))
    prompts = [torch.randint(0, shape.vocab_size, (length,)).tolist() for length in (600, 17, 129, 90)]
    sequences = PagedSequences(model, prompts)
    batch = sequences._batch([len(prompt) for prompt in prompts])
    every = model.forward(batch, sequences._cache)
    before = [cache.float().nan_to_num() for cache in (*sequences._cache.k, *sequences._cache.v)]
    for rows in ([599, 616, 745, 835], [0, 40, 700]):
        wanted = torch.tensor(rows, device=hopper)
        found = model.forward(dataclasses.replace(batch, rows_R=wanted), sequences._cache)
        assert alone.pop() == len(rows)
        assert (found.float() - every[wanted].float()).norm() / every[wanted].float().norm() < 0.03
    for old, new in zip(before, (*sequences._cache.k, *sequences._cache.v), strict=True):
        assert (old - new.float().nan_to_num()).norm() / old.norm() < 0.01


def _random_model(name: str, seed: int, device: torch.device) -> tuple[ModelShape, Model]:
    """Four layers of a known shape."""
    shape = dataclasses.replace(known(name), num_layers=4)
    torch.manual_seed(seed)
    model = build(shape, torch.bfloat16, device, max_len=4096)
    for _, slot in model.slots():
        slot.target.normal_(0, 0.02) if slot.target.dim() > 1 else slot.target.normal_(1, 0.1)
    return shape, model


def _check_logits(got: torch.Tensor, want: torch.Tensor) -> None:
    """Within the tolerance of bfloat16, and the same best token where that has a margin of 0.25."""
    assert (got - want).norm() / want.norm() < 0.03
    best = want.topk(2).values
    sure = best[:, 0] - best[:, 1] > 0.25
    assert torch.equal(got.argmax(-1)[sure], want.argmax(-1)[sure])


def _attention_inputs(heads: int, kv_heads: int, size: int, contexts: list[int], device: torch.device) -> Inputs:
    """Random pages; whatever no sequence may read is NaN."""
    torch.manual_seed(sum(contexts))
    counts = [-(-context // 16) for context in contexts]
    order = torch.randperm(sum(counts) + 2, device=device).int()
    table = torch.zeros(len(contexts), max(*counts, 1), dtype=torch.int32, device=device)
    caches = [torch.full((sum(counts) + 2, 16, kv_heads, size), torch.nan, dtype=torch.bfloat16, device=device) for _ in range(2)]
    begin = 0
    for row, (context, count) in enumerate(zip(contexts, counts, strict=True)):
        pages = table[row, :count] = order[begin : begin + count]
        begin += count
        for cache in caches:
            filled = torch.full((count * 16, kv_heads, size), torch.nan, device=device)
            filled[: max(0, context - 1)] = torch.randn(max(0, context - 1), kv_heads, size, device=device)
            cache[pages.long()] = filled.view(count, 16, kv_heads, size).bfloat16()
    starts = torch.arange(len(contexts) + 1, dtype=torch.int32, device=device)
    context_B = torch.tensor(contexts, dtype=torch.int32, device=device)
    angles = torch.rand(max(contexts), size // 2, device=device) * 6.28
    norms = [1 + torch.randn(size, device=device) / 10 for _ in range(2)]
    return {
        "qkv_BM": torch.randn(len(contexts), (heads + 2 * kv_heads) * size, device=device).bfloat16(),
        "k_cache_PSKH": caches[0],
        "v_cache_PSKH": caches[1],
        "ragged": Ragged(starts, context_B, table, 1, max(contexts)),
        "prepare": HeadPreparation(norms[0], norms[1], 1e-5, torch.cat((angles.cos(), angles.sin()), 1)),
        "scale": size**-0.5,
    }


def _caches(shape: ModelShape, contexts: list[int], device: torch.device) -> tuple[KVCache, KVCache]:
    pages = sum(-(-context // 16) for context in contexts)
    sizes = {"num_layers": shape.num_layers, "num_kv_heads": shape.num_kv_heads, "head_size": shape.head_size}
    plain = KVCache.allocate(num_pages=pages, page_size=16, dtype=torch.bfloat16, device=device, **sizes)
    for tensor in (*plain.k, *plain.v):
        tensor.normal_()
    return plain, KVCache([k.clone() for k in plain.k], [v.clone() for v in plain.v], 16)


def _batch(contexts: list[int], vocab_size: int, device: torch.device) -> Batch:
    counts = [-(-context // 16) for context in contexts]
    order = torch.randperm(sum(counts)).int()
    table = torch.zeros(len(contexts), max(counts), dtype=torch.int32)
    begin = 0
    for row, count in enumerate(counts):
        table[row, :count] = order[begin : begin + count]
        begin += count
    positions = torch.tensor(contexts) - 1
    slots = table.gather(1, (positions // 16)[:, None])[:, 0].long() * 16 + positions % 16
    starts = torch.arange(len(contexts) + 1, dtype=torch.int32, device=device)
    ragged = Ragged(starts, (positions + 1).int().to(device), table.to(device), 1, max(contexts))
    tokens = torch.randint(0, vocab_size, (len(contexts),), device=device)
    return Batch(tokens, positions.to(device), slots.to(device), ragged)


def _alone(model: Model, batch: Batch, cache: KVCache, row: int) -> torch.Tensor:
    """One row's logits by the plain path, as a prompt chunk of one token is computed."""
    ragged = batch.ragged
    one = Ragged(
        ragged.query_start_B1[:2], ragged.context_B[row : row + 1], ragged.page_table_BP[row : row + 1], 1, ragged.max_context
    )
    picked = Batch(batch.tokens_T[row : row + 1], batch.positions_T[row : row + 1], batch.slots_T[row : row + 1], one)
    hidden, residual = model.embed(picked.tokens_T), None
    for block, k_cache, v_cache in zip(model.blocks, cache.k, cache.v, strict=True):
        hidden, residual = block(hidden, residual, picked, k_cache, v_cache)
    return model.logits(model.norm.add(hidden, residual)[0])
