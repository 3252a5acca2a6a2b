"""Parts of long texts are encoded once for each salt, and forgotten when there are too many."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from redline import tokenizer as module
from redline.part_cache import PartCache
from redline.tokenizer import Tokenizer
from vocabularies import byte_level_metadata


class Encoder:
    """Remembers what it was asked; a part's ids are its bytes."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, parts: list[str]) -> Iterable[list[int]]:
        self.asked += parts
        return [list(part.encode()) for part in parts]


def test_what_is_known_is_not_encoded_again_and_nothing_is_found_under_another_key() -> None:
    cache, encode = PartCache(), Encoder()
    parts, ids = ["one", "two", "one"], [list(part.encode()) for part in ("one", "two", "one")]
    assert cache.ids_of(parts, ["a", "a", None], encode) == ids
    assert cache.ids_of(parts, ["a", "a", "b"], encode) == ids
    assert cache.ids_of(parts, ["b", None, ("b",)], encode) == ids
    assert encode.asked == ["one", "two", "one", "one", "two", "one"]
    assert cache.ids_of([], [], encode) == []


def test_what_was_used_longest_ago_goes_first() -> None:
    cache, encode = PartCache(most_chars=10), Encoder()

    def asks(*parts: str) -> list[str]:
        encode.asked.clear()
        cache.ids_of(parts, ["a"] * len(parts), encode)
        return list(encode.asked)

    assert asks("aaaa", "bbbb") == ["aaaa", "bbbb"] and asks("aaaa") == []
    assert asks("cc") == ["cc"] and asks("aaaa", "bbbb", "cc") == [], "ten characters have room"
    assert asks("d") == ["d"] and asks("bbbb", "cc", "d") == [] and asks("aaaa") == ["aaaa"]
    assert asks("eleven char") == ["eleven char"] and asks("eleven char") == ["eleven char"], "too long to be kept"
    assert asks("aaaa") == [], "and nothing had to go for it"


def test_a_conversation_that_goes_on_is_encoded_from_where_it_went_on(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = Tokenizer.from_gguf(byte_level_metadata("qwen2"))
    encoded: list[int] = []
    plain = module._encoded

    def counted(backend: Any, texts: list[str]) -> Iterable[list[int]]:
        encoded.append(sum(map(len, texts)))
        return plain(backend, texts)

    monkeypatch.setattr(module, "_encoded", counted)
    said = "what somebody said before and says again " * 500
    first = tokenizer.encode(said, salt="a")
    longer = tokenizer.encode(said + "and more of it", salt="a")
    assert longer[: len(first) - 5] == first[:-5] and len(longer) > len(first)
    assert tokenizer.encode(said, salt="b") == tokenizer.encode(said) == first
    assert encoded[0] == len(said) and encoded[1] < 3_100, "the last part alone"
    assert encoded[2:] == [len(said)] * 2, "nobody else's salt finds it, nor does no salt"
    tokenizer.encode(said, salt="a", allow_special=False)
    assert encoded[-1] == len(said), "read otherwise, it may have other tokens"
