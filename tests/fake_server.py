"""The server over the fake engine: inside a test's event loop, or as a process of its own with a real port.

The template is plain: the contents of the messages, one after the other. With the fake engine, which repeats its
prompt, a chat of "abc" is answered with "abc".
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import httpx2
from starlette.applications import Starlette

from fake_worker import VOCAB, as_process, in_thread
from redline.chat.template import ChatTemplate
from redline.config import EngineConfig, ModelConfig, SchedulerConfig, ServerConfig
from redline.engine.supervisor import Supervisor
from redline.server import run
from redline.server.app import build
from redline.server.run import DRAIN_S, Callbacks, serve
from redline.server.service import Service
from redline.server.text import Text
from redline.tokenizer import Tokenizer

MODEL = "fake-model"
TESTS = Path(__file__).parent


class PlainTemplate:
    """Reads no tools and shows no reasoning, like the templates of older models."""

    is_missing = False
    source = ""
    tokens: Mapping[str, str] = {}
    variables = frozenset({"messages", "add_generation_prompt", "enable_thinking"})

    def __init__(self) -> None:
        self.options: dict[str, Any] = {}

    def render(self, messages: Sequence[Mapping[str, Any]], **options: Any) -> str:
        self.options = options
        contents = (message["content"] for message in messages)
        return "".join(of if isinstance(of, str) else "+".join(part["text"] for part in of) for of in contents)


@dataclass
class Live:
    """A server in this event loop; `http` reaches it without a socket."""

    app: Starlette
    engine: Supervisor
    http: httpx2.AsyncClient
    template: PlainTemplate

    @property
    def service(self) -> Service:
        service: Service = self.app.state.service
        return service


def engine_config(**model: Any) -> EngineConfig:
    return EngineConfig(model=ModelConfig(model=MODEL, **model))


@contextlib.asynccontextmanager
async def live(
    *,
    start: bool = True,
    api_key: str | None = None,
    server: Mapping[str, Any] | None = None,
    config: EngineConfig | None = None,
    **switches: object,
) -> AsyncIterator[Live]:
    """`server` are further fields of ServerConfig; `switches` those of the fake engine."""
    engine = Supervisor(config or engine_config(), launcher=in_thread(**switches))
    template = PlainTemplate()
    app = build(engine, Tokenizer.bytes(VOCAB), cast(ChatTemplate, template), ServerConfig(api_key=api_key, **(server or {})))
    try:
        if start:
            await engine.start()
        transport = httpx2.ASGITransport(app=app, raise_app_exceptions=False)
        async with httpx2.AsyncClient(transport=transport, base_url="http://test") as http:
            yield Live(app, engine, http, template)
    finally:
        await engine.close()
        app.state.service.close()


@dataclass
class Served:
    """A server process."""

    url: str
    process: subprocess.Popen[str]

    def metric(self, name: str) -> float:
        for line in httpx2.get(f"{self.url}/metrics").text.splitlines():
            if line.startswith(name):
                return float(line.rsplit(" ", 1)[1])
        return 0.0


@contextlib.contextmanager
def served(
    server: Mapping[str, Any] | None = None,
    drain_s: float = DRAIN_S,
    *,
    model: Mapping[str, Any] | None = None,
    scheduler: Mapping[str, Any] | None = None,
    patience: Mapping[str, Any] | None = None,
    **switches: object,
) -> Iterator[Served]:
    """A server process on a free port, ready; stopped on the way out if it still runs.

    `server`, `model` and `scheduler` are fields of their configurations, `patience` those of the supervisor's; `switches`
    those of the fake engine.
    """
    path = [str(TESTS), str(TESTS.parent / "src"), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, path))}
    told = [{"port": 0, **(server or {})}, drain_s, model or {}, scheduler or {}, patience or {}, switches]
    command = [sys.executable, "-m", "fake_server", json.dumps(told)]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        assert line, "the server ended before it was ready"
        yield Served(line.strip(), process)
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


def _open_text(model: ModelConfig) -> Text:
    return Text(model.model, Tokenizer.bytes(VOCAB), cast(ChatTemplate, PlainTemplate()))


def _main(argument: str) -> None:
    server, run.DRAIN_S, model, scheduler, patience, switches = json.loads(argument)
    run.Patience = functools.partial(run.Patience, **patience)  # type: ignore[assignment,misc]
    callbacks = Callbacks(ready=lambda url, info: print(url, flush=True))
    engine = dataclasses.replace(engine_config(**model), scheduler=SchedulerConfig(**scheduler))
    serve(engine, ServerConfig(**server), callbacks, open_text=_open_text, launcher=as_process(**switches))


if __name__ == "__main__":
    _main(sys.argv[1])
