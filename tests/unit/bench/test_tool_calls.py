"""The function calling benchmark judges as the leaderboard does, and its schemas are JSON schemas."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

BENCH = Path(__file__).parents[3] / "bench"


@pytest.fixture(scope="module")
def bench() -> Iterator[ModuleType]:
    pytest.importorskip("jsonschema_rs")
    sys.path.insert(0, str(BENCH))
    try:
        import tool_calls

        yield tool_calls
    finally:
        sys.path.remove(str(BENCH))


def test_the_dialect_of_the_questions_becomes_json_schema(bench: ModuleType) -> None:
    given = {
        "type": "dict",
        "properties": {
            "a": {"type": "float", "description": "d", "optional": True, "default": 1.0},
            "b": {"type": "tuple", "items": {"type": "dict", "properties": {"c": {"type": "any"}}}},
            "d": {"type": "string", "enum": ["x"]},
        },
        "required": ["a"],
    }
    assert bench.schema_of(given) == {
        "type": "object",
        "properties": {
            "a": {"type": "number", "description": "d"},
            "b": {"type": "array", "items": {"type": "object", "properties": {"c": {}}, "additionalProperties": False}},
            "d": {"type": "string", "enum": ["x"]},
        },
        "additionalProperties": False,
        "required": ["a"],
    }


@pytest.mark.parametrize(
    ("value", "right", "expected"),
    [
        ("April 1, 2024", "april 1 2024", True),
        ("It's", 'it"s', True),
        ("a", "b", False),
        (1, 1.0, True),
        (True, 1, False),
        (1, True, False),
        (["A b", 2], ["ab", 2], True),
        ([1], [1, 2], False),
        ({"x": 1}, {"x": [1, 2], "y": ["", 3]}, True),
        ({"x": 3}, {"x": [1, 2]}, False),
        ({}, {"x": [1]}, False),
        ({"z": 1}, {}, False),
    ],
)
def test_values_are_compared_as_the_leaderboard_does(bench: ModuleType, value: Any, right: Any, expected: bool) -> None:
    assert bench.same(value, right) == expected


def test_calls_may_come_in_any_order_and_nothing_may_be_missing_or_more(bench: ModuleType) -> None:
    tools = [{"function": {"name": "f", "parameters": {"required": ["a"]}}}]
    question = bench.Question("q", [], tools, [{"f": {"a": [1], "b": ["", 5]}}, {"f": {"a": [2], "b": ["", 5]}}])
    assert bench.all_right([{"f": {"a": 2}}, {"f": {"a": 1, "b": 5}}], question)
    for wrong in (
        [{"f": {"a": 1}}],
        [{"f": {"a": 1}}, {"f": {"a": 1}}],
        [{"f": {"a": 1}}, {"f": {"a": 2}}, {"f": {"a": 2}}],
        [{"f": {"a": 1}}, {"f": {"b": 5}}],
        [{"f": {"a": 1}}, {"g": {"a": 2}}],
        [{"f": {"a": 1}}, {"f": {"a": 2, "c": 1}}],
        [],
    ):
        assert not bench.all_right(wrong, question)


def test_errors_of_form_are_told_from_calls_that_were_cut_off(bench: ModuleType) -> None:
    schemas = {"f": {"type": "object", "properties": {"a": {"type": "integer"}}, "additionalProperties": False}}
    for function, cut, errors, calls in (
        ({"name": "f", "arguments": '{"a": 1}'}, False, 0, 1),
        ({"name": "f", "arguments": '{"a": "x"}'}, False, 1, 1),
        ({"name": "f", "arguments": '{"a": '}, False, 1, 0),
        ({"name": "f", "arguments": '{"a": '}, True, 0, 0),
        ({"name": "g", "arguments": "{}"}, False, 1, 0),
    ):
        outcome = bench.Outcome(bench.Question("q", [], [], []))
        bench._read(function, schemas, outcome, cut=cut)
        assert (len(outcome.errors), len(outcome.calls)) == (errors, calls)
