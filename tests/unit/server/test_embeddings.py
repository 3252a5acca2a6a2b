"""Embeddings, scores and ranking over the fake engine, whose vectors are known: shapes, arithmetic, refusals, ends."""

from __future__ import annotations

import asyncio
import base64
import math
import struct
from typing import Any

import pytest

from fake_server import MODEL, Live, live
from fake_worker import HIDDEN, vector

Body = dict[str, Any]


def run(body: Body, path: str = "/v1/embeddings", *, status: int = 200, **switches: object) -> Any:
    """One request to a server of its own; its answer."""

    async def test() -> Any:
        async with live(**switches) as server:
            return await ask(server, path, body, status)

    return asyncio.run(test())


async def ask(server: Live, path: str, body: Body, status: int = 200) -> Any:
    response = await server.http.post(path, json=body)
    assert response.status_code == status, response.text
    return response.json()


def raw(text: str, pooling: Any = "last") -> list[float]:
    return list(struct.unpack(f"<{HIDDEN}f", vector(list(text.encode()), pooling)))


def unit(numbers: list[float]) -> list[float]:
    length = math.sqrt(sum(number * number for number in numbers))
    return [number / length for number in numbers]


def cosine(left: str, right: str) -> float:
    return sum(a * b for a, b in zip(unit(raw(left)), unit(raw(right)), strict=True))


def test_the_answer_has_the_apis_shape() -> None:
    answer = run({"model": MODEL, "input": "abc"})
    assert answer == {
        "object": "list",
        "data": [{"object": "embedding", "index": 0, "embedding": pytest.approx(unit(raw("abc")), abs=1e-6)}],
        "model": MODEL,
        "usage": {"prompt_tokens": 3, "total_tokens": 3, "prompt_tokens_details": {"cached_tokens": 0}},
    }


@pytest.mark.parametrize(
    ("given", "texts"),
    [
        ("abc", ["abc"]),
        (["abc", "x"], ["abc", "x"]),
        (list(b"abc"), ["abc"]),
        ([list(b"abc"), list(b"x")], ["abc", "x"]),
        (["é👋"], ["é👋"]),
    ],
)
def test_input_comes_as_text_or_tokens_alone_or_in_lists(given: Any, texts: list[str]) -> None:
    answer = run({"input": given})
    assert [entry["index"] for entry in answer["data"]] == list(range(len(texts)))
    for entry, text in zip(answer["data"], texts, strict=True):
        assert entry["embedding"] == pytest.approx(unit(raw(text)), abs=1e-6)
    assert answer["usage"]["total_tokens"] == sum(len(text.encode()) for text in texts)


def test_base64_holds_the_same_numbers() -> None:
    floats = run({"input": "hello", "encoding_format": "float"})["data"][0]["embedding"]
    packed = run({"input": "hello", "encoding_format": "base64"})["data"][0]["embedding"]
    assert list(struct.unpack(f"<{HIDDEN}f", base64.b64decode(packed, validate=True))) == floats


def test_pooling_and_length_are_the_callers_choice() -> None:
    mean = run({"input": "hello", "pooling": "mean", "normalize": False})["data"][0]["embedding"]
    assert mean == pytest.approx(raw("hello", "mean"), abs=1e-6)
    assert run({"input": "hello", "normalize": False}, pooling="mean")["data"][0]["embedding"] == mean, "the model's own"
    last = run({"input": "hello", "pooling": "last", "normalize": False}, pooling="mean")["data"][0]["embedding"]
    assert last == pytest.approx(raw("hello"), abs=1e-6)


def test_a_vector_is_cut_only_where_the_model_was_made_for_it() -> None:
    cut = run({"input": "hello", "dimensions": 3}, matryoshka=True)["data"][0]["embedding"]
    assert cut == pytest.approx(unit(raw("hello")[:3]), abs=1e-6), "cut first, then at length 1 again"
    assert len(run({"input": "hello", "dimensions": HIDDEN})["data"][0]["embedding"]) == HIDDEN
    refused = run({"input": "hello", "dimensions": 3}, status=400)
    assert (refused["error"]["param"], refused["error"]["code"]) == ("dimensions", "unsupported_field")
    only: Body = {"matryoshka": True, "matryoshka_dimensions": [2, 4]}
    assert len(run({"input": "hello", "dimensions": 4}, **only)["data"][0]["embedding"]) == 4
    assert "2, 4" in run({"input": "hello", "dimensions": 3}, status=400, **only)["error"]["message"]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "input"),
        ({"input": []}, "input"),
        ({"input": ["a", 1]}, "input"),
        ({"input": ["a", [1]]}, "input"),
        ({"input": ["a", ""]}, "input[1]"),
        ({"input": ""}, "input"),
        ({"input": [[1], []]}, "input[1]"),
        ({"input": [[1], [512]]}, "input[1]"),
        ({"input": [-1]}, "input"),
        ({"input": ["a"] * 2049}, "input"),
        ({"input": ["ok", "x" * 4097]}, "input[1]"),
        ({"input": [7] * 4097}, "input"),
        ({"input": "a", "dimensions": 0}, "dimensions"),
        ({"input": "a", "dimensions": 99}, "dimensions"),
        ({"input": "a", "encoding_format": "int8"}, "encoding_format"),
        ({"input": "a", "pooling": "max"}, "pooling"),
        ({"input": "a", "truncate_prompt_tokens": 5}, "truncate_prompt_tokens"),
        ({"input": "a", "stream": True}, "stream"),
        ({"input": "a", "cache_salt": "x" * 257}, "cache_salt"),
        ({"input": "a", "deadline_ms": 0}, "deadline_ms"),
    ],
)
def test_what_cannot_be_embedded_is_refused_by_name(body: Body, param: str) -> None:
    assert run(body, status=400)["error"]["param"] == param


def test_a_model_that_pools_in_a_way_of_its_own_says_so() -> None:
    error = run({"input": "a"}, status=400, pooling="cls")["error"]
    assert error["param"] == "pooling" and "cls" in error["message"]
    assert run({"input": "a", "pooling": "last"}, pooling="cls")["data"]


def test_a_prompt_may_fill_the_whole_context() -> None:
    assert run({"input": "x" * 4096})["usage"]["prompt_tokens"] == 4096


def test_as_many_texts_as_may_wait_go_in_one_call_and_come_back_in_order() -> None:
    """Some of them equal. More could never be let in, whenever they came."""
    texts = [f"text {i % 700}" for i in range(1024)]
    answer = run({"input": texts, "encoding_format": "base64"})
    found = [entry["embedding"] for entry in answer["data"]]
    for i in (0, 1, 699, 700, 1023):
        numbers = struct.unpack(f"<{HIDDEN}f", base64.b64decode(found[i]))
        assert numbers == pytest.approx(unit(raw(texts[i])), abs=1e-6)
    assert found[:324] == found[700:] and answer["usage"]["prompt_tokens"] == sum(map(len, texts))
    assert run({"input": ["a"] * 1025}, status=400)["error"]["param"] == "input"


def test_the_receipt_comes_on_request() -> None:
    receipt = run({"input": "abc", "redline": True})["redline"]
    assert (receipt["measured_ms"], receipt["tokens"]) == (1.5, 0)
    assert len(run({"input": ["abc", "d"], "redline": True})["redline"]) == 2


def test_the_salt_the_priority_and_the_deadline_reach_the_engine() -> None:
    async def test() -> None:
        async with live(step_s=0.01) as server:
            seen: list[Any] = []
            submit = server.engine.submit
            server.engine.submit = lambda *requests: seen.extend(requests) or submit(*requests)  # type: ignore[method-assign,func-returns-value]
            await ask(server, "/v1/embeddings", {"input": ["a", "b"], "cache_salt": "s", "priority": 3, "deadline_ms": 9000})
            assert [(r.prompt, r.pooling, r.cache_salt, r.priority) for r in seen] == [
                ([97], "last", "s", 3),
                ([98], "last", "s", 3),
            ]
            assert all(0 < request.deadline - request.arrival <= 9.0 for request in seen)
            late = await ask(server, "/v1/embeddings", {"input": "x" * 4000, "deadline_ms": 30}, 504)
            assert late["error"]["code"] == "deadline_exceeded"

    asyncio.run(test())


def test_a_client_that_leaves_cancels_every_prompt_of_its_call() -> None:
    async def test() -> None:
        async with live(step_s=0.01) as server:
            task = asyncio.create_task(server.http.post("/v1/embeddings", json={"input": ["x" * 4000] * 5}))
            await asyncio.sleep(0.1)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            for _ in range(200):
                if server.engine.stats.more.get("cancelled") == 5:
                    break
                await asyncio.sleep(0.01)
            assert server.engine.stats.more["cancelled"] == 5 and server.engine.open_requests == 0

    asyncio.run(test())


def test_an_engine_that_refuses_one_prompt_ends_the_call_once() -> None:
    error = run({"input": ["x" * 500] * 4}, status=429, max_open=2, step_s=0.01)["error"]
    assert error["code"] == "overloaded"


def test_scores_are_cosines_of_pairs() -> None:
    answer = run({"model": MODEL, "text_1": "abc", "text_2": ["abc", "xyz"]}, "/v1/score")
    assert answer["object"] == "list" and answer["id"].startswith("score-") and answer["model"] == MODEL
    assert [entry["index"] for entry in answer["data"]] == [0, 1] and answer["data"][0]["object"] == "score"
    assert [entry["score"] for entry in answer["data"]] == pytest.approx([1.0, cosine("abc", "xyz")], abs=1e-6)
    assert answer["usage"]["prompt_tokens"] == 9
    pairs = run({"text_1": ["a", "b"], "text_2": ["c", "b"]}, "/score")["data"]
    assert [entry["score"] for entry in pairs] == pytest.approx([cosine("a", "c"), 1.0], abs=1e-6)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"text_1": "a"}, "text_2"),
        ({"text_1": "a", "text_2": []}, "text_2"),
        ({"text_1": ["a", "b"], "text_2": ["c"]}, "text_1"),
        ({"text_1": "a", "text_2": ["b", ""]}, "text_2[1]"),
        ({"text_1": "a", "text_2": ["b"] * 2048}, "text_1"),
    ],
)
def test_pairs_that_are_none_are_refused_by_name(body: Body, param: str) -> None:
    assert run(body, "/v1/score", status=400)["error"]["param"] == param


DOCUMENTS = ["one", {"text": "two"}, "three", "query"]


def ranked(query: str = "query") -> list[int]:
    texts = [of if isinstance(of, str) else of["text"] for of in DOCUMENTS]
    return sorted(range(len(texts)), key=lambda index: -cosine(query, texts[index]))


@pytest.mark.parametrize("path", ["/v1/rerank", "/rerank", "/v2/rerank"])
def test_documents_come_in_the_order_of_their_nearness(path: str) -> None:
    answer = run({"model": MODEL, "query": "query", "documents": DOCUMENTS}, path)
    results = answer["results"]
    assert [entry["index"] for entry in results] == ranked() and results[0]["index"] == 3
    assert results[0]["relevance_score"] == pytest.approx(1.0, abs=1e-6)
    scores = [entry["relevance_score"] for entry in results]
    assert scores == sorted(scores, reverse=True)
    if path == "/v2/rerank":
        assert all("document" not in entry for entry in results)
    else:
        assert results[0]["document"] == {"text": "query"}
    assert answer["meta"]["api_version"]["version"] == ("2" if path == "/v2/rerank" else "1")


def test_the_first_documents_alone_and_without_their_text() -> None:
    answer = run({"query": "query", "documents": DOCUMENTS, "top_n": 2, "return_documents": False}, "/v1/rerank")
    assert [set(entry) for entry in answer["results"]] == [{"index", "relevance_score"}] * 2
    assert len(run({"query": "q", "documents": ["a"], "top_n": 5}, "/v1/rerank")["results"]) == 1


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"documents": []}, "documents"),
        ({"documents": ["a", ""]}, "documents[1]"),
        ({"query": ""}, "query"),
        ({"top_n": 0}, "top_n"),
        ({"max_tokens_per_doc": 100}, "max_tokens_per_doc"),
        ({"documents": [{"title": "a"}]}, "documents[0].title"),
        ({"documents": ["a"] * 2048}, "documents"),
    ],
)
def test_a_ranking_that_cannot_be_is_refused_by_name(more: Body, param: str) -> None:
    assert run({"query": "q", "documents": ["a"], **more}, "/v1/rerank", status=400)["error"]["param"] == param
