"""Readers of apt's lists: `stanzas` (Packages, Translation) and `contents`. They take plain bytes, line by line.

python-debian reads the same stanzas, with every feature of the format, at a tenth of this speed; an archive's lists hold 160
thousand of them, and use none of those features.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator

from saidata.index.paths import PREFIXES, folder_of, kind_of


def stanzas(lines: Iterable[bytes]) -> Iterator[dict[str, str]]:
    """Each stanza as field: value. Continued lines keep their break and lose their first space."""
    fields: dict[str, str] = {}
    last = ""
    for raw in lines:
        line = raw.decode("utf-8", "replace").rstrip("\n")
        if not line:
            if fields:
                yield fields
            fields, last = {}, ""
        elif line[0] in " \t":
            if last:
                fields[last] += "\n" + line[1:]
        else:
            last, _, value = line.partition(":")
            fields[last] = value.strip()
    if fields:
        yield fields


def contents(lines: Iterable[bytes]) -> Iterator[tuple[str, str, str]]:
    """(package, kind, absolute path) for every path that matters."""
    for line in lines:
        if not line.startswith(PREFIXES):
            continue
        path, _, column = line.decode("utf-8", "replace").rstrip("\n").rpartition(" ")
        path = path.rstrip()
        kind = kind_of(path)
        if kind is None:
            continue
        if kind == "directory":
            path = folder_of(path)
        for place in column.split(","):
            yield place.rpartition("/")[2], kind, "/" + path


def names(field: str) -> tuple[str, ...]:
    """The package names of a relation field: "a (>= 1) | b, c:any" gives a, b, c, each once."""
    return tuple(dict.fromkeys(_name(part) for entry in field.split(",") for part in entry.split("|") if part.strip()))


@functools.cache
def _name(part: str) -> str:
    return part.split("(", 1)[0].split("[", 1)[0].strip().partition(":")[0]


def long_description(text: str) -> str:
    """A Description field's body as paragraphs: the first line and the format's lone dots are left out."""
    kept = ["" if line.strip() == "." else line.strip() for line in text.split("\n")[1:]]
    return "\n".join(kept).strip()
