"""What is let in: nothing that could never fit, everything that fits alone, and refusals that say the numbers."""

from __future__ import annotations

import dataclasses

import msgspec
import pytest

from redline.engine.admission import Limits, token_limit
from redline.engine.pages import PagePool
from redline.errors import ConfigError, ContextTooLong, DoesNotFit, InvalidRequest
from redline.types import Request, SamplingParams

LIMITS = Limits(max_num_seqs=4, max_num_batched_tokens=16, max_model_len=100, max_queued_requests=8, max_position=200)


def limit_of(prompt: int, max_tokens: int | None, pages: int = 100) -> int:
    request = Request(id="r", prompt=[1] * prompt, sampling=SamplingParams(max_tokens=max_tokens))
    return token_limit(request, LIMITS, PagePool(pages, 4))


def test_prompt_and_answer_may_fill_the_context_exactly() -> None:
    assert limit_of(60, 40) == 100
    assert limit_of(99, 1) == limit_of(99, None) == 100
    assert limit_of(10, 5) == 15


@pytest.mark.parametrize(
    ("prompt", "max_tokens", "numbers"), [(61, 40, "61 40 101 100"), (100, None, "100"), (500, 1, "500 100")]
)
def test_more_than_the_context_is_refused_with_the_numbers(prompt: int, max_tokens: int | None, numbers: str) -> None:
    with pytest.raises(ContextTooLong) as refused:
        limit_of(prompt, max_tokens)
    for number in numbers.split():
        assert number in refused.value.message
    assert "max_model_len" in refused.value.hint and refused.value.status == 400


def test_nobody_is_told_to_raise_a_context_that_is_the_models_own() -> None:
    request = Request(id="r", prompt=[1] * 100, sampling=SamplingParams())
    for pooling in (None, "last"):
        asked = msgspec.structs.replace(request, prompt=[1] * 101, pooling=pooling)
        with pytest.raises(ContextTooLong) as refused:
            token_limit(asked, dataclasses.replace(LIMITS, max_position=100), PagePool(100, 4))
        assert "max_model_len" not in refused.value.hint and "shorten the prompt" in refused.value.hint


def test_what_could_never_fit_the_pool_is_refused_with_the_numbers() -> None:
    """The last token's KV is never computed: 41 tokens need the pages of 40."""
    assert limit_of(30, 11, pages=10) == 41
    with pytest.raises(
        DoesNotFit, match="30 prompt tokens and max_tokens 12 need 11 KV pages of 4 tokens, the pool has 10"
    ) as refused:
        limit_of(30, 12, pages=10)
    assert "num_pages" in refused.value.hint
    with pytest.raises(DoesNotFit, match="41 prompt tokens"):
        limit_of(41, None, pages=10)


def test_without_max_tokens_the_answer_ends_where_context_or_pool_ends() -> None:
    assert limit_of(30, None) == 100
    assert limit_of(30, None, pages=10) == 41
    assert limit_of(40, None, pages=10) == 41


def test_an_empty_prompt_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="no tokens"):
        limit_of(0, 5)


@pytest.mark.parametrize(
    ("field", "value"), [("max_num_seqs", 0), ("max_num_batched_tokens", 3), ("max_model_len", 1), ("max_queued_requests", 0)]
)
def test_limits_under_which_a_sequence_might_never_run_are_refused(field: str, value: int) -> None:
    fields = {"max_num_seqs": 4, "max_num_batched_tokens": 16, "max_model_len": 100, "max_queued_requests": 8}
    with pytest.raises(ConfigError, match=field):
        Limits(**{**fields, field: value})
