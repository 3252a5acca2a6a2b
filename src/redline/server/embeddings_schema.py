"""Bodies and answers of the endpoints that make vectors: embeddings, score and rerank. Open `PoolingBody` first."""

from __future__ import annotations

from typing import Any, Literal

from redline.server.schema import Int, Record
from redline.types import Pooling


class PoolingBody(Record, frozen=True, kw_only=True):
    """What the three share. A prompt that is too long is refused: nothing is cut in silence, nor on request."""

    model: str | None = None
    user: str | None = None  # accepted: it cannot change the answer

    # Extensions.
    pooling: Pooling | None = None  # the model's own where not given, else the last token's state
    add_special_tokens: bool | None = None
    truncate_prompt_tokens: Any = None
    priority: Int | None = None
    deadline_ms: float | None = None
    cache_salt: str | None = None
    redline: bool | None = None  # answer with the receipts of the prompts

    _unbuilt = {"truncate_prompt_tokens": ()}


class EmbeddingBody(PoolingBody, frozen=True, kw_only=True):
    input: str | list[str | Int | list[Int]]  # one kind of item in a list
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Int | None = None
    normalize: bool | None = None  # extension: length 1, unless false


class ScoreBody(PoolingBody, frozen=True, kw_only=True):
    """As vLLM spells it. One text on the left is held against each on the right; otherwise they are pairs."""

    text_1: str | list[str]
    text_2: str | list[str]


class Document(Record, frozen=True, kw_only=True):
    text: str


class RerankBody(PoolingBody, frozen=True, kw_only=True):
    """As Cohere and Jina spell it."""

    query: str
    documents: list[str | Document]
    top_n: Int | None = None
    return_documents: bool | None = None
    rank_fields: Any = None
    max_chunks_per_doc: Any = None
    max_tokens_per_doc: Any = None
    truncation: bool | None = None

    _unbuilt = {
        **PoolingBody._unbuilt,
        "rank_fields": ([], ["text"]),
        "max_chunks_per_doc": (),
        "max_tokens_per_doc": (),
        "truncation": (False,),
    }


class EmbeddingUsage(Record, frozen=True, kw_only=True):
    prompt_tokens: int
    total_tokens: int
    prompt_tokens_details: dict[str, int]  # cached_tokens


class EmbeddingObject(Record, frozen=True, kw_only=True):
    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingList(Record, frozen=True, kw_only=True):
    object: Literal["list"]
    data: list[EmbeddingObject]
    model: str
    usage: EmbeddingUsage
    redline: Any = None  # the receipt, or a list of them where there were several prompts


class Score(Record, frozen=True, kw_only=True):
    object: Literal["score"]
    index: int
    score: float


class ScoreList(Record, frozen=True, kw_only=True):
    id: str
    object: Literal["list"]
    created: int
    model: str
    data: list[Score]
    usage: EmbeddingUsage
    redline: Any = None  # the receipt, or a list of them where there were several prompts


class RankedDocument(Record, frozen=True, kw_only=True):
    index: int
    relevance_score: float
    document: Document | None = None


class RankedList(Record, frozen=True, kw_only=True):
    id: str
    model: str
    results: list[RankedDocument]
    usage: EmbeddingUsage
    meta: Any
    redline: Any = None  # the receipt, or a list of them where there were several prompts
