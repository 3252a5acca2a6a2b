"""Streamed text is the decoded text, whole characters at a time, and ends at the first stop string, however it was cut."""

from __future__ import annotations

import random
import time
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from redline.engine.detok import Detokenizer, StopChecker, TextStream
from redline.tokenizer import Tokenizer
from vocabularies import SEEDS, byte_level_metadata, sentencepiece_metadata, varied_strings

KINDS = {
    "bytes": lambda: Tokenizer.bytes(300),
    "byte-level": lambda: Tokenizer.from_gguf(byte_level_metadata("qwen2")),
    "sentencepiece with a space before": lambda: Tokenizer.from_gguf(sentencepiece_metadata(True)),
    "sentencepiece": lambda: Tokenizer.from_gguf(sentencepiece_metadata(False)),
}


@pytest.fixture(scope="module", params=KINDS)
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return KINDS[request.param]()


def cuts(items: list[Any], rng: random.Random) -> list[list[Any]]:
    """`items` in pieces of random length, some empty."""
    pieces = []
    while items:
        size = rng.randrange(4)
        pieces.append(items[:size])
        items = items[size:]
    return pieces


class TestDetokenizer:
    @pytest.mark.parametrize("skip", [True, False])
    def test_random_ids_give_what_decoding_all_gives(self, tokenizer: Tokenizer, skip: bool, effort: int) -> None:
        rng = random.Random(0)
        for _ in range(200 * effort):
            ids = [rng.randrange(-1, tokenizer.vocab_size + 1) for _ in range(rng.randrange(40))]
            detokenizer = Detokenizer(tokenizer, skip_special_tokens=skip)
            shown = [detokenizer.push(piece) for piece in cuts(ids, rng)]
            assert "".join(shown) + detokenizer.flush() == tokenizer.decode(ids, skip_special_tokens=skip)

    def test_no_half_character_is_ever_shown(self, tokenizer: Tokenizer) -> None:
        for text in varied_strings(300, seed=7):
            ids = tokenizer.encode(text, add_special_tokens=False, allow_special=False)
            expected = tokenizer.decode(ids)
            detokenizer = Detokenizer(tokenizer)
            shown = ""
            for id_ in ids:
                shown += detokenizer.push([id_])
                assert expected.startswith(shown)
            assert shown + detokenizer.flush() == expected

    def test_an_unfinished_character_comes_out_at_the_end(self) -> None:
        detokenizer = Detokenizer(Tokenizer.bytes(300))
        assert detokenizer.push([ord("a"), 0xF0, 0x9F]) == "a"
        assert detokenizer.flush() == "\ufffd"

    def test_a_continuation_keeps_its_space(self) -> None:
        tokenizer = KINDS["sentencepiece with a space before"]()
        prompt, whole = "def square(x):", "def square(x): leading and trailing"
        ids = tokenizer.encode(whole, add_special_tokens=False)[len(tokenizer.encode(prompt, add_special_tokens=False)) :]
        detokenizer = Detokenizer(tokenizer, continues=True)
        assert prompt + detokenizer.push(ids) + detokenizer.flush() == whole
        assert Detokenizer(tokenizer).push(ids) == "leading and trailing"

    def test_time_does_not_grow_with_what_was_shown(self) -> None:
        detokenizer = Detokenizer(Tokenizer.bytes(300))

        def seconds() -> float:
            start = time.process_time()
            for _ in range(5_000):
                detokenizer.push([120])
            return time.process_time() - start

        seconds()
        early = min(seconds() for _ in range(3))
        detokenizer.push([120] * 2_000_000)
        assert min(seconds() for _ in range(3)) < 5 * early + 0.01


def first_stop(text: str, stops: list[str], include: bool) -> tuple[str, str | None]:
    """The oracle: try every end of the text, and at each the longest stop string first."""
    for end in range(len(text) + 1):
        for stop in sorted(stops, key=len, reverse=True):
            if text[:end].endswith(stop):
                return text[: end if include else end - len(stop)], stop
    return text, None


class TestStopChecker:
    @given(
        text=st.text("ab\n😀", max_size=40),
        stops=st.lists(st.text("ab\n😀", min_size=1, max_size=8), max_size=5),
        include=st.booleans(),
        seed=st.integers(0, 1000),
    )
    @example(text="abcd", stops=["abcd", "bc"], include=False, seed=0)
    @example(text="aab", stops=["ab", "aab"], include=False, seed=1)
    @example(text="aaaaaab", stops=["aaab"], include=False, seed=2)
    @settings(max_examples=300, deadline=None)
    def test_agrees_with_the_oracle_wherever_the_text_is_cut(self, text: str, stops: list[str], include: bool, seed: int) -> None:
        checker = StopChecker(stops, include)
        shown, found = "", None
        for piece in cuts(list(text), random.Random(seed)):
            before = found
            emitted, found = checker.push("".join(piece))
            assert not (before and emitted), "text after the stop string"
            shown += emitted
        assert (shown + checker.flush(), found) == first_stop(text, stops, include)

    @given(text=st.text("ab", max_size=30), stops=st.lists(st.text("ab", min_size=1, max_size=6), min_size=1, max_size=3))
    @settings(max_examples=200, deadline=None)
    def test_holds_back_no_more_than_could_become_a_stop(self, text: str, stops: list[str]) -> None:
        checker = StopChecker(stops)
        shown = ""
        for end, char in enumerate(text, 1):
            emitted, found = checker.push(char)
            shown += emitted
            if found:
                return
            held = text[len(shown) : end]
            longest = max((n for stop in stops for n in range(len(stop)) if text[:end].endswith(stop[:n])), default=0)
            assert len(held) == longest

    def test_long_stop_strings_cost_no_more(self) -> None:
        """Text that follows a stop string of 100,000 characters almost to its end, over and over."""
        stop = "a" * 100_000 + "b"
        checker = StopChecker([stop] * 4)
        start = time.process_time()
        shown = sum(len(checker.push("a" * 1000)[0]) for _ in range(200))
        emitted, found = checker.push("b")
        assert (shown + len(emitted), found) == (100_000, stop)
        assert time.process_time() - start < 3


class TestTextStream:
    def test_is_the_detokeniser_and_the_checker_in_one(self, tokenizer: Tokenizer) -> None:
        rng = random.Random(3)
        for text in varied_strings(200, seed=11):
            ids = tokenizer.encode(text, add_special_tokens=False, allow_special=False)
            whole = tokenizer.decode(ids)
            at = rng.randrange(len(whole) or 1)
            stops = [stop for stop in (whole[at : at + rng.randrange(1, 6)], "zzz") if stop]
            stream = TextStream(tokenizer, stops)
            deltas = [stream.push(piece) for piece in cuts(ids, rng)] + [stream.flush()]
            assert ("".join(delta.text for delta in deltas), deltas[-1].stop) == first_stop(whole, stops, include=False)

    def test_nothing_is_shown_of_what_may_become_a_stop_string(self) -> None:
        stream = TextStream(Tokenizer.bytes(300), ["END"])
        first = stream.push("aé".encode())
        assert first.text == "aé"
        held = stream.push(b"xEN")
        assert (held.text, held.stop) == ("x", None)
        last = stream.push(b"Dyz")
        assert (last.text, last.stop) == ("", "END")
        assert stream.push(b"more").text == "" and stream.flush() == ("", "END")

    def test_a_stop_string_is_kept_on_request(self) -> None:
        stream = TextStream(Tokenizer.bytes(300), ["\n\n"], include_stop=True)
        assert stream.push(b"one\n\ntwo").text == "one\n\n"

    def test_special_tokens_are_shown_only_on_request(self) -> None:
        tokenizer = Tokenizer.bytes(300)
        assert TextStream(tokenizer).push([256, 97, 257]).text == "a"
        assert TextStream(tokenizer, skip_special_tokens=False).push([256, 97, 257]).text == "<|bos|>a<|eos|>"

    def test_without_stops_nothing_is_held_back(self) -> None:
        stream = TextStream(Tokenizer.bytes(300))
        assert not stream.has_stops
        for text in SEEDS:
            assert stream.push(text.encode()).text == text
