"""POST /v1/embeddings: texts or tokens, and for each a vector of the model's last hidden state.

A prompt that does not fit the context is refused with the numbers, never cut. Knows nothing of how vectors are made
(pooling.py). Open `Embeddings.__call__` first.
"""

from __future__ import annotations

import asyncio
import base64
import time

import msgspec
from starlette.types import Receive, Scope, Send

from redline import vectors
from redline.engine.message import EngineInfo
from redline.errors import InvalidRequest, UnsupportedField
from redline.server.connection import send_json, while_connected
from redline.server.embeddings_schema import EmbeddingBody, EmbeddingList, EmbeddingObject
from redline.server.endpoint import Endpoint
from redline.server.pooling import Asked, asked_of, pooled
from redline.server.prompt import listed
from redline.server.schema import body_of
from redline.server.service import Service
from redline.vectors import Vectors

BREATH = 1 << 16  # numbers that are written before others may use the event loop: a few milliseconds


class Embeddings:
    """The endpoint, as an ASGI application."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        arrival = time.monotonic()
        body = await body_of(receive, EmbeddingBody)
        info = self._service.ready()
        size = _size(body.dimensions, info)
        several = isinstance(body.input, list) and not all(isinstance(item, int) for item in body.input)
        prompts = [(f"input[{i}]" if several else "input", of) for i, of in enumerate(listed(body.input, "input"))]
        asked = await asked_of(self._service, scope, body, "embd", arrival, prompts)
        await while_connected(receive, self._answer(body, asked, size, send))

    async def _answer(self, body: EmbeddingBody, asked: Asked, size: int | None, send: Send) -> None:
        done = await pooled(self._service, asked)
        vectors_ND = done.vectors_ND if size is None else vectors.shortened(done.vectors_ND, size)
        if body.normalize is not False:
            vectors_ND = vectors.normalized(vectors_ND)
        data = await _written(vectors_ND, in_base64=body.encoding_format == "base64")
        await send_json(send, {"object": "list", "data": data, "model": asked.call.model, **done.told})


def endpoints(service: Service) -> list[Endpoint]:
    return [
        Endpoint(
            method="POST",
            path="/v1/embeddings",
            handler=Embeddings(service),
            scope="inference",
            summary="A vector for each text.",
            body=EmbeddingBody,
            answer=EmbeddingList,
        )
    ]


def _size(wanted: int | None, info: EngineInfo) -> int | None:
    """How much of each vector is told; None for all of it. Only a model that was trained for it may be cut."""
    if wanted is None or wanted == info.hidden_size:
        return None
    if not 1 <= wanted < info.hidden_size:
        raise InvalidRequest(f"dimensions must be between 1 and {info.hidden_size}, not {wanted}", param="dimensions")
    if not info.matryoshka:
        raise UnsupportedField(
            f"this model's embeddings have {info.hidden_size} dimensions and were not made to be cut",
            hint="leave dimensions out",
            param="dimensions",
        )
    if info.matryoshka_dimensions and wanted not in info.matryoshka_dimensions:
        sizes = ", ".join(map(str, info.matryoshka_dimensions))
        raise InvalidRequest(f"this model's embeddings can have {sizes} dimensions, not {wanted}", param="dimensions")
    return wanted


async def _written(vectors_ND: Vectors, *, in_base64: bool) -> list[msgspec.Raw]:
    """The entries of the answer as JSON, in portions, so that a large one does not hold up everybody else."""
    data, written = [], 0
    for index, vector_D in enumerate(vectors_ND):
        embedding = base64.b64encode(vectors.packed(vector_D)).decode() if in_base64 else vector_D.tolist()
        entry = EmbeddingObject(object="embedding", index=index, embedding=embedding)
        data.append(msgspec.Raw(msgspec.json.encode(entry)))
        written += len(vector_D)
        if written >= BREATH:
            written = 0
            await asyncio.sleep(0)
    return data
