"""Request bodies: every field is honoured, accepted or refused by name; every complaint names the field's path."""

from __future__ import annotations

import json
from typing import Any

import pytest
from openai.types.chat import completion_create_params as chat_params
from openai.types.completion_create_params import CompletionCreateParamsNonStreaming

from redline.errors import InvalidRequest, UnsupportedField
from redline.server.chat_schema import ChatBody
from redline.server.completion_schema import CompletionBody
from redline.server.schema import Body, decode

USER = {"role": "user", "content": "hi"}


def chat(**fields: Any) -> ChatBody:
    return decode(json.dumps({"messages": [USER], **fields}).encode(), ChatBody)


@pytest.mark.parametrize(
    ("kind", "sdk"),
    [
        (
            ChatBody,
            {
                **chat_params.CompletionCreateParamsNonStreaming.__annotations__,
                **chat_params.CompletionCreateParamsBase.__annotations__,
            },
        ),
        (CompletionBody, CompletionCreateParamsNonStreaming.__annotations__),
    ],
)
def test_no_field_of_the_openai_api_is_unknown(kind: type[Body], sdk: dict[str, Any]) -> None:
    assert set(sdk) <= set(kind.__struct_fields__)


def test_null_means_absent_for_every_optional_field() -> None:
    nulls = {name: None for name in ChatBody.__struct_fields__ if name != "messages"}
    assert chat(**nulls) == chat()
    nulls = {name: None for name in CompletionBody.__struct_fields__ if name != "prompt"}
    assert decode(json.dumps({"prompt": "a", **nulls}).encode(), CompletionBody).prompt == "a"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("functions", [{}]),
        ("function_call", "auto"),
        ("modalities", ["text", "audio"]),
        ("audio", {}),
        ("prediction", {}),
        ("web_search_options", {}),
        ("verbosity", "low"),
        ("moderation", {}),
    ],
)
def test_what_is_not_built_is_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(UnsupportedField, match=field) as caught:
        chat(**{field: value})
    assert caught.value.param == field


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": [], "tool_choice": "none", "response_format": {"type": "text"}, "modalities": ["text"], "functions": []},
        {
            "user": "u",
            "metadata": {"a": "b"},
            "store": True,
            "service_tier": "auto",
            "safety_identifier": "s",
            "prompt_cache_key": "k",
        },
        {
            "messages": [
                USER,
                {"role": "assistant", "content": "x", "refusal": None, "tool_calls": None, "annotations": [], "audio": None},
            ]
        },
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]},
    ],
)
def test_what_asks_for_nothing_is_accepted(fields: dict[str, Any]) -> None:
    chat(**fields)


@pytest.mark.parametrize(
    ("fields", "param", "sentence"),
    [
        ({"max_token": 5}, "max_token", "there is no field max_token (did you mean max_tokens?)"),
        ({"temperature": "hot"}, "temperature", "temperature: expected float | null, got str"),
        ({"n": 1.5}, "n", "n: expected int | null, got float"),
        ({"n": True}, "n", "n: expected int | null, got bool"),
        ({"stop": ["a", 1]}, "stop[1]", "stop[1]: expected str, got int"),
        ({"messages": "hi"}, "messages", "messages: expected array, got str"),
        ({"messages": [USER, {"content": "x"}]}, "messages[1].role", "messages[1].role is required"),
        ({"messages": [{**USER, "colour": 1}]}, "messages[0].colour", "there is no field messages[0].colour"),
        (
            {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
            "messages[0].content[0].text",
            "messages[0].content[0].text is required",
        ),
        ({"logit_bias": {"x": 1}}, "logit_bias", "logit_bias: a key: expected int, got str"),
        ({"logit_bias": {"1": "x"}}, "logit_bias[...]", "logit_bias[...]: expected float, got str"),
        ({"stream_options": {"include_use": True}}, "stream_options.include_use", "there is no field stream_options.include_use"),
    ],
)
def test_a_complaint_names_the_path(fields: dict[str, Any], param: str, sentence: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        chat(**fields)
    assert (caught.value.param, caught.value.sentence()) == (param, sentence)


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}, "messages[0].content[0]"),
        ({"role": "assistant", "tool_calls": [{"id": "1", "type": "custom", "custom": {}}]}, "messages[0].tool_calls[0].type"),
        ({"role": "assistant", "content": "x", "function_call": {"name": "f"}}, "messages[0].function_call"),
    ],
)
def test_unbuilt_parts_of_messages_are_refused_by_name(message: dict[str, Any], param: str) -> None:
    with pytest.raises(UnsupportedField) as caught:
        chat(messages=[message])
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", "no body"),
        (b" \n", "no body"),
        (b"{", "not JSON"),
        (b"nonsense", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b'{"prompt": "\xff"}', "not JSON"),
        (b'{"prompt": "\\ud800"}', "not JSON"),
        (b"[]", "the body: expected object, got array"),
        (b"null", "the body: expected object, got null"),
        (b"{}", "prompt is required"),
        (b'{"prompt": 1e999}', "prompt"),
        (b'{"prompt": "a", "temperature": NaN}', "not JSON"),
        (b'{"prompt": "a", "suffix":' + b"[" * 100_000, "nested too deeply"),
        (b'{"prompt": "a", "suffix":' + b'{"a":' * 50_000, "nested too deeply"),
    ],
)
def test_what_is_no_body_is_a_sentence(data: bytes, sentence: str) -> None:
    with pytest.raises(InvalidRequest, match=sentence.replace("(", r"\(")):
        decode(data, CompletionBody)
