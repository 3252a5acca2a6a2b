"""Errors name the field that a caller wrote. What all APIs share names fields as chat completions do; this translates.

Open `as_written`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from redline.errors import UserError


@contextmanager
def as_written(names: Mapping[str, str]) -> Iterator[None]:
    """Within it, an error about field `name` is raised as one about `names[name]`."""
    try:
        yield
    except UserError as error:
        own = names.get(error.param or "")
        if own is None:
            raise
        message = error.message.replace(str(error.param), own, 1)
        raise type(error)(message, hint=error.hint, param=own) from error
