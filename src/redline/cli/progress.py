"""Shows how far long work is: stages with their share and seconds, on standard error.

On a terminal one line is redrawn (rich); elsewhere each stage is one plain line when it ends, so logs stay readable.
Knows nothing of the work. Open `Progress` first.
"""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any

import click


class Progress:
    """Call it with (stage, share in 0..1 or None where unknown) as often as you like; leave the `with` block to end it."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._terminal = sys.stderr.isatty() and not quiet
        self._bar: Any = None
        self._task: Any = None
        self._stage = ""
        self._since = 0.0

    def __enter__(self) -> Progress:
        if self._terminal:
            self._bar = _bar()
            self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._end_stage(done=kind is None)
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, stage: str, share: float | None = None) -> None:
        if stage != self._stage:
            self._end_stage(done=True)
            self._stage, self._since = stage, time.monotonic()
            if self._bar is not None:
                self._task = self._bar.add_task(stage, total=None)
        if self._bar is not None and share is not None:
            self._bar.update(self._task, total=1.0, completed=min(share, 1.0))

    def _end_stage(self, *, done: bool) -> None:
        if not self._stage:
            return
        seconds = time.monotonic() - self._since
        if self._bar is not None:
            if done:
                self._bar.update(self._task, total=1.0, completed=1.0)
        elif not self._quiet:
            click.echo(f"{self._stage} {'done' if done else 'stopped'} after {seconds:.1f} s", err=True)
        self._stage = ""


def _bar() -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), TaskProgressColumn(), TimeElapsedColumn())
    return Bar(*columns, console=Console(stderr=True), transient=True)
