"""Runs the server: a bound socket, the engine loading behind it, a ready announcement, a clean stop.

It answers /health from the start, long before the engine is ready. It prints nothing: what happens is told through
callbacks. From a first SIGINT or SIGTERM on new requests are refused, with 503, and open ones go on to their end; a second one
ends them, and so does the end of `DRAIN_S`. It ends by itself, with an error, when its engine dies again and again.
Open `serve` first.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import errno
import gc
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING

import uvicorn
from starlette.types import ASGIApp

from redline import log
from redline.config import EngineConfig, ModelConfig, ServerConfig
from redline.engine.client import Launcher
from redline.engine.launch import launch
from redline.engine.message import EngineInfo, Progress
from redline.engine.supervisor import Patience, Supervisor
from redline.errors import ConfigError
from redline.server import admin
from redline.server.app import build
from redline.server.batch_worker import BatchWorker
from redline.server.inside import Inside
from redline.server.presence import Presence, seen
from redline.server.protocol import MAX_HEADER_BYTES, limited, raise_file_limit
from redline.server.service import Service

if TYPE_CHECKING:
    from redline.chat.template import ChatTemplate
    from redline.tokenizer import Tokenizer

DRAIN_S = 30.0
DRAIN_TICK_S = 0.05
LAST_WORDS_S = 5  # after that, for open answers to be ended with an error
KEEP_ALIVE_S = 75  # longer than the usual client keeps a connection it means to use again
BACKLOG = 2048
GC_THRESHOLD = 20_000  # new objects before it looks; hundreds of streams have thousands that live for a moment
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@dataclasses.dataclass(frozen=True)
class Text:
    """What the server needs of a model beside its engine."""

    name: str
    tokenizer: Tokenizer
    template: ChatTemplate


@dataclasses.dataclass(frozen=True, kw_only=True)
class Callbacks:
    """What a caller may want to hear; called from the server's own thread."""

    progress: Callable[[Progress], None] = lambda progress: None
    ready: Callable[[str, EngineInfo], None] = lambda url, info: None


def open_text(model: ModelConfig) -> Text:
    """Tokenizer and template of a model. Raises NotFound, CheckpointError, ConfigError ..."""
    from redline.chat.template import ChatTemplate
    from redline.checkpoint import opener

    checkpoint = opener.open(model.model, revision=model.revision)
    template = ChatTemplate.of_model(checkpoint.chat_template, checkpoint.template_tokens, file=model.chat_template)
    return Text(checkpoint.name, opener.tokenizer_for(checkpoint, model.tokenizer), template)


def serve(
    engine: EngineConfig,
    server: ServerConfig,
    callbacks: Callbacks = Callbacks(),
    *,
    open_text: Callable[[ModelConfig], Text] = open_text,
    launcher: Launcher = launch,
) -> signal.Signals | None:
    """Serve until a signal comes, and return it.

    Raises ConfigError for an address that cannot be used, the engine's own error where it cannot start, and EngineDead where it
    started and does not stay alive.
    """
    with bind(server.host, server.port) as listening, _bind_admin(server) as admin:
        return asyncio.run(_Run(engine, server, callbacks, launcher).run(listening, open_text, admin))


def bind(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one. Raises ConfigError with the next step."""
    if not 0 <= port <= 65535:
        raise ConfigError(f"port must be between 0 and 65535, not {port}", param="port")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except OSError as error:
        raise ConfigError(f"the host {host!r} is unknown", hint="try --host 127.0.0.1", param="host") from error
    # With its protocol named, or asyncio leaves Nagle's algorithm on and a second small write waits 40 ms for its turn.
    listening = socket.socket(family, kind, protocol)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(BACKLOG)
    except OSError as error:
        listening.close()
        raise _bind_error(host, port, error) from error
    return listening


@contextlib.contextmanager
def _bind_admin(server: ServerConfig) -> Iterator[socket.socket | None]:
    """The socket of the admin API, where it is asked for. Raises ConfigError."""
    if server.admin_port is None:
        if server.admin_key is not None:
            raise ConfigError("an admin key is given and no admin port", hint="add --admin-port", param="admin_port")
        yield None
        return
    try:
        listening = bind(server.admin_host, server.admin_port)
    except ConfigError as error:
        raise ConfigError(f"the admin API: {error.message}", hint="try another --admin-port", param="admin_port") from error
    with listening:
        yield listening


def url_of(listening: socket.socket) -> str:
    """Where a client on this machine reaches the socket."""
    host, port = listening.getsockname()[:2]
    reachable = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{reachable}]:{port}" if ":" in reachable else f"http://{reachable}:{port}"


def _bind_error(host: str, port: int, error: OSError) -> ConfigError:
    if error.errno == errno.EADDRINUSE:
        return ConfigError(f"port {port} is in use", hint="try another --port, or --port 0 for a free one", param="port")
    if error.errno == errno.EACCES:
        return ConfigError(f"port {port} may not be used by this user", hint="try a --port above 1023", param="port")
    return ConfigError(f"cannot listen on {host} port {port}: {error.strerror}", hint="try --host 127.0.0.1", param="host")


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


class _Run:
    """One run of the server: what `serve` does inside the event loop."""

    def __init__(self, engine: EngineConfig, server: ServerConfig, callbacks: Callbacks, launcher: Launcher) -> None:
        self._config = server
        self._callbacks = callbacks
        patience = Patience(stuck_s=server.restart_stuck_s)
        self._client = Supervisor(engine, launcher=launcher, on_progress=callbacks.progress, patience=patience)
        self._http: _Http | None = None
        self._service: Service | None = None
        self._worker: BatchWorker | None = None
        self._presence: Presence | None = None
        self._signal: signal.Signals | None = None
        self._forced: asyncio.Task[None] | None = None
        self._draining: asyncio.Task[None] | None = None

    async def run(
        self, listening: socket.socket, open_text: Callable[[ModelConfig], Text], admin_listening: socket.socket | None = None
    ) -> signal.Signals | None:
        starting = asyncio.create_task(self._client.start())
        announcing = None
        try:
            with self._signals():
                await asyncio.sleep(0)  # the engine process starts now, and loads while the text half is read
                text = await asyncio.to_thread(open_text, self._client.config.model)
                self._http = self._server(text)
                _settle()
                announcing = asyncio.create_task(self._announce(starting, self._http, url_of(listening)))
                self._http.should_exit = self._signal is not None
                async with self._admin(admin_listening), self._batches():
                    self._tell(url_of(listening), None)
                    await self._http.serve([listening])
            if announcing.done():
                announcing.result()
            return self._signal
        finally:
            await self._client.close()
            if self._service is not None:
                await asyncio.to_thread(self._service.close)
            tasks = filter(None, (announcing, self._forced, self._draining))
            await asyncio.gather(starting, *tasks, return_exceptions=True)

    def _server(self, text: Text) -> _Http:
        config = self._config
        if config.served_model_name is None:
            config = dataclasses.replace(config, served_model_name=text.name)
        app = build(self._client, text.tokenizer, text.template, config)
        self._service = app.state.service
        self._worker = BatchWorker(app.state.service, Inside(app))
        return _http(app)

    def _tell(self, url: str, info: EngineInfo | None) -> None:
        """Let `redline ps` see this server, and what it is once its engine is ready."""
        service = self._service
        if service is None or service.state_dir is None:
            return
        if self._presence is None:
            self._presence = Presence(service.state_dir)
            service.at_close(self._presence.leave)
        self._presence.tell(seen(url, service.served_name, service.started, info))

    @contextlib.asynccontextmanager
    async def _batches(self) -> AsyncIterator[None]:
        """Batches are worked on for as long as requests are served."""
        assert self._worker is not None
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
        assert self._service is not None
        http = _http(admin.build(self._service, self._config))
        serving = asyncio.create_task(http.serve([listening]))
        log.get("admin").info("the admin API is at %s", url_of(listening))
        try:
            yield
        finally:
            http.should_exit = http.force_exit = True
            await serving

    async def _announce(self, starting: asyncio.Task[EngineInfo], http: _Http, url: str) -> None:
        """Tell that the engine is ready; stop serving when it never will be, or not any more."""
        try:
            info = await starting
            self._tell(url, info)
            self._callbacks.ready(url, info)
            await self._client.gave_up()
        except BaseException:
            http.should_exit = True
            raise

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            loop.add_signal_handler(number, self._on_signal, number)
        try:
            yield
        finally:
            for number in _SIGNALS:
                loop.remove_signal_handler(number)

    def _on_signal(self, number: signal.Signals) -> None:
        if self._signal is None:
            self._signal = number
            self._client.drain()
            self._draining = asyncio.ensure_future(self._drain())
            asyncio.get_running_loop().call_later(DRAIN_S, self._force)
        else:
            self._force()

    async def _drain(self) -> None:
        """Stop serving once no request is open; until then, whoever asks is told that this server is about to end."""
        while self._http is not None and self._http.server_state.tasks:
            await asyncio.sleep(DRAIN_TICK_S)
        if self._http is not None:
            self._http.should_exit = True

    def _force(self) -> None:
        """End every open request with an error, and stop serving."""
        if self._forced is None:
            self._forced = asyncio.ensure_future(self._client.close())
        if self._http is not None:
            self._http.should_exit = True
