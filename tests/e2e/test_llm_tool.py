"""The `llm` command-line tool against a live server: chat, completions and responses, streamed and not, tools and schemas."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fake_server import MODEL, Served, served

MARK = "\x1e"
"""The fake engine repeats what follows it."""
CALL = '<tool_call>\n{"name": "shout", "arguments": {"text": "hello"}}\n</tool_call>'
FUNCTION = 'def shout(text: str) -> str:\n    "Say it loudly."\n    return chr(30) + "ECHO:" + text.upper()\n'
KINDS = ("chat", "completion", "responses")


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    with served(step_s=0.001, mark=ord(MARK)) as running:
        yield running


@pytest.fixture(scope="module")
def home(server: Served, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for `llm` that knows the server under one name for each kind of API."""
    folder = tmp_path_factory.mktemp("llm")
    models = []
    for kind in KINDS:
        models.append({"model_id": f"redline-{kind}", "model_name": MODEL, "api_base": f"{server.url}/v1", kind: True})
        if kind != "completion":
            models[-1] |= {"supports_tools": True, "supports_schema": True}
    (folder / "extra-openai-models.yaml").write_text(json.dumps(models))  # JSON is YAML
    return folder


def llm(home: Path, *arguments: str) -> str:
    """What `llm` prints; it must succeed."""
    environment = {**os.environ, "LLM_USER_PATH": str(home), "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "-m", "llm", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_a_prompt_is_answered(home: Path, kind: str, stream: bool) -> None:
    options = [] if stream else ["--no-stream"]
    assert llm(home, "-m", f"redline-{kind}", *options, "-o", "max_tokens", "40", "Grüße, 世界 👋") == "Grüße, 世界 👋\n"


@pytest.mark.parametrize("kind", ["chat", "responses"])
def test_a_conversation_goes_on(home: Path, kind: str) -> None:
    llm(home, "-m", f"redline-{kind}", "-s", "be brief", " one")
    assert llm(home, "-c", "two") == "be brief onebe brief onetwo\n"


@pytest.mark.parametrize("kind", ["chat", "responses"])
def test_a_tool_is_called_and_its_result_is_read(home: Path, kind: str) -> None:
    told = llm(home, "-m", f"redline-{kind}", "--functions", FUNCTION, MARK + CALL)
    assert told == "ECHO:HELLO\n</tool_response>\n"
