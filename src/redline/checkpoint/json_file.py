"""JSON files and headers of a checkpoint, read with limits. Any fault is a CheckpointError that names the file.

Duplicate keys, non-finite numbers, deep nesting and oversized files are refused, as none of them occurs in an honest file.
Open `parse_object` first.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from redline.errors import CheckpointError

MOST_BYTES = 1 << 25


def parse_object(text: bytes, label: str) -> dict[str, Any]:
    """The JSON object in `text`. Raises CheckpointError, naming `label`, for anything else."""
    try:
        value = json.loads(text.decode(), object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        reason = "it nests too deeply" if isinstance(error, RecursionError) else str(error)
        raise CheckpointError(f"{label} is not valid JSON: {reason}", hint="pull or copy the file again") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{label} must hold a JSON object, not {type(value).__name__}")
    return value


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in the file `path`. Raises CheckpointError where it is missing, too large or not one."""
    return parse_object(read_bytes(path), path.name)


def read_bytes(path: Path) -> bytes:
    """The bytes of a small file. Raises CheckpointError where it is missing or larger than `MOST_BYTES`."""
    try:
        with open(path, "rb") as file:
            data = file.read(MOST_BYTES + 1)
    except FileNotFoundError:
        raise CheckpointError(f"{path.parent} has no {path.name}") from None
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from error
    if len(data) > MOST_BYTES:
        raise CheckpointError(f"{path} is larger than {MOST_BYTES} bytes")
    return data


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {twice!r} appears twice")
    return found


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")
