"""One choice from chunks to text: whole characters, stops of every kind, exactly one end, true counts."""

from __future__ import annotations

from typing import Any

import pytest

from redline.engine.answer import Answer, Delta
from redline.tokenizer import Tokenizer
from redline.types import Chunk, Failure, Finish, Request, SamplingParams, TokenLogprob, Usage

TOKENIZER = Tokenizer.bytes(300)
EOS = 257


def answer(**sampling: Any) -> Answer:
    return Answer(TOKENIZER, Request(id="r", prompt=[1, 2], sampling=SamplingParams(**sampling)), 0)


def chunk(tokens: str | list[int], finish: Finish | None = None, **fields: Any) -> Chunk:
    """A chunk of bytes (or ids) with the engine's own count of them all."""
    ids = list(tokens.encode()) if isinstance(tokens, str) else tokens
    usage = Usage(prompt_tokens=2, completion_tokens=99) if finish else None
    scores = [TokenLogprob(id, -1.0) for id in ids]
    return Chunk(id="r", tokens=ids, logprobs=scores, finish=finish, usage=usage, **fields)


def push(to: Answer, *chunks: Chunk) -> tuple[str, list[int], Delta]:
    deltas = [to.push(one) for one in chunks]
    for delta in deltas:
        assert delta.logprobs is None or [scored.token for scored in delta.logprobs] == delta.tokens
    return "".join(delta.text for delta in deltas), [token for delta in deltas for token in delta.tokens], deltas[-1]


def completion(delta: Delta) -> int:
    assert delta.usage is not None
    return delta.usage.completion_tokens


@pytest.mark.parametrize("stop", [(), ("zzz",)])
def test_characters_come_whole_and_what_is_left_comes_at_the_end(stop: tuple[str, ...]) -> None:
    euro = list("€".encode())
    to = answer(stop=stop)
    assert to.push(chunk(euro[:2])).text == "" and to.push(chunk([euro[2], euro[0]])).text == "€"
    last = to.push(chunk([], "length"))
    assert (last.text, last.finish, last.stop, completion(last)) == ("\ufffd", "length", None, 4)
    assert to.finished and not to.wants_cancel


def test_an_end_token_counts_and_is_not_shown() -> None:
    text, tokens, last = push(answer(), chunk("ab"), chunk([EOS], "stop", stop_token=EOS))
    assert (text, tokens, last.finish, last.stop, completion(last)) == ("ab", [97, 98, EOS], "stop", EOS, 3)


@pytest.mark.parametrize(("include", "shown"), [(False, "a"), (True, "a!")])
def test_a_stop_id_is_shown_only_where_asked_for(include: bool, shown: str) -> None:
    text, tokens, last = push(answer(include_stop=include), chunk("a!", "stop", stop_token=ord("!")))
    assert (text, tokens, last.stop) == (shown, [97, 33], 33)


@pytest.mark.parametrize(("include", "shown"), [(False, "one "), (True, "one STOP")])
def test_a_stop_string_over_chunks_ends_the_choice_and_cancels_it_once(include: bool, shown: str) -> None:
    """What the engine computed meanwhile is dropped; its "abort" is told as "stop", and counts end with the stop string."""
    to = answer(stop=("STOP", "nothing"), include_stop=include)
    text, tokens, delta = push(to, chunk("one S"), chunk("TO"), chunk("Pmore"))
    assert (text, bytes(tokens).decode(), delta.finish) == (shown, "one STOP", None)
    assert to.wants_cancel and not to.wants_cancel and not to.finished
    assert push(to, chunk("still running"))[:2] == ("", [])
    last = to.push(chunk([], "abort"))
    assert (last.text, last.tokens, last.finish, last.stop, completion(last)) == ("", [], "stop", "STOP", 8)


def test_a_stop_string_in_the_last_chunk_wins_over_its_finish() -> None:
    to = answer(stop=("b",))
    _, tokens, last = push(to, chunk("abc", "length"))
    assert (last.text, bytes(tokens), last.finish, last.stop, completion(last)) == ("a", b"ab", "stop", "b", 2)


def test_text_held_back_for_a_stop_string_is_shown_when_it_never_comes() -> None:
    text, _, last = push(answer(stop=("abcd",)), chunk("xabc"), chunk([EOS], "stop", stop_token=EOS))
    assert (text, last.stop) == ("xabc", EOS)


def test_an_unfinished_character_at_the_end_may_be_a_stop_string() -> None:
    text, _, last = push(answer(stop=("\ufffd",)), chunk("a"), chunk(list("€".encode())[:1], "length"))
    assert (text, last.finish, last.stop) == ("a", "stop", "\ufffd")


def test_failures_and_prompt_scores_are_handed_on_and_a_second_end_is_our_bug() -> None:
    to = answer(prompt_logprobs=0)
    scores = [None, TokenLogprob(2, -3.0)]
    assert to.push(chunk("a", prompt_logprobs=scores)).prompt_logprobs == scores
    failure = Failure(code="internal_error", message="a step failed")
    last = to.push(chunk([], "error", failure=failure))
    assert (last.finish, last.failure, completion(last)) == ("error", failure, 1)
    with pytest.raises(AssertionError, match="ended twice"):
        to.push(chunk([], "error"))
