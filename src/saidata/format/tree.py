"""A YAML text as a tree of nodes that know where they stand: `compose`. Refuses, with a sentence, what is no saidata text.

ruamel.yaml finds the pieces; the tree is built here because it must say where every value stands, stop early where a file is
made to exhaust its reader, and refuse what a mapping by key would hide (a key that stands twice). YAML 1.2; one document; tags
of the core schema only. Merge keys (`<<`) are read, as every YAML reader of the saidata world does.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import AliasEvent, DocumentStartEvent, MappingStartEvent, ScalarEvent
from ruamel.yaml.reader import ReaderError

from saidata.errors import BadText
from saidata.format.scalars import meaning

MAX_BYTES = 10_000_000
MAX_VALUES = 20_000  # keys included, aliases written out
MAX_DEPTH = 32  # saidata's own records end at 8

_CORE = "tag:yaml.org,2002:"
_TYPES: dict[str, tuple[type, ...]] = {"int": (int,), "float": (int, float), "bool": (bool,), "null": (type(None),)}


@dataclass
class Node:
    """One value of a text: `text[start:end]` is what was written, without comments and line ends around it."""

    kind: str  # "scalar", "map" or "list"
    start: int
    end: int
    style: str = ""  # of a scalar: "", ', ", | or >; of a collection: "flow" or "block"
    value: Any = None  # of a scalar
    entries: dict[str, tuple[Node, Node]] = field(default_factory=dict)  # of a map: key and value
    items: list[Node] = field(default_factory=list)
    shared: bool = False  # stands at an anchor, and so in more places than one
    size: int = 1  # values below and with it

    def data(self) -> Any:
        """The value as plain data."""
        if self.kind == "map":
            return {key: node.data() for key, (_, node) in self.entries.items()}
        return [node.data() for node in self.items] if self.kind == "list" else self.value


def compose(text: str, name: str) -> Node:
    """The root of `text`, always a map. Raises BadText, with the place, for what cannot be read."""
    if len(text) > MAX_BYTES or len(text.encode(errors="surrogatepass")) > MAX_BYTES:
        raise BadText(
            f"{name} is larger than {MAX_BYTES // 1_000_000} MB.", "a saidata file has a few kilobytes: is it the right file?"
        )
    builder = _Builder(text, name)
    try:
        return builder.root()
    except MarkedYAMLError as error:
        raise _explained(error, text, name) from None
    except ReaderError as error:
        line, column = position(text, error.position)
        code = ord(text[error.position : error.position + 1] or "\0")
        message = f"{name} holds a character that YAML does not allow, U+{code:04X}."
        raise BadText(message, "remove it", line, column) from None
    except (YAMLError, RecursionError, ValueError) as error:
        raise BadText(f"{name} is not YAML: {' '.join(str(error).split())[:200]}.", "see the file's first lines") from None


def position(text: str, index: int) -> tuple[int, int]:
    """Line and column of a character, from 1."""
    before = text[:index].replace("\r\n", "\n").replace("\r", "\n")
    return before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1


class _Builder:
    def __init__(self, text: str, name: str):
        self.text = text
        self.name = name
        self.anchors: dict[str, Node | None] = {}  # None while the anchored value is still being read
        self.count = 0
        self.events: Iterator[Any] = YAML(typ="safe", pure=True).parse(io.StringIO(text, newline=""))

    def root(self) -> Node:
        found: Node | None = None
        for event in self.events:
            if isinstance(event, DocumentStartEvent):
                if found is not None:
                    raise self.bad("holds more than one document.", "keep one, and one file for each of the others", event)
                if event.version is not None and tuple(event.version) != (1, 2):
                    raise self.bad("asks for another YAML than 1.2.", "remove the %YAML line", event)
                found = self.node(next(self.events), 1)
        if found is None or found.kind == "scalar" and found.start == found.end:
            raise BadText(f"{self.name} is empty.", 'a saidata file begins with `version: "0.3"` and `metadata:`', 1, 1)
        if found.kind != "map":
            raise BadText(
                f"{self.name} holds a {found.kind}, not keys and values.", "a saidata file begins with `version:`", 1, 1
            )
        return found

    def node(self, event: Any, depth: int) -> Node:
        self.count += 1
        if self.count > MAX_VALUES:
            raise self.bad(f"holds more than {MAX_VALUES} values.", "no saidata file needs as many: is it the right file?", event)
        if depth > MAX_DEPTH:
            raise self.bad(f"is nested more than {MAX_DEPTH} deep.", "saidata needs 8: is it the right file?", event)
        if isinstance(event, AliasEvent):
            return self.alias(event)
        anchor = event.anchor
        if anchor is not None:
            self.anchors[anchor] = None
        if isinstance(event, ScalarEvent):
            made = self.scalar(event)
        elif isinstance(event, MappingStartEvent):
            made = self.mapping(event, depth)
        else:
            made = self.sequence(event, depth)
        if anchor is not None:
            made.shared = True
            self.anchors[anchor] = made
        return made

    def alias(self, event: Any) -> Node:
        target = self.anchors.get(event.anchor, self)
        if target is self:
            raise self.bad(
                f"uses *{event.anchor}, but has no &{event.anchor} before it.", "name the anchor or write the value", event
            )
        if not isinstance(target, Node):
            raise self.bad(f"holds itself: *{event.anchor} stands inside &{event.anchor}.", "write the value instead", event)
        self.count += target.size
        if self.count > MAX_VALUES:
            message = f"grows to more than {MAX_VALUES} values when its aliases are written out."
            raise self.bad(message, "write the values instead of *" + event.anchor, event)
        copy = Node(**{**target.__dict__, "start": event.start_mark.index, "end": event.end_mark.index, "shared": True})
        return copy

    def scalar(self, event: Any) -> Node:
        style = event.style or ""
        made = Node("scalar", event.start_mark.index, event.end_mark.index, style, event.value)
        if style in ("|", ">"):  # a block scalar's piece runs on to the next one
            made.end = made.start + len(self.text[made.start : made.end].rstrip("\r\n \t"))
        tag = str(event.tag or "")
        if not style and not tag:
            made.value = meaning(event.value)
        elif tag and tag not in ("!", _CORE + "str"):
            made.value = meaning(event.value)
            if not isinstance(made.value, _TYPES.get(tag.removeprefix(_CORE), ())):
                shown = tag.replace(_CORE, "!!")
                raise self.bad(f"uses the tag {shown}, which saidata does not have.", "remove the tag", event)
        return made

    def mapping(self, event: Any, depth: int) -> Node:
        self.plain_tag(event, "map")
        made = Node("map", event.start_mark.index, event.end_mark.index, "flow" if event.flow_style else "block")
        merged: list[Node] = []
        while not type(part := next(self.events)).__name__.endswith("EndEvent"):
            key = self.node(part, depth + 1)
            value = self.node(next(self.events), depth + 1)
            made.size += key.size + value.size
            if key.kind != "scalar" and self.text[key.start - 1 : key.end].startswith("{{"):
                raise self.bad("has a {{placeholder}} without quotes.", 'write it like "{{version}}"', part)
            if key.kind != "scalar":
                raise self.bad("uses a list or an object as a key.", "a key is a word", part)
            word = self.text[key.start : key.end] if not key.style and not isinstance(key.value, str) else str(key.value)
            self.place_empty(value, key.end, ":")
            if word == "<<" and not key.style:
                merged += value.items if value.kind == "list" else [value]
            elif word in made.entries:
                first = position(self.text, made.entries[word][0].start)[0]
                raise self.bad(f"has the key {word!r} twice in one object, first in line {first}.", "remove or rename one", part)
            else:
                made.entries[word] = (key, value)
        for source in merged:
            if source.kind != "map":
                raise self.bad("merges (`<<`) something that is no object.", "write the keys instead", event)
            for word, pair in source.entries.items():
                made.entries.setdefault(word, pair)
        made.end = part.end_mark.index if made.style == "flow" else self.last(made)
        return made

    def sequence(self, event: Any, depth: int) -> Node:
        self.plain_tag(event, "seq")
        made = Node("list", event.start_mark.index, event.end_mark.index, "flow" if event.flow_style else "block")
        before = made.start
        while not type(part := next(self.events)).__name__.endswith("EndEvent"):
            value = self.node(part, depth + 1)
            if made.style == "block":
                self.place_empty(value, before, "-")
            made.items.append(value)
            made.size += value.size
            before = value.end
        made.end = part.end_mark.index if made.style == "flow" else self.last(made)
        return made

    def place_empty(self, value: Node, after: int, sign: str) -> None:
        """A value of which nothing is written stands right behind its key's colon or its dash."""
        if value.start == value.end and value.kind == "scalar" and not value.style:
            value.start = value.end = self.sign(after, sign) + 1

    def sign(self, after: int, sign: str) -> int:
        """Where the next `sign` stands outside comments."""
        found = re.compile(rf"(?:[^#{re.escape(sign)}]|(?<!\s)#|(?<=\s)#[^\n]*)*").match(self.text, after)
        return found.end() if found else after

    def last(self, node: Node) -> int:
        """Where a block ends: its own end mark lies behind the comments that follow it."""
        ends = [value.end for _, value in node.entries.values() if value.start >= node.start] + [item.end for item in node.items]
        return max(ends, default=node.start)

    def plain_tag(self, event: Any, word: str) -> None:
        tag = str(event.tag or "")
        if tag not in ("", "!", _CORE + word):
            raise self.bad(f"uses the tag {tag.replace(_CORE, '!!')}, which saidata does not have.", "remove the tag", event)

    def bad(self, message: str, hint: str, event: Any) -> BadText:
        line, column = position(self.text, event.start_mark.index)
        return BadText(f"{self.name} {message}", hint, line, column)


def _explained(error: Any, text: str, name: str) -> BadText:
    """A mistake in the YAML itself as a sentence."""
    mark = error.problem_mark or error.context_mark
    line, column = position(text, mark.index) if mark else (1, 1)
    rows = text.splitlines()
    for number in (line, line - 1):
        row = rows[number - 1] if 0 < number <= len(rows) else ""
        if "\t" in row[: len(row) - len(row.lstrip())]:
            return BadText(f"{name} is indented with a tab.", "use spaces", number, row.index("\t") + 1)
    problem = " ".join(str(error.problem or error.context or "unknown").split())
    return BadText(f"{name} is not YAML: {problem}.", "mend the line, or the one above it", line, column)
