"""A default file and what differs on one operating system, as one document: `merge`.

Objects are merged key by key, lists and values are replaced, null removes a key, and what the overlay does not name stays.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path as FilePath
from typing import Any

from saidata.errors import NotHere
from saidata.format.document import Text


def merge(default: Mapping[str, Any], overlay: Mapping[str, Any]) -> dict[str, Any]:
    """A new document; the two given ones stay as they are."""
    made = {key: copy.deepcopy(value) for key, value in default.items() if overlay.get(key, value) is not None}
    for key, value in overlay.items():
        if value is None:
            made.pop(key, None)
        elif isinstance(value, Mapping):
            below = default.get(key)
            made[key] = merge(below if isinstance(below, Mapping) else {}, value)
        else:
            made[key] = copy.deepcopy(value)
    return made


def on_system(default: FilePath, system: str, version: str) -> tuple[dict[str, Any], list[FilePath]]:
    """What a default file says on one operating system, and the files it was read from.

    The file for the release is used if there is one; without one the default file holds as it is.
    """
    texts = [default]
    overlay = default.parent / system / f"{version}.yaml"
    if overlay.is_file():
        texts.append(overlay)
    elif not (default.parent / system).is_dir():
        known = sorted(entry.name for entry in default.parent.iterdir() if entry.is_dir())
        hint = f"it has {', '.join(known)}" if known else "it has the default file only"
        raise NotHere(f"{default.parent} has nothing for {system}.", hint)
    data = Text.read(default).value
    for path in texts[1:]:
        data = merge(data, Text.read(path).value)
    return data, texts
