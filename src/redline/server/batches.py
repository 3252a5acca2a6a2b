"""/v1/batches: many requests in one file, answered when there is room, in the shapes of the OpenAI Batch API.

Here batches are made, told and cancelled; batch_worker.py does the work. Open `Batches.create`.
"""

from __future__ import annotations

import re
import time
from typing import Any, Literal

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from redline.errors import InvalidRequest, UnsupportedField
from redline.server.batch_lines import ENDPOINTS
from redline.server.batch_store import Batch
from redline.server.caller import caller_of
from redline.server.connection import read_body
from redline.server.endpoint import Endpoint
from redline.server.files import MAX_EXPIRY_S, MIN_EXPIRY_S
from redline.server.paging import QUERY, page_of
from redline.server.schema import Int, Record, body_of, decode, quoted
from redline.server.service import Service

MAX_PAGE = 100
MAX_METADATA, MAX_KEY, MAX_VALUE = 16, 64, 512
_WINDOW = re.compile(r"([1-9][0-9]{0,3})([mhd])")
_UNIT_S = {"m": 60, "h": 3600, "d": 86400}
MAX_WINDOW_S = 14 * 86400


class ExpiresAfter(Record, frozen=True, kw_only=True):
    anchor: Literal["created_at"]
    seconds: Int


class BatchBody(Record, frozen=True, kw_only=True):
    input_file_id: str
    endpoint: str
    completion_window: str  # 24h, or any other time up to 14 days: 90m, 6h, 7d
    metadata: dict[str, str] | None = None
    output_expires_after: ExpiresAfter | None = None


class CancelBody(Record, frozen=True, kw_only=True):
    """Nothing: some clients send an empty object."""


class Counts(Record, frozen=True, kw_only=True):
    total: int
    completed: int
    failed: int


class BatchFault(Record, frozen=True, kw_only=True):
    code: str
    message: str
    line: int | None
    param: str | None


class Faults(Record, frozen=True, kw_only=True):
    object: Literal["list"] = "list"
    data: list[BatchFault]


class BatchUsage(Record, frozen=True, kw_only=True):
    input_tokens: int
    input_tokens_details: dict[str, int]
    output_tokens: int
    output_tokens_details: dict[str, int]
    total_tokens: int


class BatchAnswer(Record, frozen=True, kw_only=True):
    id: str
    object: Literal["batch"] = "batch"
    endpoint: str
    model: str
    errors: Faults | None
    input_file_id: str
    completion_window: str
    status: str
    output_file_id: str | None
    error_file_id: str | None
    created_at: int
    in_progress_at: int | None
    expires_at: int
    finalizing_at: int | None
    completed_at: int | None
    failed_at: int | None
    expired_at: int | None
    cancelling_at: int | None
    cancelled_at: int | None
    request_counts: Counts
    usage: BatchUsage | None
    metadata: dict[str, str] | None


class BatchList(Record, frozen=True, kw_only=True):
    object: Literal["list"] = "list"
    data: list[BatchAnswer]
    first_id: str | None
    last_id: str | None
    has_more: bool


class Batches:
    """All endpoints."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._jobs = service.jobs

    async def create(self, request: Request) -> Response:
        body = await body_of(request.receive, BatchBody)
        if body.endpoint not in ENDPOINTS:
            known = ", ".join(ENDPOINTS)
            raise UnsupportedField(
                f"batches for {quoted(body.endpoint)} are not supported", hint=f"use one of {known}", param="endpoint"
            )
        window_s = _window_s(body.completion_window)
        _check_metadata(body.metadata)
        owner = caller_of(request.scope).id
        await self._jobs.files.check_room(owner)  # for the output
        batch = await self._jobs.batches.create(
            owner=owner,
            model=self._service.served_name,
            endpoint=body.endpoint,
            input_file=body.input_file_id,
            window=body.completion_window,
            metadata=None if body.metadata is None else msgspec.json.encode(body.metadata).decode(),
            output_expires_s=None if body.output_expires_after is None else _expiry_s(body.output_expires_after),
            expires_at=int(time.time()) + window_s,
        )
        self._jobs.changed.set()
        return _json(answer_of(batch))

    async def list(self, request: Request) -> Response:
        page = page_of(request, 20, MAX_PAGE, ordered=False)
        batches, more = await self._jobs.batches.page(caller_of(request.scope).id, limit=page.limit, after=page.after)
        data = [answer_of(batch) for batch in batches]
        first, last = (data[0].id, data[-1].id) if data else (None, None)
        return _json(BatchList(data=data, first_id=first, last_id=last, has_more=more))

    async def get(self, request: Request) -> Response:
        return _json(answer_of(await self._jobs.batches.find(*_asked_for(request))))

    async def cancel(self, request: Request) -> Response:
        data = await read_body(request.receive)
        if data.strip():
            decode(data, CancelBody)
        batch = await self._jobs.batches.cancel(*_asked_for(request))
        self._jobs.changed.set()
        return _json(answer_of(batch))


def endpoints(service: Service) -> list[Endpoint]:
    batches = Batches(service)
    one = "/v1/batches/{id}"
    return [
        Endpoint(
            method="POST",
            path="/v1/batches",
            handler=batches.create,
            scope="files",
            summary="Answer the requests of a file, within a time.",
            body=BatchBody,
            answer=BatchAnswer,
        ),
        Endpoint(
            method="GET",
            path="/v1/batches",
            handler=batches.list,
            scope="files",
            summary="The batches.",
            answer=BatchList,
            query={name: kind for name, kind in QUERY.items() if name != "order"},
        ),
        Endpoint(method="GET", path=one, handler=batches.get, scope="files", summary="One batch.", answer=BatchAnswer),
        Endpoint(
            method="POST", path=f"{one}/cancel", handler=batches.cancel, scope="files", summary="End a batch.", answer=BatchAnswer
        ),
    ]


def answer_of(batch: Batch) -> BatchAnswer:
    """A row as the API tells it: files are named once they are there."""
    ended = batch.status in ("completed", "expired", "cancelled")
    return BatchAnswer(
        id=batch.id,
        endpoint=batch.endpoint,
        model=batch.model,
        errors=None if batch.errors is None else Faults(data=msgspec.json.decode(batch.errors, type=list[BatchFault])),
        input_file_id=batch.input_file,
        completion_window=batch.window,
        status=batch.status,
        output_file_id=batch.output_file if ended else None,
        error_file_id=batch.error_file if ended else None,
        created_at=batch.created_at,
        in_progress_at=batch.in_progress_at,
        expires_at=batch.expires_at,
        finalizing_at=batch.finalizing_at,
        completed_at=batch.completed_at,
        failed_at=batch.failed_at,
        expired_at=batch.expired_at,
        cancelling_at=batch.cancelling_at,
        cancelled_at=batch.cancelled_at,
        request_counts=Counts(total=batch.total, completed=batch.completed, failed=batch.failed),
        usage=_usage(batch) if ended else None,
        metadata=None if batch.metadata is None else msgspec.json.decode(batch.metadata, type=dict[str, str]),
    )


def _usage(batch: Batch) -> BatchUsage:
    return BatchUsage(
        input_tokens=batch.input_tokens,
        input_tokens_details={"cached_tokens": batch.cached_tokens},
        output_tokens=batch.output_tokens,
        output_tokens_details={"reasoning_tokens": batch.reasoning_tokens},
        total_tokens=batch.input_tokens + batch.output_tokens,
    )


def _asked_for(request: Request) -> tuple[str, str]:
    return request.path_params["id"], caller_of(request.scope).id


def _window_s(window: str) -> int:
    match = _WINDOW.fullmatch(window)
    seconds = int(match[1]) * _UNIT_S[match[2]] if match else 0
    if not 0 < seconds <= MAX_WINDOW_S:
        raise InvalidRequest(
            f"completion_window must be a time such as 24h, and at most 14d, not {quoted(window)}", param="completion_window"
        )
    return seconds


def _expiry_s(after: ExpiresAfter) -> int:
    if not MIN_EXPIRY_S <= after.seconds <= MAX_EXPIRY_S:
        raise InvalidRequest(
            f"output_expires_after.seconds must be between {MIN_EXPIRY_S} and {MAX_EXPIRY_S}",
            param="output_expires_after.seconds",
        )
    return after.seconds


def _check_metadata(metadata: dict[str, str] | None) -> None:
    given: dict[str, Any] = metadata or {}
    if len(given) > MAX_METADATA or any(len(key) > MAX_KEY or len(value) > MAX_VALUE for key, value in given.items()):
        raise InvalidRequest(f"metadata may have {MAX_METADATA} pairs, of {MAX_KEY} characters to {MAX_VALUE}", param="metadata")


def _json(body: object) -> Response:
    return Response(msgspec.json.encode(body), media_type="application/json")
