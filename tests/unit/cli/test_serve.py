"""`serve` hands on what the user wrote, prints one block when ready, and its exit code says who stopped it."""

from __future__ import annotations

import signal
import sys
import types

import msgspec
import pytest
from click.testing import CliRunner

from redline import env
from redline.cli import serve
from redline.config import ServerConfig
from redline.engine.message import EngineInfo, Progress
from redline.errors import DoesNotFit

INFO = EngineInfo(
    model="tiny",
    dtype="bfloat16",
    device="cpu",
    max_model_len=4096,
    vocab_size=512,
    num_pages=300,
    page_size=16,
    max_num_seqs=8,
    stored_dtype="q4_1",
    weight_bytes=1 << 30,
    kv_bytes=1 << 29,
    start_s=1.25,
    start_stages={"Python": 0.01, "importing torch": 0.75, "loading weights": 0.25, "warming up": 0.2},
    file_bytes=1_000_000_000,
    predicted={"decode_limit_tokens_per_s": 79.6, "decode_ms": 16.0, "bar_ratio": 0.3},
)


@pytest.fixture
def server(monkeypatch):
    """A server that is ready at once and is stopped by SIGTERM; `server.calls` are its configurations."""
    fake = types.SimpleNamespace(calls=[], stopped_by=signal.SIGTERM, error=None)

    def run(engine, config, callbacks):
        fake.calls.append((engine, config))
        callbacks.progress(Progress("loading weights", 40.0))
        if fake.error:
            raise fake.error
        callbacks.ready("http://127.0.0.1:1234", INFO)
        return fake.stopped_by

    monkeypatch.setitem(sys.modules, "redline.server.run", types.SimpleNamespace(serve=run, Callbacks=types.SimpleNamespace))
    monkeypatch.setattr(serve, "make_local", lambda model, *, revision, progress: None)
    monkeypatch.delenv("REDLINE_API_KEY", raising=False)
    return fake


def run(*arguments):
    return CliRunner().invoke(serve.command, arguments)


def test_one_ready_block_with_a_line_to_paste(server):
    result = run("tiny", "--port", "0", "--max-model-len", "4096")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines() == [
        "redline serves http://127.0.0.1:1234/v1",
        "  model    tiny: q4_1 in the file, bfloat16 in memory, on cpu",
        "  context  4096 tokens, 8 sequences together",
        "  pages    300 of 16 tokens",
        "  memory   1.00 GiB weights, 0.50 GiB KV pages",
        "  speed    62 tokens/s expected for one request (within 30%), at most 80: this machine's limit",
        "  ready    after 1.2 s: importing torch 0.8 s, loading weights 0.2 s (4.0 GB/s), warming up 0.2 s",
        "  try      curl http://127.0.0.1:1234/v1/chat/completions -H 'content-type: application/json' "
        '-d \'{"messages": [{"role": "user", "content": "Hello"}]}\'',
    ]
    assert "loading weights done after" in result.stderr
    [(engine, config)] = server.calls
    assert (engine.model.model, engine.model.max_model_len) == ("tiny", 4096)
    assert config == ServerConfig(port=0, state_dir=str(env.data_dir()))


def test_an_expectation_that_steps_contradict_says_how_far_they_differ():
    predicted = INFO.predicted | {"bar_ratio": 16.6}
    block = serve.ready_block("http://h", msgspec.structs.replace(INFO, predicted=predicted), with_key=False)
    assert "62 tokens/s expected for one request (though steps here differed 18-fold), at most 80" in block


def test_the_key_of_the_environment_yields_to_the_option_and_is_never_printed(server, monkeypatch):
    monkeypatch.setenv("REDLINE_API_KEY", "from-environment")
    result = run("tiny")
    assert server.calls[0][1].api_key == "from-environment"
    assert "from-environment" not in result.output and "Bearer $REDLINE_API_KEY" in result.stdout
    run("tiny", "--api-key", "given")
    assert server.calls[1][1].api_key == "given"


@pytest.mark.parametrize(("host", "warned"), [("0.0.0.0", True), ("127.0.0.1", False), ("localhost", False), ("::1", False)])
def test_an_open_address_without_a_key_is_warned_about(server, host, warned):
    assert ("asks for no key" in run("tiny", "--host", host).stderr) == warned
    assert "asks for no key" not in run("tiny", "--host", host, "--api-key", "k").stderr


def test_an_interrupt_is_130_and_a_failure_to_start_goes_up(server):
    server.stopped_by = signal.SIGINT
    assert run("tiny").exit_code == 130
    server.error = DoesNotFit("needs 9.2 GB, 7.9 GB free")
    result = run("tiny")
    assert isinstance(result.exception, DoesNotFit)
    assert "loading weights stopped after" in result.stderr
