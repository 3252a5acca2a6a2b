"""Embeddings of a real engine through the real `openai` client, against the offline door and against transformers."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import httpx2
import numpy as np
import openai
import pytest
import torch
import transformers
from openai import OpenAI

from real_server import MODEL, RealServer, real_server, until
from redline import LLM, checkpoint
from redline.kernels.tolerance import check
from redline.models.load import load
from redline.models.registry import build
from redline.types import Pooling

OPTIONS = {"dtype": "float32", "max_model_len": 256, "num_pages": 64, "page_size": 8, "max_num_batched_tokens": 48}
TEXTS = ["Hello", "Grüße, 世界 👋", "one two three " * 12, "x", "Hello"]


@pytest.fixture(scope="module")
def server() -> Iterator[RealServer]:
    """Long prompts are computed in chunks: a step takes 48 tokens."""
    flags = [word for name, value in OPTIONS.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    with real_server(*flags, "--max-num-seqs", "16") as running:
        yield running


@pytest.fixture(scope="module")
def client(server: RealServer) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0, timeout=30) as client:
        yield client


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    with LLM(MODEL, num_threads=1, receipts=False, **OPTIONS) as llm:
        yield llm


@pytest.fixture(scope="module")
def reference() -> Any:
    """The model's weights in a transformers model."""
    opened = checkpoint.open(MODEL)
    shape = opened.shape
    ours = build(shape, torch.float32, "cpu", max_len=256)
    load(ours, opened)
    config = transformers.LlamaConfig(
        vocab_size=shape.vocab_size,
        hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size,
        num_hidden_layers=shape.num_layers,
        num_attention_heads=shape.num_heads,
        num_key_value_heads=shape.num_kv_heads,
        head_dim=shape.head_size,
        rms_norm_eps=shape.norm_eps,
        rope_parameters={"rope_type": "default", "rope_theta": shape.rope.theta},
        tie_word_embeddings=shape.tie_embeddings,
    )
    model = transformers.LlamaForCausalLM(config).eval()
    missing, unexpected = model.load_state_dict({name: slot.target.clone() for name, slot in ours.slots()}, strict=False)
    assert not unexpected and set(missing) <= {"lm_head.weight"}
    return model.model


def expected(reference: Any, tokens: list[int], pooling: Pooling) -> torch.Tensor:
    with torch.inference_mode():
        hidden_TD = reference(torch.tensor([tokens])).last_hidden_state[0]
    vector = hidden_TD[-1] if pooling == "last" else hidden_TD.mean(0)
    return vector / vector.norm()


def prompts() -> list[list[int]]:
    draw = random.Random(5)
    return [[draw.randrange(256) for _ in range(size)] for size in (1, 7, 8, 9, 100, 256)]


@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_the_openai_client_and_the_offline_door_agree_with_transformers(
    client: OpenAI, llm: LLM, reference: Any, pooling: Pooling
) -> None:
    """As floats, as the base64 that the client asks for by itself, and from another process; the longest fills the context."""
    asked = prompts()
    offline = llm.embed(asked, pooling=pooling)
    extra = {"pooling": pooling}
    floats = client.embeddings.create(model=MODEL, input=asked, encoding_format="float", extra_body=extra)
    packed = client.embeddings.create(model=MODEL, input=asked, extra_body=extra)
    assert [entry.index for entry in floats.data] == list(range(len(asked)))
    for i, tokens in enumerate(asked):
        want = expected(reference, tokens, pooling)
        for name, got in (("offline", offline[i]), ("float", floats.data[i].embedding), ("base64", packed.data[i].embedding)):
            check(f"{name} {len(tokens)}", want, torch.tensor(got), "model", "f32")
    assert floats.usage.prompt_tokens == floats.usage.total_tokens == sum(map(len, asked))


def test_texts_are_the_tokens_they_are_made_of(client: OpenAI) -> None:
    def found(given: Any) -> np.ndarray:
        return np.array([entry.embedding for entry in client.embeddings.create(model=MODEL, input=given).data])

    together = found(TEXTS)
    alone = np.concatenate([found(text) for text in TEXTS])
    tokens = found([list(text.encode()) for text in TEXTS])
    assert together == pytest.approx(alone, abs=1e-5) and tokens == pytest.approx(alone, abs=1e-5)
    assert np.linalg.norm(together, axis=1) == pytest.approx(1.0, abs=1e-6)
    assert found(list(TEXTS[0].encode())) == pytest.approx(alone[:1], abs=1e-5)


def test_vectors_and_answers_share_the_engine_and_its_cache(client: OpenAI, server: RealServer) -> None:
    """A prefix that a chat computed is found by an embedding, and by a mean never; nothing is held afterwards."""
    text = "The same beginning of a text, again and again. " * 4
    client.completions.create(model=MODEL, prompt=text, max_tokens=4, temperature=0)
    last = client.embeddings.create(model=MODEL, input=text + "?")
    mean = client.embeddings.create(model=MODEL, input=text + "?", extra_body={"pooling": "mean"})
    assert last.usage.model_extra is not None and mean.usage.model_extra is not None
    assert last.usage.model_extra["prompt_tokens_details"]["cached_tokens"] >= len(text) - 8
    assert mean.usage.model_extra["prompt_tokens_details"]["cached_tokens"] == 0
    salted = client.embeddings.create(model=MODEL, input=text + "?", extra_body={"cache_salt": "another"})
    assert salted.usage.model_extra is not None and salted.usage.model_extra["prompt_tokens_details"]["cached_tokens"] == 0
    assert salted.data[0].embedding == pytest.approx(last.data[0].embedding, abs=1e-4)
    until(lambda: server.metric("redline_kv_usage_ratio") == 0)


def test_hundreds_of_texts_in_one_call(client: OpenAI) -> None:
    texts = [f"number {i}" for i in range(300)]
    answer = client.embeddings.create(model=MODEL, input=texts)
    assert len(answer.data) == 300 and answer.usage.prompt_tokens == sum(map(len, texts))
    alone = client.embeddings.create(model=MODEL, input=texts[123]).data[0].embedding
    assert answer.data[123].embedding == pytest.approx(alone, abs=1e-5)


def test_scores_and_ranking_are_the_cosines_of_the_embeddings(server: RealServer, llm: LLM) -> None:
    vectors = llm.embed(TEXTS)
    cosines = vectors[1:] @ vectors[0]
    body = {"text_1": TEXTS[0], "text_2": TEXTS[1:]}
    scores = [entry["score"] for entry in httpx2.post(f"{server.url}/v1/score", json=body).json()["data"]]
    assert scores == pytest.approx(cosines.tolist(), abs=1e-5)
    body = {"query": TEXTS[0], "documents": TEXTS[1:], "top_n": 2}
    results = httpx2.post(f"{server.url}/v1/rerank", json=body).json()["results"]
    assert [entry["index"] for entry in results] == np.argsort(-cosines)[:2].tolist() and results[0]["index"] == 3


@pytest.mark.parametrize(
    ("more", "param"), [({"dimensions": 7}, "dimensions"), ({"input": "x" * 257}, "input"), ({"input": ["a", ""]}, "input[1]")]
)
def test_refusals_reach_the_client_as_its_own_errors(client: OpenAI, more: dict[str, Any], param: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.embeddings.create(**{"model": MODEL, "input": "a", **more})
    assert caught.value.param == param
