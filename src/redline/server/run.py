"""Runs the server: a bound socket, the engine loading behind it, a ready announcement, a clean stop.

It answers /health from the start, long before the engine is ready. It prints nothing: what happens is told through
callbacks. From a first SIGINT or SIGTERM on new requests are refused, with 503, and open ones go on to their end; a second one
ends them, and so does the end of `DRAIN_S`. It ends by itself, with an error, when its engine dies again and again.
Open `serve` first.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from redline.config import EngineConfig, ModelConfig, ServerConfig
from redline.engine.client import Launcher
from redline.engine.launch import launch
from redline.engine.message import EngineInfo, Progress
from redline.engine.supervisor import Patience, Supervisor
from redline.errors import ConfigError
from redline.server.listening import bind, url_of
from redline.server.text import Text, open_text

if TYPE_CHECKING:
    from redline.server.front import Front

DRAIN_S = 30.0
DRAIN_TICK_S = 0.05
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@dataclass(frozen=True, kw_only=True)
class Callbacks:
    """What a caller may want to hear; called from the server's own thread."""

    progress: Callable[[Progress], None] = lambda progress: None
    ready: Callable[[str, EngineInfo], None] = lambda url, info: None


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


class _Run:
    """One run of the server: what `serve` does inside the event loop."""

    def __init__(self, engine: EngineConfig, server: ServerConfig, callbacks: Callbacks, launcher: Launcher) -> None:
        self._config = server
        self._callbacks = callbacks
        patience = Patience(stuck_s=server.restart_stuck_s)
        self._client = Supervisor(engine, launcher=launcher, on_progress=callbacks.progress, patience=patience)
        self._front: Front | None = None
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
                await asyncio.sleep(0)  # the engine process starts now, and loads while what follows is imported and read
                from redline.server.front import Front

                text = await asyncio.to_thread(open_text, self._client.config.model)
                self._front = front = Front(self._client, text, self._config)
                announcing = asyncio.create_task(self._announce(starting, front, url_of(listening)))
                if self._signal is not None:
                    front.stop()
                await front.serve(listening, admin_listening)
            if announcing.done():
                announcing.result()
            return self._signal
        finally:
            await self._client.close()
            if self._front is not None:
                await self._front.close()
            tasks = filter(None, (announcing, self._forced, self._draining))
            await asyncio.gather(starting, *tasks, return_exceptions=True)

    async def _announce(self, starting: asyncio.Task[EngineInfo], front: Front, url: str) -> None:
        """Tell that the engine is ready; stop serving when it never will be, or not any more."""
        try:
            info = await starting
            front.tell(url, info)
            self._callbacks.ready(url, info)
            await self._client.gave_up()
        except BaseException:
            front.stop()
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
        while self._front is not None and self._front.is_busy:
            await asyncio.sleep(DRAIN_TICK_S)
        if self._front is not None:
            self._front.stop()

    def _force(self) -> None:
        """End every open request with an error, and stop serving."""
        if self._forced is None:
            self._forced = asyncio.ensure_future(self._client.close())
        if self._front is not None:
            self._front.stop()
