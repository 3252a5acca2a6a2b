"""Thousands of requests with one thing wrong: no 500, no hang, no stack trace, and no field that is silently ignored."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

from fake_server import Live, live
from mutations import Mutation, Mutator

USER = {"role": "user", "content": "hello"}
SEEDS: dict[str, list[dict[str, Any]]] = {
    "/v1/chat/completions": [
        {"messages": [USER], "max_tokens": 4},
        {
            "model": "fake-model",
            "messages": [{"role": "system", "content": "be brief"}, USER, {"role": "assistant", "content": "hi"}, USER],
            "temperature": 0.5,
            "top_p": 0.9,
            "max_completion_tokens": 8,
            "n": 2,
            "seed": 7,
            "stop": ["x", "y"],
            "logprobs": True,
            "top_logprobs": 2,
            "user": "someone",
            "metadata": {"a": "b"},
            "frequency_penalty": 0.1,
            "presence_penalty": -0.1,
            "logit_bias": {"5": 1},
            "min_p": 0.01,
            "min_tokens": 1,
            "priority": 0,
            "cache_salt": "mine",
        },
        {
            "messages": [{"role": "user", "content": [{"type": "text", "text": "hello"}]}],
            "max_tokens": 4,
            "stream": True,
            "stream_options": {"include_usage": True},
            "chat_template_kwargs": {"enable_thinking": False},
        },
    ],
    "/v1/completions": [
        {"prompt": "hello", "max_tokens": 4},
        {"prompt": [104, 105], "max_tokens": 4, "n": 2, "temperature": 0.0, "logprobs": 2, "stop": "q", "seed": 3},
        {"prompt": ["a", "b"], "max_tokens": 4, "stream": True, "top_p": 0.5, "stream_options": {"include_usage": True}},
    ],
    "/v1/responses": [
        {"input": "hello", "max_output_tokens": 4},
        {
            "input": [{"role": "user", "content": [{"type": "input_text", "text": "hello"}]}],
            "instructions": "be brief",
            "max_output_tokens": 8,
            "temperature": 0.5,
            "top_p": 0.9,
            "metadata": {"a": "b"},
            "store": False,
            "stream": True,
            "user": "someone",
        },
    ],
    "/v1/messages": [
        {"model": "fake-model", "max_tokens": 4, "messages": [USER]},
        {
            "model": "fake-model",
            "max_tokens": 8,
            "system": "be brief",
            "messages": [USER, {"role": "assistant", "content": [{"type": "text", "text": "hi"}]}, USER],
            "temperature": 0.5,
            "top_k": 5,
            "stop_sequences": ["x"],
            "stream": True,
            "metadata": {"user_id": "someone"},
        },
    ],
    "/v1/embeddings": [
        {"input": "hello"},
        {"input": ["hello", "there"], "encoding_format": "base64", "user": "someone"},
    ],
    "/v1/rerank": [{"query": "hello", "documents": ["a", "b"], "top_n": 1}],
    "/tokenize": [{"prompt": "hello"}, {"messages": [USER]}],
}
PER_EFFORT = 200  # 10,000 under --soak
SLOW_S = 5.0


@pytest.mark.soak
def test_a_mutated_request_is_answered_or_refused_by_name(effort: int) -> None:
    asyncio.run(_run(PER_EFFORT * effort))


async def _run(count: int) -> None:
    rng = random.Random(20261121)
    mutators = {path: Mutator(seeds, rng) for path, seeds in SEEDS.items()}
    async with live() as server:
        for path, seeds in SEEDS.items():
            for seed in seeds:
                assert (await server.http.post(path, json=seed)).status_code == 200, (path, seed)
        for number in range(count):
            path = rng.choice(list(SEEDS))
            await _check(server, path, mutators[path].next(), number)
        for path, seeds in SEEDS.items():
            assert (await server.http.post(path, json=seeds[0])).status_code == 200
        assert server.engine.open_requests == 0


async def _check(server: Live, path: str, mutation: Mutation, number: int) -> None:
    about = f"request {number} to {path}: {mutation.what}"
    async with asyncio.timeout(SLOW_S):
        response = await server.http.post(path, content=mutation.data, headers={"content-type": "application/json"})
    assert response.status_code in mutation.statuses, (about, response.status_code, response.text[:300])
    assert "Traceback" not in response.text and 'File "' not in response.text, about
    if response.status_code != 200:
        told = response.json()["error"]
        shape = {"type", "message", "param", "code"} if path == "/v1/messages" else {"message", "type", "param", "code"}
        assert set(told) == shape and told["message"], about
        assert len(told["message"]) < 2000, about
        if mutation.names is not None:
            assert mutation.names in told["message"] or mutation.names in (told.get("param") or ""), (about, told)
