"""/tokenize and /detokenize, and prompts that are refused by their length alone."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import httpx2
import pytest

from fake_server import MODEL, live


def run(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 30))  # type: ignore[arg-type]


async def post(http: httpx2.AsyncClient, path: str, **body: Any) -> dict[str, Any]:
    response = await http.post(path, json=body)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


@pytest.mark.parametrize("prefix", ["", "/v1"])
def test_a_text_becomes_its_tokens_and_comes_back(prefix: str) -> None:
    """The byte tokenizer's tokens are the text's UTF-8 bytes: an oracle that needs no tokenizer."""

    async def test() -> None:
        async with live() as server:
            text = "héllo\n\x00"
            answer = await post(server.http, f"{prefix}/tokenize", model=MODEL, prompt=text)
            assert answer == {
                "count": 8,
                "max_model_len": 4096,
                "tokens": list(text.encode()),
                "token_strs": None,
            }
            back = await post(server.http, f"{prefix}/detokenize", model=MODEL, tokens=answer["tokens"])
            assert back == {"prompt": text}
            spelled = await post(server.http, f"{prefix}/tokenize", prompt="a b", return_token_strs=True)
            assert spelled["token_strs"] == ["a", "Ġ", "b"]
            assert await post(server.http, f"{prefix}/detokenize", tokens=[256, 97]) == {"prompt": "<|bos|>a"}
            assert await post(server.http, f"{prefix}/detokenize", tokens=[]) == {"prompt": ""}

    run(test)


def test_a_conversation_counts_as_chat_completions_count_it() -> None:
    async def test() -> None:
        async with live() as server:
            messages = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}]
            counted = await post(server.http, "/tokenize", messages=messages, chat_template_kwargs={"enable_thinking": False})
            answered = await post(server.http, "/v1/chat/completions", messages=messages)
            assert counted["count"] == answered["usage"]["prompt_tokens"] == len("be brief" + "hi")

    run(test)


@pytest.mark.parametrize(
    ("path", "body", "status", "param"),
    [
        ("/tokenize", {}, 400, "prompt"),
        ("/tokenize", {"prompt": "a", "messages": [{"role": "user", "content": "a"}]}, 400, "prompt"),
        ("/tokenize", {"prompt": "a", "add_generation_prompt": True}, 400, "add_generation_prompt"),
        ("/tokenize", {"messages": [{"role": "user", "content": "a"}], "add_special_tokens": True}, 400, "add_special_tokens"),
        ("/tokenize", {"messages": []}, 400, "messages"),
        ("/tokenize", {"prompt": "a", "promt": "b"}, 400, "promt"),
        ("/tokenize", {"prompt": "a", "chat_template": "{{ 1 }}"}, 400, "chat_template"),
        ("/tokenize", {"prompt": "a", "model": "other"}, 404, "model"),
        ("/tokenize", {"prompt": "\ud800"}, 400, None),
        ("/detokenize", {"tokens": [512]}, 400, "tokens"),
        ("/detokenize", {"tokens": [-1]}, 400, "tokens"),
        ("/detokenize", {}, 400, "tokens"),
        ("/detokenize", {"tokens": [1], "model": "other"}, 404, "model"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(path: str, body: dict[str, Any], status: int, param: str | None) -> None:
    async def test() -> None:
        async with live() as server:
            response = await server.http.post(path, content=_ascii(body))
            assert response.status_code == status, response.text
            assert response.json()["error"]["param"] == param

    run(test)


@pytest.mark.parametrize(
    ("path", "field"),
    [("/tokenize", "prompt"), ("/v1/completions", "prompt"), ("/tokenize", "messages"), ("/v1/chat/completions", "messages")],
)
def test_a_prompt_that_cannot_fit_is_refused_by_its_length(path: str, field: str) -> None:
    """14 MB took 16 s of encoding, in which nothing else ran."""

    async def test() -> None:
        async with live() as server:
            text = "x" * 14_000_000
            body = {field: text if field == "prompt" else [{"role": "user", "content": text}]}
            began = time.monotonic()
            response = await server.http.post(path, json=body)
            took = time.monotonic() - began
            assert response.status_code == 400 and response.json()["error"]["code"] == "context_length_exceeded"
            assert response.json()["error"]["param"] == field and "at least 2000000 tokens" in response.text
            assert took < 3.0, took

    run(test)


def _ascii(body: dict[str, Any]) -> bytes:
    import json

    return json.dumps(body).encode()
