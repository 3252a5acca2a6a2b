"""The audit log: one JSON line for every request that needed a key, without prompts, answers or keys.

Lines are written by a thread of their own and appended, so that a slow or full disk holds up no request: what cannot be
written is counted, and told once in the log. A file that was moved away (logrotate) is made anew. Only what the server
chose itself is written, never a path, a query or a header as the caller wrote it. Open `AuditLog.add`, then
`line_of`.
"""

from __future__ import annotations

import contextlib
import os
import queue
import threading
from pathlib import Path
from typing import Any

import msgspec

from redline import log
from redline.errors import ConfigError
from redline.server.exchange import Exchange
from redline.server.metrics import METHODS
from redline.types import Timing, Usage

MAX_WAITING = 10_000  # lines that the disk has not taken yet; more are lost
CLOSE_S = 5.0


class AuditLog:
    """The file and the thread that writes it."""

    def __init__(self, path: str | Path) -> None:
        """Raises ConfigError where the file cannot be written."""
        self._path = str(path)
        self._lines: queue.Queue[bytes | None] = queue.Queue(MAX_WAITING)
        self._file = -1
        self.lost = 0
        self._complained = False
        try:
            self._open()
        except OSError as error:
            raise ConfigError(f"the audit log cannot be written: {error}", param="audit_log") from error
        self._thread = threading.Thread(target=self._write_all, name="audit", daemon=True)
        self._thread.start()

    def add(self, exchange: Exchange, client: str | None) -> None:
        """Write the line of a request that has ended; it is counted as lost where too many wait."""
        try:
            self._lines.put_nowait(msgspec.json.encode(line_of(exchange, client)) + b"\n")
        except queue.Full:
            self._lose("the disk is too slow")

    def close(self) -> None:
        """Write what waits. Safe to repeat."""
        if self._thread.is_alive():
            with contextlib.suppress(queue.Full):
                self._lines.put(None, timeout=CLOSE_S)
            self._thread.join(CLOSE_S)

    def _write_all(self) -> None:
        while (line := self._lines.get()) is not None:
            try:
                self._open()
                if os.write(self._file, line) != len(line):
                    raise OSError("the disk took a part of a line")
                self._complained = False
            except OSError as error:
                self._lose(str(error))
        os.close(self._file)

    def _open(self) -> None:
        """Have the file open that lies at the path now."""
        if self._file >= 0:
            with contextlib.suppress(FileNotFoundError):
                there, ours = os.stat(self._path), os.fstat(self._file)
                if (there.st_ino, there.st_dev) == (ours.st_ino, ours.st_dev):
                    return
        file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        if self._file >= 0:
            os.close(self._file)
        self._file = file

    def _lose(self, why: str) -> None:
        self.lost += 1
        if not self._complained:
            self._complained = True
            log.get("audit").error("lines of the audit log are lost: %s", why)


def line_of(exchange: Exchange, client: str | None) -> dict[str, Any]:
    """Times in seconds; `time` is when the request came. Tokens are what the key was charged, whoever read the answer."""
    used, timing = exchange.billed or Usage(), exchange.timing or Timing()
    answered_s = None if exchange.answered is None else round(exchange.answered - exchange.began, 6)
    return {
        "time": round(exchange.began_ns / 1e9, 3),
        "request_id": exchange.id,
        "client": client,
        "key": exchange.key,
        "method": exchange.method if exchange.method in METHODS else "other",
        "route": exchange.route,
        "status": exchange.status,
        "error": exchange.error or None,
        "model": exchange.model or None,
        "prompt_tokens": used.prompt_tokens,
        "cached_tokens": used.cached_tokens,
        "completion_tokens": used.completion_tokens,
        "finish": sorted(set(exchange.finishes)),
        "seconds": round(exchange.ended - exchange.began, 6),
        "answered_s": answered_s,
        "queue_s": round(timing.queue_s, 6),
        "prefill_s": round(timing.prefill_s, 6),
        "decode_s": round(timing.decode_s, 6),
    }
