"""Fields that no record knows, dropped from a body one by one: what `--unknown-fields warn` does.

A field is found by where msgspec says that it is; one inside a map whose keys are free cannot be found so, and stays an
error, as does the next one of a body that has more than `MAX_DROPPED`. Open `converted`.
"""

from __future__ import annotations

import re
from typing import Any, TypeVar

import msgspec

from redline.server.exchange import Exchange

MAX_DROPPED = 64
MAX_SHOWN = 64  # characters of a name that are repeated

T = TypeVar("T")

_UNKNOWN = re.compile(r"Object contains unknown field `(?P<name>.*?)`(?: - at `\$(?P<path>[\w.\[\]]*)`)?", re.DOTALL)
_STEP = re.compile(r"\.(?P<field>\w+)|\[(?P<index>\d+)\]")


def converted(value: Any, kind: type[T], exchange: Exchange, path: str = "") -> T:
    """`value`, out of a JSON text, as `kind`; changes `value`, and warns `exchange` of every field that it drops.

    `path` is the place of `value` in its body. Raises msgspec.ValidationError for any other fault.
    """
    for _ in range(MAX_DROPPED):
        try:
            return msgspec.convert(value, kind, str_keys=True)
        except msgspec.ValidationError as error:
            unknown = _UNKNOWN.fullmatch(str(error))
            if unknown is None or not _drop(value, unknown["path"] or "", unknown["name"]):
                raise
            exchange.warn(f"there is no field {_shown(path, unknown['path'] or '', unknown['name'])}: ignored")
    return msgspec.convert(value, kind, str_keys=True)


def _drop(value: Any, path: str, name: str) -> bool:
    """Take field `name` of the object at `path` out of `value`; False where it is not found."""
    end = 0
    for step in _STEP.finditer(path):
        if step.start() != end:
            return False
        end = step.end()
        if step["index"] is not None:
            value = value[int(step["index"])]
        else:
            value = value.get(step["field"]) if isinstance(value, dict) else None
    if end != len(path) or not isinstance(value, dict) or name not in value:
        return False
    del value[name]
    return True


def _shown(root: str, path: str, name: str) -> str:
    """The whole place of a field, made of what a header may hold."""
    place = f"{root}{path}".removeprefix(".")
    return re.sub(r"[^\w.\[\]-]", "?", f"{place}.{name[:MAX_SHOWN]}" if place else name[:MAX_SHOWN], flags=re.ASCII)
