"""The fields that say what an answer must look like: each becomes a grammar, is refused by its name, or contradicts another."""

from __future__ import annotations

import json
from typing import Any

import pytest

from redline.errors import InvalidRequest, UnsupportedField
from redline.server.chat_schema import ChatBody
from redline.server.completion_schema import CompletionBody
from redline.server.output_format import Wanted, wanted_of
from redline.server.schema import decode

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": False}
NAMED = {"type": "json_schema", "json_schema": {"name": "thing", "schema": SCHEMA, "strict": True, "description": "a thing"}}


def chat(**fields: Any) -> Wanted | None:
    return wanted_of(decode(json.dumps({"messages": [{"role": "user", "content": "x"}], **fields}).encode(), ChatBody))


def completion(**fields: Any) -> Wanted | None:
    return wanted_of(decode(json.dumps({"prompt": "x", **fields}).encode(), CompletionBody))


SHARED: list[tuple[str, dict[str, Any], str]] = [
    ("guided_json", {"guided_json": SCHEMA}, "json_schema"),
    ("guided_json", {"guided_json": json.dumps(SCHEMA)}, "json_schema"),
    ("guided_regex", {"guided_regex": "a+"}, "a+"),
    ("guided_choice", {"guided_choice": ["a", "b"]}, "a|b"),
    ("guided_grammar", {"guided_grammar": 'start: "x"'}, "start:"),
    ("structured_outputs.json", {"structured_outputs": {"json": SCHEMA}}, "json_schema"),
    ("structured_outputs.json", {"structured_outputs": {"json": json.dumps(SCHEMA)}}, "json_schema"),
    ("structured_outputs.regex", {"structured_outputs": {"regex": "a+"}}, "a+"),
    ("structured_outputs.choice", {"structured_outputs": {"choice": ["a"]}}, "start:"),
    ("structured_outputs.grammar", {"structured_outputs": {"grammar": 'start: "x"'}}, "start:"),
    ("structured_outputs.json_object", {"structured_outputs": {"json_object": True}}, "json_schema"),
    ("structured_outputs.yaml", {"structured_outputs": {"yaml": SCHEMA}}, "PLAIN"),
    ("structured_outputs.yaml", {"structured_outputs": {"yaml": True}}, "PLAIN"),
]


@pytest.mark.parametrize(("param", "fields", "part"), SHARED)
def test_each_field_is_a_grammar_on_both_endpoints(param: str, fields: dict[str, Any], part: str) -> None:
    for ask in (chat, completion):
        wanted = ask(**fields)
        assert wanted is not None and wanted.param == param and part in wanted.build()


def test_the_chat_field() -> None:
    assert chat() is None and chat(response_format={"type": "text"}) is None
    for fields, param in (({"type": "json_object"}, "response_format"), (NAMED, "response_format.json_schema.schema")):
        wanted = chat(response_format=fields)
        assert wanted is not None and wanted.param == param and "json_schema" in wanted.build()


@pytest.mark.parametrize(
    ("param", "format"),
    [
        ("response_format.type", {"type": "xml"}),
        ("response_format.json_schema", {"type": "json_schema"}),
        ("response_format.json_schema", {"type": "json_object", "json_schema": {"name": "x", "schema": {}}}),
        ("response_format.json_schema.name", {"type": "json_schema", "json_schema": {"name": "no spaces", "schema": {}}}),
        ("response_format.json_schema.name", {"type": "json_schema", "json_schema": {"schema": {}}}),
        ("response_format.json_schema.schema", {"type": "json_schema", "json_schema": {"name": "x"}}),
        ("response_format.json_schema.more", {"type": "json_schema", "json_schema": {"name": "x", "schema": {}, "more": 1}}),
        ("response_format.schema", {"type": "json_object", "schema": {}}),
    ],
)
def test_a_format_that_is_none_is_refused_by_name(param: str, format: dict[str, Any]) -> None:
    with pytest.raises((InvalidRequest, UnsupportedField)) as refusal:
        chat(response_format=format)
    assert refusal.value.param == param


@pytest.mark.parametrize(
    ("param", "fields"),
    [
        ("structured_outputs", {"structured_outputs": {}}),
        ("structured_outputs.structural_tag", {"structured_outputs": {"structural_tag": "{}"}}),
        ("structured_outputs.choice", {"structured_outputs": {"choice": "a"}}),
        ("guided_json", {"guided_json": "{"}),
        ("guided_json", {"guided_json": 3}),
    ],
)
def test_an_extension_that_asks_for_nothing_known_is_refused(param: str, fields: dict[str, Any]) -> None:
    with pytest.raises((InvalidRequest, UnsupportedField)) as refusal:
        completion(**fields)
    assert refusal.value.param == param


def test_an_unenforceable_schema_names_keyword_and_field() -> None:
    for fields, param in (
        ({"guided_json": {"type": "array", "uniqueItems": True}}, "guided_json"),
        ({"structured_outputs": {"yaml": {"type": "array", "uniqueItems": True}}}, "structured_outputs.yaml"),
    ):
        wanted = completion(**fields)
        assert wanted is not None
        with pytest.raises(UnsupportedField, match="'uniqueItems'") as refusal:
            wanted.build()
        assert refusal.value.param == param


def test_two_of_them_contradict_each_other() -> None:
    for ask, fields in (
        (chat, {"response_format": NAMED, "guided_regex": "a"}),
        (chat, {"response_format": {"type": "json_object"}, "structured_outputs": {"regex": "a"}}),
        (completion, {"guided_json": SCHEMA, "guided_choice": ["a"]}),
        (completion, {"structured_outputs": {"json_object": True, "regex": "a"}}),
    ):
        with pytest.raises(InvalidRequest, match="contradicts"):
            ask(**fields)
    assert chat(response_format={"type": "text"}, guided_regex="a") is not None
    assert completion(structured_outputs={"json_object": False, "regex": "a"}) is not None
    assert completion(structured_outputs={"json_object": False}) is None
