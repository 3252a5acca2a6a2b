"""The application: its routes, and the layers every request passes, outermost first. Open `build`; it is all of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.routing import Route
from starlette.types import ExceptionHandler

from redline.config import ServerConfig
from redline.engine.client import EngineClient
from redline.errors import ConfigError, RedlineError
from redline.server import chat, completions, failures, health, models
from redline.server.auth import Auth
from redline.server.connection import ClientGone
from redline.server.limits import BodyLimit
from redline.server.metrics import Metrics
from redline.server.service import Service

if TYPE_CHECKING:
    from redline.chat.template import ChatTemplate
    from redline.tokenizer import Tokenizer


FAMILIES = (chat, completions, models, health)
"""The files that have endpoints; the order matters where two paths match."""


def build(client: EngineClient, tokenizer: Tokenizer, template: ChatTemplate, config: ServerConfig) -> Starlette:
    """The server over one engine client, which may still be loading; who made the client starts and closes it.

    Raises ConfigError for an empty API key.
    """
    if config.api_key == "":
        raise ConfigError("the API key is empty", hint="give one, or leave --api-key out", param="api_key")
    name = config.served_model_name or client.config.model.model
    service = Service(client=client, tokenizer=tokenizer, template=template, metrics=Metrics(client, name), served_name=name)
    routes = [Route(each.path, each.handler, methods=[each.method]) for family in FAMILIES for each in family.endpoints(service)]
    layers = [
        Middleware(Auth, key=config.api_key),
        Middleware(BodyLimit),
    ]
    handlers: dict[type[Exception], ExceptionHandler] = {
        RedlineError: failures.on_redline_error,
        HTTPException: failures.on_http_exception,
        ClientGone: failures.on_client_gone,
        Exception: failures.on_bug,
    }
    app = Starlette(routes=routes, middleware=layers, exception_handlers=handlers)
    app.router.redirect_slashes = False  # a redirect would repeat whatever host the caller wrote
    return app
