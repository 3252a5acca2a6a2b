"""GET /openapi.json and GET /docs: what this server can be asked, made of the same records that it reads bodies with.

Nothing is written twice: paths, scopes and sentences are the endpoints', schemas are generated from their records, and
the page is the document as plain HTML, without a script. Open `document_of`.
"""

from __future__ import annotations

import base64
import hashlib
import html
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from http import HTTPStatus
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from redline.server.answers import ErrorAnswer, MessagesErrorAnswer
from redline.server.endpoint import Endpoint
from redline.server.failures import is_messages

Json = dict[str, Any]
VERSION = "1"  # of the API, as its paths say it
REF = "#/components/schemas/{name}"
_PARAMETER = re.compile(r"\{(\w+)(?::\w+)?\}")
_DESCRIPTION = "The OpenAI API and parts of Anthropic's. Unknown fields are refused by name; so is what is not supported."
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222; background: #fff }
h2 { margin: 2.5rem 0 .3rem; font-size: 1.1rem; border-top: 1px solid #ddd; padding-top: 1rem }
code { font: 13px ui-monospace, monospace } table { border-collapse: collapse; margin: .5rem 0 1rem; width: 100% }
td, th { text-align: left; vertical-align: top; padding: .15rem .8rem .15rem 0; border-bottom: 1px solid #eee } .quiet { color: #666 }
@media (prefers-color-scheme: dark) { body { color: #ddd; background: #111 } h2, td, th { border-color: #333 } .quiet { color: #999 } }
"""
_HEADERS = {
    "content-security-policy": (
        f"default-src 'none'; style-src 'sha256-{base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()}'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}


def endpoints(described: Iterable[Endpoint]) -> list[Endpoint]:
    """The two endpoints that tell of `described`, and of themselves."""
    described = list(described)
    told = _Told(described)
    described += [
        Endpoint(
            method="GET", path="/openapi.json", handler=told.json, scope="open", summary="This API as OpenAPI 3.1.", answer=Json
        ),
        Endpoint(method="GET", path="/docs", handler=told.page, scope="open", summary="This API as a page.", gives="text/html"),
    ]
    return described[-2:]


class _Told:
    """The document, made when it is first asked for."""

    def __init__(self, described: list[Endpoint]) -> None:
        self._described = described

    @cached_property
    def _document(self) -> Json:
        return document_of(self._described)

    async def json(self, request: Request) -> Response:
        return Response(msgspec.json.encode(self._document), media_type="application/json")

    async def page(self, request: Request) -> Response:
        return Response(page_of(self._document), headers=_HEADERS, media_type="text/html")


def document_of(described: Iterable[Endpoint]) -> Json:
    """The OpenAPI document of endpoints."""
    described = list(described)
    kinds = [
        kind for each in described for kind in (each.body, each.answer, each.event, *each.others.values()) if _is_record(kind)
    ]
    kinds += [ErrorAnswer, MessagesErrorAnswer]
    schemas, components = msgspec.json.schema_components(kinds, ref_template=REF)
    by_kind = dict(zip(map(id, kinds), schemas, strict=True))
    paths: dict[str, Json] = {}
    for each in described:
        paths.setdefault(_path(each), {})[each.method.lower()] = _operation(each, by_kind)
    security = {"key": {"type": "http", "scheme": "bearer"}, "x-api-key": {"type": "apiKey", "in": "header", "name": "x-api-key"}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "redline", "version": VERSION, "description": _DESCRIPTION},
        "paths": paths,
        "components": {"schemas": components, "securitySchemes": security},
    }


def statuses(endpoint: Endpoint) -> list[int]:
    """Every status of an error that an endpoint may answer with, but for those of its own (`others`)."""
    found = {500}
    if endpoint.scope != "open":
        found |= {400, 401, 403, 404, 429, 503}
    if endpoint.method == "POST":
        found |= {400, 408, 413}
    if endpoint.scope == "inference":
        found |= {504, 507}
    if endpoint.scope == "files":
        found |= {409, 507}
    return sorted(found - endpoint.others.keys())


def _operation(endpoint: Endpoint, schemas: Mapping[int, Json]) -> Json:
    operation: Json = {
        "summary": endpoint.summary,
        "operationId": re.sub(r"\W+", "_", f"{endpoint.method.lower()}{_path(endpoint)}").strip("_"),
        "x-scope": endpoint.scope,
    }
    parameters = [
        *(
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
            for name in _PARAMETER.findall(endpoint.path)
        ),
        *({"name": name, "in": "query", "required": False, "schema": dict(kind)} for name, kind in endpoint.query.items()),
    ]
    if parameters:
        operation["parameters"] = parameters
    if endpoint.body is not None:
        operation["requestBody"] = {"required": True, "content": {endpoint.takes: {"schema": _schema(endpoint.body, schemas)}}}
    good: Json = {endpoint.gives: {"schema": _schema(endpoint.answer, schemas)}}
    if endpoint.event is not None:
        good["text/event-stream"] = {"schema": {"type": "string"}, "x-event": _schema(endpoint.event, schemas)}
    operation["responses"] = {"200": {"description": "The answer.", "content": good}}
    for status, kind in endpoint.others.items():
        content = {"application/json": {"schema": _schema(kind, schemas)}}
        operation["responses"][str(status)] = {"description": HTTPStatus(status).phrase, "content": content}
    error = MessagesErrorAnswer if is_messages(endpoint.path) else ErrorAnswer
    for status in statuses(endpoint):
        content = {"application/json": {"schema": _schema(error, schemas)}}
        operation["responses"][str(status)] = {"description": HTTPStatus(status).phrase, "content": content}
    if endpoint.scope != "open":
        operation["security"] = [{}, {"key": []}, {"x-api-key": []}]  # {}: a server may have no keys
    return operation


def _is_record(kind: Any) -> bool:
    return kind is not None and kind is not Json and not isinstance(kind, Mapping)


def _schema(kind: Any, schemas: Mapping[int, Json]) -> Json:
    if kind is None:
        return {}
    if kind is Json:
        return {"type": "object"}
    return dict(kind) if isinstance(kind, Mapping) else schemas[id(kind)]


def _path(endpoint: Endpoint) -> str:
    return _PARAMETER.sub(r"{\1}", endpoint.path)


def page_of(document: Json) -> bytes:
    """The document as one HTML page."""
    info = document["info"]
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>",
        f"<title>{_text(info['title'])} API</title><style>{_STYLE}</style>",
        f"<h1>{_text(info['title'])} {_text(info['version'])}</h1><p>{_text(info['description'])}</p>",
        "<p>The same for programs: <a href=/openapi.json>openapi.json</a>.</p>",
    ]
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            parts += _section(path, method, operation, document["components"]["schemas"])
    return "".join(parts).encode()


def _section(path: str, method: str, operation: Json, schemas: Json) -> Iterator[str]:
    yield f"<h2 id={operation['operationId']}><code>{method.upper()} {_text(path)}</code></h2>"
    yield f"<p>{_text(operation['summary'])} <span class=quiet>Scope: {operation['x-scope']}.</span></p>"
    for parameter in operation.get("parameters", []):
        yield f"<p><code>{_text(parameter['name'])}</code> <span class=quiet>in the {parameter['in']}</span></p>"
    for kind, content in operation.get("requestBody", {}).get("content", {}).items():
        yield from _table(f"Body ({kind})", content["schema"], schemas)
    for status, answer in operation["responses"].items():
        for kind, content in answer["content"].items():
            if status == "200":
                yield from _table(f"Answer ({kind})", content.get("x-event", content["schema"]), schemas)
    errors = ", ".join(
        f"{status} {answer['description']}" for status, answer in operation["responses"].items() if status != "200"
    )
    yield f"<p class=quiet>Errors: {_text(errors)}.</p>"


def _table(title: str, schema: Json, schemas: Json) -> Iterator[str]:
    record = schemas.get(schema.get("$ref", "").rpartition("/")[2], schema)
    required = record.get("required", [])
    yield f"<table><tr><th colspan=2>{_text(title)}"
    for name, kind in record.get("properties", {}).items():
        must = "" if name not in required else " <b>required</b>"
        yield f"<tr><td><code>{_text(name)}</code>{must}<td class=quiet>{_text(_kind(kind))}"
    yield "</table>"


def _kind(schema: Json) -> str:
    """A schema in a few words."""
    if "$ref" in schema:
        return str(schema["$ref"].rpartition("/")[2])
    if "anyOf" in schema:
        return " or ".join(_kind(each) for each in schema["anyOf"])
    if "enum" in schema or "const" in schema:
        return ", ".join(repr(value) for value in schema.get("enum", [schema.get("const")]))
    kind = schema.get("type", "anything")
    if kind == "array":
        return f"list of {_kind(schema.get('items', {}))}"
    return str(kind)


def _text(value: str) -> str:
    return html.escape(value)
