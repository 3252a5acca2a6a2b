"""The stages of a start and their seconds: `Stages` passes progress on and keeps the time.

Knows nothing of what is started. Open `Stages` first.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

IMPORTING = "importing torch"
READING = "reading the model file"
DEVICE = "opening the device"
LOADING = "loading weights"
ALLOCATING = "allocating KV pages"
WARMING = "warming up"

_LONGEST_S = 3600.0  # a process that is older was not started for this


class Stages:
    """Called with a stage and the per cent of the whole start, as often as anybody likes; a stage ends when another begins.

    `began` is the monotonic time at which the start began, now where it is not given; what came before the first stage is
    told as `Python`.
    """

    def __init__(self, progress: Callable[[str, float], None], *, began: float | None = None) -> None:
        self._progress = progress
        self._now = time.monotonic()
        self.began = self._now if began is None else began
        self._stage = ""
        self._seconds: dict[str, float] = {} if began is None else {"Python": self._now - began}

    def __call__(self, stage: str, percent: float) -> None:
        if stage != self._stage:
            self._end()
            self._stage = stage
        self._progress(stage, percent)

    def seconds(self) -> dict[str, float]:
        """Seconds by stage, in order, the running one up to now."""
        self._end()
        return dict(self._seconds)

    @property
    def total_s(self) -> float:
        """Seconds since the start began."""
        return time.monotonic() - self.began

    def _end(self) -> None:
        now = time.monotonic()
        if self._stage:
            self._seconds[self._stage] = self._seconds.get(self._stage, 0.0) + now - self._now
        self._now = now


def described(stages: dict[str, float], file_bytes: int = 0) -> str:
    """The stages as one line: "importing torch 2.1 s, loading weights 1.3 s (12.4 GB/s) ..." without those too short to matter."""
    words = []
    for stage, seconds in stages.items():
        rate = f" ({file_bytes / seconds / 1e9:.1f} GB/s)" if stage == LOADING and file_bytes and seconds > 0 else ""
        if seconds >= 0.05 or rate:
            words.append(f"{stage} {seconds:.1f} s{rate}")
    return ", ".join(words)


def process_began() -> float:
    """The monotonic time at which this process was started; now, where the system does not tell."""
    now = time.monotonic()
    try:
        with open("/proc/self/stat") as file:
            ticks = int(file.read().rpartition(")")[2].split()[19])
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError, AttributeError):
        return now
    return now - age if 0 <= age < _LONGEST_S else now
