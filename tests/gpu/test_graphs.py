"""Captured decode steps on a card: the same tokens as op by op, every kind and size, and what happens around a capture."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Iterator

import pytest
import torch

from near_ties import GREEDY, same, sure
from redline import LLM, SamplingParams
from redline.engine.graphs import CudaCapture, common_sizes, context_buckets, prompt_buckets, row_buckets
from redline.hardware.nvml import connect
from redline.llm import Completion
from redline.plan.memory import Limits, needed_workspace
from unit.engine.test_graphs import (  # noqa: F401
    captures,
    counters,
    eager,
    test_first_steps_run_before_anything_is_captured,
    test_idle_moments_capture_the_common_sizes,
)

pytestmark = pytest.mark.gpu

MODEL = "random:tiny-qwen3"
OPTIONS = {"device": "cuda:0", "dtype": "float32", "max_model_len": 3000, "max_num_seqs": 40, "num_pages": 2000, "page_size": 16}
WAYS: list[dict[str, object]] = [
    {"temperature": 0.0},
    {"temperature": 1.0},
    {"temperature": 0.8, "top_k": 5, "top_p": 0.9, "min_p": 0.01},
    {"temperature": 0.0, "frequency_penalty": 0.5, "repetition_penalty": 1.2},
]


@pytest.fixture(scope="module")
def device() -> str:
    return "cuda:0"


@pytest.fixture(autouse=True)
def exact_float32() -> None:
    torch.set_float32_matmul_precision("highest")


def make(**options: object) -> LLM:
    return LLM(MODEL, receipts=False, **{**OPTIONS, **options})


@pytest.fixture(scope="module")
def plain() -> Iterator[LLM]:
    with make(enforce_eager=True) as llm:
        yield llm


def asked(count: int, seed: int, longest: int = 60) -> list[list[int]]:
    draw = random.Random(seed)
    return [[draw.randrange(256) for _ in range(draw.randrange(1, longest))] for _ in range(count)]


def agree(one: list[Completion], other: list[Completion]) -> None:
    """As `same`, without its demand that much was compared: sampled answers end at their first near tie."""
    for a, b in zip(one, other, strict=True):
        for x, y in zip(a.choices, b.choices, strict=True):
            assert x.tokens[: sure(x)] == y.tokens[: sure(x)]


@pytest.mark.usefixtures("eager")
def test_every_number_of_rows(plain: LLM) -> None:
    """1 to 33 sequences at once, greedy, through whatever bucket they fall in; contexts across the first bound."""
    with make() as llm:
        for count in range(1, 34):
            prompts = [*asked(count - 1, seed=count), [3] * 1010]
            same(plain.generate(prompts, GREEDY), llm.generate(prompts, GREEDY))
        found = counters(llm)
        assert found["graph_fallbacks_total"] == 0 and found["graphs_captured"] >= 7 and found["graph_steps_total"] > 600


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("way", WAYS, ids=["greedy", "random", "truncated", "logits"])
def test_every_kind(way: dict[str, object], plain: LLM) -> None:
    """Sampled tokens too, which depend on the seed and on logits that differ by rounding alone."""
    sampling = [SamplingParams(**way, seed=i, max_tokens=40, ignore_eos=True) for i in range(9)]  # type: ignore[arg-type]
    prompts = asked(9, seed=4)
    with make() as llm:
        expected, got = plain.generate(prompts, sampling), llm.generate(prompts, sampling)
        assert counters(llm)["graph_steps_total"] >= 36
    equal = sum(
        x.tokens == y.tokens for a, b in zip(expected, got, strict=True) for x, y in zip(a.choices, b.choices, strict=True)
    )
    assert equal >= 8, "more than a near tie apart"


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("budget", [2048, 100], ids=["whole", "chunks"])
def test_prompts_one_by_one(budget: int) -> None:
    """Every bucket of tokens, every kind, behind cached prefixes of any length and without, whole and in chunks."""
    lengths = [1, 2, 15, 16, 17, 32, 33, 64, 100, 129, 192, 200, 257, 384, 400, 512, 513, 900, 1100, 1700, 2000]
    draw = random.Random(3)
    prompts = [[draw.randrange(256) for _ in range(length)] for length in lengths]
    prompts += [[*prompts[-1], *extra] for extra in ([1], [2] * 30, [3] * 300, [4] * 700)]
    others = [SamplingParams(**WAYS[i % 4], seed=i, max_tokens=4) for i in range(len(prompts))]  # type: ignore[arg-type]
    options = {"max_num_batched_tokens": budget}
    with make(enforce_eager=True, **options) as llm:
        expected = [llm.generate([prompt], GREEDY)[0] for prompt in prompts]
        drawn = [llm.generate([prompt], [one])[0] for prompt, one in zip(prompts, others, strict=True)]
    with make(**options) as llm:
        for _ in range(2):  # the second time behind their own prefixes
            agree(expected, [llm.generate([prompt], GREEDY)[0] for prompt in prompts])
        got = [llm.generate([prompt], [one])[0] for prompt, one in zip(prompts, others, strict=True)]
        found, graphs = counters(llm), llm._engine.loop._runner._graphs
        assert graphs is not None and found["graph_fallbacks_total"] == 0
        kinds = {size.kind for size in graphs._graphs if size.tokens > 1}
        assert kinds == {"greedy", "random", "truncated", "logits"} | ({"none"} if budget == 100 else set())
        assert {size.tokens for size in graphs._graphs} >= {1, 16, 32, 64, 128}
    equal = sum(a.choices[0].tokens == b.choices[0].tokens for a, b in zip(drawn, got, strict=True))
    assert equal >= len(prompts) - 2, "more than a near tie apart"


def test_a_prompt_alone_is_one_graph_once_prepared() -> None:
    """On an idle engine nothing but a replay stands between a short prompt and its first token."""
    one = SamplingParams(temperature=0.0, max_tokens=1)
    with make(dtype="bfloat16") as llm:
        while llm._engine.prepare():
            pass
        for length in (1, 16, 40, 128, 300, 512, 1500, 2900):
            before = counters(llm)["graph_steps_total"]
            llm.generate([[length % 256, *[7] * (length - 1)]], one)
            assert counters(llm)["graph_steps_total"] == before + 1


@pytest.mark.usefixtures("eager")
def test_mixed_traffic_that_preempts(plain: LLM) -> None:
    """Kinds side by side, rows and pages that change hands, prefixes that are found again."""
    prompts = asked(24, seed=6, longest=90)
    others = [SamplingParams(**WAYS[i % 4], seed=i, max_tokens=50, n=1 + i % 2) for i in range(24)]  # type: ignore[arg-type]
    expected = plain.generate(prompts, GREEDY)
    with make(num_pages=44, look_ahead=False, max_model_len=300, page_size=8, max_num_batched_tokens=64) as llm:
        for _ in range(2):
            same(expected, llm.generate([*prompts, *prompts], [*[GREEDY] * 24, *others])[:24])
        assert llm.stats.preemptions > 0 and counters(llm)["graph_steps_total"] > 50
        llm._engine.loop.check()


@pytest.mark.usefixtures("eager")
def test_what_cannot_be_captured_runs_op_by_op(plain: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real failure, in the midst of a capture: something asks the device a question. The next size is captured again."""
    capture, broken = CudaCapture.__call__, [True]

    def asks(self: CudaCapture, step: Callable[[], None]) -> Callable[[], None]:
        def curious() -> None:
            step()
            if broken:
                torch.ones(1, device="cuda").item()

        return capture(self, curious)

    monkeypatch.setattr(CudaCapture, "__call__", asks)
    prompts = asked(3, seed=8)
    with make() as llm:
        agree(plain.generate(prompts[:1], GREEDY), llm.generate(prompts[:1], GREEDY))
        assert (counters(llm)["graph_fallbacks_total"], counters(llm)["graphs_captured"]) == (2, 0), "its prompt, its answer"
        broken.clear()
        agree(plain.generate(prompts, GREEDY), llm.generate(prompts, GREEDY))
        assert counters(llm)["graphs_captured"] > 0 and counters(llm)["graph_steps_total"] > 5


def test_no_memory_in_a_step_ends_that_step_alone(plain: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its requests fail; those after it are served, and the runner has freed what it could."""
    with make() as llm:
        runner = llm._engine.loop._runner
        forward, left = runner._model.forward, [1]

        def greedy_forward(*arguments: object) -> torch.Tensor:
            if left and left.pop():
                torch.empty(1 << 50, dtype=torch.uint8, device="cuda")
            return forward(*arguments)

        monkeypatch.setattr(runner._model, "forward", greedy_forward)
        with pytest.raises(Exception, match="out of memory"):
            llm.generate(asked(1, seed=1), GREEDY)
        same(plain.generate(asked(3, seed=2), GREEDY), llm.generate(asked(3, seed=2), GREEDY))
        llm._engine.loop.check()


def test_a_full_set_of_graphs_stays_within_its_plan() -> None:
    """Every common size of the largest batch: what the device lost is no more than what was planned for it."""
    if len(connect().processes(0)) > 1:
        pytest.skip("other processes use the card, so its free memory says nothing of this one")
    with make(max_num_seqs=256, max_model_len=2048, num_pages=9000, dtype="bfloat16") as llm:
        limits = Limits(max_num_seqs=256, max_num_batched_tokens=8192, max_model_len=2048, gpu=True, graphs=True)
        planned = needed_workspace(llm.checkpoint.shape, 2, llm.info.page_size, limits)
        without = needed_workspace(llm.checkpoint.shape, 2, llm.info.page_size, dataclasses.replace(limits, graphs=False))
        lost = planned.driver - without.driver + planned.kept - without.kept  # the rest was set aside at the start
        before = torch.cuda.mem_get_info()[0]
        while llm._engine.prepare():
            pass
        wanted = common_sizes(row_buckets(256), context_buckets(2048), prompt_buckets(2048))
        assert counters(llm)["graphs_captured"] == len(wanted) and counters(llm)["graph_fallbacks_total"] == 0
        assert before - torch.cuda.mem_get_info()[0] <= lost
        assert counters(llm)["graph_capture_seconds_total"] < 60
