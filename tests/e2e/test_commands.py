"""The commands as a user runs them, on a tiny random model: the demo's own server and question, generate, chat."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

import demo

MODEL = "random:tiny-llama"


@pytest.fixture(autouse=True)
def environment(monkeypatch, tmp_path):
    """A cache folder of our own, and the source for child processes."""
    monkeypatch.setenv("REDLINE_CACHE", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))


def redline(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*demo.REDLINE, *arguments], input=stdin, capture_output=True, text=True, timeout=120, cwd=os.environ["REDLINE_CACHE"]
    )


def test_the_demo_serves_streams_an_answer_with_its_receipt_and_stops_cleanly(capfd):
    """`serving` itself checks that SIGTERM ends the server with exit code 0."""
    with demo.serving(MODEL) as url:
        receipt = demo.ask(url, "Hello")
    assert receipt["decode"]["tokens"] > 0
    shown = capfd.readouterr().out
    assert f"redline serves {url}/v1" in shown and f"curl {url}/v1/chat/completions" in shown


def test_the_demo_says_in_one_sentence_what_failed(capsys):
    with pytest.raises(demo.DemoFailed, match=r"exit code 2 before it was ready"), demo.serving("random:tiny-lama"):
        pass
    assert demo.main("no-such-model") == 1
    assert "make demo: `redline pull no-such-model` ended with exit code 2" in capsys.readouterr().err


def test_generate_prints_one_json_document():
    document = json.loads(redline("generate", MODEL, "Hello", "--max-tokens", "12", "--json").stdout)
    assert document["usage"]["completion_tokens"] == 12 and document["finish"] == "length"
    assert document["receipt"]["prefill"]["tokens"] == document["usage"]["prompt_tokens"]


def test_chat_reads_a_pipe_to_its_end():
    result = redline("chat", MODEL, "--max-tokens", "4", stdin="Hello\nAnd again\n/exit\nnever read\n")
    assert result.returncode == 0, result.stderr
    assert result.stderr.count("first token after") == 2


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("generate", "smolm2-135m", "x"), 2, "did you mean smollm2-135m"),
        (("generate", MODEL, "x", "--max-model-len", "5000"), 2, "made for"),
        (("generate", MODEL, "x" * 5000), 2, "tokens"),
        (("serve", MODEL, "--port", "99999"), 2, "port must be between 0 and 65535"),
        (("serve", MODEL, "--device", "cuda:7"), 2, "cuda:7"),
        (("show", "pyproject.toml"), 2, "pyproject.toml"),
    ],
)
def test_a_mistake_is_one_sentence_with_the_next_step(arguments, code, said):
    result = redline(*arguments)
    assert result.returncode == code, result.stderr
    assert said in result.stderr and "Traceback" not in result.stderr
    assert result.stderr.splitlines()[-1].startswith("redline: ")
