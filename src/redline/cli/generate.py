"""`redline generate MODEL PROMPT`: one answer on standard output, its receipt on standard error.

Open `command`.
"""

from __future__ import annotations

import sys
from typing import Any

import click
import msgspec

from redline.cli.options import ENGINE_SECTIONS, JSON, MODEL, config_options, sampling_options
from redline.cli.session import Session, print_answer, print_receipt
from redline.errors import InvalidRequest


@click.command("generate")
@MODEL
@click.argument("prompt")
@click.option("--raw", is_flag=True, help="Continue the text as it is, without the model's chat template.")
@sampling_options
@config_options(*ENGINE_SECTIONS)
@JSON
def command(model: str, prompt: str, raw: bool, as_json: bool, **options: Any) -> None:
    """Answer one prompt; a PROMPT of - is read from standard input.

    The prompt is one message of a conversation where the model has a chat template, and plain text to continue where it
    has none or with --raw.
    """
    text = _checked(sys.stdin.read() if prompt == "-" else prompt)
    with Session(model, options, quiet=as_json) as session:
        deltas = session.deltas(text if raw or not session.has_template else [{"role": "user", "content": text}])
        if not as_json:
            print_receipt(print_answer(deltas)[1])
            return
        parts = list(deltas)
    last = parts[-1]
    document = {
        "text": "".join(part.text for part in parts),
        "finish": last.finish,
        "usage": last.usage,
        "receipt": last.receipt,
    }
    click.echo(msgspec.json.encode(document))


def _checked(text: str) -> str:
    """The prompt, refused before anything is loaded where it is empty or was not UTF-8."""
    if not text.strip():
        raise InvalidRequest("the prompt is empty", hint="give a text, or - to read standard input", param="prompt")
    try:
        text.encode()
    except UnicodeEncodeError:  # bytes that are not UTF-8 arrive as lone surrogates
        raise InvalidRequest("the prompt is not UTF-8", hint="convert it, for example with iconv", param="prompt") from None
    return text
