"""Log-probabilities in the shapes of the two APIs. Knows nothing of requests. Open `chat_logprobs` first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from redline.types import TokenLogprob

Json = dict[str, Any]


class Spelling(Protocol):
    """The part of a tokenizer that spells single tokens."""

    def token_text(self, id_: int) -> str: ...
    def token_bytes(self, id_: int) -> bytes: ...


def chat_logprobs(entries: Sequence[TokenLogprob], spelling: Spelling) -> Json:
    """{"content": [{"token", "logprob", "bytes", "top_logprobs"}], "refusal": null}."""

    def told(token: int, logprob: float) -> Json:
        return {"token": spelling.token_text(token), "logprob": logprob, "bytes": list(spelling.token_bytes(token))}

    content = [{**told(e.token, e.logprob), "top_logprobs": [told(token, value) for token, value in e.top]} for e in entries]
    return {"content": content, "refusal": None}


def completion_logprobs(entries: Sequence[TokenLogprob | None], tokens: Sequence[int], offset: int, spelling: Spelling) -> Json:
    """{"tokens", "token_logprobs", "top_logprobs", "text_offset"}: one item per token, the first of them at `offset`.

    An entry is None for the first token of a prompt. The chosen token is always among the top ones.
    """
    texts = [spelling.token_text(token) for token in tokens]
    offsets = []
    for text in texts:
        offsets.append(offset)
        offset += len(text)
    return {
        "tokens": texts,
        "token_logprobs": [None if entry is None else entry.logprob for entry in entries],
        "top_logprobs": [None if entry is None else _by_text(entry, spelling) for entry in entries],
        "text_offset": offsets,
    }


def prompt_logprobs(entries: Sequence[TokenLogprob | None], spelling: Spelling) -> list[Json | None]:
    """An extension: per prompt token the chosen one and the best, by token id; None for the first."""
    return [None if entry is None else _by_id(entry, spelling) for entry in entries]


def _all(entry: TokenLogprob) -> list[tuple[int, float]]:
    return [*entry.top, *([] if any(token == entry.token for token, _ in entry.top) else [(entry.token, entry.logprob)])]


def _by_text(entry: TokenLogprob, spelling: Spelling) -> dict[str, float]:
    """Two tokens may read alike: the likelier one, which comes first, stays."""
    told: dict[str, float] = {}
    for token, value in _all(entry):
        told.setdefault(spelling.token_text(token), value)
    return told


def _by_id(entry: TokenLogprob, spelling: Spelling) -> Json:
    return {str(token): {"logprob": value, "decoded_token": spelling.token_text(token)} for token, value in _all(entry)}
