"""From what a user calls a model to something that answers: `open_model`."""

from __future__ import annotations

from typing import Any

from saidata.errors import Misuse
from saidata.models.ask import Model
from saidata.models.local import Local, Progress
from saidata.models.remote import Remote


def open_model(
    name: str,
    *,
    base_url: str | None = None,
    key: str | None = None,
    side_by_side: int = 32,
    progress: Progress = lambda stage, percent: None,
    **options: Any,
) -> Model:
    """Model `name` at an address, or without one in this process, where `options` are redline's. Loads and asks nothing yet."""
    if not name.strip():
        raise Misuse("no model is named", hint="give one with --model, such as qwen2.5-coder-0.5b")
    if base_url is None:
        return Local(name, progress=progress, **options)
    if options:
        raise Misuse(
            f"{', '.join(sorted(options))} cannot be set for a model behind an address", hint="set it where the server starts"
        )
    return Remote(base_url, name, key=key, side_by_side=side_by_side)
