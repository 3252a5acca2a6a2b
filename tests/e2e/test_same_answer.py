"""The same greedy request has the same answer offline and over HTTP, streamed and not, up to the first near tie."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest
from openai import OpenAI

from near_ties import GREEDY, MARGIN, sure
from real_server import MODEL, real_server
from redline import LLM
from redline.checkpoint.opener import tokenizer_for
from redline.llm import Choice

ASKED: dict[str, Any] = {"model": MODEL, "temperature": 0.0, "max_tokens": GREEDY.max_tokens, "extra_body": {"ignore_eos": True}}
CHATS = ("Hello", "Grüße, 世界 👋", "one two three " * 8)
OPTIONS = {"dtype": "float32", "max_model_len": 256, "num_pages": 128}

Answer = tuple[str, list[str], list[float]]
"""Text, spelled tokens, and their log-probabilities."""


@pytest.fixture(scope="module")
def client() -> Iterator[OpenAI]:
    flags = [word for name, value in OPTIONS.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    with real_server(*flags) as server, OpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0, timeout=30) as client:
        yield client


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    with LLM(MODEL, num_threads=1, receipts=False, **OPTIONS) as llm:
        yield llm


def prompts() -> list[list[int]]:
    draw = random.Random(7)
    return [[draw.randrange(256) for _ in range(draw.randrange(1, 90))] for _ in range(6)]


def agrees(llm: LLM, offline: Choice, online: Answer) -> int:
    """Check that both are one answer as far as it is sure; returns how many tokens that is."""
    text, tokens, scores = online
    tokenizer = tokenizer_for(llm.checkpoint, None)
    length = sure(offline)
    assert offline.logprobs is not None and len(tokens) == len(scores) == GREEDY.max_tokens
    assert tokens[:length] == [tokenizer.token_text(token) for token in offline.tokens[:length]]
    assert scores[:length] == pytest.approx([scored.logprob for scored in offline.logprobs[:length]], abs=MARGIN)
    if length == len(offline.tokens):
        assert text == offline.text
    return length


def completed(client: OpenAI, asked: list[list[int]], stream: bool) -> list[Answer]:
    answers: list[Answer] = [("", [], []) for _ in asked]
    reply = client.completions.create(**ASKED, prompt=asked, logprobs=2, stream=stream)  # type: ignore[call-overload]
    for part in reply if stream else [reply]:
        for choice in part.choices:
            text, tokens, scores = answers[choice.index]
            told = choice.logprobs
            answers[choice.index] = text + choice.text, tokens + told.tokens, scores + told.token_logprobs
    return answers


def chatted(client: OpenAI, text: str, stream: bool) -> Answer:
    messages: Any = [{"role": "user", "content": text}]
    reply: Any = client.chat.completions.create(**ASKED, messages=messages, logprobs=True, top_logprobs=2, stream=stream)
    parts = [
        (choice.delta if stream else choice.message, choice) for part in (reply if stream else [reply]) for choice in part.choices
    ]
    scored = [entry for _, choice in parts if choice.logprobs for entry in choice.logprobs.content]
    whole = "".join(said.content or "" for said, _ in parts)
    return whole, [entry.token for entry in scored], [entry.logprob for entry in scored]


@pytest.mark.parametrize("stream", [False, True])
def test_completions_offline_and_over_http(llm: LLM, client: OpenAI, stream: bool) -> None:
    asked = prompts()
    offline = [done.choices[0] for done in llm.generate(asked, GREEDY)]
    compared = [agrees(llm, one, other) for one, other in zip(offline, completed(client, asked, stream), strict=True)]
    assert sum(compared) > 8 * len(asked), "near ties made the comparison empty"


@pytest.mark.parametrize("stream", [False, True])
def test_chats_offline_and_over_http(llm: LLM, client: OpenAI, stream: bool) -> None:
    compared = [
        agrees(llm, llm.chat([{"role": "user", "content": text}], GREEDY).choices[0], chatted(client, text, stream))
        for text in CHATS
    ]
    assert sum(compared) > 8 * len(CHATS), "near ties made the comparison empty"
