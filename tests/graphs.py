"""A stand-in for CUDA graphs on a CPU: what was captured is run again, op by op, from the same fixed memory."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from redline.engine import build
from redline.engine.torch_thread import TorchThread


class Repeats:
    """Runs the step once where a card would capture it, over padding as there, and again at each replay.

    `fails` decides which captures do not work.
    """

    def __init__(self, thread: TorchThread | None = None, fails: Callable[[int], bool] = lambda number: False) -> None:
        self._thread = thread
        self._fails = fails
        self.captures = 0

    def wait(self) -> None:
        if self._thread is not None:
            self._thread.call(int)

    def __call__(self, step: Callable[[], None]) -> Callable[[], None]:
        self.captures += 1
        if self._fails(self.captures):
            raise RuntimeError("operation not permitted when stream is capturing")
        step()
        return step

    def seconds(self, step: Callable[[], None]) -> float:
        began = time.perf_counter()
        step()
        return time.perf_counter() - began


def use_graphs(monkeypatch: pytest.MonkeyPatch, fails: Callable[[int], bool] = lambda number: False) -> list[Repeats]:
    """Let engines that are built from now on capture decode steps on a CPU; the captures of each."""
    made: list[Repeats] = []

    def capture(shape: object, resolved: object, thread: TorchThread | None) -> Repeats:
        made.append(Repeats(thread, fails))
        return made[-1]

    monkeypatch.setattr(build, "_capture", capture)
    return made
