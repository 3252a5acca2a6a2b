"""Change one value of a YAML text and nothing else: `replaced` and `removed`. Both return the new text.

They work on the tree of tree.py and splice the text; document.py reads the result again and refuses one that does not say what
was asked for. So an odd way of writing costs a refusal, never a wrong file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from saidata.facts import Path
from saidata.format.emit import Style, Writer, ordered
from saidata.format.scalars import quoted, write
from saidata.format.tree import Node, position


def child(node: Node, part: str | int) -> tuple[Node | None, Node] | None:
    """One step down: the key's node (None in a list) and the value's."""
    if isinstance(part, str):
        return node.entries.get(part) if node.kind == "map" else None
    return (None, node.items[part]) if node.kind == "list" and 0 <= part < len(node.items) else None


def style_of(text: str, root: Node) -> Style:
    """The indentation and quoting that most of the text has."""
    steps: Counter[int] = Counter()
    dashes: Counter[int] = Counter()
    quotes: Counter[bool] = Counter()
    for node, indent in _walk(text, root):
        for key, value in node.entries.values():
            if value.style == "block" and key.start < value.start:
                (dashes if value.kind == "list" else steps)[_column(text, value.start) - indent] += 1
            if value.kind == "scalar" and isinstance(value.value, str):
                quotes[value.style == '"'] += 1
    usual = Style()
    step = steps.most_common(1)[0][0] if steps else usual.step
    dash = dashes.most_common(1)[0][0] if dashes else usual.dash
    return Style(max(step, 1), max(dash, 0), quotes[True] > quotes[False])


def replaced(text: str, root: Node, path: Path, value: Any, style: Style) -> str:
    """The text with `value` at `path`, whose holder is there."""
    holder = _node(root, path[:-1])
    found = child(holder, path[-1])
    writer = Writer(style=style)
    if found is None:
        return _added(text, holder, path, value, writer)
    key, node = found
    if node.kind == "scalar" and not isinstance(value, dict | list):
        return _spliced(text, node, _like(node, value, path))
    if holder.style == "flow":
        return _spliced(text, node, writer.flow(value, path, inside=True))
    if key is not None:
        indent = _column(text, key.start)
        lines = list(writer.entry(str(path[-1]), value, path, indent))
        return text[: key.start] + _joined(text, lines)[indent:] + text[node.end :]
    dash = _dash(text, holder, int(path[-1]))
    indent = _column(text, dash)
    return text[:dash] + _joined(text, list(writer.item(value, path, indent)))[indent:] + text[node.end :]


def removed(text: str, root: Node, path: Path, style: Style) -> str:
    """The text without what stands at `path`."""
    holder = _node(root, path[:-1])
    if len(holder.entries) + len(holder.items) == 1 and path[:-1]:
        return replaced(text, root, path[:-1], {} if holder.kind == "map" else [], style)
    spans = _spans(text, holder)
    place = list(holder.entries).index(str(path[-1])) if holder.kind == "map" else int(path[-1])
    start, end = spans[place]
    if holder.style == "flow":
        if place + 1 < len(spans):
            return text[:start] + text[spans[place + 1][0] :]
        return text[: spans[place - 1][1]] + text[end:]
    line = _line_start(text, start)
    if text[line:start].strip():  # the first key of a list item shares its line with the dash
        return text[:start] + text[spans[place + 1][0] :]
    after = _line_end(text, end)
    if after == len(text) and not text.endswith("\n"):
        return text[:line].removesuffix("\n").removesuffix("\r")
    return text[:line] + text[after:]


def _added(text: str, holder: Node, path: Path, value: Any, writer: Writer) -> str:
    spans = _spans(text, holder)
    if not spans:  # {} or []
        inner = writer.flow(value, path, inside=True)
        whole = f"[{inner}]" if holder.kind == "list" else "{" + f"{write(str(path[-1]), flow=True)}: {inner}" + "}"
        return text[: holder.start] + whole + text[holder.end :]
    place = len(spans) - 1 if holder.kind == "list" else _behind_which(holder, path)
    at = spans[place][1]
    if holder.style == "flow":
        inner = writer.flow(value, path, inside=True)
        return (
            text[:at] + (f", {inner}" if holder.kind == "list" else f", {write(str(path[-1]), flow=True)}: {inner}") + text[at:]
        )
    indent = _column(text, spans[place][0])
    if holder.kind == "list":
        lines = list(writer.item(value, path, indent))
    else:
        lines = list(writer.entry(str(path[-1]), value, path, indent))
    if not indent and "\n\n" in text[spans[0][0] : spans[-1][0]].replace("\r\n", "\n") and isinstance(value, dict | list):
        lines.insert(0, "")  # sections of this file stand apart
    after = _line_end(text, at)
    new = _joined(text, lines)
    end = "\r\n" if "\r\n" in text else "\n"
    return text[:after] + (new + end if text[:after].endswith("\n") else end + new) + text[after:]


def _behind_which(holder: Node, path: Path) -> int:
    """Behind which entry a new key belongs by the schema's order."""
    here = list(holder.entries)
    order = ordered(dict.fromkeys([*here, str(path[-1])]), path[:-1])
    before = order[: order.index(str(path[-1]))]
    places = [place for place, key in enumerate(here) if key in before]
    return max(places, default=0)


def _like(node: Node, value: Any, path: Path) -> str:
    """A scalar in the quotes of the one it replaces."""
    if isinstance(value, str) and node.style == '"':
        return quoted(value)
    if isinstance(value, str) and node.style == "'" and value.isprintable():
        return "'" + value.replace("'", "''") + "'"
    return write(value, path, flow=True)


def _spliced(text: str, node: Node, new: str) -> str:
    gap = " " if node.start == node.end and text[node.start - 1 : node.start] in (":", "-") else ""
    return text[: node.start] + gap + new + text[node.end :]


def _spans(text: str, holder: Node) -> list[tuple[int, int]]:
    """Where each entry (with its key) or item (with its dash) begins and ends."""
    if holder.kind == "map":
        return [(key.start, max(value.end, key.end)) for key, value in holder.entries.values()]
    if holder.style == "flow":
        return [(item.start, item.end) for item in holder.items]
    return [(_dash(text, holder, place), item.end) for place, item in enumerate(holder.items)]


def _dash(text: str, holder: Node, place: int) -> int:
    """Where the dash of an item stands: the first one behind the item before that is not part of a comment."""
    at = holder.items[place - 1].end if place else holder.start
    while at < len(text) and text[at] != "-":
        at = text.find("\n", at) if text[at] == "#" else at + 1
    return at


def _walk(text: str, node: Node) -> Iterator[tuple[Node, int]]:
    """Every collection and the column it stands at."""
    yield node, _column(text, node.start)
    for _, value in node.entries.values():
        if value.kind != "scalar" and not value.shared:
            yield from _walk(text, value)
    for item in node.items:
        if item.kind != "scalar" and not item.shared:
            yield from _walk(text, item)


def _node(root: Node, path: Path) -> Node:
    for part in path:
        step = child(root, part)
        assert step is not None, "the caller has looked"
        root = step[1]
    return root


def _joined(text: str, lines: list[str]) -> str:
    return ("\r\n" if "\r\n" in text else "\n").join(lines)


def _column(text: str, index: int) -> int:
    return position(text, index)[1] - 1


def _line_start(text: str, index: int) -> int:
    return text.rfind("\n", 0, index) + 1


def _line_end(text: str, index: int) -> int:
    """Behind the line's end."""
    found = text.find("\n", index)
    return len(text) if found < 0 else found + 1
