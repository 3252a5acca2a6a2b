"""What tests of files and batches share: uploading, waiting for an end, and reading a batch's files."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterable
from typing import Any

import httpx2

from fake_server import Live, live
from redline.server.batch_worker import BatchWorker
from redline.server.inside import Inside

CHAT = "/v1/chat/completions"
ENDED = ("completed", "failed", "expired", "cancelled")
Json = dict[str, Any]


def line(custom_id: str, content: str = "hello", url: str = CHAT, **body: Any) -> Json:
    whole = {"messages": [{"role": "user", "content": content}], **body} if url == CHAT else body
    return {"custom_id": custom_id, "method": "POST", "url": url, "body": whole}


def jsonl(lines: Iterable[Json]) -> bytes:
    return b"".join(json.dumps(each).encode() + b"\n" for each in lines)


@contextlib.asynccontextmanager
async def live_batches(**options: Any) -> AsyncIterator[Live]:
    """The server with its batch worker, in this event loop."""
    async with live(**options) as server:
        worker = BatchWorker(server.app.state.service, Inside(server.app))
        worker.start()
        try:
            yield server
        finally:
            await worker.stop()


async def upload(http: httpx2.AsyncClient, data: bytes, *, key: str | None = None, **fields: str) -> Json:
    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    form = {"purpose": "batch", **fields}
    response = await http.post("/v1/files", data=form, files={"file": ("in.jsonl", data)}, headers=headers)
    assert response.status_code == 200, response.text
    file: Json = response.json()
    return file


async def start(http: httpx2.AsyncClient, file_id: str, *, key: str | None = None, **fields: Any) -> Json:
    body = {"input_file_id": file_id, "endpoint": CHAT, "completion_window": "24h", **fields}
    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    response = await http.post("/v1/batches", json=body, headers=headers)
    assert response.status_code == 200, response.text
    batch: Json = response.json()
    return batch


async def ended(http: httpx2.AsyncClient, batch_id: str, *, key: str | None = None) -> Json:
    """The batch once it has ended."""
    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    while True:
        batch: Json = (await http.get(f"/v1/batches/{batch_id}", headers=headers)).json()
        if batch["status"] in ENDED:
            return batch
        await asyncio.sleep(0.02)


async def content(http: httpx2.AsyncClient, file_id: str | None, *, key: str | None = None) -> list[Json]:
    """The lines of an output, none where there is no file."""
    if file_id is None:
        return []
    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    response = await http.get(f"/v1/files/{file_id}/content", headers=headers)
    assert response.status_code == 200
    return [json.loads(text) for text in response.text.splitlines()]


def said(row: Json) -> str:
    """The text of a chat answer in an output line."""
    text: str = row["response"]["body"]["choices"][0]["message"]["content"]
    return text
