"""From body to sampling parameters: defaults in the right order, contradictions refused, nothing cut in silence."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from redline.engine.message import EngineInfo
from redline.errors import ContextTooLong, InvalidRequest, UnsupportedField, UserError
from redline.server.chat_schema import ChatBody, Message
from redline.server.completion_schema import CompletionBody
from redline.server.parameters import fit, parameters_of, sampling_of
from redline.types import SamplingParams

INFO = EngineInfo(
    model="m",
    dtype="float32",
    device="cpu",
    max_model_len=100,
    vocab_size=512,
    num_pages=9,
    page_size=16,
    defaults={"temperature": 0.6, "top_k": 20},
)
PLAIN = msgspec.structs.replace(INFO, defaults={})


def chat(**fields: Any) -> ChatBody:
    return ChatBody(messages=[Message(role="user", content="hi")], **fields)


def completion(**fields: Any) -> CompletionBody:
    return CompletionBody(prompt="hi", **fields)


def test_an_empty_body_is_the_apis_defaults() -> None:
    assert sampling_of(chat(), PLAIN) == SamplingParams()
    assert sampling_of(completion(), PLAIN) == SamplingParams(max_tokens=16)


def test_the_models_defaults_stand_in_where_a_field_is_absent_only() -> None:
    assert sampling_of(chat(), INFO) == SamplingParams(temperature=0.6, top_k=20)
    assert sampling_of(chat(temperature=0.0, top_k=0), INFO) == SamplingParams(temperature=0.0, top_k=0)


def test_every_honoured_field_arrives() -> None:
    body = chat(
        temperature=0.5,
        top_k=5,
        top_p=0.9,
        min_p=0.1,
        repetition_penalty=1.1,
        frequency_penalty=0.2,
        presence_penalty=0.3,
        logit_bias={7: -5.0},
        seed=3,
        n=2,
        max_completion_tokens=9,
        min_tokens=4,
        stop=["a", "b"],
        stop_token_ids=[1],
        include_stop_str_in_output=True,
        ignore_eos=True,
        logprobs=True,
        top_logprobs=4,
        prompt_logprobs=1,
    )
    assert sampling_of(body, INFO) == SamplingParams(
        temperature=0.5,
        top_k=5,
        top_p=0.9,
        min_p=0.1,
        repetition_penalty=1.1,
        frequency_penalty=0.2,
        presence_penalty=0.3,
        logit_bias={7: -5.0},
        seed=3,
        n=2,
        max_tokens=9,
        min_tokens=4,
        stop=("a", "b"),
        stop_token_ids=(1,),
        include_stop=True,
        ignore_eos=True,
        logprobs=4,
        prompt_logprobs=1,
    )


def test_spellings_of_the_same_wish_agree() -> None:
    assert sampling_of(chat(stop="x"), PLAIN).stop == ("x",)
    assert sampling_of(chat(top_k=-1), INFO).top_k == 0
    assert sampling_of(chat(max_tokens=5, max_completion_tokens=5), PLAIN).max_tokens == 5
    assert sampling_of(chat(logprobs=True), PLAIN).logprobs == 0
    assert sampling_of(completion(best_of=2, n=2), PLAIN).n == 2
    assert sampling_of(completion(echo=True, logprobs=3), PLAIN).prompt_logprobs == 3


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (chat(temperature=-1.0), "temperature"),
        (chat(top_p=0.0), "top_p"),
        (chat(n=0), "n"),
        (chat(n=1_000_000), "n"),
        (chat(max_tokens=0), "max_tokens"),
        (chat(max_completion_tokens=0), "max_completion_tokens"),
        (chat(max_tokens=5, max_completion_tokens=6), "max_completion_tokens"),
        (chat(min_tokens=6, max_tokens=5), "min_tokens"),
        (chat(top_logprobs=2), "top_logprobs"),
        (chat(logprobs=True, top_logprobs=21), "top_logprobs"),
        (chat(logit_bias={512: 1.0}), "logit_bias"),
        (chat(logit_bias={1: 101.0}), "logit_bias"),
        (chat(stop=""), "stop"),
        (chat(stop_token_ids=[-1]), "stop_token_ids"),
        (chat(seed=2**63), "seed"),
        (chat(priority=2**40), "priority"),
        (chat(deadline_ms=0.0), "deadline_ms"),
        (chat(cache_salt="x" * 300), "cache_salt"),
        (chat(stream_options={}), "stream_options"),
        (completion(logprobs=21), "logprobs"),
        (completion(best_of=3), "best_of"),
        (completion(echo=True, logprobs=1, n=2), "echo"),
    ],
)
def test_what_is_out_of_range_or_contradictory_is_refused_by_its_own_name(body: Any, param: str) -> None:
    with pytest.raises((InvalidRequest, UnsupportedField)) as caught:
        parameters_of(body, INFO)
    assert caught.value.param == param


def test_extensions_arrive_in_seconds_and_as_told() -> None:
    asked = parameters_of(chat(deadline_ms=250, priority=-3, cache_salt="tenant", redline=True), INFO)
    assert (asked.deadline_s, asked.priority, asked.cache_salt, asked.want_receipt) == (0.25, -3, "tenant", True)


def test_a_prompt_fits_or_the_numbers_are_told() -> None:
    def fitted(size: int, body: Any) -> int | None:
        return fit([1] * size, parameters_of(body, PLAIN), PLAIN, "prompt").max_tokens

    assert fitted(99, chat()) is None, "to the end of the context"
    assert fitted(10, chat(max_tokens=90)) == 90
    assert fitted(95, completion()) == 5, "the API's default is cut, as nobody asked for it"
    with pytest.raises(ContextTooLong, match="the prompt has 100 tokens, and prompt and answer together may have 100"):
        fitted(100, chat())
    with pytest.raises(ContextTooLong, match="10 tokens and max_tokens is 91: 101 in all, and the context holds 100"):
        fitted(10, chat(max_tokens=91))
    for tokens in ([], [512], [-1]):
        with pytest.raises(UserError, match="prompt"):
            fit(tokens, parameters_of(chat(), PLAIN), PLAIN, "prompt")
