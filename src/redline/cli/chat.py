"""`redline chat MODEL`: a conversation, line by line, from a terminal or a pipe.

Open `command`, then `converse`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import click

from redline.cli.arguments import MODEL
from redline.cli.options import ENGINE_SECTIONS, config_options, sampling_options
from redline.cli.session import Session, print_answer, print_receipt
from redline.errors import ContextTooLong, UserError

COMMANDS = "/exit ends, /reset forgets the conversation, /system TEXT sets the system message, Ctrl-C stops an answer"


@click.command("chat")
@MODEL
@click.option("--system", default=None, metavar="TEXT", help="System message of the conversation.")
@sampling_options
@config_options(*ENGINE_SECTIONS)
def command(model: str, system: str | None, **options: Any) -> None:
    """Talk with a model: one line is one message, the whole conversation is its context.

    /exit or the end of the input ends it, /reset forgets what was said, /system TEXT sets the system message.
    """
    terminal = sys.stdin.isatty()
    with Session(model, options) as session:
        if terminal:
            click.echo(COMMANDS, err=True)
        converse(session, system, _ask if terminal else _read)


def converse(session: Session, system: str | None, read: Callable[[], str | None]) -> None:
    """Answer what `read` returns until it returns None or /exit."""
    history = _opening(system)
    while (line := read()) is not None and line.strip() != "/exit":
        word, _, rest = line.strip().partition(" ")
        if word == "/system":
            system = rest or None
        if word in ("/system", "/reset"):
            history = _opening(system)
        elif word.startswith("/"):
            click.echo(f"{word} is not known: {COMMANDS}", err=True)
        elif word:
            history = _answer(session, history, line.strip())


def _answer(session: Session, history: list[dict[str, str]], line: str) -> list[dict[str, str]]:
    """The conversation with `line` and its answer; as it was where the answer was stopped or does not fit."""
    asked = [*history, {"role": "user", "content": line}]
    deltas = session.deltas(asked)
    try:
        text, last = print_answer(deltas)
    except KeyboardInterrupt:
        close = getattr(deltas, "close", None)  # of a generator: cancels the answer and frees its pages at once
        if close is not None:
            close()
        click.echo("\n(stopped; this turn is forgotten)", err=True)
        return history
    except UserError as error:
        click.echo(error.sentence() + ("; /reset begins anew" if isinstance(error, ContextTooLong) else ""), err=True)
        return history
    print_receipt(last)
    return [*asked, {"role": "assistant", "content": text}]


def _opening(system: str | None) -> list[dict[str, str]]:
    return [{"role": "system", "content": system}] if system else []


def _ask() -> str | None:
    """A line from the terminal, with history and editing; None at its end."""
    import readline  # noqa: F401  input() uses it once it is imported

    try:
        return input("> ")
    except EOFError:
        return None


def _read() -> str | None:
    return sys.stdin.readline() or None
