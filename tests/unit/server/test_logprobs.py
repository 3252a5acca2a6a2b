"""Log-probabilities in the shapes clients read."""

from __future__ import annotations

from redline.server.logprobs import chat_logprobs, completion_logprobs, prompt_logprobs
from redline.types import TokenLogprob


class Letters:
    """Token 0 is "a"; 25 and 26 both read "z"."""

    def token_text(self, id_: int) -> str:
        return chr(97 + min(id_, 25))

    def token_bytes(self, id_: int) -> bytes:
        return self.token_text(id_).encode()


ENTRY = TokenLogprob(2, -3.0, [(0, -0.1), (1, -2.0)])


def test_chat_tells_the_chosen_token_and_the_best() -> None:
    (told,) = chat_logprobs([ENTRY], Letters())["content"]
    assert told == {
        "token": "c",
        "logprob": -3.0,
        "bytes": [99],
        "top_logprobs": [{"token": "a", "logprob": -0.1, "bytes": [97]}, {"token": "b", "logprob": -2.0, "bytes": [98]}],
    }


def test_completions_always_have_the_chosen_token_among_the_top_and_offsets_that_go_on() -> None:
    told = completion_logprobs([None, ENTRY], [0, 2], 10, Letters())
    assert told == {
        "tokens": ["a", "c"],
        "token_logprobs": [None, -3.0],
        "top_logprobs": [None, {"a": -0.1, "b": -2.0, "c": -3.0}],
        "text_offset": [10, 11],
    }


def test_of_tokens_that_read_alike_the_likelier_stays() -> None:
    told = completion_logprobs([TokenLogprob(25, -0.5, [(25, -0.5), (26, -4.0)])], [25], 0, Letters())
    assert told["top_logprobs"] == [{"z": -0.5}]


def test_prompts_are_told_by_token_id() -> None:
    first, second = prompt_logprobs([None, ENTRY], Letters())
    assert first is None and second is not None
    assert list(second) == ["0", "1", "2"] and second["2"] == {"logprob": -3.0, "decoded_token": "c"}
