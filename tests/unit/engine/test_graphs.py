"""Captured decode steps, with a stand-in that repeats the step: the same answers, whatever is captured when."""

from __future__ import annotations

import random
from dataclasses import dataclass

import msgspec
import numpy as np
import pytest
import torch

from graphs import Repeats, use_graphs
from near_ties import GREEDY, same
from redline import LLM, SamplingParams
from redline.engine import graphs as graphs_module
from redline.engine.batch import BatchFiller
from redline.engine.draft import Entry, Plan
from redline.engine.grammar import of_regex
from redline.engine.graphs import (
    MOST_GRAPHS,
    PROMPTS,
    Size,
    StepGraphs,
    common_sizes,
    context_buckets,
    prompt_buckets,
    row_buckets,
)
from redline.engine.request import Sequence
from redline.kernels import decode_step, prompt_step
from redline.kernels.skinny import Chosen, keys_of
from redline.layers.batch import Batch, KVCache
from redline.log import FALLBACKS
from redline.types import Request

MODEL = "random:tiny-llama"
SETTINGS = {"device": "cpu", "dtype": "float32", "num_threads": 1, "max_model_len": 512, "num_pages": 256, "page_size": 8}


@pytest.fixture
def device() -> str:
    """Where the engines run; the GPU tests say otherwise."""
    return "cpu"


@pytest.fixture
def captures(monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    """Engines capture from now on, as those of a GPU do by themselves."""
    if device == "cpu":
        use_graphs(monkeypatch)


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sizes are captured at their first step."""
    monkeypatch.setattr(graphs_module, "WANTED_EAGER", 1)
    monkeypatch.setattr(graphs_module, "WANTED_COVERED", 1)


def make(device: str, **options: object) -> LLM:
    return LLM(MODEL, receipts=False, **{**SETTINGS, "device": device, **options})


def mixed(count: int, seed: int) -> tuple[list[list[int]], list[SamplingParams]]:
    """Prompts and ways to sample of every kind."""
    draw = random.Random(seed)
    asked = [[draw.randrange(256) for _ in range(draw.randrange(1, 90))] for _ in range(count)]
    ways: list[dict[str, object]] = [
        {"temperature": 0.0},
        {"temperature": 1.0},
        {"temperature": 0.8, "top_k": 5, "top_p": 0.9},
        {"temperature": 1.2, "min_p": 0.05, "n": 2},
        {"temperature": 0.0, "frequency_penalty": 0.5, "logprobs": 2},
        {"temperature": 0.0, "logit_bias": {7: 5.0}, "min_tokens": 4},
        {"temperature": 1.0, "prompt_logprobs": 1},
    ]
    sampling = [
        SamplingParams(**ways[i % len(ways)], seed=i, max_tokens=draw.randrange(4, 60), ignore_eos=i % 3 > 0)  # type: ignore[arg-type]
        for i in range(count)
    ]
    return asked, sampling


def counters(llm: LLM) -> dict[str, float]:
    return llm._engine.loop._runner.counters()


def tokens(llm: LLM, asked: list[list[int]], sampling: list[SamplingParams]) -> list[list[list[int]]]:
    return [[choice.tokens for choice in done.choices] for done in llm.generate(asked, sampling)]


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("pages", [256, 40], ids=["roomy", "preempting"])
def test_mixed_traffic_gives_the_same_tokens(pages: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every kind of step, rows that come and go, pages that are shared, copied, taken away; twice, so that prefixes are found."""
    options = {"num_pages": pages, "look_ahead": False, "max_model_len": 160, "max_num_seqs": 7, "max_num_batched_tokens": 40}
    asked, sampling = mixed(28, seed=2)
    with make("cpu", **options) as llm:
        expected = tokens(llm, asked, sampling)
    made = use_graphs(monkeypatch)
    with make("cpu", **options) as llm:
        for _ in range(2):
            assert tokens(llm, asked, sampling) == expected
        assert counters(llm)["graph_steps_total"] > 60 and made[0].captures > 3
        assert pages > 100 or llm.stats.preemptions > 0


@pytest.mark.usefixtures("eager")
def test_forced_tokens_of_a_few_rows_keep_steps_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Literals of two bytes between choices, in every row at another time: the same answers as op by op, where they are computed
    in chunks, and nearly all steps are captured. One row alone has its forced tokens at once."""
    grammar = of_regex("(ab|ac){1,9}(01[xy]{2,5}){9}z")
    asked, _ = mixed(6, seed=5)
    sampling = [SamplingParams(temperature=1.0, seed=i, max_tokens=90) for i in range(len(asked))]

    def answers(llm: LLM, count: int) -> list[list[int]]:
        return [done.tokens for done in llm.generate(asked[:count], sampling[:count], grammar=grammar)]

    with make("cpu") as llm:
        expected, before = answers(llm, 6), llm.stats.steps
        assert answers(llm, 1) == expected[:1]
        alone = llm.stats.steps - before
    made = use_graphs(monkeypatch)
    with make("cpu") as llm:
        assert answers(llm, 6) == expected
        captured, steps = counters(llm)["graph_steps_total"], llm.stats.steps
        assert made[0].captures and captured > 0.8 * steps, "prompts and a few chunks are not"
        assert answers(llm, 1) == expected[:1] and llm.stats.steps - steps <= alone + 1


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("budget", [256, 24], ids=["whole", "chunks"])
def test_prompts_one_by_one_give_the_same_tokens(budget: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every kind and bucket, whole and in chunks, behind cached prefixes and without, past what a record holds."""
    options = {"max_num_batched_tokens": budget, "max_num_seqs": 4, "page_size": 2, "num_pages": 700}
    draw = random.Random(9)
    lengths = [1, 2, 15, 16, 17, 33, 65, 128, 129, 200, 300, 5, 70]
    asked = [[draw.randrange(256) for _ in range(length)] for length in lengths]
    asked += [[*asked[10], 1, 2, 3], [*asked[9][:150], 9]]  # prefixes are found, whose pages are new to the row
    _, sampling = mixed(len(asked), seed=3)
    sampling = [msgspec.structs.replace(one, max_tokens=5) for one in sampling]

    def one_by_one(llm: LLM) -> list[list[list[int]]]:
        return [tokens(llm, [prompt], [one])[0] for prompt, one in zip(asked, sampling, strict=True)]

    with make("cpu", **options) as llm:
        expected = one_by_one(llm)
    use_graphs(monkeypatch)
    with make("cpu", **options) as llm:
        graphs = llm._engine.loop._runner._graphs
        assert graphs is not None
        for _ in range(2):
            assert one_by_one(llm) == expected
        sizes = {(size.tokens, size.kind) for size in graphs._graphs if size.tokens > 1}
        assert {kind for _, kind in sizes} == {"greedy", "random", "truncated", "logits", "none"}
        assert {count for count, _ in sizes} == ({16, 32} if budget == 24 else {16, 32, 64, 128, 192, 256})


@pytest.mark.usefixtures("eager")
def test_what_a_captured_prompt_cannot_give(monkeypatch: pytest.MonkeyPatch) -> None:
    """The scores of a prompt, or its vector, need every token's state."""
    use_graphs(monkeypatch)
    with make("cpu") as llm:
        llm.generate([[1, 2, 3, 4, 5]], SamplingParams(temperature=0.0, max_tokens=1, prompt_logprobs=1))
        llm.embed([[1, 2, 3, 4, 5]])
        llm.generate([[1, 2, 3, 4], [5, 6, 7]], SamplingParams(temperature=0.0, max_tokens=1))
        assert counters(llm)["graphs_captured"] == counters(llm)["graph_steps_total"] == 0


def test_first_steps_run_before_anything_is_captured(captures: None, device: str) -> None:
    """A size is captured when it was wanted a few times; a larger graph serves meanwhile."""
    with make(device) as llm:
        llm.generate([[1, 2, 3]], SamplingParams(temperature=0.0, max_tokens=graphs_module.WANTED_EAGER, ignore_eos=True))
        assert counters(llm)["graphs_captured"] == counters(llm)["graph_steps_total"] == 0
        llm.generate([[1, 2, 3]] * 2, SamplingParams(temperature=0.0, max_tokens=20, ignore_eos=True))
        assert counters(llm)["graphs_captured"] == 1
        before = counters(llm)["graph_steps_total"]
        llm.generate([[1, 2, 3]], SamplingParams(temperature=0.0, max_tokens=20, ignore_eos=True))
        assert counters(llm)["graphs_captured"] == 1 and counters(llm)["graph_steps_total"] >= before + 18


def test_idle_moments_capture_the_common_sizes(captures: None, device: str) -> None:
    """Requests between two captures are served, and give what they gave before."""
    with make(device, max_num_seqs=8) as llm:
        asked = [[i, 5, 9] for i in range(5)]
        expected = llm.generate(asked, GREEDY)
        for _ in range(100):
            if not llm._engine.prepare():
                break
            same(expected, llm.generate(asked, GREEDY))
        else:
            raise AssertionError("never ready")
        assert counters(llm)["graphs_captured"] >= 3 * len([1, 2, 4, 8])


@pytest.mark.parametrize("patience", [1, graphs_module.PATIENCE], ids=["at the offline door", "behind a server"])
def test_whoever_is_answered_does_not_wait_for_a_capture(step: Step, patience: int) -> None:
    """Where idle moments come, a size that was asked for a few times is captured in the next one, and in the midst of work only much later, for there may
    be none. Where none come it is captured at once."""
    sizes, few = {"num_rows": ROWS, "max_model_len": LENGTH}, graphs_module.WANTED_EAGER
    graphs = StepGraphs(step.model, step.cache, step.table, Repeats(), **sizes, has_idle_moments=patience > 1)  # type: ignore[arg-type]
    while graphs.prepare():
        pass
    found = [graphs.take(1, LENGTH, "logits") for _ in range(few * patience)]
    assert found[-1] is not None and not any(found[:-1])
    assert graphs.unprepared == (patience > 1)
    assert not any(graphs.take(2, LENGTH, "logits") for _ in range(few - 1))
    if patience > 1:
        assert graphs.take(2, LENGTH, "logits") is None
        graphs.prepare()
    assert graphs.take(2, LENGTH, "logits") is not None


def test_what_cannot_be_captured_runs_op_by_op(monkeypatch: pytest.MonkeyPatch, eager: None) -> None:
    """One size fails and is not tried again; after a few nothing is. It is counted and logged; answers are the same."""
    asked, sampling = mixed(12, seed=5)
    with make("cpu") as llm:
        expected = tokens(llm, asked, sampling)
    made = use_graphs(monkeypatch, fails=lambda number: number != 2)
    before = sum(FALLBACKS.values())
    with make("cpu") as llm:
        assert tokens(llm, asked, sampling) == expected
        assert counters(llm)["graphs_captured"] == 1
        assert counters(llm)["graph_fallbacks_total"] == graphs_module.MOST_FAILURES
        assert made[0].captures == graphs_module.MOST_FAILURES + 1
    assert sum(FALLBACKS.values()) > before


def test_buckets() -> None:
    assert row_buckets(256) == [1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 160, 192, 224, 256]
    assert row_buckets(400)[-3:] == [256, 320, 384][-2:] + [400] and row_buckets(3) == [1, 2, 3] and row_buckets(1) == [1]
    assert context_buckets(40960) == [1024, 4096, 16384, 40960]
    assert context_buckets(1024) == [1024] and context_buckets(70) == [70] and context_buckets(1025) == [1024, 1025]
    kinds = ("greedy", "random", "truncated")
    prompts = [Size(1, 2000, kind, tokens) for kind in ("greedy", "truncated") for tokens in (32, 16)]
    decodes = [Size(n, 70, kind) for n in (2, 3) for kind in kinds]
    one, *longer = ([Size(n, 2000, kind) for kind in ("greedy", "truncated")] for n in (1, 2, 3))
    found = common_sizes([1, 2, 3], [70, 2000, 9000], [16, 32])
    prompts = [size._replace(context=9000) for size in prompts]
    assert found == [*(Size(1, 70, kind) for kind in kinds), *prompts, *one, *decodes, *longer[0], *longer[1]]
    assert len(common_sizes([1, 2, 3], [70], [16])) == 11, "nothing is longer"
    every = common_sizes(row_buckets(512), context_buckets(1 << 20), list(PROMPTS))
    assert len(set(every)) == len(every) < MOST_GRAPHS, "some are left for what is asked for"


def test_prompt_buckets() -> None:
    assert prompt_buckets(PROMPTS[-1]) == list(PROMPTS) and prompt_buckets(1) == [16] and prompt_buckets(16) == [16]
    assert prompt_buckets(17) == [16, 32] and prompt_buckets(PROMPTS[-1] - 1) == list(PROMPTS)


class Constant:
    """A model whose logits want token 7 next; it writes a one into each slot that it is given, as a model writes keys."""

    class shape:
        vocab_size = 12

    batch: Batch
    chooses = False  # whether the head chooses the tokens
    chosen: Chosen

    def next_chosen(self, batch: Batch, cache: KVCache) -> Chosen | None:
        if not self.chooses:
            return None
        logits_BV = self.next_logits(batch, cache)
        self.chosen = Chosen(keys_of(logits_BV.amax(-1), logits_BV.argmax(-1)))
        return self.chosen

    def next_logits(self, batch: Batch, cache: KVCache) -> torch.Tensor:
        return self.logits(self.forward(batch, cache))

    def forward(self, batch: Batch, cache: KVCache) -> torch.Tensor:
        cache.k[0].view(-1)[batch.slots_T[batch.slots_T >= 0]] = 1.0
        self.batch = batch
        return batch.slots_T if batch.rows_R is None else batch.slots_T[batch.rows_R]

    def logits(self, hidden_RD: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.one_hot(torch.full_like(hidden_RD, 7), 12).float()


ROWS, PAGE, LENGTH = 6, 4, 32


@dataclass
class Step:
    """The pieces of an engine that a captured step touches. Row r's tokens are all r at first."""

    model: Constant
    cache: KVCache
    table: torch.Tensor
    graphs: StepGraphs
    filler: BatchFiller


@pytest.fixture(params=[False, True], ids=["from logits", "by the head"])
def step(request: pytest.FixtureRequest) -> Step:
    cpu, model = torch.device("cpu"), Constant()
    model.chooses = request.param
    cache = KVCache.allocate(
        num_layers=1, num_pages=9, page_size=PAGE, num_kv_heads=1, head_size=1, dtype=torch.float32, device=cpu
    )
    table = torch.arange(ROWS + 1, dtype=torch.int32)[:, None].repeat(1, LENGTH + 1)
    graphs = StepGraphs(model, cache, table, Repeats(), num_rows=ROWS, max_model_len=LENGTH)  # type: ignore[arg-type]
    filler = BatchFiller(max_num_seqs=ROWS, max_model_len=LENGTH, page_size=PAGE, eos_ids=(), device=cpu, graphs=graphs)
    while graphs.prepare():
        pass
    return Step(model, cache, table, graphs, filler)


def decode(row: int, start: int, pages: list[int], first_new: int) -> Entry:
    """A decode step of a greedy sequence; `pages[first_new:]` are new."""
    request = Request(id=str(row), prompt=[row] * start, sampling=SamplingParams(temperature=0.0))
    sequence = Sequence(request, 0, (0, 0.0, 0), LENGTH, frozenset(), None)
    sequence.start(row, pages, 0, 0)
    return Entry(sequence, start, 1, True, row, False, pages, first_new)


def changed(table: torch.Tensor) -> list[list[int]]:
    """(row, column) of the tokens that are not their row's number any more."""
    return [place for place in (table != torch.arange(ROWS + 1)[:, None]).nonzero().tolist() if place[0] < ROWS]


def test_capturing_touches_nobody(step: Step) -> None:
    assert len(step.graphs._graphs) == 12 + 2 * 2
    assert not step.cache.k[0].any() and not changed(step.table) and not step.graphs._pages_RC.any()


def test_padding_touches_nobody_and_patches_arrive(step: Step) -> None:
    """Three rows in a graph of four, two of which get a page with the step; other rows' tokens and pages stay."""
    columns = step.graphs.num_columns
    step.graphs.patch(torch.tensor([4 * columns, 2 * columns, 2 * columns + 1]), torch.tensor([8, 1, 6], dtype=torch.int32))
    entries = [decode(4, 5, [8, 3], 1), decode(0, 2, [5], 0), decode(2, 11, [1, 6, 7], 2)]
    inputs = step.filler.fill(Plan(0, entries, [], 3, decodes=True, by_one=True))
    replay = inputs.replay
    assert replay is not None and inputs.packed is None and replay.padding == 1 and inputs.patch_places is None
    replay.run()
    batch = step.model.batch
    assert replay.tokens_R is not None and replay.tokens_R.tolist() == [7, 7, 7]
    assert not step.model.chooses or not step.model.chosen.keys_T.any(), "keys that were read are zero again"
    assert batch.tokens_T.tolist()[:3] == [4, 0, 2] and batch.positions_T.tolist() == [5, 2, 11, 0]
    assert batch.slots_T.tolist() == [3 * PAGE + 1, 5 * PAGE + 2, 7 * PAGE + 3, -1]
    assert batch.ragged.context_B.tolist() == [6, 3, 12, 0]
    assert [row[: i + 1] for i, row in zip((1, 0, 2), batch.ragged.page_table_BP.tolist(), strict=False)] == [
        [8, 3],
        [5],
        [1, 6, 7],
    ]
    assert step.cache.k[0].view(-1).nonzero().squeeze(1).tolist() == [3 * PAGE + 1, 5 * PAGE + 2, 7 * PAGE + 3]
    assert changed(step.table) == [[0, 3], [2, 12], [4, 6]]

    on = [decode(e.row, e.start + 1, e.pages, len(e.pages)) for e in entries[:2]]
    on.append(decode(2, 12, [1, 6, 7, 0, 4], 3))  # two pages at once: more than a record holds
    later = step.filler.fill(Plan(1, on, [], 3, decodes=True, by_one=True))
    assert later.replay is not None and later.patch_places is not None and later.patch_pages is not None
    assert not np.shares_memory(later.replay.records, replay.records)
    step.graphs.patch(later.patch_places, later.patch_pages)
    later.replay.run()
    assert step.model.batch.tokens_T.tolist()[:3] == [7, 7, 7]
    assert step.model.batch.ragged.page_table_BP[0, :2].tolist() == [8, 3], "a patch is kept"
    assert step.model.batch.slots_T.tolist() == [3 * PAGE + 2, 5 * PAGE + 3, 0, -1]

    steady = [decode(e.row, e.start + 1, e.pages, len(e.pages)) for e in on]
    replay = step.filler.fill(Plan(2, steady, [], 3, decodes=True, by_one=True, steady=True, touched=[])).replay
    assert replay is not None and replay.records[:, decode_step.POSITION].tolist() == [7, 4, 13, -1]


def test_a_step_that_was_never_run_spoils_nothing(step: Step) -> None:
    """The ring goes on where the host does."""
    for number in range(7):
        replay = step.graphs.take(1, 3, "greedy")
        assert replay is not None and replay.tokens_R is not None
        replay.records[:] = 0
        replay.records[:, decode_step.PATCH_COLUMN] = -1
        replay.records[:, decode_step.POSITION] = number
        if number != 3:
            replay.run()
            assert replay.tokens_R.tolist() == [7] and step.table[0, number + 1] == 7
    assert step.table[0, :9].tolist() == [0, 7, 7, 7, 0, 7, 7, 7, 0]


def prefill(row: int, prompt: list[int], start: int, count: int, pages: list[int], first_new: int) -> Entry:
    """New tokens of a greedy sequence, which samples if they are its last; fresh if they are its first."""
    request = Request(id=str(row), prompt=prompt, sampling=SamplingParams(temperature=0.0))
    sequence = Sequence(request, 0, (0, 0.0, 0), LENGTH, frozenset(), None)
    sequence.start(row, pages, 0, 0)
    return Entry(sequence, start, count, start + count == len(prompt), row, first_new == 0, pages, first_new)


@pytest.mark.usefixtures("eager")
def test_prompts_bring_their_tokens_and_pages(step: Step) -> None:
    """Two chunks of one prompt, then its first answer token, through three graphs that share a ring; padding touches nobody."""
    prompt, pages = list(range(100, 121)), [8, 3, 5, 1, 6, 2]
    inputs = step.filler.fill(Plan(0, [prefill(4, prompt, 0, 9, pages, 0)], [], 9))
    assert inputs.replay is not None and inputs.upload_tokens_U is None and inputs.patch_places is None and inputs.packed is None
    assert inputs.replay.padding == 7 and inputs.replay.tokens_R is None and inputs.replay.logits_RV is None
    inputs.replay.run()
    batch = step.model.batch
    assert batch.tokens_T.tolist() == [*prompt[:9], *[0] * 7] and batch.positions_T.tolist() == [*range(9), *[0] * 7]
    slots = [pages[at // PAGE] * PAGE + at % PAGE for at in range(21)]
    assert batch.slots_T.tolist() == [*slots[:9], *[-1] * 7]
    assert batch.ragged.query_start_B1.tolist() == [0, 9] and batch.ragged.context_B.tolist() == [9]
    assert batch.ragged.page_table_BP[0, :6].tolist() == pages and batch.rows_R is not None and batch.rows_R.tolist() == [8]
    assert step.table[4, :21].tolist() == prompt and step.table[4, 21] == 4
    assert step.graphs._pages_RC[4, :6].tolist() == pages and not step.graphs._pages_RC[:4].any()

    last = prefill(4, prompt, 9, 12, pages, 6)
    replay = step.filler.fill(Plan(1, [last], [], 12)).replay
    assert replay is not None and replay.tokens_R is not None and replay.padding == 4
    replay.run()
    assert replay.tokens_R.tolist() == [7] and step.model.batch.tokens_T.tolist()[:12] == prompt[9:]
    assert step.model.batch.ragged.context_B.tolist() == [21]
    assert sorted(step.cache.k[0].view(-1).nonzero().squeeze(1).tolist()) == sorted(slots)
    assert all(row == 4 for row, _ in changed(step.table))

    replay = step.filler.fill(Plan(2, [decode(4, 21, pages, 6)], [], 1, decodes=True, by_one=True)).replay
    assert replay is not None and replay.tokens_R is not None
    replay.run()
    assert step.model.batch.tokens_T.tolist() == [7] and step.model.batch.slots_T.tolist() == [2 * PAGE + 1]
    assert replay.tokens_R.tolist() == [7] and step.table[4, 20:24].tolist() == [120, 7, 7, 4]


@pytest.mark.usefixtures("eager")
def test_what_a_prompts_record_has_no_room_for_is_shipped(step: Step, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompt_step, "MOST_UPLOADS", 20)
    monkeypatch.setattr(prompt_step, "MOST_PATCHES", 4)
    prompt, pages = list(range(100, 121)), [8, 3, 5, 1, 6]
    inputs = step.filler.fill(Plan(0, [prefill(4, prompt, 16, 5, pages, 0)], [], 5))
    assert inputs.replay is not None and inputs.upload_tokens_U is not None and inputs.upload_tokens_U.tolist() == prompt
    assert inputs.patch_pages is not None and inputs.patch_pages.tolist() == pages
    words = inputs.replay.records[0]
    assert words[prompt_step.UPLOADS] == words[prompt_step.PATCHES] == 0


def test_long_prompts_and_plans_of_nobody_are_not_captured(step: Step) -> None:
    entry = prefill(1, [3] * 9, 0, 9, [0, 1, 2], 0)
    assert step.filler.fill(Plan(-1, [entry], [], 9)).replay is None
    assert step.graphs.take_prompt(33, "greedy") is None
    found = step.graphs.take_prompt(17, "random")
    assert found is not None and found.padding == 15, "what limits the tokens draws without limits too"
