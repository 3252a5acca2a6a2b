"""The real `openai` client against a live server process, over the fake engine: what an application sees."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from fake_server import MODEL, Served, served


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    with served(step_s=0.001, defaults={"temperature": 0.5}) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: Served) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0, timeout=20) as client:
        yield client


def user(text: str) -> list[Any]:
    return [{"role": "user", "content": text}]


def until(condition: Callable[[], bool], timeout_s: float = 5.0) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.02)


def test_a_chat_is_answered_with_usage(client: OpenAI) -> None:
    answer = client.chat.completions.create(model=MODEL, messages=user("Grüße, 世界 👋"))
    (choice,) = answer.choices
    assert choice.message.content == "Grüße, 世界 👋" and choice.message.role == "assistant" and choice.finish_reason == "stop"
    size = len("Grüße, 世界 👋".encode())
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (
        size,
        size + 1,
        2 * size + 1,
    )
    assert answer.object == "chat.completion" and answer.model == MODEL and answer.id.startswith("chatcmpl-")


def test_a_stream_collects_to_the_answer_that_is_not_streamed(client: OpenAI) -> None:
    options: dict[str, Any] = {"model": MODEL, "messages": user("né 👋 ok"), "logprobs": True, "top_logprobs": 2, "n": 3}
    whole = client.chat.completions.create(**options)
    texts, finishes, scores, roles = [""] * 3, [""] * 3, [[] for _ in range(3)], [0] * 3  # type: ignore[var-annotated]
    usages = []
    for chunk in client.chat.completions.create(**options, stream=True, stream_options={"include_usage": True}):
        assert chunk.object == "chat.completion.chunk"
        usages.append(chunk.usage)
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            roles[choice.index] += choice.delta.role == "assistant"
            finishes[choice.index] += choice.finish_reason or ""
            scores[choice.index] += (choice.logprobs and choice.logprobs.content) or []
    assert usages[:-1] == [None] * (len(usages) - 1)
    assert usages[-1].total_tokens == whole.usage.total_tokens  # type: ignore[union-attr]
    assert roles == [1, 1, 1]
    for choice in whole.choices:
        assert choice.message.content == texts[choice.index] and choice.finish_reason == finishes[choice.index] == "stop"
        assert choice.logprobs is not None and choice.logprobs.content == scores[choice.index]


def test_logprobs_spell_every_token_with_its_bytes(client: OpenAI) -> None:
    answer = client.chat.completions.create(model=MODEL, messages=user("é!"), logprobs=True, top_logprobs=3, max_tokens=3)
    assert answer.choices[0].logprobs is not None
    content = answer.choices[0].logprobs.content
    assert content is not None and bytes(b for entry in content for b in entry.bytes or ()).decode() == "é!"
    assert [entry.token for entry in content] == ["\\xc3", "\\xa9", "!"]
    assert all(len(entry.top_logprobs) == 3 and entry.top_logprobs[0].token == entry.token for entry in content)


def test_n_choices_stream_interleaved(client: OpenAI) -> None:
    order = [
        choice.index
        for chunk in client.chat.completions.create(model=MODEL, messages=user("abcdefgh" * 8), n=3, stream=True)
        for choice in chunk.choices
        if choice.delta.content
    ]
    assert order.index(2) < len(order) - 1 - order[::-1].index(0), "choice 2 began only after choice 0 had ended"


@pytest.mark.parametrize("stream", [False, True])
def test_a_stop_string_ends_the_text_before_it(client: OpenAI, stream: bool) -> None:
    asked: dict[str, Any] = {"model": MODEL, "messages": user("one two three"), "stop": ["thr", "zzz"], "stream": stream}
    answer = client.chat.completions.create(**asked)
    if stream:
        choices = [choice for chunk in answer for choice in chunk.choices]
        text, finish = "".join(c.delta.content or "" for c in choices), choices[-1].finish_reason
    else:
        text, finish = answer.choices[0].message.content, answer.choices[0].finish_reason
    assert (text, finish) == ("one two ", "stop")


def test_completions_take_text_lists_and_tokens(client: OpenAI) -> None:
    def texts(prompt: Any, **options: Any) -> list[str]:
        return [c.text for c in client.completions.create(model=MODEL, prompt=prompt, **options).choices]

    assert texts("abc") == ["abc"]
    assert texts(["abc", "xyz"], n=2, max_tokens=2) == ["ab", "bc", "xy", "yz"]
    assert texts(list(b"hey")) == ["hey"]
    assert texts([list(b"hey"), list(b"you")], echo=True) == ["heyhey", "youyou"]
    assert len(texts("a" * 50)[0]) == 16, "the API's own default of max_tokens"


def test_completions_echo_with_logprobs_scores_the_prompt(client: OpenAI) -> None:
    for stream in (False, True):
        answer = client.completions.create(model=MODEL, prompt="abc", echo=True, logprobs=2, max_tokens=2, stream=stream)
        parts = list(answer) if stream else [answer]
        assert "".join(c.text for p in parts for c in p.choices) == "abcab"
        scores = [c.logprobs for p in parts for c in p.choices if c.logprobs]
        assert [t for s in scores for t in s.tokens] == list("abcab")
        assert [o for s in scores for o in s.text_offset] == [0, 1, 2, 3, 4]
        assert [v for s in scores for v in s.token_logprobs] == [None, -0.5, -0.5, -0.5, -0.5]
        assert [t for s in scores for t in s.top_logprobs][1] == {"b": -0.5, "c": -1.5}


def test_cached_prompt_tokens_are_told(client: OpenAI) -> None:
    for expected in (0, 20):
        answer = client.chat.completions.create(model=MODEL, messages=user("q" * 40))
        assert answer.usage is not None and answer.usage.prompt_tokens_details is not None
        assert answer.usage.prompt_tokens_details.cached_tokens == expected


def test_the_receipt_comes_on_request(client: OpenAI) -> None:
    asked: dict[str, Any] = {"model": MODEL, "messages": user("abc"), "extra_body": {"redline": True}}
    *_, last = client.chat.completions.create(**asked, stream=True)
    assert last.choices == []
    for told in (client.chat.completions.create(**asked).model_extra, last.model_extra):
        assert told is not None and told.keys() == {"redline"}
        receipt = told["redline"]
        assert 0 < receipt.pop("detokenize_s") < 1 and receipt == {"measured_ms": 1.5, "tokens": 4}


def test_models_are_listed_and_found(client: OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [MODEL]
    assert client.models.retrieve(MODEL).model_extra["max_model_len"] == 4096  # type: ignore[index]
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-9")


@pytest.mark.parametrize(
    ("error", "param", "options"),
    [
        (openai.BadRequestError, "temperature", {"temperature": -1}),
        (openai.BadRequestError, "functions", {"functions": [{"name": "f"}]}),
        (openai.BadRequestError, "response_format.type", {"response_format": {"type": "xml"}}),
        (openai.BadRequestError, "best", {"extra_body": {"best": 1}}),
        (openai.BadRequestError, "messages", {"messages": user("x" * 5000)}),
        (openai.NotFoundError, "model", {"model": "gpt-9"}),
        (openai.InternalServerError, "deadline_ms", {"messages": user("x" * 2000), "extra_body": {"deadline_ms": 30}}),
    ],
)
def test_errors_reach_the_client_as_its_own_classes(client: OpenAI, error: type, param: str, options: dict[str, Any]) -> None:
    with pytest.raises(error) as caught:
        client.chat.completions.create(**{"model": MODEL, "messages": user("abc"), **options})
    assert caught.value.param == param and "Traceback" not in caught.value.message


def test_a_deadline_inside_a_stream_is_an_error_event(client: OpenAI) -> None:
    with pytest.raises(openai.APIError, match="deadline") as caught:
        for _ in client.chat.completions.create(
            model=MODEL, messages=user("x" * 2000), stream=True, extra_body={"deadline_ms": 100}
        ):
            pass
    assert caught.value.code == "deadline_exceeded"


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_is_cancelled_in_the_engine(server: Served, stream: bool) -> None:
    before = server.metric("redline_cancelled_total")
    body = {"messages": user("x" * 3000), "n": 2, "stream": stream}
    with httpx2.Client(timeout=10) as http:
        if stream:
            with http.stream("POST", f"{server.url}/v1/chat/completions", json=body) as response:
                next(response.iter_lines())
        else:
            with pytest.raises(httpx2.ReadTimeout):
                http.post(f"{server.url}/v1/chat/completions", json=body, timeout=0.2)
    until(lambda: server.metric("redline_cancelled_total") == before + 2)
    until(lambda: server.metric("redline_requests_running") == 0)


def test_sixty_four_streams_at_once_get_their_own_text(server: Served) -> None:
    async def one(client: AsyncOpenAI, i: int) -> None:
        text = f"request {i} says {'ab' * (i % 7)}"
        stream = await client.chat.completions.create(model=MODEL, messages=user(text), stream=True)
        got = [chunk.choices[0].delta.content or "" async for chunk in stream]
        assert "".join(got) == text

    async def test() -> None:
        async with AsyncOpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0, timeout=20) as client:
            await asyncio.gather(*(one(client, i) for i in range(64)))

    asyncio.run(test())


def test_the_engines_death_ends_streams_and_turns_health_red_until_the_next_one_is_ready() -> None:
    with (
        served(step_s=0.001, die_after=400, load_s=0.5) as server,
        OpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0) as client,
    ):
        assert httpx2.get(f"{server.url}/health").json() == {"status": "ready"}
        with pytest.raises(openai.APIError, match="engine process ended") as caught:
            for _ in client.chat.completions.create(model=MODEL, messages=user("x" * 3000), stream=True):
                pass
        assert caught.value.code == "engine_dead"
        health = httpx2.get(f"{server.url}/health")
        assert health.status_code == 503 and health.json()["status"] == "restarting"
        with pytest.raises(openai.InternalServerError) as refused:
            client.chat.completions.create(model=MODEL, messages=user("abc"))
        assert refused.value.status_code == 503 and int(refused.value.response.headers["retry-after"]) >= 1
        patient = client.with_options(max_retries=5)
        assert patient.chat.completions.create(model=MODEL, messages=user("abc")).choices[0].message.content == "abc"


def test_a_key_protects_everything_but_health_and_a_full_queue_is_429() -> None:
    with served({"api_key": "secret", "served_model_name": "mine"}, step_s=0.001, max_open=1) as server:
        base = f"{server.url}/v1"
        for path in ("/v1/models", "/metrics", "/v1/usage", "/v1/unknown"):
            assert httpx2.get(server.url + path).status_code == 401
        assert httpx2.get(f"{server.url}/health").status_code == 200
        with OpenAI(base_url=base, api_key="Secret", max_retries=0) as client, pytest.raises(openai.AuthenticationError):
            client.models.list()
        with OpenAI(base_url=base, api_key="secret", max_retries=0) as client:
            assert client.chat.completions.create(model="mine", messages=user("abc")).model == "mine"
            with client.chat.completions.create(model=MODEL, messages=user("x" * 3000), stream=True) as stream:
                next(stream)
                with pytest.raises(openai.RateLimitError) as caught:
                    client.chat.completions.create(model="mine", messages=user("abc"))
                assert caught.value.response.headers["retry-after"] == "1"


def test_a_signal_lets_open_streams_end_and_then_the_server() -> None:
    with served(step_s=0.002) as server, OpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0) as client:
        stream = client.chat.completions.create(model=MODEL, messages=user("x" * 300), stream=True)
        next(iter(stream))
        server.process.send_signal(signal.SIGTERM)
        assert len("".join(chunk.choices[0].delta.content or "" for chunk in stream)) == 300
        assert server.process.wait(5) == 0
