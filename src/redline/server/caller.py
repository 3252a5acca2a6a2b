"""Who asks: what one API key may do. auth.py puts a `Caller` into every request's scope; nothing else knows keys.

Open `Caller`.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import Any

from redline.server.endpoint import SCOPES, Scope

_KEY = "redline.caller"


@dataclass(frozen=True, kw_only=True)
class Caller:
    """The holder of a key. `id` is the key's public id: what files, responses and shares of the queue belong to."""

    id: str = ""
    name: str = ""
    scopes: frozenset[Scope] = frozenset(SCOPES) - {"admin"}
    models: frozenset[str] | None = None  # None: every served model
    priority: int = 0  # added to a request's own; lower runs first
    weight: float = 1.0  # of its share of a full queue


ANYONE = Caller()
"""Whoever asks a server that has no keys, and the holder of a server's one --api-key."""

NOBODY = Caller(scopes=frozenset())
"""Who brought no key where one is needed."""


def caller_of(scope: MutableMapping[str, Any]) -> Caller:
    """The caller of an ASGI scope; nobody where auth.py was not asked."""
    caller: Caller = scope.get(_KEY, NOBODY)
    return caller


def set_caller(scope: MutableMapping[str, Any], caller: Caller) -> None:
    """Say who asks; only auth.py and work that a server does for a caller of earlier may do so."""
    scope[_KEY] = caller
