"""The evidence of a run in one file, so that a machine without apt or an index (a lent GPU) can do the run. Open `pack`, `Packed`.

A gzip file of JSON lines: first what the index is and every package name it has, then one Evidence a line.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterable
from pathlib import Path

import msgspec

from saidata.errors import Misuse, NotHere
from saidata.facts import Evidence

LARGEST = 512 << 20  # of the unpacked file


class Head(msgspec.Struct, frozen=True):
    """The first line."""

    snapshot: str
    deep: bool
    names: tuple[str, ...]


def pack(path: Path, head: Head, evidence: Iterable[Evidence]) -> int:
    """Write the file, whole or not at all; how many names' evidence is in it."""
    part = path.with_name(path.name + ".part")
    number = 0
    with gzip.open(part, "wb") as file:
        file.write(msgspec.json.encode(head) + b"\n")
        for one in evidence:
            file.write(msgspec.json.encode(one) + b"\n")
            number += 1
    part.replace(path)
    return number


class Packed:
    """A packed file, read."""

    def __init__(self, path: Path):
        """Raises NotHere, and Misuse where it is no such file."""
        if not path.is_file():
            raise NotHere(f"there is no packed evidence at {path}", "make it with `saidata eval --pack FILE` where an index is")
        try:
            with gzip.open(path) as file:
                text = file.read(LARGEST + 1)
            first, *rest = text.splitlines()
            self.head = msgspec.json.decode(first, type=Head)
            self._evidence = {one.name: one for one in (msgspec.json.decode(line, type=Evidence) for line in rest)}
        except (OSError, EOFError, ValueError, zlib.error) as error:
            raise Misuse(
                f"{path} cannot be read as packed evidence: {error}", "make it again with `saidata eval --pack FILE`"
            ) from None
        if len(text) > LARGEST:
            raise Misuse(
                f"{path} unpacks to more than {LARGEST >> 20} MiB", "packed evidence of the whole gold set is far smaller"
            )
        self._names = frozenset(self.head.names)

    def gather(self, name: str) -> Evidence:
        """The evidence of a name. Raises Misuse for one that was not packed."""
        if name not in self._evidence:
            raise Misuse(f"the packed evidence has nothing of {name}", "pack it with the same --files, --seed and --gold")
        return self._evidence[name]

    def exists(self, name: str) -> bool:
        """Whether the archive has a package of this name."""
        return name in self._names
