"""Joules that a device took, from its own counter, and what holds its clocks down. Torch-free. Open `PowerMeter`.

GPUs since Volta count their energy in the driver (NVML's total energy consumption), refreshed some ten to fifty times a
second, so what is measured should take a second or more. The counter is the whole board's: other processes on it count as
well. Where a figure has no source it is None and a sentence says why.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import TypeVar

from redline.hardware.machine import Machine
from redline.hardware.nvml import Nvml, NvmlUnavailable, connect

LOOK_EVERY_S = 0.25  # of the meter, at the most often ...
LOOK_SHARE = 0.002  # ... and so rarely that looking takes no larger part of the time
IDLE_S = 0.5  # without steps: so long a look tells what the device takes idle
LEAST_S = 0.2  # of steps: the mean power of fewer is too much noise

# Bits of NVML's nvmlDeviceGetCurrentClocksEventReasons (nvml.h). Idle clocks and clocks that somebody set are no throttling.
THROTTLES = {
    0x4: "sw_power_cap",
    0x8: "hw_slowdown",
    0x10: "sync_boost",
    0x20: "sw_thermal",
    0x40: "hw_thermal",
    0x80: "hw_power_brake",
}

T = TypeVar("T")


def throttles(bits: int) -> tuple[str, ...]:
    """What slows a device down, by name, of NVML's clock event reasons."""
    return tuple(name for bit, name in THROTTLES.items() if bits & bit)


@dataclass(frozen=True)
class PowerSource:
    """What a device tells of its power. `joules` and `throttled` ask it now; where they are None, `no_joules` and
    `no_throttled` say why."""

    joules: Callable[[], float] | None
    throttled: Callable[[], tuple[str, ...]] | None
    no_joules: str = ""
    no_throttled: str = ""

    @classmethod
    def absent(cls, why: str) -> PowerSource:
        return cls(None, None, why, why)


def power_source(machine: Machine, device: str, nvml: Callable[[], Nvml] = connect) -> PowerSource:
    """What `device` tells of its power; never fails."""
    gpu = machine.gpu(device)
    if gpu is None:
        return PowerSource.absent(
            "no energy counter is read for a CPU" if device == "cpu" else f"{device} is not on this machine"
        )
    if gpu.parent is not None:
        return PowerSource.absent("a slice of a card has no energy counter of its own")
    try:
        driver = nvml()
        index = next((i for i in range(driver.count()) if driver.uuid(i) == gpu.uuid), None)
        if index is None:
            return PowerSource.absent(f"the driver does not list {gpu.name} any more")
    except NvmlUnavailable as error:
        return PowerSource.absent(str(error))
    joules, no_joules = _told(functools.partial(_joules, driver, index))
    throttled, no_throttled = _told(functools.partial(_throttled, driver, index))
    return PowerSource(joules, throttled, no_joules, no_throttled)


def clocks_held(source: PowerSource) -> tuple[str, ...]:
    """What holds the clocks down now, by name; nothing where that is not told. A card at its full power limit is at work, not ill."""
    try:
        names = source.throttled() if source.throttled is not None else ()
    except NvmlUnavailable:
        return ()
    return tuple(name for name in names if name != "sw_power_cap")


def energy_counter(machine: Machine, device: str, nvml: Callable[[], Nvml] = connect) -> Callable[[], float] | None:
    """A function that tells the joules `device` has taken since some moment in the past; None where nothing counts them."""
    return power_source(machine, device, nvml).joules


@dataclass(frozen=True, slots=True)
class Mark:
    """How far a meter was at some moment."""

    joules: float = 0.0
    busy_s: float = 0.0
    throttled: int = 0


@dataclass(frozen=True, slots=True)
class Reading:
    """Mean watts of the device while steps ran, over `over_s` of such time, and what it takes with none (`idle_watts`).

    `throttled` names what held the clocks down meanwhile. None: not known, and `reason` says why of the first that is not.
    """

    watts: float | None
    idle_watts: float | None
    over_s: float
    throttled: tuple[str, ...] | None
    reason: str | None


@dataclass(frozen=True, slots=True)
class _Answer:
    """What the driver said, and how long it took; an error where it does not tell any more."""

    joules: float | NvmlUnavailable | None
    throttled: tuple[str, ...] | NvmlUnavailable
    seconds: float


Ask = Callable[[], _Answer]


def at_once(ask: Ask) -> Future[_Answer]:
    """Ask here and now."""
    answer: Future[_Answer] = Future()
    answer.set_result(ask())
    return answer


class PowerMeter:
    """Energy of an engine's steps, idle energy apart: `step` after every step, `look` where work begins and ends.

    Times in seconds, energy in joules. `joules` are the device's since the meter began, `step_joules` those of them that fall
    to steps, `busy_s` the steps' time up to the last look that was answered. A look has the counter read, which takes a driver
    milliseconds (2.7 on an H200), so `aside` may ask in another thread: what it says then is put down by a later call of
    `look`, `mark` or `since`. When looks are slow they become rare.
    """

    def __init__(
        self,
        source: PowerSource,
        clock: Callable[[], float] = time.monotonic,
        aside: Callable[[Ask], Future[_Answer]] = at_once,
    ) -> None:
        self.joules = self.step_joules = self.busy_s = 0.0
        self.idle_watts: float | None = None
        self.throttled_s: dict[str, float] = {}
        self._source = source
        self._clock = clock
        self._aside = aside
        self._asked: tuple[float, float, Future[_Answer]] | None = None  # seconds up to the look, of steps in them, the answer
        self._pending_s = 0.0  # of steps since the last look
        self._pause_s = 0.0
        self._counted: float | None = None
        self._at = clock()
        self._newest: tuple[float, float] | None = None  # watts of steps, and over how long
        self._looks = 0
        self._throttled_at: dict[str, int] = {}  # the newest look that saw it
        self._count(_ask(source, clock, busy=False))

    @property
    def no_joules(self) -> str:
        """Why there is no energy; empty where there is."""
        return self._source.no_joules

    @property
    def no_throttled(self) -> str:
        """Why it is not known what holds the clocks down; empty where it is."""
        return self._source.no_throttled

    def step(self, seconds: float) -> None:
        """A step ended that took `seconds` of wall time."""
        self._pending_s += seconds
        if self._pending_s >= LOOK_EVERY_S:
            self.look()

    def look(self, least_s: float = 0.05) -> None:
        """Have the counter read, unless that was done within `least_s` or takes too long to be done so soon again."""
        self._put_down()
        now = self._clock()
        passed = now - self._at
        if self._asked is not None or passed < max(least_s, self._pause_s):
            return
        if self._source.joules is None and self._source.throttled is None:
            return
        busy, self._at = min(self._pending_s, passed), now
        self._pending_s -= busy
        ask = functools.partial(_ask, self._source, self._clock, busy=busy > 0.0)
        try:
            self._asked = passed, busy, self._aside(ask)
        except RuntimeError:  # the interpreter ends, and its threads take no work; whoever ends an answer now needs no joules
            return
        self._put_down()

    def mark(self) -> Mark:
        self._put_down()
        return Mark(self.step_joules, self.busy_s, self._looks)

    def since(self, mark: Mark) -> Reading:
        """What was seen since `mark`; of the newest steps before it as well, where there were too few to tell."""
        self._put_down()
        joules, busy = self.step_joules - mark.joules, self.busy_s - mark.busy_s
        known = (joules / busy, busy) if busy >= LEAST_S else self._newest
        throttled = None
        if self._source.throttled is not None:
            throttled = tuple(name for name, look in self._throttled_at.items() if look > mark.throttled)
        reason = self._source.no_joules or None
        if reason is None and known is None:
            reason = "the energy counter was not read yet while steps ran"
        elif reason is None and self.idle_watts is None:
            reason = "the device was never seen idle, so its idle share is not known"
        watts, over = known if known is not None else (None, 0.0)
        return Reading(watts, self.idle_watts, over, throttled, reason or self._source.no_throttled or None)

    def _put_down(self) -> None:
        """What the driver has said since it was asked, if it has."""
        if self._asked is None or not self._asked[2].done():
            return
        (passed, busy, asked), self._asked = self._asked, None
        answer, before = asked.result(), self._counted
        self._pause_s = answer.seconds / LOOK_SHARE
        self._count(answer)
        if before is not None and self._counted is not None:
            self._share(self._counted - before, passed, busy)
        self._note_throttling(answer.throttled, busy)

    def _share(self, joules: float, passed: float, busy: float) -> None:
        """Put down what was taken in `passed` seconds, in `busy` of which steps ran."""
        if joules < 0.0:
            return  # the driver was loaded anew
        self.joules += joules
        if not busy:
            if passed >= IDLE_S:
                watts = joules / passed
                self.idle_watts = watts if self.idle_watts is None else min(self.idle_watts, watts)
            return
        idle_s = passed - busy
        idle = joules * idle_s / passed if self.idle_watts is None else min(joules, self.idle_watts * idle_s)
        self.step_joules += joules - idle
        self.busy_s += busy
        if busy >= LEAST_S:
            self._newest = ((joules - idle) / busy, busy)

    def _note_throttling(self, names: tuple[str, ...] | NvmlUnavailable, busy: float) -> None:
        self._looks += 1
        if isinstance(names, NvmlUnavailable):
            self._source = replace(self._source, throttled=None, no_throttled=str(names))
            return
        for name in names:
            self.throttled_s[name] = self.throttled_s.get(name, 0.0) + busy
            self._throttled_at[name] = self._looks

    def _count(self, answer: _Answer) -> None:
        if isinstance(answer.joules, NvmlUnavailable):
            self._source = replace(self._source, joules=None, no_joules=str(answer.joules))
            self._counted = None
        else:
            self._counted = answer.joules


def _ask(source: PowerSource, clock: Callable[[], float], *, busy: bool) -> _Answer:
    """Read the counter, and what holds the clocks down where steps run (`busy`): what is idle may be slow."""
    began = clock()
    joules: float | NvmlUnavailable | None = None
    throttled: tuple[str, ...] | NvmlUnavailable = ()
    try:
        joules = source.joules() if source.joules is not None else None
    except NvmlUnavailable as error:
        joules = error
    seconds = clock() - began
    try:
        throttled = source.throttled() if source.throttled is not None and busy else ()
    except NvmlUnavailable as error:
        throttled = error
    return _Answer(joules, throttled, seconds)


def _told(ask: Callable[[], T]) -> tuple[Callable[[], T] | None, str]:
    """The question, if it is answered, or why it is not."""
    try:
        ask()
    except NvmlUnavailable as error:
        return None, str(error)
    return ask, ""


def _joules(driver: Nvml, index: int) -> float:
    joules = driver.energy_j(index)
    if joules is None:
        raise NvmlUnavailable(f"{driver.name(index)} has no energy counter")
    return joules


def _throttled(driver: Nvml, index: int) -> tuple[str, ...]:
    bits = driver.clock_reasons(index)
    if bits is None:
        raise NvmlUnavailable(f"{driver.name(index)} does not tell what holds its clocks down")
    return throttles(bits)
