"""`redline generate MODEL PROMPT`: one answer on standard output, its receipt on standard error.

Open `command`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click
import msgspec

from redline.cli.answer_format import grammar_of, grammar_options
from redline.cli.arguments import JSON, MODEL
from redline.cli.options import ENGINE_SECTIONS, config_options, sampling_options
from redline.cli.session import Session, print_answer, print_receipt
from redline.errors import InvalidRequest
from redline.types import Usage

if TYPE_CHECKING:
    from redline.engine.answer import Delta


@click.command("generate")
@MODEL
@click.argument("prompt")
@click.option("--n", default=None, type=int, help="Answers to give; several are printed one after the other.  [default: 1]")
@click.option("--raw", is_flag=True, help="Continue the text as it is, without the model's chat template.")
@grammar_options
@sampling_options
@config_options(*ENGINE_SECTIONS)
@JSON
def command(model: str, prompt: str, raw: bool, as_json: bool, **options: Any) -> None:
    """Answer one prompt; a PROMPT of - is read from standard input.

    The prompt is one message of a conversation where the model has a chat template, and plain text to continue where it
    has none or with --raw.
    """
    text = _checked(sys.stdin.read() if prompt == "-" else prompt)
    grammar = grammar_of(options)
    with Session(model, options, quiet=as_json) as session:
        prompted = text if raw or not session.has_template else [{"role": "user", "content": text}]
        deltas = session.deltas(prompted, grammar=grammar)
        if session.sampling.n == 1 and not as_json:
            print_receipt(print_answer(deltas)[1])
            return
        answers = _collected(deltas, session.sampling.n)
    last = next(part for parts in answers for part in parts if part.receipt is not None)
    if not as_json:
        for number, parts in enumerate(answers, 1):
            click.echo(f"[{number} of {len(answers)}]\n{_text(parts)}")
        print_receipt(last)
        return
    document = {
        "text": _text(answers[0]),
        "finish": answers[0][-1].finish,
        "choices": [{"index": i, "text": _text(parts), "finish": parts[-1].finish} for i, parts in enumerate(answers)],
        "usage": _usage([parts[-1].usage for parts in answers]),
        "receipt": last.receipt,
        "start": {"stages": session.start_stages, "file_bytes": session.file_bytes},
    }
    click.echo(msgspec.json.encode(document))


def _collected(deltas: Iterator[Delta], n: int) -> list[list[Delta]]:
    """The deltas of each choice."""
    answers: list[list[Delta]] = [[] for _ in range(n)]
    for delta in deltas:
        answers[delta.index].append(delta)
    return answers


def _text(parts: list[Delta]) -> str:
    return "".join(part.text for part in parts)


def _usage(usages: list[Usage | None]) -> Usage:
    """Of all choices together; the prompt counts once."""
    told = [usage for usage in usages if usage is not None]
    completion = sum(usage.completion_tokens for usage in told)
    return msgspec.structs.replace(told[0], completion_tokens=completion)


def _checked(text: str) -> str:
    """The prompt, refused before anything is loaded where it is empty or was not UTF-8."""
    if not text.strip():
        raise InvalidRequest("the prompt is empty", hint="give a text, or - to read standard input", param="prompt")
    try:
        text.encode()
    except UnicodeEncodeError:  # bytes that are not UTF-8 arrive as lone surrogates
        raise InvalidRequest("the prompt is not UTF-8", hint="convert it, for example with iconv", param="prompt") from None
    return text
