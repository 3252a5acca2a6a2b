"""Where files lie: `ng/nginx/default.yaml`, and `ng/nginx/ubuntu/22.04.yaml` beside it. Open `place` first.

A software name becomes part of a path, so it is checked here and nowhere else: `safe_name`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from saidata.errors import BadName

MAX_NAME = 128

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")

# Names that some file system does not take, whatever stands behind their dot.
_DEVICES = {"con", "prn", "aux", "nul", *(f"{port}{number}" for port in ("com", "lpt") for number in range(1, 10))}


def safe_name(name: str) -> str:
    """The name itself. Raises BadName where it could lead out of its folder or break a file system."""
    shown = ascii(name[:40]) + ("..." if len(name) > 40 else "")
    if not name.strip():
        raise BadName("The software name is empty.", "give a name such as nginx")
    if len(name) > MAX_NAME:
        raise BadName(f"The software name {shown} has {len(name)} characters, more than {MAX_NAME}.", "give the name alone")
    if not _NAME.fullmatch(name) or ".." in name or name.endswith("."):
        allowed = "letters, digits, dot, dash, plus and underscore, the first a letter or a digit"
        raise BadName(f"{shown} is no software name.", f"a name has {allowed}; no two dots in a row")
    if name.split(".")[0].lower() in _DEVICES:
        raise BadName(f"{shown} is the name of a device on some systems, and no file can be called so.", "choose another name")
    return name


def folder(name: str) -> PurePosixPath:
    """The folder of one software: "ng/nginx"."""
    return PurePosixPath(safe_name(name)[:2].lower(), name)


def place(name: str, system: str = "", version: str = "") -> PurePosixPath:
    """The file of one software, or what differs on an operating system: "ng/nginx/ubuntu/22.04.yaml"."""
    if not system:
        return folder(name) / "default.yaml"
    return folder(name) / safe_name(system) / f"{safe_name(version or 'default')}.yaml"


def overlay_of(path: Path) -> Path | None:
    """The default file that `path` changes for one operating system; None where `path` is no such file."""
    default = path.parent.parent / "default.yaml"
    return default if path.name != "default.yaml" and default.is_file() else None


def files(top: Path) -> Iterator[Path]:
    """The YAML files in and below a folder, sorted; the file itself, if it is one. Hidden folders are left out."""
    if not top.is_dir():
        yield top
        return
    for path in sorted((*top.rglob("*.yaml"), *top.rglob("*.yml"))):
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(top).parts):
            yield path
