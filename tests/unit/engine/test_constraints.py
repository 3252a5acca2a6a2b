"""Grammars in the real engine on a small random model: the same answers as constrained decoding done by hand, in every traffic.

The reference is a loop of whole forward passes and llguidance's own masks, one token at a time, without forced tokens. Answers
are compared up to the first step whose two best allowed logits are close, where float32 rounding may decide.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator
from random import Random
from typing import Any

import jsonschema_rs
import llguidance
import numpy as np
import pytest
import torch

from near_ties import MARGIN
from paging import PagedSequences, whole
from redline import LLM, SamplingParams, checkpoint
from redline.engine import constraints as room
from redline.engine.grammar import of_choice, of_json_schema, of_lark, of_regex, of_yaml
from redline.errors import InvalidRequest, UnsupportedField
from redline.llm import Choice
from redline.models.load import load
from redline.models.registry import Model, build
from redline.tokenizer import Tokenizer
from redline.types import Request

MODEL = "random:tiny-llama"
SETTINGS: dict[str, Any] = {"dtype": "float32", "num_threads": 1, "max_model_len": 320}
PERSON: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 6},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "kind": {"enum": ["alpha", "alphabet", "beta"]},
        "tags": {"type": "array", "items": {"type": "string", "maxLength": 3}, "maxItems": 2},
    },
    "required": ["name", "age", "kind", "tags"],
    "additionalProperties": False,
}
GRAMMARS = {
    "schema": of_json_schema(PERSON),
    "regex": of_regex("(ab|cd)+[0-9]{3}x{0,4}"),
    "choice": of_choice(["red", "green", "greenish"]),
    "lark": of_lark('start: "<" inner* ">"\ninner: "(" inner ")" | "[]"'),
    "yaml": of_yaml(PERSON),
}
GREEDY = SamplingParams(temperature=0.0, max_tokens=150)
MOST = 45
PROMPTS = [[(7 * i * i + 3 * i + k) % 256 for i in range(5 + 8 * k)] for k in range(3)]


class Wrapper:
    """The byte tokenizer for llguidance, made by hand."""

    is_tokenizer_wrapper = True
    eos_token_id, bos_token_id, special_token_ids = 257, None, (256, 257)

    def __init__(self, size: int) -> None:
        self.tokens = [Tokenizer.bytes(size).token_bytes(id_) for id_ in range(size)]

    def __call__(self, text: str) -> list[int]:
        return list(text.encode())


@pytest.fixture(scope="module")
def device() -> str:
    """Where the engine runs; the GPU tests say otherwise."""
    return "cpu"


@pytest.fixture(scope="module")
def llm(device: str) -> Iterator[LLM]:
    with LLM(MODEL, device=device, num_pages=256, **SETTINGS) as made:
        yield made


@pytest.fixture(scope="module")
def model(device: str) -> Model:
    opened = checkpoint.open(MODEL)
    made = build(opened.shape, torch.float32, device, max_len=320)
    load(made, opened)
    return made


@pytest.fixture(scope="module")
def tokenizer(llm: LLM) -> Any:
    return llguidance.LLTokenizer(Wrapper(llm.info.vocab_size))  # type: ignore[arg-type]


Reference = tuple[list[int], bool]
"""A greedy answer, and whether it is complete or ends at a near tie or at `MOST` tokens."""


def by_hand(model: Model, tokenizer: Any, asked: dict[Any, tuple[str, list[int]]]) -> dict[Any, Reference]:
    """The answers to (grammar, prompt), token by token: a pass over all texts as they are, a mask, the best that is allowed."""
    matchers = {key: llguidance.LLMatcher(tokenizer, grammar, log_level=0) for key, (grammar, _) in asked.items()}
    texts = {key: list(prompt) for key, (_, prompt) in asked.items()}
    found: dict[Any, Reference] = {}
    for _ in range(MOST):
        going = [key for key in asked if key not in found]
        if not going:
            break
        for key, logits in zip(
            going, PagedSequences(model, [texts[key] for key in going]).run(whole([texts[key] for key in going])), strict=True
        ):
            answer, matcher = texts[key][len(asked[key][1]) :], matchers[key]
            bits = np.unpackbits(np.frombuffer(matcher.compute_bitmask(), np.uint8), bitorder="little")[: tokenizer.vocab_size]
            best = torch.topk(logits[-1].double().cpu().masked_fill(torch.from_numpy(bits == 0), -torch.inf), 2)
            token = int(best.indices[0])
            if matcher.is_stopped() or token == 257:
                found[key] = answer, True
            elif best.values[0] - best.values[1] < MARGIN:
                found[key] = answer, False
            else:
                assert matcher.consume_token(token), (token, int(bits.sum()), best.values, matcher.get_error(), answer)
                texts[key].append(token)
    return {key: found.get(key, (texts[key][len(asked[key][1]) :], False)) for key in asked}


@pytest.fixture(scope="module")
def references(model: Model, tokenizer: Any) -> dict[tuple[str, int], Reference]:
    torch.set_num_threads(1)  # two that share their cores with other tests wait for each other
    return by_hand(model, tokenizer, {(n, k): (g, p) for n, g in GRAMMARS.items() for k, p in enumerate(PROMPTS)})


def check(choice: Choice, reference: Reference) -> None:
    expected, complete = reference
    answer = choice.tokens[:-1] if choice.tokens and choice.tokens[-1] == 257 else choice.tokens
    assert answer[: len(expected)] == expected
    if complete:
        assert answer == expected and choice.finish == "stop"


def requests(prompts: list[list[int]], sampling: SamplingParams, **options: Any) -> list[Request]:
    return [Request(id=f"r{k}", prompt=p, sampling=sampling, arrival=time.monotonic(), **options) for k, p in enumerate(prompts)]


@pytest.mark.parametrize("name", GRAMMARS)
def test_greedy_answers_are_those_of_decoding_by_hand(name: str, llm: LLM, references: Any) -> None:
    for number, prompt in enumerate(PROMPTS):
        check(llm.generate(prompt, GREEDY, grammar=GRAMMARS[name])[0].choices[0], references[name, number])
    assert (
        sum(references[name, k][1] for k in range(len(PROMPTS)))
        or sum(len(references[name, k][0]) for k in range(len(PROMPTS))) > 20
    )


@pytest.mark.parametrize(
    "options",
    [
        {"num_pages": 256},
        {"num_pages": 256, "max_num_batched_tokens": 7, "max_num_seqs": 5},
        {"num_pages": 40, "page_size": 8, "enable_prefix_caching": False, "look_ahead": False},
        {"num_pages": 90, "page_size": 4},
    ],
    ids=["together", "chunked", "preempted", "cached"],
)
def test_they_are_the_same_in_any_traffic(options: dict[str, Any], device: str, references: Any) -> None:
    """All grammars and free requests together; chunks of few tokens; a pool too small for all; prefixes from the cache."""
    with LLM(MODEL, device=device, **{**SETTINGS, **options}) as crowded:
        loop = crowded._engine.loop
        asked = {
            f"{name}-{number}": Request(id=f"{name}-{number}", prompt=prompt, sampling=GREEDY, grammar=grammar)
            for name, grammar in GRAMMARS.items()
            for number, prompt in enumerate(PROMPTS)
        }
        free = requests(PROMPTS, SamplingParams(temperature=1.0, seed=1, max_tokens=40, ignore_eos=True))
        for request in [*asked.values(), *free]:
            loop.submit(request)
        answers: dict[str, list[int]] = {}
        ends: dict[str, Any] = {}
        while len(ends) < len(asked) + len(free):
            loop.step()
            for chunk in loop.take():
                assert chunk.failure is None, chunk.failure
                answers.setdefault(chunk.id, []).extend(chunk.tokens)
                if chunk.finish is not None:
                    assert chunk.usage is not None and chunk.usage.completion_tokens == len(answers[chunk.id])
                    ends[chunk.id] = chunk.finish
        if options["num_pages"] == 40:
            assert crowded.stats.preemptions > 0, "the pool was not small enough to test anything"
        while loop.has_work:
            loop.step()
        loop.check()
    for name in GRAMMARS:
        for number in range(len(PROMPTS)):
            choice = Choice(index=0, text="", tokens=answers[f"{name}-{number}"], finish=ends[f"{name}-{number}"])
            check(choice, references[name, number])


def test_forced_tokens_take_no_steps_of_their_own(llm: LLM) -> None:
    before = llm.stats.steps
    [done] = llm.generate("x", SamplingParams(temperature=0.0), grammar=of_json_schema(PERSON))
    steps = llm.stats.steps - before
    assert done.choices[0].finish == "stop" and jsonschema_rs.is_valid(PERSON, json.loads(done.text))
    assert done.usage.completion_tokens == len(done.text.encode()) and steps < 0.6 * done.usage.completion_tokens
    before = llm.stats.steps
    [whole_text] = llm.generate("x", SamplingParams(temperature=0.0), grammar=of_choice(["only this"]))
    assert (whole_text.text, whole_text.choices[0].finish, llm.stats.steps - before) == ("only this", "stop", 0)


def test_draws_depend_on_seed_and_position_alone(llm: LLM) -> None:
    """Choices of one request differ, and each is what it is alone or in a crowd; forced tokens count as positions."""
    grammar = of_json_schema(PERSON)
    sampled = [SamplingParams(temperature=1.0, seed=seed, n=3, max_tokens=200) for seed in range(3)]
    together = llm.generate(PROMPTS[:3], sampled, grammar=grammar)
    for prompt, params, done in zip(PROMPTS, sampled, together, strict=False):
        alone = llm.generate(prompt, params, grammar=grammar)[0]
        assert [choice.tokens for choice in alone.choices] == [choice.tokens for choice in done.choices]
        assert len({choice.text for choice in done.choices}) == 3
        for choice in done.choices:
            assert choice.finish == "length" or jsonschema_rs.is_valid(PERSON, json.loads(choice.text)), choice.text


def test_scored_answers_have_a_score_for_every_token(llm: LLM, model: Model) -> None:
    """Nothing is forced then; scores are of the raw distribution, so that a forbidden token may be the best."""
    prompt = PROMPTS[1]
    [done] = llm.generate(prompt, SamplingParams(temperature=0.0, logprobs=2, prompt_logprobs=0), grammar=GRAMMARS["choice"])
    choice = done.choices[0]
    assert choice.text in ("red", "green", "greenish") and choice.logprobs is not None
    assert [scored.token for scored in choice.logprobs] == choice.tokens
    assert done.prompt_logprobs is not None and len(done.prompt_logprobs) == len(prompt)
    [logits] = PagedSequences(model, [[*prompt, *choice.tokens]]).run(whole([[*prompt, *choice.tokens]]))
    expected = torch.log_softmax(logits.double(), -1).cpu()
    for place, scored in enumerate(choice.logprobs, len(prompt) - 1):
        assert scored.logprob == pytest.approx(float(expected[place, scored.token]), abs=2e-5)
    assert any(scored.top[0][0] != scored.token for scored in choice.logprobs)


@pytest.mark.parametrize(
    ("sampling", "grammar", "pattern", "finish"),
    [
        ({"max_tokens": 3}, of_choice(["abcdef"]), "abc", "length"),  # cut inside what is forced
        ({"max_tokens": 6}, of_choice(["abcdef"]), "abcdef", "stop"),  # complete with the last token that it may have
        ({"stop": ("cd",)}, of_choice(["abcdef"]), "ab", "stop"),
        ({"stop": ("cd",), "include_stop": True}, of_regex("x[0-9]abcdef"), "x[0-9]abcd", "stop"),
        ({"stop_token_ids": (ord("d"),)}, of_choice(["abcdef"]), "abc", "stop"),
        ({"stop_token_ids": (ord("d"),), "min_tokens": 5}, of_choice(["abcdefdg"]), "abcdef", "stop"),
        ({"ignore_eos": True, "max_tokens": 9}, of_regex("a*"), "a{9}", "length"),
        ({"ignore_eos": True, "max_tokens": 9}, of_regex("a*b?"), "a*b|a{9}", None),
        ({"ignore_eos": True, "max_tokens": 9, "logit_bias": {257: 100.0}}, of_regex("a*"), "a{9}", "length"),
        ({"logit_bias": {257: 100.0}}, of_regex("a*"), "", "stop"),
        ({"min_tokens": 4, "max_tokens": 50}, of_regex("[a-f]{1,6}"), "[a-f]{4,6}", "stop"),
        ({"min_tokens": 9}, of_regex("[a-f]{2}"), "[a-f]{2}", "stop"),  # the grammar ends it all the same
        ({"logit_bias": {ord("a"): 100.0, ord("z"): 100.0}}, of_regex("[a-c]{3}"), "aaa", "stop"),
        ({"frequency_penalty": 2.0, "repetition_penalty": 1.9, "temperature": 0.5}, of_regex("[a-c]{9}"), "[a-c]{9}", "stop"),
        ({"temperature": 1.5, "top_k": 1, "top_p": 0.5, "min_p": 0.9}, of_regex("[0-9]{4}"), "[0-9]{4}", "stop"),
        ({"logprobs": 0, "max_tokens": 50}, of_lark('start: ""'), "", "stop"),
    ],
)
def test_beside_every_other_parameter(sampling: dict[str, Any], grammar: str, pattern: str, finish: str | None, llm: LLM) -> None:
    for n in (1, 3):
        settings: dict[str, Any] = {"temperature": 0.0, "seed": 5, "n": n, **sampling}
        for choice in llm.generate("prompt", SamplingParams(**settings), grammar=grammar)[0].choices:
            assert re.fullmatch(pattern, choice.text), choice
            assert finish in (None, choice.finish)
    llm._engine.loop.check()


@pytest.mark.soak
def test_cancelled_at_any_moment(llm: LLM, effort: int) -> None:
    """While compiled, queued, forced, planned and drawn; every choice gets one end, and nothing is kept."""
    loop, rng = llm._engine.loop, Random(2)
    kept = loop._constraints
    assert kept is not None
    for round_ in range(12 * effort):
        open_: dict[tuple[str, int], Request] = {}
        for number in range(6):
            params = SamplingParams(temperature=1.0, n=rng.choice([1, 3]), max_tokens=60)
            fresh = of_json_schema({**PERSON, "title": f"{round_}-{number}"}) if rng.random() < 0.5 else None
            grammar = fresh or rng.choice(list(GRAMMARS.values()))
            request = Request(id=f"c{round_}-{number}", prompt=rng.choice(PROMPTS), sampling=params, grammar=grammar)
            loop.submit(request)
            open_ |= {(request.id, index): request for index in range(params.n)}
        while open_:
            if rng.random() < 0.2:
                id_, index = rng.choice(list(open_))
                loop.cancel(id_, rng.choice([None, index]))
            loop.step()
            for chunk in loop.take():
                assert (chunk.id, chunk.index) in open_, "something after its end"
                if chunk.finish is not None:
                    assert chunk.finish in ("stop", "length", "abort"), chunk.failure
                    del open_[chunk.id, chunk.index]
    while loop.has_work:
        loop.step()
    loop.check()
    kept.settle()
    assert not (kept._matchers or kept._templates or kept._pending or kept._open or kept._failures)


def test_others_go_on_while_a_grammar_is_compiled(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with LLM(MODEL, device=device, num_pages=64, **SETTINGS) as fresh:
        loop, go_on = fresh._engine.loop, threading.Event()
        assert loop._constraints is not None
        make = loop._constraints._make_compiler
        monkeypatch.setattr(loop._constraints, "_make_compiler", lambda: (go_on.wait(60), make())[1])
        free = requests(PROMPTS, SamplingParams(temperature=0.0, max_tokens=8, ignore_eos=True))
        loop.submit(Request(id="constrained", prompt=PROMPTS[0], sampling=GREEDY, grammar=GRAMMARS["choice"]))
        for request in free:
            loop.submit(request)
        ended: list[str] = []
        while "constrained" not in ended:
            loop.step()
            ended += [chunk.id for chunk in loop.take() if chunk.finish]
            if len(ended) == len(free):
                go_on.set()
    assert ended[:-1] and ended[-1] == "constrained" and len(ended) == len(free) + 1


def test_a_grammar_that_does_not_compile_ends_its_request_alone(llm: LLM) -> None:
    loop = llm._engine.loop
    good, bad = requests(PROMPTS[:2], SamplingParams(temperature=0.0, max_tokens=5))
    loop.submit(good)
    loop.submit(Request(id=bad.id, prompt=bad.prompt, sampling=SamplingParams(n=2), grammar=of_lark("start: nothing")))
    ends: dict[tuple[str, int], Any] = {}
    while len(ends) < 3:
        loop.step()
        ends |= {(chunk.id, chunk.index): chunk for chunk in loop.take() if chunk.finish}
    assert ends["r0", 0].finish == "length"
    for index in range(2):
        failure = ends["r1", index].failure
        assert ends["r1", index].finish == "error" and failure is not None and failure.code == InvalidRequest.code
    with pytest.raises(UnsupportedField, match="'oneOf'"):
        llm.generate("x", GREEDY, grammar=of_json_schema({"oneOf": [{"type": "string"}, {"type": "string"}]}))


@pytest.mark.parametrize("fault", ["slow", "raises", "nothing"])
def test_a_mask_that_cannot_be_had_ends_its_request(fault: str, llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    def fill(matcher: room.Matcher, row: Any) -> float:
        if fault == "raises":
            raise RuntimeError("injected")
        row[:] = 0 if fault == "nothing" else -1
        return 1.0 if fault == "slow" else 0.0

    monkeypatch.setattr(room, "_fill_alone", fill)
    with pytest.raises(Exception, match="injected|too long|nothing that the model"):
        llm.generate("x", GREEDY, grammar=GRAMMARS["regex"])
    monkeypatch.undo()
    loop = llm._engine.loop
    while loop.has_work:
        loop.step()
    loop.check()
    assert llm.generate("x", GREEDY, grammar=GRAMMARS["choice"])[0].text in ("red", "green", "greenish")
