"""Vectors that come out of the engine, against transformers' last hidden states on the same random weights.

Whole prompts, chunks between the decode steps of other requests, prefixes from the cache, sequences that lose their pages
half way: the vector is always that of the prompt alone.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch

from families import CASES, MAX_LEN, VOCAB, reference_model
from redline import LLM
from redline.config import EngineConfig
from redline.engine.build import Engine, build
from redline.engine.grammar import of_regex
from redline.engine.pooling import Pooler, PoolInputs, pool_arrays, pool_inputs
from redline.engine.request import Sequence
from redline.engine.scheduler import Entry
from redline.kernels.tolerance import check
from redline.types import Chunk, Pooling, Request, SamplingParams

STARVED = {"max_num_batched_tokens": 9, "max_num_seqs": 6, "page_size": 4, "num_pages": 24}
ROOMY = {"max_num_batched_tokens": 512, "max_num_seqs": 16, "page_size": 4, "num_pages": 400}
POOLINGS: tuple[Pooling, ...] = ("last", "mean")


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Threads that wait for each other make small products slow on a shared machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def start(folder: Path, **options: Any) -> Engine:
    settings = {"device": "cpu", "dtype": "float32", "num_threads": 1, "max_model_len": MAX_LEN, **options}
    return build(EngineConfig.from_options(model=str(folder), **settings))


def saved(name: str, folder: Path) -> Any:
    reference = reference_model(CASES[name])
    reference.save_pretrained(folder)
    return reference


def expected(reference: Any, prompt: list[int], pooling: Pooling) -> torch.Tensor:
    """By way of transformers alone, with the whole prompt in one pass."""
    with torch.inference_mode():
        hidden_TD = reference.model(torch.tensor([prompt])).last_hidden_state[0].float()
    return hidden_TD[-1] if pooling == "last" else hidden_TD.mean(0)


def vector(chunk: Chunk) -> torch.Tensor:
    assert chunk.embedding is not None and chunk.finish == "stop" and not chunk.tokens
    return torch.from_numpy(np.frombuffer(chunk.embedding, "<f4").copy())


def drive(engine: Engine, requests: list[Request]) -> dict[str, Chunk]:
    """The last chunk of every request, each of which ends once. Two come at each step."""
    ends: dict[str, Chunk] = {}
    coming = iter(requests)
    while engine.loop.has_work or len(ends) < len(requests):
        for request in itertools.islice(coming, 2):
            engine.loop.submit(request)
        engine.loop.step()
        for chunk in engine.loop.take():
            assert chunk.id not in ends, "something came after the end"
            if chunk.finish is not None:
                ends[chunk.id] = chunk
    engine.loop.check()
    return ends


def to_pool(name: str, prompt: list[int], pooling: Pooling, **more: Any) -> Request:
    return Request(id=name, prompt=prompt, sampling=SamplingParams(), pooling=pooling, **more)


def prompts(count: int, seed: int) -> list[list[int]]:
    """Of random length, the longest as long as the context; every other one begins like the one before it."""
    draw = random.Random(seed)
    made = [[draw.randrange(VOCAB) for _ in range(MAX_LEN)], [5]]
    while len(made) < count:
        head = made[-1] if len(made) % 2 else []
        made.append([*head, *(draw.randrange(VOCAB) for _ in range(draw.randrange(1, 24)))][:MAX_LEN])
    return made


@pytest.mark.parametrize(
    ("name", "options"),
    [("llama_tied_biases", STARVED), ("llama_tied_biases", ROOMY), ("gemma3", STARVED), ("qwen3", STARVED), ("mixtral", ROOMY)],
    ids=["llama-starved", "llama-whole", "gemma3-starved", "qwen3-starved", "mixtral-whole"],
)
def test_vectors_equal_transformers(name: str, options: dict[str, int], tmp_path: Path) -> None:
    """Beside requests that answer; in the starved engine in chunks, with preemption, and found in the cache the second time."""
    reference = saved(name, tmp_path)
    engine = start(tmp_path, **options)
    try:
        texts = prompts(10, seed=3)
        for turn in range(2):
            wanted = {f"{turn}-{i}-{pooling}": (prompt, pooling) for i, prompt in enumerate(texts) for pooling in POOLINGS}
            requests = [to_pool(id, *what) for id, what in wanted.items()]
            answers = [
                Request(id=f"{turn}-a{i}", prompt=prompt[:30], sampling=SamplingParams(max_tokens=12, temperature=0.0))
                for i, prompt in enumerate(texts)
            ]
            draw = random.Random(turn)
            mixed = [msgspec.structs.replace(request, priority=draw.choice((0, 0, 1, -1))) for request in [*requests, *answers]]
            draw.shuffle(mixed)
            ends = drive(engine, mixed)
            for id, (prompt, pooling) in wanted.items():
                check(id, expected(reference, prompt, pooling), vector(ends[id]), "model", "f32")
                usage = ends[id].usage
                assert usage is not None and (usage.prompt_tokens, usage.completion_tokens) == (len(prompt), 0)
                assert usage.cached_tokens == 0 or pooling == "last"
            assert all(ends[answer.id].finish in ("stop", "length") for answer in answers)
        cached = [ends[id].usage for id, (_, pooling) in wanted.items() if pooling == "last"]
        assert any(usage is not None and usage.cached_tokens for usage in cached), "the cache was never used"
        stats = engine.loop.stats
        assert (stats.preemptions > 0) == (options is STARVED)
        assert stats.generation_tokens == 2 * sum(12 for _ in texts), "a vector counts as no token"
    finally:
        engine.close()


@pytest.fixture(scope="module")
def tiny() -> Iterator[Engine]:
    options = {"device": "cpu", "dtype": "float32", "num_threads": 1, "max_model_len": 64, **STARVED}
    engine = build(EngineConfig.from_options(model="random:tiny-llama", **options))
    yield engine
    engine.close()


def test_a_vector_depends_on_nothing_but_its_prompt(tiny: Engine) -> None:
    """Equal bit for bit with the same chunks, whatever the rows held before: sums begin anew."""
    prompt = [(11 * i) % 200 for i in range(40)]
    first = drive(tiny, [to_pool("a", prompt, "mean")])["a"].embedding
    drive(tiny, [to_pool(f"other{i}", [i] * 50, "mean") for i in range(6)])
    assert drive(tiny, [to_pool("b", prompt, "mean")])["b"].embedding == first


def test_a_cancelled_and_a_late_vector_end_once_and_leave_nothing(tiny: Engine) -> None:
    """Cancelled in the queue, between two chunks, and with its last chunk on the device; past its deadline."""
    loop = tiny.loop
    for steps in range(6):
        loop.submit(to_pool("a", [1] * 30, "mean"))
        loop.submit(to_pool("late", [2] * 30, "last", deadline=0.001))
        for _ in range(steps):
            loop.step()
        loop.cancel("a")
        while loop.has_work:
            loop.step()
        chunks = loop.take()
        ends = {chunk.id: chunk.finish for chunk in chunks}
        assert len(chunks) == 2 and ends["a"] in ("abort", "stop") and ends["late"] in ("abort", "deadline")
        assert (ends["a"] == "stop") == (steps == 5), "four steps compute the prompt, the fifth hears of the last"
        loop.check()
        assert loop.stats.pages_used == 0


def test_a_failed_step_ends_what_it_pools_with_an_error(tiny: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("no memory for sums")

    with monkeypatch.context() as patch:
        patch.setattr(Pooler, "_add", broken)
        ends = drive(tiny, [to_pool("mean", [1, 2, 3], "mean")])
    assert ends["mean"].finish == "error" and ends["mean"].failure is not None and ends["mean"].embedding is None
    assert drive(tiny, [to_pool("again", [1, 2, 3], "mean")])["again"].finish == "stop"


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"sampling": SamplingParams(n=2)}, "pooling"),
        ({"sampling": SamplingParams(prompt_logprobs=1)}, "pooling"),
        ({"grammar": "start: /a/"}, "pooling"),
        ({"prompt": [1] * 65}, "prompt"),
        ({"prompt": []}, "prompt"),
    ],
)
def test_what_has_no_vector_is_refused(tiny: Engine, more: dict[str, Any], param: str) -> None:
    tiny.loop.submit(Request(**{"id": "x", "prompt": [1], "sampling": SamplingParams(), "pooling": "last", **more}))
    chunks = tiny.loop.take()
    assert chunks and all(chunk.failure is not None and chunk.failure.param == param for chunk in chunks)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_vectors_come_out_of_steps_whose_answers_wait_for_a_grammar(tiny: Engine, pooling: Pooling) -> None:
    """Such a step has two halves; the vector is made in the first."""
    prompt = [(13 * i) % 200 for i in range(21)]
    alone = vector(drive(tiny, [to_pool("alone", prompt, pooling, cache_salt="a")])["alone"])
    sampling = SamplingParams(temperature=0.0, max_tokens=20)
    answers = [Request(id=f"g{i}", prompt=[i], sampling=sampling, grammar=of_regex("(yes|no){5}")) for i in range(3)]
    ends = drive(tiny, [*answers, to_pool("beside", prompt, pooling, cache_salt="b")])
    check("beside", alone, vector(ends["beside"]), "model", "f32")
    assert all(ends[answer.id].finish == "stop" for answer in answers)


def test_the_whole_context_can_be_embedded(tiny: Engine) -> None:
    """No room is kept for an answer that does not come."""
    assert drive(tiny, [to_pool("full", [3] * 64, "last")])["full"].finish == "stop"


def test_the_offline_door_takes_more_prompts_than_may_wait() -> None:
    """They follow as others end, and their vectors are in the order of the prompts."""
    options = {"device": "cpu", "dtype": "float32", "num_threads": 1, "max_model_len": 64, "max_num_seqs": 3}
    with LLM("random:tiny-llama", receipts=False, max_queued_requests=5, **options) as llm:
        texts = [f"text {i}" for i in range(25)]
        together = llm.embed(texts, pooling="mean")
        assert together.shape == (25, llm.info.hidden_size)
        for i in (0, 7, 24):
            assert together[i] == pytest.approx(llm.embed(texts[i], pooling="mean")[0], abs=1e-5)
        assert [len(done.tokens) for done in llm.generate(texts, SamplingParams(max_tokens=2, ignore_eos=True))] == [2] * 25
        assert llm.embed([]).shape == (0, llm.info.hidden_size)


def test_a_receipt_counts_it_as_prefill(tiny: Engine) -> None:
    done = drive(tiny, [to_pool("r", list(range(100, 120)), "mean", want_receipt=True)])["r"]
    receipt: Any = done.receipt
    assert receipt["prefill"]["tokens"] == 20 and receipt["decode"]["tokens"] == 0
    assert receipt["time_to_first_token_s"] is None


def test_the_arithmetic_by_hand() -> None:
    """Two steps over three rows: a last token, a mean in two chunks, and a mean in one whose row held rubbish."""

    def entry(name: str, length: int, pooling: Pooling | None, start: int, count: int, row: int) -> Entry:
        request = Request(id=name, prompt=[0] * length, sampling=SamplingParams(), pooling=pooling)
        sequence = Sequence(request, 0, (0, 0.0, 0), length + 1, frozenset(), None)
        return Entry(sequence, start, count, False, row, start == 0, [0], 1)

    def pooled(pooler: Pooler, hidden: torch.Tensor, entries: list[Entry]) -> dict[int, list[float]]:
        starts = np.cumsum([0, *(e.count for e in entries)]).astype(np.int32)
        arrays = pool_arrays(entries, starts)
        inputs = pool_inputs(arrays, {name: torch.from_numpy(array) for name, array in arrays.items()})
        assert isinstance(inputs, PoolInputs)
        vectors = pooler.pool(hidden, inputs)
        assert vectors.dtype == torch.float32 and len(vectors) == len(inputs.entries)
        return {place: vectors[i].tolist() for i, place in enumerate(inputs.entries)}

    pooler = Pooler(3)
    pooler._sums_RD = torch.full((3, 2), torch.nan)
    hidden = torch.tensor([[float(t), 10.0 * t] for t in range(7)], dtype=torch.bfloat16)
    first = [entry("plain", 9, None, 8, 1, 1), entry("a", 3, "last", 0, 3, 2), entry("b", 5, "mean", 0, 3, 0)]
    assert pooled(pooler, hidden, first) == {1: [3.0, 30.0]}
    second = [entry("b", 5, "mean", 3, 2, 0), entry("c", 4, "mean", 0, 4, 2), entry("d", 8, "last", 0, 1, 1)]
    assert pooled(pooler, hidden, second) == {0: pytest.approx([3.2, 32.0]), 1: [3.5, 35.0]}
    assert pool_inputs(pool_arrays(first[:1], np.array([0, 1], np.int32)), {}) is None
