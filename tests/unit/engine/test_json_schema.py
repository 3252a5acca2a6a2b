"""Schemas for the matcher: each keyword enforced or refused by name. The oracle for what is enforced is jsonschema-rs.

What each narrow case protects from was found in llguidance 1.9: it accepted the text on the right of `LEAKS`.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from random import Random
from typing import Any

import jsonschema_rs
import pytest

from redline.engine.grammar import Compiler, of_json_schema
from redline.engine.json_schema import UNENFORCED, strict
from redline.errors import InvalidRequest, RedlineError, UnsupportedField
from schemas import byte_compiler, generated, walk


@pytest.fixture(scope="module")
def compiler() -> Compiler:
    return byte_compiler()


def accepts(compiler: Compiler, schema: Any, text: str) -> bool:
    matcher = compiler.matcher(of_json_schema(schema))
    words = text.encode()
    return all(matcher.consume(byte) for byte in words) and (matcher.complete or matcher.consume(257))


@pytest.mark.soak
def test_every_finished_answer_of_generated_schemas_is_valid(effort: int, compiler: Compiler) -> None:
    """Random texts of random schemas, against an independent validator with formats on; no dead ends either."""
    counts: Counter[str] = Counter()
    for seed in range(120 * effort):
        schema = generated(seed)
        try:
            grammar = of_json_schema(schema)
            matcher = compiler.matcher(grammar)
        except RedlineError as refusal:
            counts["refused"] += 1
            assert "'" in refusal.message or "allows no answer" in refusal.message, refusal.message
            continue
        validator, rng = jsonschema_rs.Draft202012Validator(schema, validate_formats=True), Random(seed)
        for _ in range(5):
            text = walk(matcher.copy(), rng)
            counts["unfinished" if text is None else "finished"] += 1
            assert text is None or validator.is_valid(json.loads(text)), (seed, text)
    assert counts["finished"] > 450 * effort and counts["refused"] < 30 * effort, counts


LEAKS = [
    ({"type": "object", "properties": {"a": {"type": "integer"}}, "additionalProperties": {"type": "string"}}, '{"\\u0061":"x"}'),
    ({"const": 2**53 + 2}, "9007199254740992"),
    ({"type": "number", "exclusiveMinimum": 0, "maximum": 0.5}, "0"),
    ({"type": "number", "exclusiveMinimum": -12.5, "exclusiveMaximum": -12.0}, "-12"),
    ({"type": "number"}, "1e999"),
    ({"type": "string", "format": "time"}, '"23:30:60Z"'),
    (
        {
            "$schema": "http://json-schema.org/draft-04/schema#",
            "minimum": 5,
            "allOf": [{}],
            "exclusiveMinimum": True,
            "type": "integer",
        },
        "5",
    ),
    ({"type": "string", "format": "email"}, '"' + "a" * 70 + '@b.c"'),
]


@pytest.mark.parametrize(("schema", "text"), LEAKS)
def test_what_the_matcher_alone_would_let_through(schema: Any, text: str, compiler: Compiler) -> None:
    assert not accepts(compiler, schema, text)


REFUSED: list[tuple[str, Any]] = [
    ("minProperties", {"type": "object", "minProperties": 3}),
    ("additionalItems", {"prefixItems": [{}], "items": {}, "additionalItems": False}),
    ("items", {"items": [{"type": "string"}]}),
    ("prefixItems", {"$schema": "http://json-schema.org/draft-07/schema#", "prefixItems": [{}]}),
    ("const", {"const": 2**53 + 1}),
    ("maximum", {"type": "integer", "maximum": 2**63 + 1}),
    ("format", {"type": "string", "format": "unknown"}),
    ("format", {"type": "string", "format": "regex"}),
    ("uniqueItems", {"type": "array", "uniqueItems": True}),
    ("$schema", {"$schema": "https://example.com/mine"}),
    ("$ref", {"$ref": "https://example.com/other.json"}),
    ("$ref", {"$defs": {"a": {"$anchor": "q"}}, "$ref": "#q"}),
    ("$id", {"properties": {"a": {"$id": "other", "type": "string"}}}),
    ("$dynamicRef", {"$dynamicRef": "#a"}),
    ("enum", {"enum": ["a", "\x01"]}),
    ("patternProperties", {"type": "object", "patternProperties": {"(?=a)": {}}}),
    *((keyword, {keyword: {}}) for keyword in sorted(UNENFORCED)),
]


@pytest.mark.parametrize(("keyword", "schema"), REFUSED)
def test_what_cannot_be_enforced_is_refused_by_name(keyword: str, schema: Any) -> None:
    """At the top, inside a property, and behind a reference; what is not referred to does not matter."""
    for nested in (schema, {"type": "object", "properties": {"p": schema}}, {"$ref": "#/$defs/x", "$defs": {"x": schema}}):
        if keyword in ("$schema", "prefixItems") and nested is not schema:
            continue
        with pytest.raises(UnsupportedField, match=f"'{keyword}".replace("$", r"\$")):
            of_json_schema(nested, "guided_json")
    assert strict({"type": "string", "$defs": {"unused": schema}}) == {"type": "string"}


def test_a_misspelt_keyword_is_refused_with_the_nearest() -> None:
    with pytest.raises(UnsupportedField, match="'minLenght'") as refusal:
        of_json_schema({"type": "string", "minLenght": 3})
    assert "minLength" in refusal.value.hint


@pytest.mark.parametrize(
    "schema",
    [
        *(
            {"type": "text"},
            {"type": []},
            {"enum": []},
            {"required": "a"},
            {"properties": []},
            {"minLength": -1},
            {"minItems": 1.5},
        ),
        *(
            {"multipleOf": 0},
            {"pattern": 3},
            {"anyOf": []},
            {"allOf": {}},
            {"$ref": "#/nowhere"},
            {"$ref": 3},
            {"items": 3},
            False,
        ),
        *(
            {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"},
            {"minimum": "3"},
            [],
            "x",
            None,
        ),
        {"const": float("nan")},
    ],
)
def test_what_is_no_schema_is_refused(schema: Any) -> None:
    with pytest.raises((InvalidRequest, UnsupportedField)) as refusal:
        of_json_schema(schema, "guided_json")
    assert refusal.value.param == "guided_json"


def test_older_drafts_are_read_as_they_are_meant(compiler: Compiler) -> None:
    seven = {"$schema": "http://json-schema.org/draft-07/schema#"}
    pair = {**seven, "type": "array", "items": [{"type": "string"}, {"type": "integer"}], "additionalItems": False, "minItems": 2}
    assert (
        accepts(compiler, pair, '["a",1]') and not accepts(compiler, pair, '["a",1,2]') and not accepts(compiler, pair, "[1,1]")
    )
    four = {
        "$schema": "http://json-schema.org/draft-04/schema#",
        "type": "number",
        "maximum": 1,
        "exclusiveMaximum": True,
        "minimum": 0,
    }
    assert accepts(compiler, four, "0.5") and not accepts(compiler, four, "1") and not accepts(compiler, four, "1.0")


def test_one_of_is_taken_where_its_branches_are_apart(compiler: Compiler) -> None:
    """Told apart by type, by a constant property behind references, and by a property that only one may have."""
    cat = {"type": "object", "properties": {"kind": {"const": "cat"}, "lives": {"type": "integer"}}, "required": ["kind"]}
    dog = {"type": "object", "properties": {"kind": {"const": "dog"}, "of": {"$ref": "#/$defs/pet"}}, "required": ["kind"]}
    pets = {"oneOf": [{"$ref": "#/$defs/cat"}, {"$ref": "#/$defs/dog"}], "discriminator": {"propertyName": "kind"}}
    schema = {"$defs": {"cat": cat, "dog": dog, "pet": pets}, "$ref": "#/$defs/pet"}
    assert accepts(compiler, schema, '{"kind":"dog","of":{"kind":"cat","lives":9}}')
    closed = {
        "oneOf": [
            {"type": "object", "properties": {"a": {}}, "required": ["a"]},
            {"type": "object", "additionalProperties": False},
        ]
    }
    assert accepts(compiler, closed, '{"a":1}') and accepts(compiler, closed, "{}")
    with pytest.raises(UnsupportedField, match="'oneOf'"):
        compiler.matcher(of_json_schema({"oneOf": [{"type": "object", "properties": {"a": {}}}, {"type": "object"}]}))


_KEYS = [f"k{i}" for i in range(100)]
_BRANCHES = [{"type": "object", "properties": {"k": {"const": i}}, "required": ["k"]} for i in range(5000)]


@pytest.mark.parametrize(
    "schema",
    [
        {"oneOf": _BRANCHES},
        {  # every property of every property leads back, eight levels deep
            "$defs": {"a": {"type": "object", "required": _KEYS, "properties": {key: {"$ref": "#/$defs/a"} for key in _KEYS}}},
            "oneOf": [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/a"}],
        },
        {"oneOf": [{"enum": list(range(500 * i, 500 * i + 500))} for i in range(400)]},
    ],
)
def test_branches_are_compared_for_a_bounded_time(schema: Any) -> None:
    """This runs in the API's process, in a thread that nobody can stop."""
    began = time.process_time()
    assert "oneOf" in strict(schema)
    assert time.process_time() - began < 5.0  # half a second; minutes, or years, where all are compared


def test_references_are_followed_with_their_escapes(compiler: Compiler) -> None:
    schema = {"$id": "https://me/s", "$defs": {"a/b~c %": {"const": 7}}, "$ref": "https://me/s#/$defs/a~1b~0c%20%25"}
    assert accepts(compiler, schema, "7")
    tree = {"type": "object", "properties": {"next": {"$ref": "#"}}, "additionalProperties": False}
    assert accepts(compiler, tree, '{"next":{"next":{}}}')


def test_large_and_deep_schemas_are_refused() -> None:
    deep: Any = {"type": "string"}
    for _ in range(60):
        deep = {"type": "array", "items": deep}
    with pytest.raises(UnsupportedField, match="too large"):
        of_json_schema(deep)
    with pytest.raises((UnsupportedField, InvalidRequest), match="too large"):
        of_json_schema({"anyOf": [{"const": f"{i:040}"} for i in range(25_000)]})
    with pytest.raises(InvalidRequest, match="nested too deeply"):
        value: Any = 1
        for _ in range(60):
            value = [value]
        of_json_schema({"const": value})


def test_json_is_written_without_white_space(compiler: Compiler) -> None:
    """What keeps a small model from losing itself in it."""
    schema = {"type": "object", "properties": {"a": {"type": "array", "items": {"type": "integer"}}}, "required": ["a"]}
    assert accepts(compiler, schema, '{"a":[1,2]}')
    for text in ('{ "a":[1]}', '{"a": [1]}', '{"a":[1, 2]}', '{"a":[1]}\n'):
        assert not accepts(compiler, schema, text)
