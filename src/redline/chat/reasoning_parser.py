"""Splits the block of reasoning off the beginning of an answer; another parser reads the rest.

A block is found only where an answer begins: markers further on are text. White space at the markers belongs to neither side.
A block that never ends is reasoning to the end, whatever it speaks of. Open `ReasoningParser.push` first.
"""

from __future__ import annotations

from typing import Literal

from redline.chat.parser import Event, Parser, Reasoning
from redline.chat.syntax import ReasoningSyntax

Where = Literal["before", "inside", "after"]
"""Where an answer begins: before a block that the model may open, inside one that the prompt opened, or in the midst of the
answer proper, as one that continues a message may."""


class ReasoningParser:
    """Reads one answer. With `told=False` reasoning is read and not told."""

    def __init__(self, syntax: ReasoningSyntax, inner: Parser, where: Where, *, told: bool = True) -> None:
        self._begin, self._end = syntax.begin.strip(), syntax.end.strip()
        self._inner = inner
        self._where = where
        self._told = told
        self._trims = where == "inside"  # white space that comes next is dropped
        self._buffer = ""

    @property
    def markers(self) -> tuple[str, ...]:
        return (self._begin, self._end, *self._inner.markers)

    def push(self, text: str) -> list[Event]:
        events: list[Event] = []
        if self._where != "after" or self._trims:
            self._buffer += text
            if self._where == "before" and not self._look_for_begin():
                return []
            if self._where == "inside":
                self._read_block(events)
            text = self._rest() if self._where == "after" else ""
        return [*events, *self._inner.push(text)] if text else events

    def finish(self) -> list[Event]:
        rest, self._buffer = self._buffer, ""
        if self._where == "inside":
            return [Reasoning(rest)] if rest and self._told else []
        return [*(self._inner.push(rest) if rest and not self._trims else ()), *self._inner.finish()]

    def _look_for_begin(self) -> bool:
        """Whether it is certain how the answer begins."""
        start = self._buffer.lstrip()
        for marker, where in ((self._begin, "inside"), (self._end, "after")):
            if start.startswith(marker):
                self._buffer = start.removeprefix(marker)
                self._where = "inside" if where == "inside" else "after"
                self._trims = True
                return True
            if marker.startswith(start):
                return False
        self._where = "after"
        return True

    def _read_block(self, events: list[Event]) -> None:
        while self._trims:
            self._buffer = self._buffer.lstrip()
            if self._buffer.startswith(self._begin):  # some repeat what the prompt began with
                self._buffer = self._buffer.removeprefix(self._begin)
            elif self._begin.startswith(self._buffer):
                return
            else:
                self._trims = False
        text, marker, rest = self._buffer.partition(self._end)
        if marker:
            self._where, self._trims = "after", True
            shown, self._buffer = text.rstrip(), rest
        else:
            shown = text[: _certain(text, self._end)]
            self._buffer = text[len(shown) :]
        if shown and self._told:
            events.append(Reasoning(shown))

    def _rest(self) -> str:
        """What follows the block, without the white space at its beginning."""
        rest = self._buffer.lstrip() if self._trims else self._buffer
        self._trims = self._trims and not rest
        self._buffer = ""
        return rest


def _certain(text: str, marker: str) -> int:
    """How much of `text` neither is white space before the marker nor may become it."""
    for size in range(min(len(marker) - 1, len(text)), 0, -1):
        if text.endswith(marker[:size]):
            return len(text[:-size].rstrip())
    return len(text.rstrip())
