"""When readers are woken: at once while there are few, together in beats where there are many.

Each time that readers are woken costs their loop a while, whatever little they find. So a beat that wakes `n` of them is
followed by a rest of `n` times `REST_S`, in which what arrives gathers: one reader is never kept waiting, 256 read at
most 56 times a second, and nothing waits longer than `LONGEST_S`. Torch-free; knows nothing of what is read. Open `Pace`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

REST_S = 70e-6  # per reader that was woken: about twice what serving it costs
LONGEST_S = 0.018


class Pace:
    """The beat of one event loop's readers. `wait` for the next beat; call `beat` when all that came at once is in."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._waiting: dict[Callable[[], None], None] = {}
        self._rests_until = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def wait(self, wake: Callable[[], None]) -> None:
        """Call `wake` at the next beat; once, however often it asks."""
        self._waiting[wake] = None

    def beat(self) -> None:
        """Wake the waiting now, or when the rest is over."""
        rest = self._rests_until - self._clock()
        if rest <= 0:
            self._wake()
        elif self._timer is None and self._waiting:
            self._timer = asyncio.get_running_loop().call_later(rest, self._wake)

    def _wake(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        woken, self._waiting = self._waiting, {}
        self._rests_until = self._clock() + min(LONGEST_S, REST_S * len(woken))
        for wake in woken:
            wake()
