"""Answers of a real engine, with random weights, that must have a form: through responses, messages and the `llm` tool."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import anthropic
import openai
import pytest
from anthropic import Anthropic
from openai import OpenAI
from pydantic import BaseModel

from real_server import MODEL, RealServer, real_server


class Colour(BaseModel):
    """What the answers must be: random weights would never write it by themselves."""

    name: Literal["red", "green"]
    share: Literal[1, 2]


SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"name": {"enum": ["red", "green"]}, "share": {"enum": [1, 2]}},
    "required": ["name", "share"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def server() -> Iterator[RealServer]:
    with real_server("--dtype", "float32", "--max-model-len", "2048", "--num-pages", "256") as running:
        yield running


@pytest.fixture(scope="module")
def client(server: RealServer) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0, timeout=60) as client:
        yield client


@pytest.fixture(scope="module")
def claude(server: RealServer) -> Iterator[Anthropic]:
    with Anthropic(base_url=server.url, api_key="any", max_retries=0, timeout=60) as client:
        yield client


def user(text: str) -> list[Any]:
    return [{"role": "user", "content": text}]


def test_a_response_is_parsed_into_its_class(client: OpenAI) -> None:
    for seed in range(3):
        told = client.responses.parse(model=MODEL, input="a colour", text_format=Colour, extra_body={"seed": seed})
        assert told.output_parsed is not None and told.output_parsed.share in (1, 2)
        with client.responses.stream(model=MODEL, input="a colour", text_format=Colour, extra_body={"seed": seed}) as stream:
            text = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
        assert text == told.output_text and told.text is not None and told.text.format is not None
        assert told.text.format.type == "json_schema"


def test_a_response_is_any_json_object_on_request(client: OpenAI) -> None:
    told = client.responses.create(
        model=MODEL, input="JSON", text={"format": {"type": "json_object"}}, max_output_tokens=60, extra_body={"seed": 1}
    )
    assert told.output_text.startswith("{")
    if told.status == "completed":
        assert isinstance(json.loads(told.output_text), dict)


def test_a_required_call_has_its_schemas_arguments(client: OpenAI, claude: Anthropic) -> None:
    tool: Any = {"type": "function", "name": "paint", "parameters": SCHEMA, "strict": True}
    told = client.responses.create(model=MODEL, input="paint", tools=[tool], tool_choice="required", parallel_tool_calls=False)
    (call,) = told.output
    assert call.type == "function_call" and call.name == "paint" and Colour.model_validate_json(call.arguments)
    message = claude.messages.create(
        model=MODEL,
        max_tokens=200,
        messages=user("paint"),
        tools=[{"name": "paint", "input_schema": SCHEMA}],
        tool_choice={"type": "tool", "name": "paint", "disable_parallel_tool_use": True},
    )
    (block,) = message.content
    assert block.type == "tool_use" and message.stop_reason == "tool_use" and Colour.model_validate(block.input)
    plain = claude.messages.create(
        model=MODEL,
        max_tokens=10,
        messages=user("paint"),
        tools=[{"name": "paint", "input_schema": SCHEMA}],
        tool_choice={"type": "none"},
    )
    assert all(block.type == "text" for block in plain.content)


def test_a_message_has_the_form_of_its_schema(claude: Anthropic) -> None:
    form: Any = {"format": {"type": "json_schema", "schema": SCHEMA}}
    told = claude.messages.create(model=MODEL, max_tokens=200, messages=user("a colour"), output_config=form)
    (block,) = told.content
    assert block.type == "text" and Colour.model_validate_json(block.text)
    with claude.messages.stream(model=MODEL, max_tokens=200, messages=user("a colour"), output_config=form) as stream:
        assert Colour.model_validate_json("".join(stream.text_stream))


def test_a_schema_that_cannot_be_held_is_refused_with_the_keywords_name(client: OpenAI, claude: Anthropic) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "array", "uniqueItems": True}}, "required": ["a"]}
    with pytest.raises(openai.BadRequestError, match="uniqueItems") as caught:
        client.responses.create(
            model=MODEL, input="a", text={"format": {"type": "json_schema", "name": "n", "schema": schema, "strict": True}}
        )
    assert (caught.value.param or "").startswith("text.format.schema")
    with pytest.raises(anthropic.BadRequestError, match="uniqueItems"):
        claude.messages.create(
            model=MODEL, max_tokens=9, messages=user("a"), output_config={"format": {"type": "json_schema", "schema": schema}}
        )


@pytest.mark.parametrize("kind", ["chat", "responses"])
def test_the_llm_tool_gets_an_answer_with_a_schema(server: RealServer, tmp_path: Path, kind: str) -> None:
    model = {"model_id": "mine", "model_name": MODEL, "api_base": f"{server.url}/v1", "supports_schema": True, kind: True}
    (tmp_path / "extra-openai-models.yaml").write_text(json.dumps([model]))
    command = [sys.executable, "-m", "llm", "-m", "mine", "--schema", json.dumps(SCHEMA), "a colour"]
    environment = {**os.environ, "LLM_USER_PATH": str(tmp_path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr
    assert Colour.model_validate_json(done.stdout)
