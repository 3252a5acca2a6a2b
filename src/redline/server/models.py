"""GET /v1/models and /v1/models/{model}: what is served, what it can do, and where its limits are.

What is told is what holds: a field that nobody knows is null, not a guess. Open `Models.every`.
"""

from __future__ import annotations

import asyncio
from typing import Literal

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from redline.chat.formats import Format
from redline.engine.message import EngineInfo
from redline.errors import NotFound
from redline.server.batches import MAX_WINDOW_S
from redline.server.caller import caller_of
from redline.server.endpoint import Endpoint
from redline.server.limits import MAX_BODY_BYTES
from redline.server.schema import Record, quoted
from redline.server.service import Service
from redline.types import MAX_CHOICES, MAX_LOGIT_BIAS, MAX_LOGPROBS, MAX_STOPS


class Capabilities(Record, frozen=True, kw_only=True):
    completions: bool
    chat: bool  # the model has a chat template
    tools: str | None  # how it writes calls; null: it cannot be given any
    reasoning: bool  # told apart from the answer, as reasoning_content
    structured_output: bool
    embeddings: bool
    embedding_size: int | None
    embedding_pooling: str | None  # as its makers pool, if they say
    vision: bool
    audio: bool


class ModelLimits(Record, frozen=True, kw_only=True):
    """Of one request, and of all that are here together. null: the engine decides from what its memory holds."""

    context_tokens: int
    max_choices: int
    max_logprobs: int
    max_logit_bias: int
    max_stop_strings: int
    max_body_bytes: int
    max_batch_window_s: int
    running_sequences: int
    queued_requests: int
    queued_tokens: int | None
    queued_s: float


class Model(Record, frozen=True, kw_only=True):
    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str
    root: str
    parent: str | None = None
    max_model_len: int
    vocab_size: int
    format: str  # of the weights in the file
    dtype: str  # of weights and activations in memory
    stored_dtype: str
    device: str
    weight_bytes: int
    kv_bytes: int
    adapters: list[str]
    limits: ModelLimits
    capabilities: Capabilities


class ModelList(Record, frozen=True, kw_only=True):
    object: Literal["list"] = "list"
    data: list[Model]


class Models:
    """Both endpoints. A key that may not ask the model does not see it."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._names = frozenset({service.served_name, service.client.config.model.model})

    async def every(self, request: Request) -> Response:
        allowed = caller_of(request.scope).models
        seen = allowed is None or bool(allowed & self._names)
        return _json(ModelList(data=[await self._model()] if seen else []))

    async def one(self, request: Request) -> Response:
        allowed = caller_of(request.scope).models
        name = request.path_params["model"]
        self._service.check_model(name)
        if allowed is not None and not allowed & self._names:
            raise NotFound(f"there is no model {quoted(name)} here", param="model")
        return _json(await self._model())

    async def _model(self) -> Model:
        service = self._service
        info = service.ready()
        format = service.dialect.format if service.dialect.is_known else await asyncio.to_thread(lambda: service.dialect.format)
        return Model(
            id=service.served_name,
            created=service.started,
            owned_by="redline",
            root=info.model,
            max_model_len=info.max_model_len,
            vocab_size=info.vocab_size,
            format=info.stored_dtype or info.dtype,
            dtype=info.dtype,
            stored_dtype=info.stored_dtype,
            device=info.device,
            weight_bytes=info.weight_bytes,
            kv_bytes=info.kv_bytes,
            adapters=[],
            limits=self._limits(info),
            capabilities=self._capabilities(info, format),
        )

    def _limits(self, info: EngineInfo) -> ModelLimits:
        scheduler = self._service.client.config.scheduler
        return ModelLimits(
            context_tokens=info.max_model_len,
            max_choices=MAX_CHOICES,
            max_logprobs=MAX_LOGPROBS,
            max_logit_bias=MAX_LOGIT_BIAS,
            max_stop_strings=MAX_STOPS,
            max_body_bytes=MAX_BODY_BYTES,
            max_batch_window_s=MAX_WINDOW_S,
            running_sequences=info.max_num_seqs,
            queued_requests=scheduler.max_queued_requests,
            queued_tokens=scheduler.max_queued_tokens,
            queued_s=scheduler.max_queue_s,
        )

    def _capabilities(self, info: EngineInfo, format: Format) -> Capabilities:
        chats = not self._service.template.is_missing
        return Capabilities(
            completions=True,
            chat=chats,
            tools=format.tools.name if chats and format.tools is not None else None,
            reasoning=chats and format.reasoning is not None,
            structured_output=True,
            embeddings=info.hidden_size > 0,
            embedding_size=info.hidden_size or None,
            embedding_pooling=info.pooling,
            vision=False,
            audio=False,
        )


def endpoints(service: Service) -> list[Endpoint]:
    models = Models(service)
    one = "/v1/models/{model:path}"
    return [
        Endpoint(
            method="GET", path="/v1/models", handler=models.every, scope="read", summary="What is served.", answer=ModelList
        ),
        Endpoint(method="GET", path=one, handler=models.one, scope="read", summary="One model.", answer=Model),
    ]


def _json(body: object) -> Response:
    return Response(msgspec.json.encode(body), media_type="application/json")
