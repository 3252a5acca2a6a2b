"""A hub on loopback: the few routes of the Hugging Face hub that a pull needs, and the ways in which a real one fails.

Files belong to revisions; large ones carry their SHA-256 as LFS files do. `cuts` closes a connection in the middle of a
file, `lies` announces another hash, `errors` answers a route with a status and the hub's error code. Open `SmallHub` first.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

LARGE = (".safetensors", ".gguf")
_INFO = re.compile(r"/api/models/([^/]+/[^/]+)/revision/([^/]+)")
_FILE = re.compile(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)")


@dataclass
class SmallHub:
    """What the hub holds and how it misbehaves. `repos[name][revision]` is a dictionary of files."""

    repos: dict[str, dict[str, dict[str, bytes]]] = field(default_factory=dict)
    cuts: dict[str, list[int]] = field(default_factory=dict)  # file: bytes to send before each cut, one for each request
    lies: dict[str, str] = field(default_factory=dict)  # file: the SHA-256 to announce
    errors: dict[str, tuple[int, str]] = field(default_factory=dict)  # repository: status and X-Error-Code
    sent: list[tuple[str, str, str | None]] = field(default_factory=list)  # method, file, Range
    url: str = ""

    def commit(self, repo: str, revision: str) -> str | None:
        """The commit of a branch, or `revision` itself if it is one; None where there is no such revision."""
        for branch, files in self.repos[repo].items():
            commit = hashlib.sha1(repr((branch, sorted(files.items()))).encode()).hexdigest()
            if revision in (branch, commit):
                return commit
        return None

    def files(self, repo: str, revision: str) -> dict[str, bytes]:
        return next(
            files for branch, files in self.repos[repo].items() if self.commit(repo, branch) == self.commit(repo, revision)
        )

    def downloads(self) -> list[str]:
        """The files that were asked for with GET, in order."""
        return [file for method, file, _ in self.sent if method == "GET"]


@contextmanager
def serving(hub: SmallHub) -> Iterator[SmallHub]:
    """Serve `hub` on a free port of loopback; `hub.url` is its address."""
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: SmallHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Tests print nothing."""

    def do_HEAD(self) -> None:
        self._route("HEAD")

    def do_GET(self) -> None:
        self._route("GET")

    def _route(self, method: str) -> None:
        path = unquote(urlsplit(self.path).path)
        info, file = _INFO.fullmatch(path), _FILE.fullmatch(path)
        match = info or file
        if match is None or match[1] not in self.hub.repos:
            self._answer(404, {"X-Error-Code": "RepoNotFound"}, b"")
        elif match[1] in self.hub.errors:
            status, code = self.hub.errors[match[1]]
            self._answer(status, {"X-Error-Code": code}, b"")
        elif self.hub.commit(match[1], match[2]) is None:
            self._answer(404, {"X-Error-Code": "RevisionNotFound"}, b"")
        elif info:
            self._info(info[1], info[2])
        else:
            assert file is not None
            self._file(method, file[1], file[2], file[3])

    def _info(self, repo: str, revision: str) -> None:
        siblings = []
        for name, data in self.hub.files(repo, revision).items():
            entry: dict[str, object] = {"rfilename": name, "size": len(data), "blobId": _git_hash(data)}
            if name.endswith(LARGE):
                entry["lfs"] = {"sha256": self._sha256(name, data), "size": len(data), "pointerSize": 130}
            siblings.append(entry)
        body = {"id": repo, "sha": self.hub.commit(repo, revision), "siblings": siblings}
        self._answer(200, {"Content-Type": "application/json"}, json.dumps(body).encode())

    def _file(self, method: str, repo: str, revision: str, name: str) -> None:
        data = self.hub.files(repo, revision).get(name)
        wanted = self.headers.get("Range")
        self.hub.sent.append((method, name, wanted))
        headers = {"X-Repo-Commit": self.hub.commit(repo, revision) or "", "Accept-Ranges": "bytes"}
        if data is None:
            self._answer(404, headers | {"X-Error-Code": "EntryNotFound"}, b"")
            return
        headers["ETag"] = f'"{self._sha256(name, data) if name.endswith(LARGE) else _git_hash(data)}"'
        if wanted is None:
            self._answer(200, headers, data, name)
            return
        begin = int(wanted.removeprefix("bytes=").split("-")[0])
        headers["Content-Range"] = f"bytes {begin}-{len(data) - 1}/{len(data)}"
        self._answer(206, headers, data[begin:], name)

    def _answer(self, status: int, headers: dict[str, str], body: bytes, name: str = "") -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        cuts = self.hub.cuts.get(name)
        if cuts:
            self.wfile.write(body[: cuts.pop(0)])
            self.close_connection = True
            return
        self.wfile.write(body)

    def _sha256(self, name: str, data: bytes) -> str:
        return self.hub.lies.get(name, hashlib.sha256(data).hexdigest())


def _git_hash(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
