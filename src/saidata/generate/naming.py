"""Logical names and kinds of place, from package names and paths. Pure functions, no evidence."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import PurePosixPath

_UNSAFE = re.compile(r"[^a-z0-9]+")
_EXTENSIONS = (".conf", ".cfg", ".ini", ".yaml", ".yml", ".json", ".toml", ".xml", ".rc")


def slug(text: str) -> str:
    """Lower case letters, digits and dashes: `NGINX Core` is nginx-core."""
    return _UNSAFE.sub("-", text.lower()).strip("-") or "main"


def logical(path: str, name: str) -> str:
    """What to call a file: its own name without the ending, `config` for the software's main one."""
    place = PurePosixPath(path)
    base = place.name
    for ending in _EXTENSIONS:
        base = base.removesuffix(ending)
    if base == name and len(place.parts) <= 4:
        return "config"
    return slug(base)


def apart(names: Iterable[tuple[str, str]]) -> list[str]:
    """Names made unique: each comes with a path, whose folders are put before it until it differs."""
    found: list[str] = []
    used: set[str] = set()
    for name, path in names:
        tried = name
        for folder in reversed(PurePosixPath(path).parts[1:-1]):
            if tried not in used:
                break
            tried = f"{slug(folder)}-{tried}"
        number = 2
        unique = tried
        while unique in used:
            unique, number = f"{tried}-{number}", number + 1
        used.add(unique)
        found.append(unique)
    return found


def purpose(path: str) -> str:
    """What a directory is for, by where it lies: log, data, cache, runtime, config or its own name."""
    for start, meaning in (
        ("/var/log", "log"),
        ("/var/cache", "cache"),
        ("/run", "runtime"),
        ("/var/run", "runtime"),
        ("/var/lib", "data"),
        ("/var/spool", "spool"),
        ("/etc", "config"),
        ("/srv", "data"),
    ):
        if path == start or path.startswith(start + "/"):
            return meaning
    return slug(PurePosixPath(path).name)
