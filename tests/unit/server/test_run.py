"""Starting and stopping: the address, the announcement, an engine that cannot start."""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx2
import pytest

from fake_server import engine_config, served
from fake_worker import in_thread
from redline.config import ModelConfig, ServerConfig
from redline.errors import CheckpointError, ConfigError, DoesNotFit
from redline.server.listening import bind, url_of
from redline.server.run import Callbacks, serve
from redline.server.text import Text


def test_a_free_port_is_taken_and_told() -> None:
    with bind("127.0.0.1", 0) as listening:
        assert url_of(listening) == f"http://127.0.0.1:{listening.getsockname()[1]}"
    with bind("0.0.0.0", 0) as listening:
        assert url_of(listening).startswith("http://127.0.0.1:")


@pytest.mark.parametrize(
    ("host", "port", "sentence"),
    [
        ("127.0.0.1", 70_000, "port must be between"),
        ("no such host", 0, "unknown"),
        ("192.0.2.1", 0, "cannot listen"),
    ],
)
def test_an_address_that_cannot_be_used_is_a_sentence(host: str, port: int, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        bind(host, port)


def test_an_answer_in_two_writes_does_not_wait_for_the_client() -> None:
    """With Nagle's algorithm on, the second write would be held back for a delayed acknowledgement, 40 ms."""

    async def test() -> None:
        nodelay: list[int] = []

        def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nodelay.append(writer.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()

        with bind("127.0.0.1", 0) as listening:
            async with await asyncio.start_server(accepted, sock=listening):
                reader, writer = await asyncio.open_connection(*listening.getsockname())
                assert await reader.read() == b""
                writer.close()
        assert nodelay and nodelay[0]

    asyncio.run(test())


def test_a_port_in_use_names_the_way_out() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ConfigError, match=r"is in use \(try another --port, or --port 0") as caught:
            try:
                bind("127.0.0.1", taken.getsockname()[1])
            except ConfigError as error:
                raise ConfigError(error.sentence()) from error
        assert caught.value.exit_code == 2


def _text(model: ModelConfig) -> Text:
    raise AssertionError("not reached")


@pytest.mark.parametrize("error", [DoesNotFit("no room"), CheckpointError("truncated")])
def test_a_failure_at_the_start_is_raised_and_nothing_stays_behind(error: Exception) -> None:
    before = threading.active_count()

    def broken(model: ModelConfig) -> Text:
        raise error

    with pytest.raises(type(error), match=str(error)):
        serve(engine_config(), ServerConfig(port=0), open_text=broken, launcher=in_thread(load_s=0.05))
    for _ in range(100):
        if threading.active_count() <= before:
            return
        time.sleep(0.01)
    raise AssertionError("the engine still runs")


def test_an_engine_that_cannot_start_is_the_servers_error() -> None:
    from fake_server import _open_text

    ready: list[str] = []
    with pytest.raises(DoesNotFit, match="it does not load"):
        serve(
            engine_config(),
            ServerConfig(port=0),
            Callbacks(ready=lambda url, info: ready.append(url)),
            open_text=_open_text,
            launcher=in_thread(fail_load="does_not_fit"),
        )
    assert ready == []


def test_a_second_signal_ends_open_requests() -> None:
    with served(step_s=0.01) as server:
        body = {"messages": [{"role": "user", "content": "x" * 4000}], "stream": True}
        with httpx2.stream("POST", f"{server.url}/v1/chat/completions", json=body, timeout=10) as response:
            lines = response.iter_lines()
            next(lines)
            server.process.send_signal(signal.SIGINT)
            time.sleep(0.3)
            assert server.process.poll() is None, "the open stream keeps it"
            server.process.send_signal(signal.SIGINT)
            assert "shutting down" in [line for line in lines if line][-1]
        assert server.process.wait(5) == 0


def test_open_requests_end_with_an_error_when_draining_takes_too_long() -> None:
    with served(drain_s=0.3, step_s=0.01) as server:
        body = {"messages": [{"role": "user", "content": "x" * 4000}], "stream": True}
        with httpx2.stream("POST", f"{server.url}/v1/chat/completions", json=body, timeout=10) as response:
            lines = response.iter_lines()
            next(lines)
            server.process.send_signal(signal.SIGTERM)
            assert "shutting down" in [line for line in lines if line][-1]
        assert server.process.wait(5) == 0


def test_importing_the_server_never_imports_torch() -> None:
    _run_python("sys.modules['torch'] = None; import redline.server.run, redline.server.front, redline.engine.client")


def test_the_engine_process_is_started_before_the_web_server_is_imported() -> None:
    """Which takes a third of a second: what starts the engine must not wait for it."""
    _run_python("import redline.cli.serve, redline.server.run; assert not {'uvicorn', 'redline.server.app'} & set(sys.modules)")


def _run_python(code: str) -> None:
    source = str(Path(__file__).parents[3] / "src")
    subprocess.run([sys.executable, "-c", f"import sys; sys.path.insert(0, {source!r}); {code}"], check=True)
