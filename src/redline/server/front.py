"""What is heard while a server runs: the app on its socket, the admin API on its own, and the work that goes on beside requests.

Importing this file imports the web server and all endpoints, about as long as an engine process needs to find torch: `run.py`
does so when that process has been started. Open `Front` first.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import gc
import socket
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING

import uvicorn
from starlette.types import ASGIApp

from redline import log
from redline.config import ServerConfig
from redline.engine.message import EngineInfo
from redline.engine.supervisor import Supervisor
from redline.server import admin
from redline.server.app import build
from redline.server.batch_worker import BatchWorker
from redline.server.inside import Inside
from redline.server.listening import BACKLOG, url_of
from redline.server.presence import Presence, seen
from redline.server.protocol import MAX_HEADER_BYTES, limited, raise_file_limit

if TYPE_CHECKING:
    from redline.server.text import Text

LAST_WORDS_S = 5  # once it was stopped, for open answers to be ended with an error
KEEP_ALIVE_S = 75  # longer than the usual client keeps a connection it means to use again
GC_THRESHOLD = 20_000  # new objects before it looks; hundreds of streams have thousands that live for a moment


class Front:
    """The HTTP side of one server, before the engine behind `client`."""

    def __init__(self, client: Supervisor, text: Text, config: ServerConfig) -> None:
        if config.served_model_name is None:
            config = dataclasses.replace(config, served_model_name=text.name)
        app = build(client, text.tokenizer, text.template, config)
        self._config = config
        self._service = app.state.service
        self._worker = BatchWorker(self._service, Inside(app))
        self._http = _http(app)
        self._presence: Presence | None = None
        _settle()

    @property
    def is_busy(self) -> bool:
        """Whether a request is open."""
        return bool(self._http.server_state.tasks)

    async def serve(self, listening: socket.socket, admin_listening: socket.socket | None = None) -> None:
        """Answer, and work on batches, until `stop` was called and open requests have ended."""
        async with self._admin(admin_listening), self._batches():
            self.tell(url_of(listening), None)
            await self._http.serve([listening])

    def stop(self) -> None:
        """Take no more connections, and let `serve` return; returns at once."""
        self._http.should_exit = True

    def tell(self, url: str, info: EngineInfo | None) -> None:
        """Let `redline ps` see this server, and what it is once its engine is ready."""
        service = self._service
        if service.state_dir is None:
            return
        if self._presence is None:
            self._presence = Presence(service.state_dir)
            service.at_close(self._presence.leave)
        self._presence.tell(seen(url, service.served_name, service.started, info))

    async def close(self) -> None:
        """Once nothing is served any more, and the engine has ended."""
        await asyncio.to_thread(self._service.close)

    @contextlib.asynccontextmanager
    async def _batches(self) -> AsyncIterator[None]:
        """Batches are worked on for as long as requests are served."""
        self._worker.start()
        try:
            yield
        finally:
            await self._worker.stop()

    @contextlib.asynccontextmanager
    async def _admin(self, listening: socket.socket | None) -> AsyncIterator[None]:
        """The admin API on its own socket, for as long as the public one serves."""
        if listening is None:
            yield
            return
        http = _http(admin.build(self._service, self._config))
        serving = asyncio.create_task(http.serve([listening]))
        log.get("admin").info("the admin API is at %s", url_of(listening))
        try:
            yield
        finally:
            http.should_exit = http.force_exit = True
            await serving


class _Http(uvicorn.Server):
    """uvicorn without its own signal handling, which would end the process instead of returning."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _http(app: ASGIApp) -> _Http:
    return _Http(
        uvicorn.Config(
            app,
            http=limited(raise_file_limit()),
            h11_max_incomplete_event_size=MAX_HEADER_BYTES,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            backlog=BACKLOG,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=LAST_WORDS_S,
        )
    )


def _settle() -> None:
    """Keep the garbage collector from walking through all that was loaded, again and again, while tokens flow."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD)
