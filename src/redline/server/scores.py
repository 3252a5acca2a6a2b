"""POST /v1/score and /v1/rerank: how near texts are to each other, as the cosine of their embeddings.

That is what a bi-encoder says: each text is embedded for itself, so a score is between -1 and 1, and only as good as the
model's embeddings. Paths and shapes are vLLM's for scores, Cohere's and Jina's for ranking. Open `Score` and `Rerank`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from starlette.types import Receive, Scope, Send

from redline import vectors
from redline.errors import InvalidRequest
from redline.server.connection import send_json, while_connected
from redline.server.embeddings_schema import Document, RankedList, RerankBody, ScoreBody, ScoreList
from redline.server.endpoint import Endpoint
from redline.server.pooling import Asked, asked_of, pooled
from redline.server.prompt import Prompt
from redline.server.reply import Json
from redline.server.schema import body_of
from redline.server.service import Service

SECOND = "/v2/"  # of Cohere's API: documents come back only where they are asked for


class Score:
    """The endpoint of pairs, as an ASGI application."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        arrival = time.monotonic()
        body = await body_of(receive, ScoreBody)
        left, right = _named("text_1", body.text_1), _named("text_2", body.text_2)
        if not right:
            raise InvalidRequest("text_2 is empty", param="text_2")
        if len(left) not in (1, len(right)):
            raise InvalidRequest(
                f"text_1 has {len(left)} texts and text_2 {len(right)}",
                hint="send one text_1 for all, or as many as there are in text_2",
                param="text_1",
            )
        asked = await asked_of(self._service, scope, body, "score", arrival, [*left, *right])
        await while_connected(receive, self._answer(asked, len(left), send))

    async def _answer(self, asked: Asked, num_left: int, send: Send) -> None:
        done = await pooled(self._service, asked)
        cosines = vectors.cosines(done.vectors_ND[:num_left], done.vectors_ND[num_left:])
        data = [{"index": index, "object": "score", "score": cosine} for index, cosine in enumerate(cosines)]
        await send_json(send, {**asked.call.head("list"), "data": data, **done.told})


class Rerank:
    """The endpoint of one query and its documents, as an ASGI application."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        arrival = time.monotonic()
        body = await body_of(receive, RerankBody)
        if body.top_n is not None and body.top_n < 1:
            raise InvalidRequest(f"top_n must be at least 1, not {body.top_n}", param="top_n")
        texts = [of.text if isinstance(of, Document) else of for of in body.documents]
        if not texts:
            raise InvalidRequest("documents is empty", param="documents")
        asked = await asked_of(
            self._service, scope, body, "rerank", arrival, [*_named("documents", texts), ("query", body.query)]
        )
        is_second = scope["path"].startswith(SECOND)
        with_text = not is_second if body.return_documents is None else body.return_documents
        head: Json = {"id": f"{asked.call.prefix}-{asked.call.id}", "model": asked.call.model}
        head["meta"] = {"api_version": {"version": "2" if is_second else "1"}, "billed_units": {"search_units": 1}}
        await while_connected(receive, self._answer(head, asked, texts if with_text else None, body.top_n, send))

    async def _answer(self, head: Json, asked: Asked, texts: list[str] | None, top_n: int | None, send: Send) -> None:
        done = await pooled(self._service, asked)
        cosines = vectors.cosines(done.vectors_ND[-1:], done.vectors_ND[:-1])
        order = sorted(range(len(cosines)), key=lambda index: -cosines[index])[:top_n]
        results: list[Json] = [{"index": index, "relevance_score": cosines[index]} for index in order]
        if texts is not None:
            for entry in results:
                entry["document"] = {"text": texts[entry["index"]]}
        await send_json(send, {**head, "results": results, **done.told})


def endpoints(service: Service) -> list[Endpoint]:
    score, rerank = Score(service), Rerank(service)
    scoring = [
        Endpoint(
            method="POST",
            path=f"{prefix}/score",
            handler=score,
            scope="inference",
            summary="The cosine of the embeddings of pairs of texts.",
            body=ScoreBody,
            answer=ScoreList,
        )
        for prefix in ("/v1", "")
    ]
    ranking = [
        Endpoint(
            method="POST",
            path=f"{prefix}/rerank",
            handler=rerank,
            scope="inference",
            summary="Documents in the order of their nearness to a query, by the cosine of their embeddings.",
            body=RerankBody,
            answer=RankedList,
        )
        for prefix in ("/v1", "", "/v2")
    ]
    return scoring + ranking


def _named(name: str, texts: str | Sequence[str]) -> list[tuple[str, Prompt]]:
    """Texts with the names of their fields, for errors."""
    return [(name, texts)] if isinstance(texts, str) else [(f"{name}[{i}]", text) for i, text in enumerate(texts)]
