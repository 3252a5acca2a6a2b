"""/v1/files: what callers upload for batches and what batches give back, in the shapes of the OpenAI Files API.

An upload is one multipart form, written to the disk as it arrives. Knows nothing of what is in a file. Open `Files.create`.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Literal

import msgspec
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive

from redline.errors import InvalidRequest, RateLimited, SlowBody, TooLarge, UnsupportedField
from redline.server.caller import caller_of
from redline.server.connection import ClientGone
from redline.server.endpoint import Endpoint
from redline.server.file_store import StoredFile, Writer, new_file_id
from redline.server.multipart import Part, Reader, boundary_of
from redline.server.paging import QUERY, page_of
from redline.server.schema import Record, quoted
from redline.server.service import Service

MAX_FILE_BYTES = 200 << 20
MAX_FORM_BYTES = MAX_FILE_BYTES + (64 << 10)
MAX_FIELD_BYTES = 4 << 10
MAX_FILENAME = 255
MAX_UPLOADS = 8  # of one caller together
IDLE_S = 30.0
UPLOAD_S = 1800.0
BUFFER_BYTES = 1 << 20
MIN_EXPIRY_S, MAX_EXPIRY_S = 3600, 30 * 24 * 3600
FORM = {
    "type": "object",
    "required": ["purpose", "file"],
    "properties": {"purpose": {"type": "string"}, "file": {"type": "string", "format": "binary"}},
}
_FIELDS = ("purpose", "file", "expires_after[anchor]", "expires_after[seconds]")


class FileAnswer(Record, frozen=True, kw_only=True):
    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    expires_at: int | None
    filename: str
    purpose: str
    status: Literal["processed"] = "processed"


class FileList(Record, frozen=True, kw_only=True):
    object: Literal["list"] = "list"
    data: list[FileAnswer]
    first_id: str | None
    last_id: str | None
    has_more: bool


class Deleted(Record, frozen=True, kw_only=True):
    id: str
    object: Literal["file"] = "file"
    deleted: bool = True


class Files:
    """All endpoints."""

    def __init__(self, service: Service) -> None:
        self._store = service.jobs.files
        self._uploads: Counter[str] = Counter()

    async def create(self, request: Request) -> Response:
        owner = caller_of(request.scope).id
        boundary = boundary_of(request.headers.get("content-type", ""))
        if self._uploads[owner] >= MAX_UPLOADS:
            raise RateLimited(f"{MAX_UPLOADS} uploads of this key are under way", hint="wait for one to end", retry_after_s=5)
        await self._store.check_room(owner)
        id = new_file_id()
        self._uploads[owner] += 1
        try:
            file = await _receive(
                request.receive,
                boundary,
                self._store.path(id),
                StoredFile(id=id, owner=owner, purpose="", filename="", bytes=0, created=int(time.time()), expires=None),
            )
        finally:
            self._uploads[owner] -= 1
            if not self._uploads[owner]:
                del self._uploads[owner]
        await self._store.add(file)
        return _json(answer_of(file))

    async def list(self, request: Request) -> Response:
        page = page_of(request, 10_000, 10_000, also=("purpose",))
        purpose = request.query_params.get("purpose")
        files, more = await self._store.page(
            caller_of(request.scope).id, limit=page.limit, after=page.after, purpose=purpose, newest_first=page.newest_first
        )
        data = [answer_of(file) for file in files]
        first, last = (data[0].id, data[-1].id) if data else (None, None)
        return _json(FileList(data=data, first_id=first, last_id=last, has_more=more))

    async def get(self, request: Request) -> Response:
        return _json(answer_of(await self._found(request)))

    async def content(self, request: Request) -> Response:
        file = await self._found(request)
        headers = {"content-length": str(file.bytes), "x-content-type-options": "nosniff", "content-disposition": "attachment"}
        return StreamingResponse(self._store.content(file.id), headers=headers, media_type="application/octet-stream")

    async def delete(self, request: Request) -> Response:
        id = request.path_params["id"]
        await self._store.delete(id, caller_of(request.scope).id)
        return _json(Deleted(id=id))

    async def _found(self, request: Request) -> StoredFile:
        return await self._store.find(request.path_params["id"], caller_of(request.scope).id)


def endpoints(service: Service) -> list[Endpoint]:
    files = Files(service)
    one = "/v1/files/{id}"
    return [
        Endpoint(
            method="POST",
            path="/v1/files",
            handler=files.create,
            scope="files",
            summary="Upload a file: a form with `file` and `purpose`.",
            body=FORM,
            takes="multipart/form-data",
            answer=FileAnswer,
            max_body_bytes=MAX_FORM_BYTES,
        ),
        Endpoint(
            method="GET",
            path="/v1/files",
            handler=files.list,
            scope="files",
            summary="The files.",
            answer=FileList,
            query={**QUERY, "purpose": {"type": "string"}},
        ),
        Endpoint(method="GET", path=one, handler=files.get, scope="files", summary="One file.", answer=FileAnswer),
        Endpoint(
            method="GET",
            path=f"{one}/content",
            handler=files.content,
            scope="files",
            summary="Its bytes.",
            gives="application/octet-stream",
        ),
        Endpoint(method="DELETE", path=one, handler=files.delete, scope="files", summary="Delete a file.", answer=Deleted),
    ]


def answer_of(file: StoredFile) -> FileAnswer:
    return FileAnswer(
        id=file.id,
        bytes=file.bytes,
        created_at=file.created,
        expires_at=file.expires,
        filename=file.filename,
        purpose=file.purpose,
    )


class _Form:
    """What of a form has arrived: its fields in memory, its file on the disk."""

    def __init__(self, writer: Writer) -> None:
        self.fields: dict[str, bytearray] = {}
        self.filename: str | None = None
        self._writer = writer
        self._buffer = bytearray()
        self._field: bytearray | None = None

    def begin(self, part: Part) -> None:
        """A part begins. Raises InvalidRequest for one that is not wanted, or that was there already."""
        if part.name not in _FIELDS:
            raise InvalidRequest(
                f"there is no field {quoted(part.name)}", hint=f"known: {', '.join(_FIELDS)}", param=part.name[:64]
            )
        if part.name in self.fields or (part.name == "file" and self.filename is not None):
            raise InvalidRequest(f"{part.name} is there twice", param=part.name)
        if (part.name == "file") != (part.filename is not None):
            raise InvalidRequest("file must have a filename, and nothing else may", param=part.name)
        if part.filename is None:
            self._field = self.fields[part.name] = bytearray()
        else:
            self._field, self.filename = None, part.filename

    async def take(self, data: bytes) -> None:
        """Bytes of the part that began last. Raises TooLarge, StorageFull."""
        if self._field is not None:
            self._field += data
            if len(self._field) > MAX_FIELD_BYTES:
                raise TooLarge(f"a field of the form exceeds {MAX_FIELD_BYTES} bytes")
            return
        self._buffer += data
        if self._writer.size + len(self._buffer) > MAX_FILE_BYTES:
            raise TooLarge(f"the file exceeds {MAX_FILE_BYTES} bytes", param="file")
        if len(self._buffer) >= BUFFER_BYTES:
            await self.flush()

    async def flush(self) -> None:
        data, self._buffer = self._buffer, bytearray()
        await asyncio.to_thread(self._writer.write, data)

    def text(self, name: str) -> str | None:
        """A field as text. Raises InvalidRequest."""
        data = self.fields.get(name)
        try:
            return None if data is None else data.decode()
        except UnicodeDecodeError as error:
            raise InvalidRequest(f"{name} is not UTF-8", param=name) from error


async def _receive(receive: Receive, boundary: bytes, path: Path, file: StoredFile) -> StoredFile:
    """Write the file of a form to `path`, and complete its row."""
    reader = Reader(boundary)
    with Writer(path) as writer:
        form = _Form(writer)
        async for data in _body(receive):
            for found in reader.feed(data):
                if isinstance(found, Part):
                    form.begin(found)
                else:
                    await form.take(found)
        reader.finish()
        filename, purpose, expires = _checked(form, file.created)
        await form.flush()
        await asyncio.to_thread(writer.commit)
    return StoredFile(
        id=file.id,
        owner=file.owner,
        purpose=purpose,
        filename=filename,
        bytes=writer.size,
        created=file.created,
        expires=expires,
    )


async def _body(receive: Receive) -> AsyncIterator[bytes]:
    """The body as it arrives. Raises SlowBody where it stops coming, ClientGone where nobody sends any more."""
    end = time.monotonic() + UPLOAD_S
    while True:
        try:
            async with asyncio.timeout(min(IDLE_S, end - time.monotonic())):
                message = await receive()
        except TimeoutError as error:
            raise SlowBody("the file did not arrive in time", hint="send it at once") from error
        if message["type"] == "http.disconnect":
            raise ClientGone
        yield message.get("body", b"")
        if not message.get("more_body", False):
            return


def _checked(form: _Form, created: int) -> tuple[str, str, int | None]:
    """Name, purpose and expiry of a complete form. Raises InvalidRequest or UnsupportedField with the field's name."""
    if form.filename is None:
        raise InvalidRequest("file is required", param="file")
    purpose = form.text("purpose")
    if purpose is None:
        raise InvalidRequest("purpose is required", param="purpose")
    if purpose != "batch":
        raise UnsupportedField(f"the purpose {quoted(purpose)} is not supported", hint="use batch", param="purpose")
    name = "".join(char for char in form.filename if char.isprintable())[:MAX_FILENAME] or "file"
    return name, purpose, _expiry(form, created)


def _expiry(form: _Form, created: int) -> int | None:
    anchor, seconds = form.text("expires_after[anchor]"), form.text("expires_after[seconds]")
    if anchor is None and seconds is None:
        return None
    if anchor != "created_at":
        raise InvalidRequest("expires_after[anchor] must be created_at", param="expires_after[anchor]")
    after: Any = None
    with contextlib.suppress(ValueError):
        after = int((seconds or "")[:20])
    if after is None or not MIN_EXPIRY_S <= after <= MAX_EXPIRY_S:
        raise InvalidRequest(
            f"expires_after[seconds] must be between {MIN_EXPIRY_S} and {MAX_EXPIRY_S}", param="expires_after[seconds]"
        )
    return created + int(after)


def _json(body: object) -> Response:
    return Response(msgspec.json.encode(body), media_type="application/json")
