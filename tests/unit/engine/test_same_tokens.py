"""The same request gives the same tokens, whatever runs beside it and however its prompt was computed.

Through the real engine on small random models in float32. Tokens are compared up to the first near tie: a step where
the two best logits are closer than 1e-3, where float32 rounding may decide.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import pytest

from near_ties import GREEDY, same, sure
from redline import LLM, SamplingParams
from redline.llm import Completion

MODELS = ("random:tiny-llama", "random:tiny-qwen3", "random:tiny-mistral")


Engine = Callable[..., LLM]
Reference = tuple[str, list[list[int]], list[Completion]]


@pytest.fixture(scope="module")
def device() -> str:
    """Where the engine runs; the GPU tests say otherwise."""
    return "cpu"


@pytest.fixture(scope="module")
def engine(device: str) -> Engine:
    def make(model: str = MODELS[0], **options: object) -> LLM:
        settings: dict[str, object] = {"dtype": "float32", "max_model_len": 512, "num_threads": 1, "num_pages": 256}
        return LLM(model, device=device, **{**settings, **options})

    return make


def prompts(count: int, seed: int, longest: int = 90) -> list[list[int]]:
    draw = random.Random(seed)
    return [[draw.randrange(256) for _ in range(draw.randrange(1, longest))] for _ in range(count)]


@pytest.fixture(scope="module", params=MODELS)
def reference(request: pytest.FixtureRequest, engine: Engine) -> Iterator[Reference]:
    """Each prompt alone, on a cold engine without a prefix cache."""
    asked = prompts(16, seed=1)
    with engine(request.param, enable_prefix_caching=False) as llm:
        yield request.param, asked, [llm.generate(prompt, GREEDY)[0] for prompt in asked]


def test_alone_or_in_a_batch_of_sixteen(reference: Reference, engine: Engine) -> None:
    model, asked, alone = reference
    with engine(model) as llm:
        same(alone, llm.generate(asked, GREEDY))


def test_whole_or_chunked_prefill(reference: Reference, engine: Engine) -> None:
    model, asked, alone = reference
    with engine(model, max_num_batched_tokens=7, max_num_seqs=5) as llm:
        same(alone, llm.generate(asked, GREEDY))


def test_cold_or_from_the_prefix_cache(reference: Reference, engine: Engine) -> None:
    model, asked, alone = reference
    with engine(model, page_size=4) as llm:
        llm.generate(asked, GREEDY)
        again = llm.generate(asked, GREEDY)
    same(alone, again)
    assert all(done.usage.cached_tokens >= len(prompt) - 8 for prompt, done in zip(asked, again, strict=True) if len(prompt) > 8)


def test_preempted_or_not(reference: Reference, engine: Engine) -> None:
    """A pool that holds a fraction of the traffic: sequences are preempted and computed again."""
    model, asked, alone = reference
    with engine(model, page_size=8, num_pages=24, max_model_len=160, look_ahead=False) as llm:
        starved = llm.generate(asked, GREEDY)
        assert llm.stats.preemptions > 0, "the pool was not small enough to test anything"
    same(alone, starved)


def test_streamed_or_not(reference: Reference, engine: Engine) -> None:
    model, asked, alone = reference
    with engine(model) as llm:
        for prompt, whole in zip(asked[:4], alone[:4], strict=True):
            streamed = [token for delta in llm.stream(prompt, GREEDY) for token in delta.tokens]
            assert streamed[: sure(whole.choices[0])] == whole.tokens[: sure(whole.choices[0])]


def test_random_traffic_of_mixed_requests(reference: Reference, engine: Engine) -> None:
    """Greedy requests among sampled, penalised, short and many-choice ones."""
    model, asked, alone = reference
    draw = random.Random(5)
    others = [
        SamplingParams(
            temperature=draw.choice([0.0, 0.7, 1.3]),
            top_k=draw.choice([0, 5]),
            top_p=draw.choice([1.0, 0.8]),
            min_p=draw.choice([0.0, 0.1]),
            frequency_penalty=draw.choice([0.0, 0.5]),
            repetition_penalty=draw.choice([1.0, 1.2]),
            n=draw.choice([1, 1, 3]),
            max_tokens=draw.randrange(1, 40),
            min_tokens=0,
            seed=draw.randrange(1000),
        )
        for _ in asked
    ]
    with engine(model, page_size=8, max_num_batched_tokens=33) as llm:
        mixed = llm.generate([*asked, *prompts(16, seed=9)], [*[GREEDY] * 16, *others])
    same(alone, mixed[:16])


def test_draws_depend_on_seed_and_position_alone(engine: Engine) -> None:
    """Sampled tokens are the same alone and in traffic, equal seeds agree and different choices differ."""
    asked = prompts(6, seed=3)
    sampled = [SamplingParams(temperature=1.0, seed=i, n=2, max_tokens=12, ignore_eos=True) for i in range(6)]
    with engine() as llm:
        together = llm.generate(asked, sampled)
        alone = [llm.generate(prompt, params)[0] for prompt, params in zip(asked, sampled, strict=True)]
        other = llm.generate(asked[0], SamplingParams(temperature=1.0, seed=77, max_tokens=12, ignore_eos=True))[0]
    for a, b in zip(together, alone, strict=True):
        assert [choice.tokens for choice in a.choices] == [choice.tokens for choice in b.choices]
        assert a.choices[0].tokens != a.choices[1].tokens
    assert other.tokens != alone[0].choices[0].tokens


def test_fork_gives_what_separate_requests_give(engine: Engine) -> None:
    """Choices share the prompt's pages and copy on write; greedy ones must all equal the single answer."""
    prompt = prompts(1, seed=11)[0] * 3
    with engine(page_size=16, enable_prefix_caching=False) as llm:
        single = llm.generate(prompt, GREEDY)[0]
        forked = llm.generate(prompt, SamplingParams(temperature=0.0, max_tokens=24, ignore_eos=True, logprobs=2, n=5))[0]
    length = sure(single.choices[0])
    assert all(choice.tokens[:length] == single.tokens[:length] for choice in forked.choices)
