"""`generate` and `chat` over a fake model: what goes to which stream, and what a conversation remembers."""

from __future__ import annotations

import json
import sys
import types
from dataclasses import dataclass, field

import pytest
from click.testing import CliRunner

from redline.cli import chat, generate, session
from redline.errors import ContextTooLong, InvalidRequest
from redline.types import SamplingParams, Usage


@dataclass
class Delta:
    text: str
    finish: str | None = None
    index: int = 0
    usage: Usage | None = None
    receipt: dict | None = None


@dataclass
class FakeLLM:
    """Answers with the number of messages, or with the prompt backwards; keeps what it was asked."""

    model: str
    options: dict
    asked: list = field(default_factory=list)
    closed: bool = False
    template: str | None = "{{ messages }}"
    fails: list = field(default_factory=list)

    @property
    def info(self):
        return types.SimpleNamespace(defaults={"temperature": 0.2, "top_k": 7}, file_bytes=0)

    @property
    def checkpoint(self):
        return types.SimpleNamespace(chat_template=self.template)

    def stream(self, prompt, sampling, grammar=None):
        self.asked.append((prompt, sampling))
        if self.fails:
            raise self.fails.pop()
        text = prompt[::-1] if isinstance(prompt, str) else f"heard {len(prompt)}"
        for index in range(sampling.n):
            yield Delta(text[:3], index=index)
        for index in range(sampling.n):
            receipt = {"fake": True} if index == sampling.n - 1 else None
            yield Delta(text[3:] + "!" * index, "stop", index, Usage(prompt_tokens=4, completion_tokens=2), receipt)

    def close(self):
        self.closed = True


@pytest.fixture
def llm(monkeypatch):
    """The fake that the command loads; `llm.options` are the options it was built with."""
    fake = FakeLLM("", {})

    def build(model, *, progress, **options):
        fake.model, fake.options = model, options
        return fake

    monkeypatch.setitem(sys.modules, "redline.llm", types.SimpleNamespace(LLM=build))
    monkeypatch.setitem(sys.modules, "redline.plan.receipt", types.SimpleNamespace(summary=lambda receipt: "fast enough"))
    monkeypatch.setattr(session, "make_local", lambda model, *, revision, progress: None)
    return fake


def run(command, *arguments, stdin=""):
    return CliRunner().invoke(command, arguments, input=stdin)


def test_the_answer_goes_to_stdout_and_the_receipt_to_stderr(llm):
    result = run(generate.command, "m", "Hello", "--max-num-seqs", "2", "--temperature", "0", "--stop", "x")
    assert result.stdout == "heard 1\n"
    assert result.stderr.endswith("fast enough\n")
    assert llm.asked == [([{"role": "user", "content": "Hello"}], SamplingParams(temperature=0.0, top_k=7, stop=("x",)))]
    assert (llm.model, llm.options, llm.closed) == ("m", {"max_num_seqs": 2}, True)


def test_raw_text_or_a_model_without_a_template_continues_the_prompt(llm):
    assert run(generate.command, "m", "abcdef", "--raw").stdout == "fedcba\n"
    llm.template = None
    assert run(generate.command, "m", "abcdef").stdout == "fedcba\n"


def test_json_is_one_document_and_nothing_else(llm):
    result = run(generate.command, "m", "-", "--json", stdin="from a pipe")
    assert result.stderr == ""
    document = json.loads(result.stdout)
    start = document.pop("start")
    assert "importing torch" in start["stages"] and start["file_bytes"] == 0
    assert document == {
        "text": "heard 1",
        "finish": "stop",
        "choices": [{"index": 0, "text": "heard 1", "finish": "stop"}],
        "usage": {"prompt_tokens": 4, "completion_tokens": 2, "cached_tokens": 0},
        "receipt": {"fake": True},
    }


def test_several_answers_are_told_one_after_the_other(llm):
    result = run(generate.command, "m", "Hello", "--n", "3")
    assert result.stdout == "[1 of 3]\nheard 1\n[2 of 3]\nheard 1!\n[3 of 3]\nheard 1!!\n"
    assert result.stderr.endswith("fast enough\n") and llm.asked[0][1].n == 3
    document = json.loads(run(generate.command, "m", "Hello", "--n", "2", "--json").stdout)
    assert [choice["text"] for choice in document["choices"]] == ["heard 1", "heard 1!"]
    assert document["usage"]["completion_tokens"] == 4 and document["receipt"] == {"fake": True}


def test_a_template_that_the_user_gives_makes_a_conversation(llm):
    llm.template = None
    assert run(generate.command, "m", "abcdef", "--chat-template", "mine.jinja").stdout == "heard 1\n"
    assert llm.options == {"chat_template": "mine.jinja"}


@pytest.mark.parametrize(
    "arguments", [("m", " "), ("m", "not utf-8: \udcff"), ("m", "x", "--top-p", "3"), ("m", "x", "--n", "0")]
)
def test_a_wrong_request_is_refused_before_a_model_is_loaded(llm, arguments):
    result = run(generate.command, *arguments)
    assert isinstance(result.exception, InvalidRequest)
    assert llm.model == ""


def test_a_conversation_remembers_resets_and_ends(llm):
    lines = "first\n\n  second \n/reset\nthird\n/system be brief\nfourth\n/what\n/exit\nnever\n"
    result = run(chat.command, "m", "--system", "be kind", stdin=lines)
    assert result.exit_code == 0, result.output
    kind, brief = {"role": "system", "content": "be kind"}, {"role": "system", "content": "be brief"}
    first = {"role": "user", "content": "first"}
    assert [prompt for prompt, _ in llm.asked] == [
        [kind, first],
        [kind, first, {"role": "assistant", "content": "heard 2"}, {"role": "user", "content": "second"}],
        [kind, {"role": "user", "content": "third"}],
        [brief, {"role": "user", "content": "fourth"}],
    ]
    assert result.stdout == "heard 2\nheard 4\nheard 2\nheard 2\n"
    assert "/what is not known" in result.stderr and llm.closed


def test_the_end_of_the_input_ends_a_conversation(llm):
    assert run(chat.command, "m", stdin="one").stdout == "heard 1\n"


@pytest.mark.parametrize(
    ("failure", "said"),
    [
        (KeyboardInterrupt(), "stopped"),
        (ContextTooLong("4 of 3 tokens"), "4 of 3 tokens; /reset begins anew"),
        (InvalidRequest("not Unicode"), "not Unicode\n"),
    ],
)
def test_a_turn_that_was_stopped_or_refused_is_forgotten(llm, failure, said):
    llm.fails = [failure]
    result = run(chat.command, "m", stdin="one\ntwo\n")
    assert said in result.stderr
    assert llm.asked[1][0] == [{"role": "user", "content": "two"}]
