"""One saidata file as text and as data: `Text`. What is not changed stays as it was, to the byte.

`Text.parse` reads, `.value` is the plain data, `.place` says where a value stands, `.set` and `.remove` make a new text in which
only the lines of that value differ, `.dump` gives the text. Reads every version of saidata; knows nothing of rules.
"""

from __future__ import annotations

import copy
import errno
from functools import cached_property
from pathlib import Path as FilePath
from typing import Any

from saidata.errors import BadText, Misuse, NotHere
from saidata.facts import Path
from saidata.format import edit
from saidata.format.emit import Style
from saidata.format.tree import MAX_BYTES, Node, compose, position


class Text:
    """A text and what it means. Make one with `parse` or `read`."""

    def __init__(self, text: str, name: str, root: Node):
        self._text = text
        self._root = root
        self.name = name

    @classmethod
    def parse(cls, text: str, name: str) -> Text:
        """Read a text. `name` is what messages call it. Raises BadText with the place."""
        return cls(text, name, compose(text, name))

    @classmethod
    def read(cls, path: FilePath) -> Text:
        """Read a file. Raises NotHere, or BadText."""
        try:
            with path.open("rb") as file:
                raw = file.read(MAX_BYTES + 1)  # what is no file has no size to ask for, and may never end
        except OSError as error:
            what = "There is no file" if error.errno == errno.ENOENT else f"{error.strerror or error}:"
            raise NotHere(f"{what} {path}.", "check the path") from None
        if len(raw) > MAX_BYTES:
            message = f"{path} is larger than {MAX_BYTES // 1_000_000} MB."
            raise BadText(message, "a saidata file has a few kilobytes: is it the right file?")
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError as error:
            line, column = position(raw[: error.start].decode("utf-8", "replace"), error.start)
            raise BadText(f"{path} is not UTF-8.", "save it as UTF-8", line, column) from None
        return cls.parse(text, str(path))

    @cached_property
    def value(self) -> dict[str, Any]:
        """The document as plain data. Changing it changes nothing here: use `set`."""
        data: dict[str, Any] = self._root.data()
        return data

    @property
    def version(self) -> str:
        """Which saidata it says it is: "0.1", "0.2" or "0.3"; what it says, if that is something else; "" if it says nothing."""
        said = str(self.value.get("version", "") or "")
        return ".".join(said.split(".")[:2])

    def dump(self) -> str:
        """The text."""
        return self._text

    def place(self, path: Path) -> tuple[int, int]:
        """Line and column, from 1, of the value at `path`; of the nearest one above it, if it is not there.

        A list or an object of a key stands where its key stands.
        """
        node, start = self._root, self._root.start
        for part in path:
            step = edit.child(node, part)
            if step is None:
                break
            key, node = step
            start = key.start if key is not None and node.kind != "scalar" else node.start
        return position(self._text, start)

    def plain(self, path: Path) -> str | None:
        """What was written for a value without quotes; None if it is quoted, a block or a collection."""
        node = self._at(path)
        return None if node is None or node.kind != "scalar" or node.style else self._text[node.start : node.end]

    def set(self, path: Path, value: Any) -> Text:
        """A text in which `path` has this value; a missing key is added, and an index one past the end of a list adds to it."""
        self._changeable(path)
        wanted = copy.deepcopy(self.value)
        holder = _holder(wanted, path)
        if isinstance(holder, list) and path[-1] == len(holder):
            holder.append(value)
        else:
            holder[path[-1]] = value
        return self._checked(edit.replaced(self._text, self._root, path, value, self.style), wanted, path)

    def remove(self, path: Path) -> Text:
        """A text without the value at `path`, or this one where it has none."""
        if self._at(path) is None:
            return self
        self._changeable(path)
        wanted = copy.deepcopy(self.value)
        del _holder(wanted, path)[path[-1]]
        return self._checked(edit.removed(self._text, self._root, path, self.style), wanted, path)

    @cached_property
    def style(self) -> Style:
        """How the file looks, for what is added to it."""
        return edit.style_of(self._text, self._root)

    def _at(self, path: Path) -> Node | None:
        node = self._root
        for part in path:
            step = edit.child(node, part)
            if step is None:
                return None
            node = step[1]
        return node

    def _changeable(self, path: Path) -> None:
        """A value that stands at an anchor is several values at once: changing one would change them all."""
        if not path:
            raise Misuse("The whole document cannot be set.", "set its keys")
        node = self._root
        for part in path:
            step = edit.child(node, part)
            if step is None:
                break
            node = step[1]
            if node.shared:
                line = position(self._text, node.start)[0]
                raise Misuse(f"Line {line} of {self.name} stands in several places (& and *).", "write the values out first")

    def _checked(self, text: str, wanted: dict[str, Any], path: Path) -> Text:
        """The changed text, read again: it must say exactly what was asked for."""
        try:
            made = Text.parse(text, self.name)
        except BadText:
            made = None
        if made is None or made.value != wanted:
            where = ".".join(map(str, path))
            line = self.place(path)[0]
            raise Misuse(
                f"{where} of {self.name} is written in a way that cannot be changed in place.", f"edit line {line} by hand"
            )
        return made


def _holder(data: Any, path: Path) -> Any:
    """The object or list that holds the last step of `path`."""
    try:
        for part in path[:-1]:
            data = data[part]
        if isinstance(data, dict) and isinstance(path[-1], str):
            return data
        if isinstance(data, list) and isinstance(path[-1], int) and 0 <= path[-1] <= len(data):
            return data
    except (KeyError, IndexError, TypeError):
        pass
    raise Misuse(f"There is no place for {'.'.join(map(str, path))}.", "set what holds it first")
