"""Grammars other than JSON schemas, and matchers: texts they allow, tokens they force, vocabularies of every kind."""

from __future__ import annotations

import contextlib
import json
import re
import time
from random import Random
from typing import Any

import jsonschema_rs
import numpy as np
import pytest
import yaml

from redline.engine.answer import Answer
from redline.engine.grammar import (
    SPACED,
    Compiler,
    Matcher,
    Vocabulary,
    of_choice,
    of_json_object,
    of_json_schema,
    of_lark,
    of_regex,
    of_yaml,
)
from redline.errors import InvalidRequest, RedlineError, UnsupportedField
from redline.tokenizer import Tokenizer
from redline.types import Chunk, Request, SamplingParams
from schemas import byte_compiler, walk
from vocabularies import sentencepiece_metadata


@pytest.fixture(scope="module")
def compiler() -> Compiler:
    return byte_compiler()


def accepts(matcher: Matcher, text: str) -> bool:
    return all(matcher.consume(byte) for byte in text.encode()) and (matcher.complete or matcher.consume(257))


@pytest.mark.parametrize(
    ("pattern", "whole", "others"),
    [
        ("a+b?", ["a", "aab"], ["b", "abb", ""]),
        (r"/x\/\d{2}", ["/x/12"], ["x/12", "/x/1"]),
        ("(red|green)", ["red"], ["redgreen"]),
        ("a\nb", ["a\nb"], ["ab"]),
        ("é😀", ["é😀"], ["é"]),
    ],
)
def test_a_regular_expression_is_matched_as_a_whole(
    pattern: str, whole: list[str], others: list[str], compiler: Compiler
) -> None:
    grammar = of_regex(pattern)
    assert all(accepts(compiler.matcher(grammar), text) for text in whole)
    assert not any(accepts(compiler.matcher(grammar), text) for text in others)


def test_a_choice_is_taken_letter_by_letter(compiler: Compiler) -> None:
    """Characters that are special to a grammar or to an expression stand for themselves."""
    choices = ["yes", "no", 'a"b', "a.c", "[x]", "back\\slash", "a/b", "line\nbreak", "üñ 😀", "#1", " "]
    grammar = of_choice(choices)
    assert all(accepts(compiler.matcher(grammar), text) for text in choices)
    assert not any(accepts(compiler.matcher(grammar), text) for text in ("", "abc", "x", "ye", "yesno"))
    rng = Random(0)
    assert {walk(compiler.matcher(grammar), rng) for _ in range(200)} == set(choices)


@pytest.mark.parametrize(
    ("build", "sources"),
    [
        (of_choice, [[], ["a", ""], ["x"] * 5000]),
        (of_regex, ["", "(", "(?=a)b", "a" * 600_000]),
        (of_lark, ["", "  ", "start: (", "start: nothing", 'start: %json {"a"', "a: b", "start: %json {nope}"]),
    ],
)
def test_what_is_no_grammar_is_refused(build: Any, sources: list[Any], compiler: Compiler) -> None:
    for source in sources:
        with pytest.raises((InvalidRequest, UnsupportedField)):
            compiler.matcher(build(source))


def test_lark_with_schemas_inside(compiler: Compiler) -> None:
    """They are compact and strict like any other; %json in a text, a comment or an expression is no schema."""
    source = """
    // %json {"not": {}}
    start: "%json {" | /%json x/ | "call:" args  # %json {
    args: %json {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"], "additionalProperties": false}
    """
    grammar = of_lark(source)
    for text in ('call:{"n":3}', "%json {", "%json x"):
        assert accepts(compiler.matcher(grammar), text)
    assert not accepts(compiler.matcher(grammar), 'call:{"n": 3}')
    assert accepts(compiler.matcher(of_lark(source, separators=SPACED)), 'call:{"n": 3}')


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("uniqueItems", 'start: %json {"type": "array", "uniqueItems": true}'),
        ("x-guidance", 'start: %json {"x-guidance": {"lenient": true}, "not": {}}'),
        ("%llguidance", '%llguidance {"no_forcing": true}\nstart: "a"'),
        ("temperature", "start[temperature=2.0]: /a+/"),
        ("stop", 'start[capture, stop="x"]: /a+/'),
        ("max_tokens", 'start: a "x"\na [max_tokens=3]: /a+/'),
        ("surprise", "start[surprise]: /a+/"),
    ],
)
def test_what_a_lark_grammar_may_not_ask_is_refused_by_name(name: str, source: str) -> None:
    with pytest.raises(UnsupportedField, match=f"'{re.escape(name)}'"):
        of_lark(source)


@pytest.mark.parametrize(
    "source",
    [
        'start: "x"\na[' + '"x"' * 60,  # ways to read this: 2 to the 60
        'start: "' + '\\"' * 200_000,
        "start: /" + "\\/" * 200_000,
        "start: a\n" + "a[\n" * 100_000,
        "start: a\n" + "a[x]\n" * 80_000 + "a[temperature]:",
        "a" + "\n" * 400_000 + "b",
    ],
)
def test_reading_a_lark_grammar_takes_time_in_proportion_to_its_length(source: str) -> None:
    """It is read in the API's process, where a pattern that looks back holds up every other request."""
    began = time.process_time()
    with contextlib.suppress(InvalidRequest, UnsupportedField):
        of_lark(source)
    assert time.process_time() - began < 3.0  # some tenths; hours where a pattern looks back


@pytest.mark.parametrize(
    "attributes",
    ['stop="]"', 'capture="]", stop="x"', "stop=/]/", 'capture="\\"]", stop=""', "\ncapture,\n stop", 'capture, stop="//"'],
)
def test_no_spelling_hides_an_attribute(attributes: str) -> None:
    with pytest.raises(UnsupportedField, match="attribute"):
        of_lark(f'start: a\n a\n[{attributes}] : "b"\n')


def test_half_a_surrogate_pair_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="surrogate"):
        of_choice(["a\ud800"])


YAML_SCHEMAS: list[Any] = [
    {
        "type": "object",
        "properties": {
            "name": {"type": "string"},
            "n": {"type": "integer"},
            "on": {"type": "boolean"},
            "x": {"type": ["number", "null"]},
            "tags": {"type": "array", "items": {"type": "string"}},
            "sub": {
                "type": "object",
                "properties": {
                    "a": {"enum": ["yes", "a b", 1, None, "x:y", "1.0", "~", ""]},
                    "deep": {
                        "type": "array",
                        "items": {
                            "type": "object",
                            "properties": {"k": {"type": "string", "maxLength": 4}, "l": {"type": "array", "items": {"type": "integer", "minimum": 3, "maximum": 9}, "minItems": 1, "maxItems": 3}},
                            "required": ["k"],
                        },
                    },
                },
            },
        },
        "required": ["name", "sub"],
        "additionalProperties": False,
    },
    {"type": "array", "items": {"anyOf": [{"type": "array", "items": {"type": "integer"}}, {"type": "string", "pattern": "^[a-z]{2,4}$"}, {"const": {"q": [1, "two"]}}]}},
    {"type": "object", "properties": {"true": {"type": "number"}, "é": {"const": "no"}, "b": {}}, "required": ["é"], "additionalProperties": False},
    {
        "$defs": {
            "a": {"type": "object", "properties": {"v": {"type": "string"}, "w": {"$ref": "#/$defs/b"}}, "additionalProperties": False},
            "b": {"type": "array", "items": {"type": "object", "properties": {"z": {"type": "integer"}}, "additionalProperties": False}, "maxItems": 2},
        },
        "$ref": "#/$defs/a",
    },
    {"type": "string"},
    {"enum": ["null", None, 3, "off", "plain"]},
]  # fmt: skip


@pytest.mark.soak
@pytest.mark.parametrize("number", range(len(YAML_SCHEMAS)))
def test_yaml_documents_read_as_what_the_schema_allows(number: int, compiler: Compiler, effort: int) -> None:
    """Random documents, read by a YAML 1.1 reader, which mistakes more scalars than one of 1.2 does."""
    schema, rng = YAML_SCHEMAS[number], Random(number)
    matcher, validator = compiler.matcher(of_yaml(schema)), jsonschema_rs.Draft202012Validator(schema)
    documents = [walk(matcher.copy(), rng) for _ in range(60 * effort)]
    ended = [document for document in documents if document is not None]
    assert len(ended) > 40 * effort
    for document in ended:
        assert validator.is_valid(json.loads(json.dumps(yaml.safe_load(document)))), document


@pytest.mark.soak
def test_free_yaml_is_read(compiler: Compiler, effort: int) -> None:
    rng, matcher = Random(1), compiler.matcher(of_yaml())
    ended = [text for _ in range(60 * effort) if (text := walk(matcher.copy(), rng, haste=0.15)) is not None]
    assert len(ended) > 20 * effort
    assert all(isinstance(yaml.safe_load(text), (dict, list)) for text in ended)


@pytest.mark.parametrize(
    ("keyword", "schema"),
    [
        ("additionalProperties", {"type": "object", "additionalProperties": {"type": "string"}}),
        ("additionalProperties", {"type": "object"}),
        ("patternProperties", {"type": "object", "properties": {"a": {}}, "patternProperties": {"^x": {}}}),
        ("prefixItems", {"type": "array", "prefixItems": [{}]}),
        ("minProperties", {"type": "object", "properties": {"a": {}}, "minProperties": 1}),
        ("maxProperties", {"type": "object", "properties": {"a": {}, "b": {}}, "maxProperties": 1}),
        ("allOf", {"allOf": [{"type": "object", "properties": {"a": {}}}]}),
        ("$ref", {"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]}),
        ("enum", {"enum": [1e300]}),
        ("uniqueItems", {"type": "array", "uniqueItems": True}),
    ],
)
def test_what_yaml_cannot_have_is_refused_by_name(keyword: str, schema: Any) -> None:
    with pytest.raises(UnsupportedField, match=f"'{re.escape(keyword)}'"):
        of_yaml(schema)


def test_forced_tokens_are_those_of_the_text(compiler: Compiler) -> None:
    schema = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"], "additionalProperties": False}
    matcher = compiler.matcher(of_json_schema(schema))
    assert bytes(matcher.forced()) == b'{"name":"'
    assert all(matcher.consume(token) for token in matcher.forced())
    assert matcher.forced() == [] and not matcher.complete
    assert matcher.consume(ord('"')) and bytes(matcher.forced()) == b"}"
    assert matcher.consume(ord("}")) and matcher.complete and not matcher.error
    assert not matcher.consume(ord("x")) and matcher.error


def test_copies_go_their_own_ways(compiler: Compiler) -> None:
    one = compiler.matcher(of_choice(["ab", "cd"]))
    other = one.copy()
    assert one.consume(ord("a")) and other.consume(ord("c"))
    assert bytes(one.forced()) == b"b" and bytes(other.forced()) == b"d"


def test_ids_without_a_piece_and_special_tokens_are_never_allowed() -> None:
    """A model's logits are wider than its vocabulary; the names of special tokens in a text are other tokens."""
    tokenizer = Tokenizer.bytes(300)
    compiler = Compiler(Vocabulary(tokenizer, 340, (257,)))
    words = np.zeros(11, np.int32)
    matcher = compiler.matcher(of_regex("(?s:.)*"))
    matcher.fill(words)
    allowed = set(np.flatnonzero(np.unpackbits(words.view(np.uint8), bitorder="little")).tolist())
    assert allowed.isdisjoint(range(300, 352)) and 256 not in allowed and {0, 65, 257, 299} <= allowed
    special = compiler.matcher(of_lark('start: <[256]> "x"'))
    special.fill(words)
    assert np.flatnonzero(np.unpackbits(words.view(np.uint8), bitorder="little")).tolist() == [256]


@pytest.mark.parametrize("prefixed", [True, False])
def test_sentencepiece_pieces_are_their_text(prefixed: bool) -> None:
    """A piece's ▁ is a space, bytes stand for what has no piece, and forced text is cut as in the middle of an answer."""
    tokenizer = Tokenizer.from_gguf(sentencepiece_metadata(prefixed))
    vocabulary = Vocabulary(tokenizer, tokenizer.vocab_size, (2,))
    for text in ("hello world", '{"a":1}', "😀", " x"):
        tokens = vocabulary(text)
        assert b"".join(tokenizer.token_bytes(token) for token in tokens) == text.encode()
    compiler = Compiler(vocabulary)
    matcher = compiler.matcher(of_choice(["hello world"]))
    forced = matcher.forced()
    assert b"hello world".startswith(b"".join(map(tokenizer.token_bytes, forced)))
    for token in vocabulary("hello world"):
        assert matcher.consume(token), matcher.error
    assert matcher.complete


def test_a_space_that_the_grammar_counts_is_shown() -> None:
    """SentencePiece texts lose the space before them, but not where a grammar asked for it."""
    tokenizer = Tokenizer.from_gguf(sentencepiece_metadata(True))
    tokens = Vocabulary(tokenizer, tokenizer.vocab_size, (2,))(" hello")
    assert tokenizer.strips_space
    for grammar, text in ((None, "hello"), (of_regex(" hello"), " hello")):
        request = Request(id="a", prompt=[1], sampling=SamplingParams(), grammar=grammar)
        assert Answer(tokenizer, request, 0).push(Chunk(id="a", tokens=tokens, finish="stop")).text == text


def test_a_model_without_an_end_is_refused() -> None:
    class Endless(Tokenizer):
        pass

    tokenizer = Endless.bytes(300)
    tokenizer.eos_id = None
    with pytest.raises(UnsupportedField, match="end token"):
        Vocabulary(tokenizer, 300, ())


def test_the_cache_keeps_what_was_compiled_last(monkeypatch: pytest.MonkeyPatch) -> None:
    from redline.engine import grammar as room

    monkeypatch.setattr(room, "MAX_CACHED", 2)
    compiler = byte_compiler()
    compiled: list[str] = []
    plain = room.compiled
    monkeypatch.setattr(room, "compiled", lambda tokenizer, text: (compiled.append(text), plain(tokenizer, text))[1])
    a, b, c = (of_choice([name]) for name in ("a", "b", "c"))
    for text in (a, b, a, c, a, b):
        compiler.matcher(text)
    assert compiled == [a, b, c, b]


def test_warnings_of_the_matcher_are_refusals(compiler: Compiler) -> None:
    lenient = json.dumps({"grammars": [{"json_schema": {"x-guidance": {"lenient": True}, "type": "array", "uniqueItems": True}}]})
    with pytest.raises(RedlineError, match="uniqueItems"):
        compiler.matcher(lenient)


def test_any_json_object(compiler: Compiler) -> None:
    matcher = compiler.matcher(of_json_object())
    assert accepts(matcher.copy(), '{"a":[1,null,{"b":"c"}]}') and not accepts(matcher.copy(), "[1]")
