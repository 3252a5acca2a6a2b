"""Makes a model local before a command opens it: what is not here and can be pulled is pulled, with progress.

Knows names and the store, nothing of what is in a model. Open `make_local`.
"""

from __future__ import annotations

from collections.abc import Callable

from redline.checkpoint import random, store
from redline.cli.progress import Progress
from redline.errors import NotFound


def make_local(model: str, *, revision: str | None, progress: Progress) -> None:
    """Pull `model` if it is an alias or a hub name that is not here yet. Raises NotFound or PullError."""
    if model.startswith(random.PREFIX):
        return
    try:
        store.resolve(model, revision=revision)
    except NotFound:
        if not store.is_pullable(model):
            raise
        store.pull(model, revision=revision, progress=reporter(progress))


def reporter(progress: Progress) -> Callable[[str, int, int], None]:
    """`progress` in the form in which the store reports: (stage, bytes done, bytes in all)."""

    def report(stage: str, done: int, total: int) -> None:
        progress(f"{stage} {total / 1e6:.0f} MB", done / total if total else None)

    return report
