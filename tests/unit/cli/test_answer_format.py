"""The options that hold an answer to a form: read from a file or as they are, refused before anything is loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from redline.cli import generate
from redline.cli.answer_format import grammar_of
from redline.engine.grammar import of_choice, of_json_schema, of_lark, of_regex, of_yaml
from redline.errors import InvalidRequest, UnsupportedField

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"a": {"type": "integer"}},
    "required": ["a"],
    "additionalProperties": False,
}


def test_each_option_is_its_grammar(tmp_path: Path) -> None:
    schema, lark = tmp_path / "schema.json", tmp_path / "grammar.lark"
    schema.write_text(json.dumps(SCHEMA))
    lark.write_text('start: "x"\n')
    nothing: dict[str, Any] = {"json_schema": None, "yaml_schema": None, "regex": None, "choice": (), "grammar": None}
    assert grammar_of(nothing) is None
    for given, expected in (
        ({"json_schema": str(schema)}, of_json_schema(SCHEMA)),
        ({"json_schema": json.dumps(SCHEMA)}, of_json_schema(SCHEMA)),
        ({"yaml_schema": str(schema)}, of_yaml(SCHEMA)),
        ({"regex": "a+"}, of_regex("a+")),
        ({"choice": ("a", "b")}, of_choice(["a", "b"])),
        ({"grammar": str(lark)}, of_lark('start: "x"\n')),
        ({"grammar": 'start: "x"\n'}, of_lark('start: "x"\n')),
    ):
        assert grammar_of(nothing | given) == expected


def test_mistakes_name_the_option() -> None:
    with pytest.raises(InvalidRequest, match="--regex and --choice contradict"):
        grammar_of({"regex": "a", "choice": ("b",)})
    with pytest.raises(InvalidRequest, match="neither a file nor JSON") as refusal:
        grammar_of({"json_schema": "no-such-file.json"})
    assert refusal.value.param == "json_schema"
    with pytest.raises(UnsupportedField, match="'uniqueItems'"):
        grammar_of({"json_schema": '{"uniqueItems": true}'})


def test_generate_answers_in_the_form() -> None:
    options = ["--device", "cpu", "--json", "--n", "2", "--json-schema", json.dumps(SCHEMA)]
    run = CliRunner().invoke(generate.command, ["random:tiny-llama", "hi", *options])
    assert run.exit_code == 0, run.output
    document = json.loads(run.stdout.strip().splitlines()[-1])
    for choice in document["choices"]:
        assert choice["finish"] == "stop" and set(json.loads(choice["text"])) == {"a"}
