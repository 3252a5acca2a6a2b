"""An answer as blocks that open, grow and close: the ground that responses and messages stand on.

A parser's events say what was written; those two APIs also say where each text, reasoning and tool call begins and ends.
Open `Blocks.push`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from redline.chat.parser import CallArguments, CallBegin, Event, Reasoning, Text

Kind = Literal["text", "reasoning", "call"]


@dataclass(slots=True)
class Block:
    """`number` counts the blocks of an answer; a call has an `id` and a `name`, and its arguments as text."""

    kind: Kind
    number: int
    id: str = ""
    name: str = ""
    parts: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(self.parts)


class Step(NamedTuple):
    """`block` opens, grows by `added`, or closes."""

    what: Literal["open", "grow", "close"]
    block: Block
    added: str = ""


class Blocks:
    """The blocks of one choice. One at a time is open: what comes next closes it."""

    def __init__(self) -> None:
        self.all: list[Block] = []
        self._open: Block | None = None

    def push(self, events: Iterable[Event]) -> Iterator[Step]:
        """What the events do to the blocks, one step at a time: the block is as it is after its step."""
        for event in events:
            match event:
                case Text(text):
                    yield from self._grow("text", text)
                case Reasoning(text):
                    yield from self._grow("reasoning", text)
                case CallBegin(_, id, name):
                    yield from self._begin(Block("call", len(self.all), id, name))
                case CallArguments(_, text):
                    yield from self._grow("call", text)

    def finish(self) -> Iterator[Step]:
        """Close what is open. An answer of nothing is one empty text."""
        if not self.all:
            yield from self._begin(Block("text", 0))
        yield from self._close()

    def _grow(self, kind: Kind, text: str) -> Iterator[Step]:
        if not text:
            return
        if self._open is None or self._open.kind != kind:
            yield from self._begin(Block(kind, len(self.all)))
        assert self._open is not None
        self._open.parts.append(text)
        yield Step("grow", self._open, text)

    def _begin(self, block: Block) -> Iterator[Step]:
        yield from self._close()
        self._open = block
        self.all.append(block)
        yield Step("open", block)

    def _close(self) -> Iterator[Step]:
        if self._open is not None:
            closed, self._open = self._open, None
            yield Step("close", closed)
