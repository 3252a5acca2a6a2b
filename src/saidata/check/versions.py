"""Versions of any origin: which of two is the newer one (`compared`, as libversion orders them), and the makers' part (`upstream`)."""

from __future__ import annotations

import re
from itertools import zip_longest

_PART = re.compile(r"\d+|[a-z]+", re.IGNORECASE)
_REPACKED = re.compile(r"[+~](dfsg|ds|repack|debian|really)[.\d]*$", re.IGNORECASE)
_BEFORE = ("alpha", "beta", "rc", "pre")  # 1.0rc1 comes before 1.0; other words behind a number come after it
_AFTER = ("post", "patch", "pl", "errata")


def compared(one: str, other: str) -> int:
    """-1, 0 or 1: 1.2 < 1.10, 1.0rc1 < 1.0 = 1.0.0 < 1.0a < 1.0.1."""
    for left, right in zip_longest(_parts(one), _parts(other), fillvalue=(1, 0, "")):
        if left != right:
            return -1 if left < right else 1
    return 0


def upstream(version: str) -> str:
    """The makers' version in a distribution's one: 7.0.15 of 1:7.0.15+dfsg-1~deb12u1."""
    bare = version.partition(":")[2] or version
    return _REPACKED.sub("", bare.rpartition("-")[0] or bare)


def _parts(version: str) -> list[tuple[int, int, str]]:
    """Each part as (rank, number, letter): words of before 0, nothing and 0 are 1, words of after 2, letters 3, numbers 4."""
    parts: list[tuple[int, int, str]] = []
    for match in _PART.finditer(version.lower().removeprefix("v")):
        text = match[0]
        if text.isdigit():
            parts.append((4, int(text), "") if int(text) else (1, 0, ""))
        elif text.startswith(_BEFORE):
            parts.append((0, 0, text[0]))
        elif text.startswith(_AFTER):
            parts.append((2, 0, text[0]))
        else:
            parts.append((3 if match.start() and version[match.start() - 1].isdigit() else 0, 0, text[0]))
    return parts
