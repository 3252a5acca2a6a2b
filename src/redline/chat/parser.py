"""What a model wrote, as events: text, reasoning, tool calls. One incremental parser for streamed and collected answers.

A parser is fed text as it comes and tells what is certain; however the text is cut, the joined events are the same. Which
parser reads a model is decided in formats.py. Knows nothing of tokens or HTTP. Open `Parser` first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Text:
    """Words for the user."""

    text: str


@dataclass(frozen=True, slots=True)
class Reasoning:
    """Words of a reasoning block."""

    text: str


@dataclass(frozen=True, slots=True)
class CallBegin:
    """Tool call number `call` of the answer begins: its name is whole, its arguments follow."""

    call: int
    id: str
    name: str


@dataclass(frozen=True, slots=True)
class CallArguments:
    """The next piece of the JSON text of a call's arguments."""

    call: int
    text: str


Event = Text | Reasoning | CallBegin | CallArguments


class Parser(Protocol):
    """Reads one answer. `push` tells what `text` made certain; `finish` what is left when the answer has ended.

    `markers` are the texts it looks for: special tokens that spell them must be part of the text it is fed, while all
    other special tokens never are.
    """

    @property
    def markers(self) -> tuple[str, ...]: ...
    def push(self, text: str) -> list[Event]: ...
    def finish(self) -> list[Event]: ...


class PlainParser:
    """Everything is text."""

    markers = ()

    def push(self, text: str) -> list[Event]:
        return [Text(text)] if text else []

    def finish(self) -> list[Event]:
        return []


def merged(events: list[Event]) -> list[Event]:
    """The events with neighbours of one kind joined: text with text, arguments with arguments of the same call."""
    joined: list[Event] = []
    for event in events:
        last = joined[-1] if joined else None
        if isinstance(event, Text) and isinstance(last, Text):
            joined[-1] = Text(last.text + event.text)
        elif isinstance(event, Reasoning) and isinstance(last, Reasoning):
            joined[-1] = Reasoning(last.text + event.text)
        elif isinstance(event, CallArguments) and isinstance(last, CallArguments) and last.call == event.call:
            joined[-1] = CallArguments(last.call, last.text + event.text)
        else:
            joined.append(event)
    return joined
