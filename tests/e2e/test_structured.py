"""Structured output over HTTP with the real engine: what finishes is valid, what cannot be enforced is refused by name.

On random weights in the short form, as no model is needed to be held to a grammar; with real models under `make soak`. The
judge is jsonschema-rs, which knows nothing of grammars. `bench/structured.py` prints the same as a report.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import jsonschema_rs
import openai
import pytest
import yaml
from openai import OpenAI

from real_server import RealServer, real_server
from redline import LLM
from schemas import generated, vendored
from structured import Report, offline, over_http

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "size": {"type": "integer", "minimum": 0, "maximum": 99},
        "tags": {"type": "array", "items": {"enum": ["red", "blue"]}, "maxItems": 2},
    },
    "required": ["name", "size", "tags"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def server() -> Iterator[RealServer]:
    with real_server("--device", "cpu", "--dtype", "float32", "--max-model-len", "1024", "--num-pages", "512") as running:
        yield running


@pytest.fixture(scope="module")
def client(server: RealServer) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0, timeout=60) as made:
        yield made


def model_of(client: OpenAI) -> str:
    return client.models.list().data[0].id


def ask(client: OpenAI, **fields: Any) -> Any:
    messages: Any = [{"role": "user", "content": "Tell me."}]
    return client.chat.completions.create(model=model_of(client), messages=messages, seed=1, max_tokens=300, **fields)


def test_a_schema_through_the_real_client_streamed_or_not(client: OpenAI) -> None:
    format: Any = {"type": "json_schema", "json_schema": {"name": "thing", "schema": SCHEMA, "strict": True}}
    whole = ask(client, response_format=format, n=3)
    texts = [choice.message.content for choice in whole.choices]
    for choice in whole.choices:
        assert choice.finish_reason == "stop" and jsonschema_rs.is_valid(SCHEMA, json.loads(choice.message.content))
    assert len(set(texts)) == 3
    streamed = [""] * 3
    for event in ask(client, response_format=format, n=3, stream=True):
        for choice in event.choices:
            streamed[choice.index] += choice.delta.content or ""
    assert streamed == texts


def test_usage_counts_forced_tokens(client: OpenAI) -> None:
    answer = client.completions.create(
        model=model_of(client), prompt="x", max_tokens=50, extra_body={"guided_choice": ["an only choice"]}
    )
    assert answer.choices[0].text == "an only choice" and answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None and answer.usage.completion_tokens == len("an only choice")
    cut = client.completions.create(
        model=model_of(client), prompt="x", max_tokens=5, extra_body={"guided_choice": ["an only choice"]}
    )
    assert (cut.choices[0].text, cut.choices[0].finish_reason) == ("an on", "length")


@pytest.mark.parametrize(
    ("fields", "pattern"),
    [
        ({"guided_regex": "[0-9]{3}-[a-f]{2}"}, "[0-9]{3}-[a-f]{2}"),
        ({"guided_grammar": 'start: "a" ("b" | "c")'}, "a[bc]"),
        ({"structured_outputs": {"choice": ["yes", "no"]}}, "yes|no"),
        ({"structured_outputs": {"regex": "x{2,4}"}}, "x{2,4}"),
    ],
)
def test_the_extensions_on_both_endpoints(fields: dict[str, Any], pattern: str, client: OpenAI) -> None:
    chat = ask(client, extra_body=fields).choices[0].message.content
    text = client.completions.create(model=model_of(client), prompt="x", max_tokens=50, extra_body=fields).choices[0].text
    assert re.fullmatch(pattern, chat) and re.fullmatch(pattern, text)


def test_json_and_yaml(client: OpenAI) -> None:
    for seed in range(5):
        found = ask(client, response_format={"type": "json_object"}, extra_body={"seed": seed}).choices[0]
        assert found.finish_reason == "length" or isinstance(json.loads(found.message.content), dict)
        document = ask(client, extra_body={"structured_outputs": {"yaml": SCHEMA}, "seed": seed}).choices[0]
        assert document.finish_reason == "stop" and jsonschema_rs.is_valid(SCHEMA, yaml.safe_load(document.message.content))


@pytest.mark.parametrize(
    ("fields", "param", "said"),
    [
        ({"guided_json": {"type": "array", "uniqueItems": True}}, "guided_json", "uniqueItems"),
        ({"guided_json": {"oneOf": [{"type": "string"}, {"type": "string"}]}}, "guided_json", "oneOf"),
        ({"guided_regex": "("}, "guided_regex", "regular expression"),
        ({"guided_regex": "(a{1000}){1000}"}, "guided_regex", "too complex"),
        ({"structured_outputs": {"grammar": "start: nothing"}}, "structured_outputs.grammar", "nothing"),
        ({"guided_regex": "a", "guided_choice": ["a"]}, "guided_choice", "contradicts"),
    ],
)
def test_refusals_name_the_field_and_the_keyword(fields: dict[str, Any], param: str, said: str, client: OpenAI) -> None:
    began = time.monotonic()
    with pytest.raises(openai.BadRequestError, match=said) as refusal:
        client.completions.create(model=model_of(client), prompt="x", extra_body=fields)
    assert refusal.value.param == param and time.monotonic() - began < 4


def test_bombs_hold_nobody_up(server: RealServer) -> None:
    """While several are tried, a plain request is answered and the server says that it is well."""
    bombs = [{"prompt": "x", "guided_regex": f"(a{{1000}}){{1000}}b{number}"} for number in range(4)]
    with httpx2.Client(base_url=server.url, timeout=60) as http:
        import concurrent.futures

        with concurrent.futures.ThreadPoolExecutor(5) as pool:
            sent = [pool.submit(http.post, "/v1/completions", json=bomb) for bomb in bombs]
            time.sleep(0.2)
            began = time.monotonic()
            assert http.post("/v1/completions", json={"prompt": "x", "max_tokens": 3}).status_code == 200
            assert http.get("/health").status_code == 200
            assert time.monotonic() - began < 2
            assert [each.result().status_code for each in sent] == [400] * 4


def judge(report: Report, least: int) -> None:
    assert not report.invalid, report.invalid[:3]
    assert not report.unnamed, report.unnamed[:3]
    assert report.finished >= least, report


def test_generated_schemas_over_http(server: RealServer) -> None:
    judge(over_http(server.url, {f"generated {seed}": generated(seed) for seed in range(32)}, max_tokens=250), 14)


def test_vendored_schemas_over_http(server: RealServer) -> None:
    report = over_http(server.url, vendored(), max_tokens=250)
    judge(report, 0)
    assert report.accepted >= 4 and report.refused >= 15


@pytest.mark.soak
@pytest.mark.real_model
@pytest.mark.parametrize("name", ["smollm2", "qwen_coder"])
def test_all_schemas_on_a_real_model(name: str, request: pytest.FixtureRequest, effort: int) -> None:
    """300 generated schemas, at least 250 of them accepted, and the vendored ones."""
    if effort == 1:
        pytest.skip("minutes on a real model: under make soak")
    path: Path = request.getfixturevalue(name)
    schemas = {f"generated {seed}": generated(seed) for seed in range(300)} | vendored()
    with LLM(str(path), device="cpu") as llm:
        report = offline(llm, schemas, max_tokens=300)
    judge(report, 150)
    assert report.accepted_of("generated") >= 250
