"""Errors as the APIs tell them: one envelope each, for a status code or inside a stream, and never a stack trace.

Every error of `redline.errors` carries its status, code and hint already; this file only writes them down, as the OpenAI
API does on every path but those of Anthropic's messages. Open `envelope` first.
"""

from __future__ import annotations

import math
from http import HTTPStatus
from typing import Any

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from redline.errors import InternalError, RedlineError
from redline.server.exchange import current

RETRY_AFTER_S = 1.0  # where the error brings no estimate of its own

MESSAGES_PATH = "/v1/messages"

_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
_MESSAGES_TYPES = {
    **_TYPES,
    408: "timeout_error",
    413: "request_too_large",
    500: "api_error",
    503: "overloaded_error",
    504: "timeout_error",
}


def envelope(error: RedlineError) -> dict[str, Any]:
    """{"error": {"message", "type", "param", "code"}}; the hint is part of the message."""
    return {"error": {"message": error.sentence(), "type": _type(error.status), "param": error.param, "code": error.code}}


def messages_envelope(error: RedlineError) -> dict[str, Any]:
    """{"type": "error", "error": {"type", "message"}, "request_id"}; `code` and `param` beside them say which field."""
    told = {"type": _messages_type(error.status), "message": error.sentence(), "param": error.param, "code": error.code}
    return {"type": "error", "error": told, "request_id": _request_id()}


def response(error: RedlineError, path: str = "") -> Response:
    """The whole answer to a request for `path` that failed before its first byte."""
    note(error.code)
    headers = {}
    if error.retryable:
        seconds = RETRY_AFTER_S if error.retry_after_s is None else error.retry_after_s
        headers["retry-after"] = str(max(1, math.ceil(seconds)))
        headers["retry-after-ms"] = str(max(1, math.ceil(seconds * 1000)))  # the SDKs prefer it
    elif error.status == HTTPStatus.TOO_MANY_REQUESTS:
        headers["x-should-retry"] = "false"  # the SDKs would take the status alone for a promise
    if error.status == HTTPStatus.UNAUTHORIZED:
        headers["www-authenticate"] = "Bearer"
    body = messages_envelope(error) if is_messages(path) else envelope(error)
    return _json(error.status, body, headers)


def is_messages(path: str) -> bool:
    """Whether errors on `path` are told as Anthropic tells them."""
    return path == MESSAGES_PATH or path.startswith(MESSAGES_PATH + "/")


async def on_redline_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RedlineError)
    return response(error, request.url.path)


async def on_http_exception(request: Request, error: Exception) -> Response:
    """An unknown route or a wrong method, as the router reports them."""
    assert isinstance(error, HTTPException)
    if error.status_code == HTTPStatus.NOT_FOUND:
        message, code = f"there is no {request.method} {request.url.path}", "not_found"
    else:
        message, code = f"{request.method} {request.url.path}: {error.detail}", HTTPStatus(error.status_code).name.lower()
    body: dict[str, Any] = {"error": {"message": message, "type": _type(error.status_code), "param": None, "code": code}}
    note(code)
    if is_messages(request.url.path):
        told = {**body["error"], "type": _messages_type(error.status_code)}
        body = {"type": "error", "error": told, "request_id": _request_id()}
    return _json(error.status_code, body, dict(error.headers or {}))


async def on_client_gone(request: Request, error: Exception) -> Response:
    """Nobody reads this; a request must still end in a response."""
    return Response(status_code=499)


async def on_bug(request: Request, error: Exception) -> Response:
    """Anything else is our fault: the log has the trace, the client a sentence."""
    return response(unexpected(), request.url.path)


def note(code: str) -> None:
    """Say in the log line and in the metrics that the request ended with the error of this code."""
    if (exchange := current()) is not None:
        exchange.error = code


def _request_id() -> str | None:
    exchange = current()
    return None if exchange is None else exchange.id


def unexpected() -> InternalError:
    return InternalError("the server failed on this request", hint="its log says why")


def _type(status: int) -> str:
    return _TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")


def _messages_type(status: int) -> str:
    return _MESSAGES_TYPES.get(status, "invalid_request_error" if status < 500 else "api_error")


def _json(status: int, body: object, headers: dict[str, str]) -> Response:
    return Response(msgspec.json.encode(body), status, headers, "application/json")
