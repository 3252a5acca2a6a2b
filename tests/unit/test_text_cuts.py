"""A long text that is encoded in parts has the tokens of the whole, and a tokenizer for which that is not certain is never cut."""

from __future__ import annotations

import random

import pytest
from tokenizers import AddedToken, Regex, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Backend

from redline.errors import InvalidRequest
from redline.split_rules import LLAMA3_SPLIT, QWEN2_SPLIT
from redline.text_cuts import LEAST_CHARS, PART_CHARS, may_cut, parts
from redline.tokenizer import Tokenizer
from vocabularies import byte_level_metadata, sentencepiece_metadata, varied_strings

O200K_SPLIT = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def splitting(pattern: str) -> Backend:
    backend = Backend(models.BPE(vocab={"a": 0}, merges=[]))
    split = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
    backend.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    return backend


def before(pre_tokenizer: pre_tokenizers.PreTokenizer) -> Backend:
    backend = Backend(models.BPE(vocab={"a": 0}, merges=[]))
    backend.pre_tokenizer = pre_tokenizer
    return backend


def with_added(token: AddedToken) -> Backend:
    backend = splitting(QWEN2_SPLIT)
    backend.add_tokens([token])
    return backend


def with_normalizer(normalizer: normalizers.Normalizer) -> Backend:
    backend = splitting(QWEN2_SPLIT)
    backend.normalizer = normalizer
    return backend


def words(size: int, seed: int) -> str:
    """Text with everything in it that tokenizers treat by itself, and words between."""
    draw, text = random.Random(seed), ""
    strange = list(varied_strings(200, seed=seed))
    while len(text) < size:
        plain = " ".join("".join(draw.choices("abcdeXYZя'é", k=draw.randint(1, 9))) for _ in range(draw.randint(1, 30)))
        text += plain + draw.choice(strange)
    return text


@pytest.mark.parametrize("pre", ["smollm", "qwen2", "llama-bpe", "gpt-2"])
def test_parts_have_the_tokens_of_the_whole(pre: str, monkeypatch: pytest.MonkeyPatch, effort: int) -> None:
    tokenizer = Tokenizer.from_gguf(byte_level_metadata(pre))
    assert may_cut(tokenizer._backend) and tokenizer._may_cut
    cut = 0
    for seed in range(3 * effort):
        text = words(30_000, seed)
        assert "".join(parts(text)) == text
        for allow_special in (True, False):
            with monkeypatch.context() as whole:
                whole.setattr(tokenizer, "_may_cut", False)
                expected = tokenizer.encode(text, allow_special=allow_special)
            for salt in (None, "a", "a", "b"):
                assert tokenizer.encode(text, allow_special=allow_special, salt=salt) == expected
        cut += len(parts(text))
    assert cut > 10 * 3 * effort


def test_texts_that_are_encoded_together_keep_their_order_whatever_is_cut() -> None:
    tokenizer = Tokenizer.from_gguf(byte_level_metadata("llama-bpe"))
    texts = [*varied_strings(600, seed=3), words(20_000, 1), "", words(9_000, 2), "字" * 9_000, "end"]
    random.Random(0).shuffle(texts)
    for special in (True, False):
        assert tokenizer.encode_all(texts, special) == [tokenizer.encode(text, special) for text in texts]
    assert tokenizer.encode_all([]) == []
    with pytest.raises(InvalidRequest, match="not valid Unicode"):
        tokenizer.encode_all(["fine", "half of a pair \ud800"])


def test_parts_are_of_one_size_and_stay_where_they_are_when_a_text_goes_on() -> None:
    text = "some words " * 10_000
    whole = parts(text)
    assert all(PART_CHARS <= len(part) < PART_CHARS + 20 for part in whole[:-1]) and len(whole[-1]) > LEAST_CHARS
    for size in (0, 10, 3_000, 3_050, 50_000, 109_999):
        before = parts(text[:size])
        assert before[:-1] == whole[: len(before) - 1]
    assert parts(text[:PART_CHARS]) == [text[:PART_CHARS]]
    assert parts("字" * 50_000) == ["字" * 50_000], "no place for a cut"
    assert parts("1 2 3. " * 5_000) == ["1 2 3. " * 5_000]


@pytest.mark.parametrize(
    "backend",
    [
        splitting(r"\p{L}+ \p{L}+|\p{L}+| |[^\p{L} ]+"),  # two words in one
        splitting(r" ?of the| ?\p{L}+|\s+|[^\p{L}\s]+"),
        splitting(r"(?<=a) b|\p{L}+| |[^\p{L} ]+"),  # looks behind
        splitting(r"^ | ?\p{L}+|\s+|[^\p{L}\s]+"),  # looks where the text begins
        before(pre_tokenizers.Metaspace()),
        before(pre_tokenizers.ByteLevel(add_prefix_space=True)),
        before(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)),  # no words at all
        with_added(AddedToken("<|end of turn|>")),
        with_added(AddedToken("role: user ")),
        with_added(AddedToken("mask", lstrip=True)),
        with_added(AddedToken("whole", single_word=True)),
        with_normalizer(normalizers.Prepend("▁")),
        with_normalizer(normalizers.Strip()),
    ],
)
def test_what_may_not_be_cut(backend: Backend) -> None:
    assert not may_cut(backend)


@pytest.mark.parametrize("pattern", [QWEN2_SPLIT, LLAMA3_SPLIT, O200K_SPLIT])
def test_what_may_be_cut(pattern: str) -> None:
    assert may_cut(splitting(pattern)) and may_cut(with_added(AddedToken("<|im_start|>", special=True)))


@pytest.mark.parametrize("prefixed", [False, True])
def test_sentencepiece_is_never_cut(prefixed: bool) -> None:
    assert not Tokenizer.from_gguf(sentencepiece_metadata(prefixed))._may_cut
