"""The application over the fake engine, without a socket: routes, layers, errors, ends."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Awaitable, Callable
from typing import Any

import httpx2
import pytest

from fake_server import MODEL, Live, live
from redline.errors import ConfigError

CHAT = "/v1/chat/completions"


def run(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 20))  # type: ignore[arg-type]


def chat(text: str = "hello", **fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], **fields}


def error(response: httpx2.Response, status: int) -> dict[str, Any]:
    assert response.status_code == status, response.text
    told: dict[str, Any] = response.json()["error"]
    assert set(told) == {"message", "type", "param", "code"} and "Traceback" not in response.text
    return told


def test_health_tells_loading_with_its_per_cent_ready_and_dead() -> None:
    async def test() -> None:
        async with live(start=False, load_s=0.2) as server:
            starting = asyncio.create_task(server.engine.start())
            while server.engine.progress.percent != 62:
                await asyncio.sleep(0.01)
            response = await server.http.get("/health")
            assert response.status_code == 503
            assert response.json() == {"status": "loading", "stage": "loading weights", "percent": 62}
            early = await server.http.post(CHAT, json=chat())
            assert error(early, 503)["code"] == "not_ready" and early.headers["retry-after"] == "1"
            await starting
            assert (await server.http.get("/health")).json() == {"status": "ready"}
            await server.engine.close()
            response = await server.http.get("/health")
            assert response.status_code == 503 and response.json()["status"] == "dead"
            assert error(await server.http.post(CHAT, json=chat()), 503)["code"] == "engine_dead"

    run(test)


NINES = "9" * 400


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        *((f'"{name}": {sign}{NINES}', name) for name in ("n", "max_tokens", "seed", "top_k", "priority") for sign in ("", "-")),
        *((f'"{name}": {NINES}', name) for name in ("min_tokens", "prompt_logprobs", "temperature", "deadline_ms")),
        (f'"logprobs": true, "top_logprobs": {NINES}', "top_logprobs"),
        (f'"max_completion_tokens": {"9" * 5000}', "max_completion_tokens"),
        (f'"stop_token_ids": [{NINES}]', "stop_token_ids[0]"),
        (f'"logit_bias": {{"{NINES}": 1}}', "logit_bias"),
        ('"logit_bias": {"1": 1e999}', "logit_bias[...]"),
        ('"temperature": 1e999', "temperature"),
        ('"n": 1000000', "n"),
        ('"deadline_ms": -1', "deadline_ms"),
    ],
)
def test_a_number_beyond_all_bounds_is_refused_by_its_fields_name(fields: str, param: str) -> None:
    async def test() -> None:
        async with live() as server:
            body = f'{{"messages": [{{"role": "user", "content": "hi"}}], {fields}}}'
            assert error(await server.http.post(CHAT, content=body), 400)["param"] == param

    run(test)


@pytest.mark.parametrize(
    ("status", "fields"),
    [
        (404, {"model": "m" * 1_000_000}),
        (400, {"f" * 1_000_000: 1}),
        (400, {" - at `$" * 100_000: 1}),
        (400, {"messages": [{"role": "r" * 1_000_000, "content": "a"}]}),
        (400, {"messages": [{"role": "user", "content": [{"type": "t" * 1_000_000}]}]}),
    ],
)
def test_an_error_repeats_little_of_what_the_caller_wrote(status: int, fields: dict[str, Any]) -> None:
    async def test() -> None:
        async with live() as server:
            began = time.monotonic()
            response = await server.http.post(CHAT, json={**chat(), **fields})
            assert error(response, status) and len(response.content) < 1000 and time.monotonic() - began < 1

    run(test)


def test_unknown_routes_and_wrong_methods_get_the_envelope() -> None:
    async def test() -> None:
        async with live() as server:
            assert "there is no GET /v2" in error(await server.http.get("/v2"), 404)["message"]
            assert error(await server.http.get(CHAT), 405)["code"] == "method_not_allowed"
            assert error(await server.http.get("/v1/models/other"), 404)["param"] == "model"
            assert error(await server.http.post(CHAT, json=chat(model="other")), 404)["param"] == "model"
            assert MODEL in error(await server.http.post(CHAT, json=chat(model="")), 404)["message"]

    run(test)


@pytest.mark.parametrize("header", [None, "Bearer", "Bearer wrong", "Basic key", "key", "Bearer key extra"])
def test_without_the_key_nothing_but_health_answers(header: str | None) -> None:
    async def test() -> None:
        async with live(api_key="key") as server:
            headers = {} if header is None else {"authorization": header}
            for method, path in (
                ("GET", "/v1/models"),
                ("GET", "/metrics"),
                ("POST", CHAT),
                ("GET", "/nowhere"),
                ("GET", "http://test//health"),
                ("GET", "/health/"),
            ):
                response = await server.http.request(method, path, headers=headers)
                assert error(response, 401)["type"] == "authentication_error"
                assert response.headers["www-authenticate"] == "Bearer"
            assert (await server.http.get("/health")).status_code == 200
            assert (await server.http.get("/metrics", headers={"authorization": "bearer key"})).status_code == 200

    run(test)


def test_an_empty_key_is_no_key_and_is_refused() -> None:
    async def test() -> None:
        with pytest.raises(ConfigError, match="empty"):
            async with live(start=False, api_key=""):
                pass

    run(test)


def test_a_body_over_the_limit_is_refused_before_it_is_read() -> None:
    async def test() -> None:
        async with live() as server:
            read = 0

            async def endless() -> Any:
                nonlocal read
                while True:
                    read += 1 << 20
                    yield b" " * (1 << 20)

            announced = await server.http.post(CHAT, content=endless(), headers={"content-length": str(17 << 20)})
            assert error(announced, 413)["code"] == "too_large" and read == 0
            assert error(await server.http.post(CHAT, content=endless()), 413)["code"] == "too_large"
            assert read <= 18 << 20

    run(test)


def test_a_conversation_reaches_the_template_as_templates_read_it() -> None:
    async def test() -> None:
        async with live() as server:
            messages = [
                {"role": "developer", "content": "a"},
                {"role": "user", "content": [{"type": "text", "text": "b"}, {"type": "text", "text": "c"}]},
                {"role": "assistant", "content": "d"},
            ]
            body = {"messages": messages, "continue_final_message": True, "chat_template_kwargs": {"enable_thinking": False}}
            answer = (await server.http.post(CHAT, json=body)).json()
            assert answer["choices"][0]["message"]["content"] == "ab+cd"
            assert server.template.options == {
                "add_generation_prompt": False,
                "continue_final_message": True,
                "enable_thinking": False,
            }

    run(test)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "function", "name": "f", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "assistant"}]}, "messages[0].content"),
        ({"continue_final_message": True}, "continue_final_message"),
        ({"continue_final_message": True, "add_generation_prompt": True}, "continue_final_message"),
        ({"chat_template_kwargs": {"tools": []}}, "chat_template_kwargs.tools"),
        ({"chat_template_kwargs": {"self": 1}}, "chat_template_kwargs.self"),
        ({"messages": [{"role": "user", "content": ""}]}, "messages"),
    ],
)
def test_a_conversation_that_makes_no_sense_is_refused(fields: dict[str, Any], param: str) -> None:
    async def test() -> None:
        async with live() as server:
            assert error(await server.http.post(CHAT, json={**chat(), **fields}), 400)["param"] == param

    run(test)


@pytest.mark.parametrize("prompt", [[], [1, "a"], ["a", [1]], [[]], "", ["a"] * 1025, [-1], [600]])
def test_prompts_that_are_no_prompts_are_refused(prompt: object) -> None:
    async def test() -> None:
        async with live() as server:
            response = await server.http.post("/v1/completions", json={"prompt": prompt})
            if prompt == "":
                assert response.json()["error"]["message"] == "prompt is empty"
            assert error(response, 400)["param"] == "prompt"

    run(test)


def test_a_large_prompt_is_tokenised_and_answered_too() -> None:
    async def test() -> None:
        async with live(max_model_len=100_000) as server:
            text = "0123456789" * 3000
            for path, body in ((CHAT, chat(text, max_tokens=7)), ("/v1/completions", {"prompt": text, "max_tokens": 7})):
                answer = (await server.http.post(path, json=body)).json()
                assert answer["usage"]["completion_tokens"] == 7 and answer["choices"][0]["finish_reason"] == "length"

    run(test)


def test_stop_ids_and_stop_strings_are_told_as_the_reason() -> None:
    async def test() -> None:
        async with live() as server:
            for fields, text, reason in (
                ({"stop": "l"}, "he", "l"),
                ({"stop": "l", "include_stop_str_in_output": True}, "hel", "l"),
                ({"stop_token_ids": [ord("o")]}, "hell", ord("o")),
                ({}, "hello", None),
            ):
                (choice,) = (await server.http.post(CHAT, json=chat(**fields))).json()["choices"]
                assert (choice["message"]["content"], choice["finish_reason"], choice["stop_reason"]) == (text, "stop", reason)

    run(test)


def test_a_stop_string_in_one_choice_leaves_the_others_alone() -> None:
    async def test() -> None:
        async with live(step_s=0.001) as server:
            answer = (await server.http.post(CHAT, json=chat("abcd", n=3, stop="da", max_tokens=4))).json()
            assert [c["message"]["content"] for c in answer["choices"]] == ["abcd", "bc", "c"]
            assert [c["finish_reason"] for c in answer["choices"]] == ["length", "stop", "stop"]

    run(test)


def test_prompt_logprobs_come_once() -> None:
    async def test() -> None:
        async with live() as server:
            answer = (await server.http.post(CHAT, json=chat("abc", prompt_logprobs=1))).json()
            scores = answer["choices"][0]["prompt_logprobs"]
            assert scores == [
                None,
                {"98": {"logprob": -0.5, "decoded_token": "b"}},
                {"99": {"logprob": -0.5, "decoded_token": "c"}},
            ]

    run(test)


def test_several_prompts_bring_several_receipts() -> None:
    async def test() -> None:
        async with live() as server:
            answer = (await server.http.post("/v1/completions", json={"prompt": ["ab", "abcd"], "redline": True})).json()
            assert sorted(receipt["tokens"] for receipt in answer["redline"]) == [3, 5]

    run(test)


async def stream_until(server: Live, body: dict[str, Any], leave_after: int, *, stuck: bool = False) -> list[bytes]:
    """Call the app as a server would; the client leaves after some writes, and before that takes no more if `stuck`."""
    sent: list[bytes] = []
    left = asyncio.Event()
    incoming = [{"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}]

    async def receive() -> Any:
        if incoming:
            return incoming.pop()
        await left.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message.get("body", b""))
        if len(sent) >= leave_after:
            left.set()
            if stuck:
                await asyncio.sleep(60)

    scope = {"type": "http", "method": "POST", "path": CHAT, "headers": [], "query_string": b"", "root_path": ""}
    await server.app(scope, receive, send)
    return sent


@pytest.mark.parametrize("stuck", [False, True])
def test_a_client_that_leaves_frees_its_choices_within_a_step(stuck: bool) -> None:
    async def test() -> None:
        async with live(step_s=0.005) as server:
            sent = await stream_until(server, chat("x" * 3000, n=2, stream=True), leave_after=5, stuck=stuck)
            assert len(sent) <= 7 and server.engine.open_requests == 0
            start = time.monotonic()
            while server.engine.stats.more.get("cancelled") != 2:
                assert time.monotonic() - start < 2
                await asyncio.sleep(0.002)

    run(test)


def test_metrics_follow_the_requests() -> None:
    async def test() -> None:
        async with live() as server:
            await server.http.post(CHAT, json=chat("abcd", n=2))
            page = (await server.http.get("/metrics")).text
            labels = f'model_name="{MODEL}"'
            assert f'redline_requests_total{{finished_reason="stop",{labels}}} 2.0' in page
            assert f'vllm:e2e_request_latency_seconds_count{{engine="0",{labels}}} 1.0' in page
            assert f'vllm:time_to_first_token_seconds_count{{engine="0",{labels}}} 2.0' in page

    run(test)


def test_garbage_never_makes_a_500() -> None:
    async def test() -> None:
        rng = random.Random(5)
        values = [None, True, 0, -1, 2**63, 1e308, "", "é\u0000", [], [[]], {}, {"a": {"b": []}}, "x" * 300]
        fields = [
            "model",
            "messages",
            "stream",
            "stream_options",
            "n",
            "stop",
            "logit_bias",
            "temperature",
            "max_tokens",
            "tools",
            "logprobs",
            "odd",
        ]
        async with live() as server:
            for _ in range(300):
                body: Any = chat("abc", **{rng.choice(fields): rng.choice(values) for _ in range(rng.randint(0, 3))})
                data = bytearray(json.dumps(body).encode())
                for _ in range(rng.choice((0, 0, 1, 4))):
                    data[rng.randrange(len(data))] = rng.randrange(256)
                response = await server.http.post(rng.choice((CHAT, "/v1/completions")), content=bytes(data))
                assert response.status_code in (200, 400, 404), (response.status_code, bytes(data))
            assert server.engine.open_requests == 0

    run(test)
