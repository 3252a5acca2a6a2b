"""What `generate` and `chat` share: a loaded model, an answer printed as it comes, and its receipt.

Knows the offline door and nothing of the server. Open `Session` first.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

import click

from redline.cli.fetch import make_local
from redline.cli.options import ENGINE_SECTIONS, sampling_fields, split
from redline.cli.progress import Progress
from redline.config import AUTO
from redline.engine.early import Early
from redline.engine.stages import IMPORTING, Stages, process_began
from redline.types import SamplingParams

if TYPE_CHECKING:
    from redline.engine.answer import Delta

Message = Mapping[str, Any]


class Session:
    """A model loaded from a command's options. `quiet`: nothing but the answer is printed."""

    def __init__(self, model: str, options: Mapping[str, Any], *, quiet: bool = False) -> None:
        engine_options, _ = split(options, *ENGINE_SECTIONS)
        asked = sampling_fields(options)  # refused before anything is loaded
        with Progress(quiet=quiet) as progress:
            stages = Stages(lambda stage, percent: progress(stage, percent / 100), began=process_began())
            revision = engine_options.get("revision")
            make_local(model, revision=revision, progress=progress)
            stages(IMPORTING, 0)
            with contextlib.closing(Early(model, revision, engine_options.get("device", AUTO))):
                from redline.llm import LLM

                self._llm = LLM(model, progress=stages, **engine_options)
            self.start_stages = stages.seconds()
        self.sampling = SamplingParams(**(self._llm.info.defaults | asked))
        self._template_given = "chat_template" in engine_options

    @property
    def file_bytes(self) -> int:
        """Bytes of the weights as they lie in the model's files; 0 where they are made."""
        return self._llm.info.file_bytes

    @property
    def has_template(self) -> bool:
        """Whether the model was made for conversations, or the user says how it has them."""
        return self._template_given or self._llm.checkpoint.chat_template is not None

    def deltas(self, prompt: str | Sequence[Message], *, grammar: str | None = None) -> Iterator[Delta]:
        """The answer to a prompt or a conversation, as it comes; `grammar` is what it must match."""
        return self._llm.stream(prompt, self.sampling, grammar=grammar)

    def __enter__(self) -> Session:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._llm.close()


def print_answer(deltas: Iterator[Delta]) -> tuple[str, Delta | None]:
    """Print the text of `deltas` as it comes; the whole text and the last delta."""
    text, last = "", None
    for delta in deltas:
        click.echo(delta.text, nl=False)
        text, last = text + delta.text, delta
    click.echo()
    return text, last


def print_receipt(last: Delta | None) -> None:
    """One line on standard error: how fast the answer was and how far from the machine's limit."""
    if last is not None and last.receipt is not None:
        from redline.plan.receipt import summary

        click.echo(click.style(summary(last.receipt), dim=True), err=True)
