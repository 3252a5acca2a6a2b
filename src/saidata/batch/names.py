"""Lists of software names: one a line, `## headers` are categories, a single # begins a comment. Open `read_list`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import msgspec

from saidata.errors import Misuse, NotHere

MOST_BYTES = 16 << 20


class Wanted(msgspec.Struct, frozen=True):
    """A name and the header it stands under."""

    name: str
    category: str = ""


def read_list(path: Path) -> list[Wanted]:
    """The names of a file, each once, in its order. Raises NotHere, Misuse."""
    try:
        if path.stat().st_size > MOST_BYTES:
            raise Misuse(f"{path} is larger than {MOST_BYTES >> 20} MB", hint="split it")
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError as error:
        raise NotHere(f"there is no file {path}", hint="give a list of software names, one a line") from error
    except UnicodeDecodeError as error:
        raise Misuse(f"{path} is not UTF-8", hint="convert it, for example with iconv") from error
    except OSError as error:
        raise Misuse(f"{path} cannot be read: {error.strerror}") from error
    return parsed(text)


def parsed(text: str) -> list[Wanted]:
    """The names in `text`."""
    found: dict[str, Wanted] = {}
    category = ""
    for line in text.splitlines():
        if line.startswith("##"):
            category = line.strip("# \t")
            continue
        name = re.sub(r"(^|\s)#.*", "", line).strip()
        if name:
            found.setdefault(name, Wanted(name, category))
    return list(found.values())


def chosen(names: Sequence[Wanted], pattern: str | None) -> list[Wanted]:
    """Those whose category matches the regular expression anywhere, upper and lower case alike; all without one."""
    if pattern is None:
        return list(names)
    try:
        wanted = re.compile(pattern, re.IGNORECASE)
    except re.error as error:
        raise Misuse(f"the category filter {pattern[:80]!r} is no regular expression: {error}") from error
    kept = [each for each in names if wanted.search(each.category)]
    if not kept:
        known = ", ".join(dict.fromkeys(each.category or "(none)" for each in names))
        raise Misuse(f"no category matches {pattern[:80]!r}", hint=f"the list has: {known[:300]}")
    return kept
