"""The one thread in which torch works on a CPU: loading, steps and measurements.

Each thread that calls torch gets a pool of OpenMP workers of its own. Two pools are more threads than cores, and then the
OpenMP runtime puts workers to sleep at every barrier instead of letting them spin: a decode step takes twice as long. So
everything heavy goes through here. Knows nothing of models. Open `TorchThread` first.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")


class TorchThread:
    """Runs calls in order, one at a time, with `num_threads` OpenMP threads."""

    def __init__(self, num_threads: int):
        self._pool = ThreadPoolExecutor(1, "redline-torch", torch.set_num_threads, (num_threads,))

    def submit(self, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        """Start `work` after what was submitted before."""
        return self._pool.submit(work, *args, **kwargs)

    def call(self, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """The result of `work`, or what it raises."""
        return self.submit(work, *args, **kwargs).result()

    def close(self) -> None:
        """Wait for the last call and let the thread go."""
        self._pool.shutdown(wait=True)
