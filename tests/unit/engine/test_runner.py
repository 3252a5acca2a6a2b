"""Scores that come out of the engine, against the model run by hand over the whole text at once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from paging import PagedSequences, whole
from redline import LLM, SamplingParams, checkpoint
from redline.engine.runner import _has_ended
from redline.llm import Completion
from redline.models.load import load
from redline.models.registry import Model, build
from redline.types import TokenLogprob

MODEL = "random:tiny-llama"
PROMPT = [(7 * i * i + 3 * i) % 256 for i in range(37)]


@pytest.fixture(scope="module")
def model() -> Model:
    opened = checkpoint.open(MODEL)
    made = build(opened.shape, torch.float32, "cpu", max_len=128)
    load(made, opened)
    return made


@pytest.fixture(scope="module")
def starved() -> Iterator[LLM]:
    """Chunks of at most 11 tokens, and pages for little more than one sequence."""
    settings = {"max_num_batched_tokens": 11, "max_num_seqs": 4, "page_size": 4, "num_pages": 20, "max_model_len": 72}
    with LLM(MODEL, device="cpu", dtype="float32", num_threads=1, **settings) as llm:
        yield llm


def log_probabilities(model: Model, tokens: list[int]) -> torch.Tensor:
    """[length, V] in float64, of one teacher-forced pass."""
    [logits] = PagedSequences(model, [tokens]).run(whole([tokens]))
    return torch.log_softmax(logits.double(), -1)


def check(scored: TokenLogprob, expected: torch.Tensor, best: int) -> None:
    """One entry against the log-probabilities of its position."""
    assert scored.logprob == pytest.approx(float(expected[scored.token]), abs=2e-5)
    assert [value for _, value in scored.top] == pytest.approx(expected.topk(best).values.tolist(), abs=2e-5)
    assert all(value == pytest.approx(float(expected[token]), abs=2e-5) for token, value in scored.top)


def check_choices(done: Completion, model: Model, best: int) -> None:
    for choice in done.choices:
        expected = log_probabilities(model, done.prompt_tokens + choice.tokens)[len(done.prompt_tokens) - 1 :]
        assert choice.logprobs is not None and [scored.token for scored in choice.logprobs] == choice.tokens
        for scored, row in zip(choice.logprobs, expected, strict=False):
            check(scored, row, best)


def test_logprobs_are_of_the_raw_distribution(starved: LLM, model: Model) -> None:
    """Whatever penalties, biases, temperature and limits did to the draw."""
    sampling = SamplingParams(
        temperature=1.5,
        top_p=0.9,
        seed=-(2**63),
        max_tokens=8,
        logprobs=3,
        repetition_penalty=1.5,
        frequency_penalty=0.5,
        logit_bias={5: 40.0, 6: -100.0},
        min_tokens=8,
    )
    [done] = starved.generate([PROMPT], sampling)
    check_choices(done, model, best=3)
    assert 5 in done.choices[0].tokens, "the bias was not applied"


def test_prompt_logprobs_survive_chunks_prefix_hits_preemption_and_choices(starved: LLM, model: Model) -> None:
    """Three requests of three choices in a pool that holds little more than one; the same prompts were computed before."""
    prompts = [PROMPT, PROMPT[:20], PROMPT[3:31]]
    sampling = SamplingParams(temperature=1.0, seed=3, n=3, max_tokens=12, logprobs=1, prompt_logprobs=2, ignore_eos=True)
    starved.generate(prompts, SamplingParams(max_tokens=1))
    before = starved.stats.preemptions
    for prompt, done in zip(prompts, starved.generate(prompts, sampling), strict=True):
        assert done.prompt_logprobs is not None and len(done.prompt_logprobs) == len(prompt)
        expected = log_probabilities(model, prompt)
        assert done.prompt_logprobs[0] is None
        for position, scored in enumerate(done.prompt_logprobs[1:], 1):
            assert scored is not None and scored.token == prompt[position]
            check(scored, expected[position - 1], 2)
        check_choices(done, model, best=1)
    assert starved.stats.preemptions > before, "the pool was not small enough to test anything"


@pytest.mark.parametrize("answer", [False, True, RuntimeError("CUDA error: an illegal memory access was encountered")])
def test_a_step_that_the_device_died_of_has_ended(answer: bool | Exception) -> None:
    """Asking whether it has must not raise what waiting for it will: that ends the step's requests alone."""

    class Event:
        def query(self) -> bool:
            if isinstance(answer, Exception):
                raise answer
            return answer

    assert _has_ended(Event()) == (answer is not False)  # type: ignore[arg-type]
