"""The outermost layer: an id for every request, the headers that every answer brings, and at the end what is told of it.

That is one log line, the request's metrics and, where asked for, its trace. A bug further in becomes an answer here, so
that it carries the id as well. Knows nothing of what a request asks. Open `Access.__call__`.
"""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Callable
from urllib.parse import quote

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from redline import log
from redline.server import failures
from redline.server.auth import needs_no_key
from redline.server.caller import caller_of
from redline.server.exchange import Exchange, enter
from redline.server.metrics import Metrics

MAX_SHOWN_PATH = 200
CLIENT_GONE = 499  # what nginx calls it: nobody was there to be answered
_GIVEN_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}")
_POLLED = frozenset({"/health", "/health/live", "/health/ready", "/metrics"})  # asked every few seconds by machines

_log = log.get("access")


class Access:
    """Around everything. `lenient`: unknown fields of bodies are warned of; `traced` gets every exchange that has ended,
    `audited` those that needed a key, with the client's address."""

    def __init__(
        self,
        app: ASGIApp,
        metrics: Metrics,
        *,
        lenient: bool = False,
        traced: Callable[[Exchange], None] | None = None,
        audited: Callable[[Exchange, str | None], None] | None = None,
    ) -> None:
        self._app = app
        self._metrics = metrics
        self._lenient = lenient
        self._traced = traced
        self._audited = audited

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = self._opened(scope)
        enter(exchange)
        log.REQUEST_ID.set(exchange.id)

        async def told(message: Message) -> None:
            if exchange.answered is None and message["type"] == "http.response.start":
                exchange.answered = time.monotonic()
                exchange.status = message["status"]
                message = {**message, "headers": [*message.get("headers", ()), *_headers(exchange)]}
            await send(message)

        try:
            await self._app(scope, receive, told)
        except Exception:
            log.get("server").exception("a request failed")
            exchange.error = "internal_error"
            if exchange.answered is not None:
                raise  # half an answer is out: the connection has to end
            await failures.response(failures.unexpected(), scope["path"])(scope, receive, told)
        finally:
            self._close(exchange, scope)

    def _opened(self, scope: Scope) -> Exchange:
        given = {name: value for name, value in scope["headers"] if name in (b"x-request-id", b"traceparent")}
        wanted = given.get(b"x-request-id", b"")
        return Exchange(
            id=wanted.decode() if _GIVEN_ID.fullmatch(wanted) else f"req_{uuid.uuid4().hex}",
            method=scope["method"],
            path=_shown(scope),
            traceparent=given.get(b"traceparent", b"").decode("latin-1"),
            lenient=self._lenient,
        )

    def _close(self, exchange: Exchange, scope: Scope) -> None:
        exchange.ended = time.monotonic()
        exchange.status = exchange.status or CLIENT_GONE
        exchange.route = getattr(scope.get("route"), "path", "other")
        exchange.key = caller_of(scope).id
        self._metrics.answered(exchange.route, exchange.method, exchange.status)
        if exchange.error:
            self._metrics.refused(exchange.error)
        level = "debug" if exchange.path in _POLLED else "info"
        getattr(_log, level)("%s %s %d", exchange.method, exchange.path, exchange.status, extra={"fields": _fields(exchange)})
        if self._traced is not None:
            self._traced(exchange)
        if self._audited is not None and not needs_no_key(scope):
            client = scope.get("client")
            self._audited(exchange, client[0] if client else None)


def _headers(exchange: Exchange) -> list[tuple[bytes, bytes]]:
    assert exchange.answered is not None
    spent_ms = round((exchange.answered - exchange.began) * 1e3)
    headers = [(b"x-request-id", exchange.id.encode()), (b"openai-processing-ms", str(spent_ms).encode())]
    if failures.is_messages(exchange.path):
        headers.append((b"request-id", exchange.id.encode()))  # what Anthropic's clients read
    if exchange.warnings:
        headers.append((b"x-redline-warnings", "; ".join(exchange.warnings).encode("ascii", "replace")))
    return headers


def _fields(exchange: Exchange) -> dict[str, object]:
    """What the log line says beside method, path and status; what there was not is left out."""
    usage, timing, first = exchange.usage, exchange.timing, exchange.first_token
    fields: dict[str, object] = {
        "method": exchange.method,
        "path": exchange.path,
        "status": exchange.status,
        "seconds": round(exchange.ended - exchange.began, 4),
        "key": exchange.key or None,
        "error": exchange.error or None,
    }
    if usage is not None:
        fields |= {
            "prompt_tokens": usage.prompt_tokens,
            "completion_tokens": usage.completion_tokens,
            "cached_tokens": usage.cached_tokens,
            "finish": ",".join(sorted(set(exchange.finishes))) or None,
            "first_token_s": None if first is None else round(first - exchange.began, 4),
            "detokenize_s": round(exchange.detokenize_s, 5),
        }
    if timing is not None:
        fields |= {name: round(getattr(timing, name), 4) for name in ("queue_s", "prefill_s", "decode_s")}
    return {name: value for name, value in fields.items() if value is not None}


def _shown(scope: Scope) -> str:
    """The path as it was sent, without its query: nothing in it can break a line."""
    raw = scope.get("raw_path") or quote(scope["path"]).encode()
    return str(raw.partition(b"?")[0].decode("ascii", "replace")[:MAX_SHOWN_PATH])
