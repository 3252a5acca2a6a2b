"""The Files API: what is uploaded comes back byte by byte, to its owner alone, within its limits, and leaves no trace."""

from __future__ import annotations

import asyncio
import json
import random
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest

from batches import jsonl, line, start, upload
from fake_server import Live, live
from redline.server import file_store, files
from redline.server.keys import Settings


def run(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 30))  # type: ignore[arg-type]


def folder(server: Live) -> Path:
    store: Path = server.app.state.service.jobs.files._folder
    return store


def test_a_file_is_kept_told_and_given_back() -> None:
    async def test() -> None:
        async with live() as server:
            http, data = server.http, random.Random(1).randbytes(3_000_000) + b"\r\n--"
            file = await upload(http, data, **{"expires_after[anchor]": "created_at", "expires_after[seconds]": "3600"})
            assert {**file, "id": "", "created_at": 0, "expires_at": 0} == {
                "id": "",
                "object": "file",
                "bytes": len(data),
                "created_at": 0,
                "expires_at": 0,
                "filename": "in.jsonl",
                "purpose": "batch",
                "status": "processed",
            }
            assert file["expires_at"] == file["created_at"] + 3600
            assert (await http.get(f"/v1/files/{file['id']}")).json() == file
            assert (await http.get(f"/v1/files/{file['id']}/content")).content == data
            gone = await http.delete(f"/v1/files/{file['id']}")
            assert gone.json() == {"id": file["id"], "object": "file", "deleted": True}
            for again in (http.get, http.delete):
                assert (await again(f"/v1/files/{file['id']}")).status_code == 404
            assert (await http.get(f"/v1/files/{file['id']}/content")).status_code == 404
            assert list(folder(server).iterdir()) == []

    run(test)


def test_lists_have_pages_in_both_orders() -> None:
    async def test() -> None:
        async with live() as server:
            ids = [(await upload(server.http, b"x"))["id"] for _ in range(5)]
            for order, expected in (("desc", ids[::-1]), ("asc", ids)):
                seen: list[str] = []
                query: dict[str, Any] = {"limit": 2, "order": order, "purpose": "batch"}
                while True:
                    page = (await server.http.get("/v1/files", params=query)).json()
                    assert page["object"] == "list" and len(page["data"]) <= 2
                    seen += [file["id"] for file in page["data"]]
                    assert (page["first_id"], page["last_id"]) == (page["data"][0]["id"], page["data"][-1]["id"])
                    if not page["has_more"]:
                        break
                    query["after"] = page["last_id"]
                assert seen == expected
            assert (await server.http.get("/v1/files?purpose=vision")).json()["data"] == []

    run(test)


@pytest.mark.parametrize(
    ("query", "param"),
    [("limit=0", "limit"), ("limit=10001", "limit"), ("limit=²", "limit"), ("limit=1&limit=2", "limit"), ("order=up", "order")]
    + [("before=x", "before"), ("after=file-none", "file_id")],
)
def test_a_wrong_query_is_refused_by_name(query: str, param: str) -> None:
    async def test() -> None:
        async with live() as server:
            response = await server.http.get(f"/v1/files?{query}")
            assert response.status_code in (400, 404) and response.json()["error"]["param"] == param

    run(test)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"purpose": None}, "purpose"),
        ({"purpose": "fine-tune"}, "purpose"),
        ({"purpose": "x" * 10_000}, None),
        ({"color": "red"}, "color"),
        ({"expires_after[seconds]": "3600"}, "expires_after[anchor]"),
        ({"expires_after[anchor]": "created_at"}, "expires_after[seconds]"),
        *(
            ({"expires_after[anchor]": "created_at", "expires_after[seconds]": s}, "expires_after[seconds]")
            for s in ("1", "x", "9" * 99)
        ),
    ],
)
def test_a_wrong_form_is_refused_and_leaves_nothing(fields: dict[str, str | None], param: str | None) -> None:
    async def test() -> None:
        async with live() as server:
            form = {name: value for name, value in {"purpose": "batch", **fields}.items() if value is not None}
            response = await server.http.post("/v1/files", data=form, files={"file": ("x", b"y" * 2_000_000)})
            assert response.status_code in (400, 413), response.text
            assert response.json()["error"]["param"] == param
            assert list(folder(server).iterdir()) == [] and (await server.http.get("/v1/files")).json()["data"] == []

    run(test)


def test_a_form_without_one_file_is_refused() -> None:
    async def test() -> None:
        async with live() as server:
            post = server.http.post
            plain = await post("/v1/files", data={"purpose": "batch", "file": "text"}, files={"other": ("x", b"")})
            twice = await post("/v1/files", data={"purpose": "batch"}, files=[("file", ("a", b"")), ("file", ("b", b""))])
            no_form = await post("/v1/files", json={"purpose": "batch"})
            none = await post("/v1/files", files={"purpose": (None, b"batch")})
            for response in (plain, twice, no_form, none):
                assert response.status_code == 400, response.text
            assert none.json()["error"]["param"] == "file"
            assert list(folder(server).iterdir()) == []

    run(test)


def test_sizes_and_counts_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MAX_FILE_BYTES", 1000)
    monkeypatch.setattr(file_store, "MAX_FILES", 2)

    async def test() -> None:
        async with live() as server:
            http = server.http
            too_large = await http.post("/v1/files", data={"purpose": "batch"}, files={"file": ("x", b"y" * 1001)})
            assert too_large.status_code == 413 and too_large.json()["error"]["param"] == "file"
            await upload(http, b"y" * 1000)
            await upload(http, b"")
            full = await http.post("/v1/files", data={"purpose": "batch"}, files={"file": ("x", b"y")})
            assert full.status_code == 413 and "delete some" in full.text
            assert len(list(folder(server).iterdir())) == 2

    run(test)


def test_a_body_over_the_limit_is_refused_before_it_is_read() -> None:
    async def test() -> None:
        async with live() as server:
            headers = {"content-type": "multipart/form-data; boundary=x", "content-length": str(files.MAX_FORM_BYTES + 1)}
            response = await server.http.post("/v1/files", content=b"", headers=headers)
            assert response.status_code == 413
            other = await server.http.post("/v1/batches", content=b"", headers={"content-length": str(17 << 20)})
            assert other.status_code == 413, "only uploads may be so long"

    run(test)


def test_an_upload_that_is_broken_off_leaves_nothing() -> None:
    async def test() -> None:
        async with live() as server:
            whole = b'--x\r\ncontent-disposition: form-data; name="file"; filename="f"\r\n\r\n' + b"y" * 2_000_000

            async def parts() -> AsyncIterator[bytes]:
                yield whole
                assert [path.suffix for path in folder(server).iterdir()] == [".part"]

            response = await server.http.post(
                "/v1/files", content=parts(), headers={"content-type": "multipart/form-data; boundary=x"}
            )
            assert response.status_code == 400 and "closing boundary" in response.text
            assert list(folder(server).iterdir()) == []

    run(test)


def test_a_full_disk_is_told_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(file_store.os, "fsync", full)

    async def test() -> None:
        async with live() as server:
            response = await server.http.post("/v1/files", data={"purpose": "batch"}, files={"file": ("x", b"y")})
            assert response.status_code == 507 and response.json()["error"]["code"] == "storage_full"
            assert list(folder(server).iterdir()) == []

    run(test)


def test_nobody_sees_the_files_of_another_key() -> None:
    async def test() -> None:
        async with live() as server:
            ring = server.app.state.service.keys
            (_, alice), (_, bob), (_, reader) = [
                await ring.make(Settings(name=name, scopes=scopes))
                for name, scopes in (("a", ("files", "inference")), ("b", ("files",)), ("c", ("read", "inference")))
            ]
            file = await upload(server.http, jsonl([line("1")]), key=alice)
            batch = await start(server.http, file["id"], key=alice)
            for path in (f"/v1/files/{file['id']}", f"/v1/files/{file['id']}/content", f"/v1/batches/{batch['id']}"):
                for key, status in ((alice, 200), (bob, 404), (reader, 403), ("wrong", 401)):
                    response = await server.http.get(path, headers={"authorization": f"Bearer {key}"})
                    assert response.status_code == status, (path, key)
            theirs = {"authorization": f"Bearer {bob}"}
            assert (await server.http.delete(f"/v1/files/{file['id']}", headers=theirs)).status_code == 404
            assert (await server.http.post(f"/v1/batches/{batch['id']}/cancel", headers=theirs)).status_code == 404
            assert (await server.http.get("/v1/files", headers=theirs)).json()["data"] == []
            assert (await server.http.get("/v1/batches", headers=theirs)).json()["data"] == []
            body = {"input_file_id": file["id"], "endpoint": "/v1/chat/completions", "completion_window": "24h"}
            assert (await server.http.post("/v1/batches", json=body, headers=theirs)).status_code == 404
            after = await server.http.get("/v1/files", params={"after": file["id"]}, headers=theirs)
            assert after.status_code == 404

    run(test)


@pytest.mark.parametrize("id", ["..%2f..%2fjobs.sqlite", "file-%00", "....//", "file-' OR 1=1 --", "x" * 9000, "%2e%2e"])
def test_an_id_is_never_a_path(id: str) -> None:
    async def test() -> None:
        async with live() as server:
            await upload(server.http, b"x")
            for path in (f"/v1/files/{id}", f"/v1/files/{id}/content"):
                response = await server.http.get(path)
                assert response.status_code in (404, 405), response.text

    run(test)


@pytest.mark.parametrize(
    ("sent", "kept"),
    [("../../etc/passwd", "../../etc/passwd"), ("a\u202eb\x7f", "ab"), ("é" * 300, "é" * 255), ("\x01", "file")],
)
def test_a_filename_is_only_a_label(sent: str, kept: str) -> None:
    async def test() -> None:
        async with live() as server:
            body = b"--x\r\ncontent-disposition: form-data; name=\"file\"; filename*=utf-8''%b\r\n\r\nz\r\n"
            body += b'--x\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nbatch\r\n--x--'
            quoted = "".join(f"%{byte:02X}" for byte in sent.encode()).encode()
            headers = {"content-type": "multipart/form-data; boundary=x"}
            response = await server.http.post("/v1/files", content=body % quoted, headers=headers)
            assert response.json()["filename"] == kept
            assert [path.name for path in folder(server).iterdir()] == [response.json()["id"]]

    run(test)


def test_what_has_expired_is_gone_and_swept() -> None:
    async def test() -> None:
        async with live() as server:
            store = server.app.state.service.jobs.files
            file, other = await upload(server.http, b"old"), await upload(server.http, b"new")

            def age(connection: sqlite3.Connection) -> None:
                connection.execute("UPDATE files SET expires = 1 WHERE id = ?", (file["id"],))

            await store._database.do(age)
            assert (await server.http.get(f"/v1/files/{file['id']}")).status_code == 404
            (folder(server) / "file-of-nobody").write_bytes(b"x")
            await store.sweep()
            assert {path.name for path in folder(server).iterdir()} == {other["id"], "file-of-nobody"}
            file_store.os.utime(folder(server) / "file-of-nobody", (1, 1))
            await store.sweep()
            assert {path.name for path in folder(server).iterdir()} == {other["id"]}

    run(test)


def test_an_input_in_use_cannot_be_deleted() -> None:
    async def test() -> None:
        async with live() as server:  # nobody works on the batch
            file = await upload(server.http, jsonl([line("1")]))
            batch = await start(server.http, file["id"])
            response = await server.http.delete(f"/v1/files/{file['id']}")
            assert response.status_code == 400 and batch["id"] in response.text

    run(test)


def test_uploads_of_one_caller_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MAX_UPLOADS", 1)

    async def test() -> None:
        async with live() as server:
            answers: list[httpx2.Response] = []

            async def slow() -> AsyncIterator[bytes]:
                yield b'--x\r\ncontent-disposition: form-data; name="file"; filename="f"\r\n\r\n'
                second = await server.http.post("/v1/files", data={"purpose": "batch"}, files={"file": ("x", b"y")})
                answers.append(second)
                yield b'z\r\n--x\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nbatch\r\n--x--'

            # The body of a request inside the process is read before it is sent: two tasks share it by hand.
            body: asyncio.Queue[bytes | None] = asyncio.Queue()
            done = asyncio.create_task(_raw_upload(server, body))
            async for part in slow():
                await body.put(part)
                await asyncio.sleep(0.05)
            await body.put(None)
            assert await done == 200
            assert answers[0].status_code == 429 and "retry-after" in answers[0].headers

    run(test)


async def _raw_upload(server: Live, body: asyncio.Queue[bytes | None]) -> int:
    """An upload as an ASGI call whose body comes as the test pleases."""
    status = 0

    async def receive() -> dict[str, Any]:
        part = await body.get()
        return {"type": "http.request", "body": part or b"", "more_body": part is not None}

    async def send(message: Any) -> None:
        nonlocal status
        status = message.get("status", status)

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/files",
        "raw_path": b"/v1/files",
        "query_string": b"",
        "headers": [(b"content-type", b"multipart/form-data; boundary=x")],
    }
    await server.app(scope, receive, send)
    return status


def test_listing_json_is_what_the_sdk_reads() -> None:
    """Guards the names in the list against a typing slip: every field of one file is in the list, too."""

    async def test() -> None:
        async with live() as server:
            file = await upload(server.http, b"x")
            assert json.loads((await server.http.get("/v1/files")).content)["data"] == [file]

    run(test)
