"""What /v1/models says holds: each capability is tried."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from fake_server import MODEL, Live, live
from redline.server.keys import Settings


def run(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 30))  # type: ignore[arg-type]


async def told(server: Live) -> dict[str, Any]:
    response = await server.http.get(f"/v1/models/{MODEL}")
    assert response.status_code == 200, response.text
    (only,) = (await server.http.get("/v1/models")).json()["data"]
    assert only == response.json()
    model: dict[str, Any] = response.json()
    return model


def test_a_model_tells_its_context_formats_and_limits() -> None:
    async def test() -> None:
        async with live(max_num_seqs=7, max_model_len=99) as server:
            model = await told(server)
            assert (model["id"], model["object"], model["owned_by"], model["root"]) == (MODEL, "model", "redline", MODEL)
            assert model["max_model_len"] == model["limits"]["context_tokens"] == 99
            assert model["dtype"] == model["format"] == "float32" and model["adapters"] == [] and model["parent"] is None
            assert model["limits"]["running_sequences"] == 7
            assert model["limits"]["queued_requests"] == server.engine.config.scheduler.max_queued_requests

    run(test)


def test_limits_are_those_that_requests_meet() -> None:
    async def test() -> None:
        async with live() as server:
            limits = (await told(server))["limits"]
            prompt = {"prompt": "a", "max_tokens": 1}
            for field, most in (("n", limits["max_choices"]), ("logprobs", limits["max_logprobs"])):
                assert (await server.http.post("/v1/completions", json={**prompt, field: most})).status_code == 200
                over = await server.http.post("/v1/completions", json={**prompt, field: most + 1})
                assert over.status_code == 400 and over.json()["error"]["param"] == field
            stops = [f"s{i}" for i in range(limits["max_stop_strings"] + 1)]
            assert (await server.http.post("/v1/completions", json={**prompt, "stop": stops[1:]})).status_code == 200
            assert (await server.http.post("/v1/completions", json={**prompt, "stop": stops})).status_code == 400
            long = {"prompt": [1] * limits["context_tokens"], "max_tokens": 1}
            assert (await server.http.post("/v1/completions", json=long)).json()["error"]["code"] == "context_length_exceeded"

    run(test)


def test_capabilities_are_what_requests_get() -> None:
    async def test() -> None:
        async with live() as server:
            can = (await told(server))["capabilities"]
            messages = [{"role": "user", "content": "hi"}]
            tools = [{"type": "function", "function": {"name": "f"}}]
            image = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}]
            for is_able, body in (
                (can["chat"], {"messages": messages}),
                (can["tools"] is not None, {"messages": messages, "tools": tools}),
                (can["structured_output"], {"messages": messages, "response_format": {"type": "json_object"}}),
                (can["vision"], {"messages": image}),
            ):
                response = await server.http.post("/v1/chat/completions", json={**body, "max_tokens": 4})
                assert (response.status_code == 200) == is_able, response.text
            response = await server.http.post("/v1/embeddings", json={"input": "hi"})
            assert (response.status_code == 200) == can["embeddings"]
            assert len(response.json()["data"][0]["embedding"]) == can["embedding_size"]
            server.template.is_missing = True
            assert (await told(server))["capabilities"]["chat"] is False

    run(test)


def test_a_key_sees_the_models_that_it_may_ask() -> None:
    async def test() -> None:
        async with live() as server:
            _, other = await server.service.keys.make(Settings(name="a", models=("other",)))
            _, mine = await server.service.keys.make(Settings(name="b", models=(MODEL,)))
            for token, count, status in ((other, 0, 404), (mine, 1, 200)):
                headers = {"authorization": f"Bearer {token}"}
                assert len((await server.http.get("/v1/models", headers=headers)).json()["data"]) == count
                assert (await server.http.get(f"/v1/models/{MODEL}", headers=headers)).status_code == status

    run(test)
