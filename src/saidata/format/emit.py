"""Write saidata as YAML: `emit`. Keys stand in the schema's order, unknown ones behind them; the same data, the same text.

Lists of short plain values go on one line in brackets; everything else is block style. Readers of YAML 1.1 and 1.2 read the
same from it (see scalars.py). `Writer` writes parts of a document in the style of one that exists, for document.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from saidata.facts import Path
from saidata.format.scalars import quoted, write, write_key
from saidata.format.schema import known_keys

WIDTH = 100  # of a list on one line, its indentation included


@dataclass(frozen=True)
class Style:
    """How a document looks."""

    step: int = 2  # how far the entries of an object stand in from its key
    dash: int = 2  # how far a list's dashes stand in from its key
    quote_all: bool = False  # text in quotes where none are needed


def emit(data: Mapping[str, Any], notes: Mapping[Path, str] | None = None) -> str:
    """`data` as a YAML document. `notes` puts a comment behind the value at a path: {("ports", 0): "not checked: ..."}.

    Values must be what JSON has: mappings with text keys, sequences, text, numbers, booleans, null.
    """
    return "".join(line + "\n" for line in Writer(notes or {}).document(data))


def ordered(data: Mapping[str, Any], path: Path = ()) -> list[str]:
    """The keys of an object in the order they are written."""
    known = known_keys(path)
    return [key for key in known if key in data] + [key for key in data if key not in known]


@dataclass(frozen=True)
class Writer:
    """Writes parts of a document as lines without their ends. `path` always leads to the value that is written."""

    notes: Mapping[Path, str] = field(default_factory=dict)
    style: Style = Style()

    def document(self, data: Mapping[str, Any]) -> Iterator[str]:
        """The lines of a whole document, sections with an empty line between them."""
        if not data:
            yield "{}"
        for place, key in enumerate(ordered(data)):
            if place and isinstance(data[key], Mapping | list | tuple):
                yield ""
            yield from self.entry(key, data[key], (key,), 0)

    def entry(self, key: str, value: Any, path: Path, indent: int) -> Iterator[str]:
        """The lines of `key: value`."""
        deeper = self.style.step if isinstance(value, Mapping) else self.style.dash
        yield from self._behind(" " * indent + write_key(key) + ":", value, path, indent + deeper)

    def item(self, value: Any, path: Path, indent: int) -> Iterator[str]:
        """The lines of one list item, its dash at column `indent`."""
        if isinstance(value, Mapping) and value:
            lines = list(self._mapping(value, path, indent + 2))
            yield " " * indent + "- " + lines[0][indent + 2 :]
            yield from lines[1:]
        else:
            yield from self._behind(" " * indent + "-", value, path, indent + 2)

    def flow(self, value: Any, path: Path = (), *, inside: bool = False) -> str:
        """A value on one line; `inside` brackets of an outer value."""
        if isinstance(value, Mapping):
            parts = [f"{write_key(key)}: {self.flow(part, (*path, key), inside=True)}" for key, part in value.items()]
            return "{" + ", ".join(parts) + "}"
        if _is_list(value):
            return "[" + ", ".join(self.flow(part, (*path, place), inside=True) for place, part in enumerate(value)) + "]"
        if self.style.quote_all and isinstance(value, str):
            return quoted(value)
        return write(value, path, flow=inside)

    def _mapping(self, data: Mapping[str, Any], path: Path, indent: int) -> Iterator[str]:
        first = True
        for key in ordered(data, path):
            lines = self.entry(key, data[key], (*path, key), indent)
            if first and path in self.notes:  # what is said of the whole object stands behind its first line, if that has room
                head = next(lines)
                yield head if "  # " in head else head + self._comment(path)
            first = False
            yield from lines

    def _behind(self, head: str, value: Any, path: Path, indent: int) -> Iterator[str]:
        """`head` (a key with its colon, or a dash) and the value: on the same line where it fits, else below at `indent`."""
        if isinstance(value, Mapping) and value:
            yield head
            yield from self._mapping(value, path, indent)
        elif _is_list(value) and value and not self._one_line(value, path, len(head)):
            yield head + self._comment(path)
            for place, part in enumerate(value):
                yield from self.item(part, (*path, place), indent)
        else:
            yield f"{head} {self.flow(value, path)}" + self._comment(path)

    def _one_line(self, value: Sequence[Any], path: Path, start: int) -> bool:
        """Whether a list goes on one line: short, of scalars only, and nothing is to be said of a single item."""
        if any(isinstance(part, Mapping) or _is_list(part) for part in value) or any(note[:-1] == path for note in self.notes):
            return False
        return start + 1 + len(self.flow(value, path)) <= WIDTH

    def _comment(self, path: Path) -> str:
        note = "".join(letter if letter.isprintable() else " " for letter in self.notes.get(path, ""))
        return f"  # {' '.join(note.split())}" if note.strip() else ""


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)
