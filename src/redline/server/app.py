"""The application: its routes, and the layers every request passes, outermost first. Open `build`; it is all of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.routing import Route
from starlette.types import ExceptionHandler

from redline.config import ServerConfig
from redline.engine.supervisor import Supervisor
from redline.errors import ConfigError, RedlineError
from redline.server import (
    batches,
    chat,
    completions,
    embeddings,
    failures,
    files,
    health,
    messages,
    models,
    openapi,
    page,
    plan,
    receipts,
    responses,
    scores,
    status,
    tokenize,
    usage_report,
)
from redline.server.access import Access
from redline.server.auth import Auth, Guard, KeyCheck
from redline.server.connection import ClientGone
from redline.server.cors import Cors, origins_of
from redline.server.endpoint import Endpoint
from redline.server.limits import BodyLimit, BudgetHeaders
from redline.server.metrics import Metrics
from redline.server.service import Service
from redline.server.tracing import Tracing

if TYPE_CHECKING:
    from redline.chat.template import ChatTemplate
    from redline.tokenizer import Tokenizer


FAMILIES = (
    chat,
    completions,
    responses,
    messages,
    embeddings,
    scores,
    files,
    batches,
    tokenize,
    models,
    receipts,
    plan,
    usage_report,
    health,
    status,
    page,
)
"""The files that have endpoints; the order matters where two paths match."""


def build(client: Supervisor, tokenizer: Tokenizer, template: ChatTemplate, config: ServerConfig) -> Starlette:
    """The server over one supervised engine, which may still be loading; who made the client starts and closes it,
    and closes `app.state.service` after it.

    Raises ConfigError for an empty API key, an origin that is none, or tracing without its libraries.
    """
    if config.api_key == "":
        raise ConfigError("the API key is empty", hint="give one, or leave --api-key out", param="api_key")
    name = config.served_model_name or client.config.model.model
    origins = origins_of(config.cors_origin)
    tracing = None if config.otlp_endpoint is None else Tracing.to(config.otlp_endpoint, name)
    service = Service(
        client=client,
        tokenizer=tokenizer,
        template=template,
        metrics=Metrics(client, name),
        served_name=name,
        config=config,
        traced=tracing,
        state_dir=None if config.state_dir is None else Path(config.state_dir),
    )
    if tracing is not None:
        service.at_close(tracing.close)
    endpoints = [each for family in FAMILIES for each in family.endpoints(service)]
    endpoints += openapi.endpoints(endpoints)
    return assemble(service, endpoints, KeyCheck(service.keys, config.api_key), origins)


def assemble(
    service: Service, endpoints: Sequence[Endpoint], gate: KeyCheck, origins: frozenset[bytes] = frozenset()
) -> Starlette:
    """An application of `endpoints` behind `gate`, which pages of `origins` may ask too."""
    names = frozenset({service.served_name, service.client.config.model.model})
    routes = [
        Route(each.path, Guard(each, names if each.scope == "inference" else None), methods=[each.method]) for each in endpoints
    ]
    larger = {each.path: each.max_body_bytes for each in endpoints if each.max_body_bytes is not None}
    layers = [
        Middleware(
            Access,
            metrics=service.metrics,
            lenient=service.config.unknown_fields == "warn",
            traced=service.traced,
            audited=None if service.audit is None else service.audit.add,
        ),
        *([Middleware(Cors, origins=origins)] if origins else []),
        Middleware(Auth, gate=gate, routes=routes),
        Middleware(BudgetHeaders, accounts=service.accounts),
        Middleware(BodyLimit, larger=larger),
    ]
    handlers: dict[type[Exception], ExceptionHandler] = {
        RedlineError: failures.on_redline_error,
        HTTPException: failures.on_http_exception,
        ClientGone: failures.on_client_gone,
        Exception: failures.on_bug,
    }
    app = Starlette(routes=routes, middleware=layers, exception_handlers=handlers)
    app.state.service = service
    app.router.redirect_slashes = False  # a redirect would repeat whatever host the caller wrote
    return app
