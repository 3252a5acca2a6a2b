"""Errors as the OpenAI API tells them: one envelope, for a status code or inside a stream, and never a stack trace.

Every error of `redline.errors` carries its status, code and hint already; this file only writes them down. Open
`envelope` first.
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

RETRY_AFTER_S = 1.0  # where the error brings no estimate of its own

_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}


def envelope(error: RedlineError) -> dict[str, Any]:
    """{"error": {"message", "type", "param", "code"}}; the hint is part of the message."""
    return {"error": {"message": error.sentence(), "type": _type(error.status), "param": error.param, "code": error.code}}


def response(error: RedlineError) -> Response:
    """The whole answer to a request that failed before its first byte."""
    headers = {}
    if error.retryable:
        seconds = RETRY_AFTER_S if error.retry_after_s is None else error.retry_after_s
        headers["retry-after"] = str(max(1, math.ceil(seconds)))
    if error.status == HTTPStatus.UNAUTHORIZED:
        headers["www-authenticate"] = "Bearer"
    return _json(error.status, envelope(error), headers)


async def on_redline_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RedlineError)
    return response(error)


async def on_http_exception(request: Request, error: Exception) -> Response:
    """An unknown route or a wrong method, as the router reports them."""
    assert isinstance(error, HTTPException)
    if error.status_code == HTTPStatus.NOT_FOUND:
        message, code = f"there is no {request.method} {request.url.path}", "not_found"
    else:
        message, code = f"{request.method} {request.url.path}: {error.detail}", HTTPStatus(error.status_code).name.lower()
    body = {"error": {"message": message, "type": _type(error.status_code), "param": None, "code": code}}
    return _json(error.status_code, body, dict(error.headers or {}))


async def on_client_gone(request: Request, error: Exception) -> Response:
    """Nobody reads this; a request must still end in a response."""
    return Response(status_code=499)


async def on_bug(request: Request, error: Exception) -> Response:
    """Anything else is our fault: the log has the trace, the client a sentence."""
    return response(unexpected())


def unexpected() -> InternalError:
    return InternalError("the server failed on this request", hint="its log says why")


def _type(status: int) -> str:
    return _TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")


def _json(status: int, body: object, headers: dict[str, str]) -> Response:
    return Response(msgspec.json.encode(body), status, headers, "application/json")
