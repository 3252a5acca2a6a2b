"""What a machine was seen to do beyond its ceilings: a `Survey` of figures for each device, cached beside the ceilings.

The probes come in as callables (`kernels`, `parallel` and `disk.py` make them); this file owns which of their samples count,
whether they can be true, the time that all may take, and the cache. A figure that could not be measured is None with a reason,
never 0. Nothing here is needed to run a model: forecasts use what is known. Open `take` first.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import logging
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from redline import env
from redline.errors import RedlineError
from redline.hardware.ceilings import OVER_DATA_SHEET, DeviceIdentity, identify, write_json
from redline.hardware.machine import Gpu, Machine
from redline.hardware.specs import chip

Unit = Literal["bytes/s", "FLOP/s", "s"]

BUDGET_S = 20.0
"""All that is measured at a time takes no longer, ceilings included ..."""

FURTHER_GPU_S = 4.0
"""... on a machine with up to two GPUs; every further one adds so much."""

GROUP = "cuda"
"""The device of a survey of all GPUs together: what they say to each other."""

_FORMAT = 1  # raised when an old file's figures must not be believed any more

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Samples:
    """Values of single repeats, in their probe's unit, and how they were got, where that is worth saying."""

    values: Sequence[float]
    how: str = ""


@dataclass(frozen=True)
class Probe:
    """One micro-benchmark. `run(seconds)` returns its samples and takes about so long, set-up included: `seconds` of the probe, or
    what is left of the time up to `most_s`, for one that ends by itself.

    `limits` are (resource, factor): no sample can exceed factor times what the data sheet says of that resource. Where `run` is
    None, `reason` says why this device has no such figure.
    """

    name: str
    unit: Unit
    run: Callable[[float], Samples] | None
    seconds: float = 0.2
    limits: tuple[tuple[str, float], ...] = ()
    reason: str = ""
    most_s: float = 0.0


@dataclass(frozen=True)
class Figure:
    """The best sample of a probe: the largest rate, or the fewest seconds. None with a `reason` where there is none.

    `spread` is the share by which the middle sample lay off the best; `limit` what the data sheet allows, where that is known.
    """

    name: str
    unit: Unit
    value: float | None
    spread: float | None = None
    samples: int = 0
    how: str = ""
    limit: float | None = None
    reason: str | None = None

    @property
    def share(self) -> float | None:
        """Of what the data sheet allows."""
        return None if self.value is None or self.limit is None else self.value / self.limit


@dataclass(frozen=True)
class Survey:
    """The figures of one device in one state. `despite` says what disturbed the measurement; empty: nothing that was seen."""

    device: str
    name: str
    figures: tuple[Figure, ...]
    measured_at: str  # ISO 8601, UTC
    seconds: float  # that it took
    despite: str = ""

    def value(self, name: str) -> float | None:
        """The figure called `name`, in its unit; None where it is not known."""
        return next((figure.value for figure in self.figures if figure.name == name), None)

    def as_dict(self) -> dict[str, Any]:
        """JSON-able, with each figure's share of its data sheet."""
        figures = [dataclasses.asdict(figure) | {"share": figure.share} for figure in self.figures]
        return dataclasses.asdict(self) | {"figures": figures}


def budget_s(machine: Machine) -> float:
    """Seconds that everything may take which is measured of `machine` at a time."""
    return BUDGET_S + FURTHER_GPU_S * max(0, len(machine.gpus) - 2)


def take(
    identity: DeviceIdentity,
    probes: Sequence[Probe],
    until: float,
    *,
    sheet: Mapping[str, float],
    despite: str = "",
    held: Callable[[], Sequence[str]] = tuple,
    folder: Path | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Survey:
    """Run the probes one after the other and keep the result. Never fails: what goes wrong with a probe is its figure's reason.

    A probe that would run past `until`, in the clock's time, is left out. `held` names what holds the device's clocks down, and
    is asked after each probe. `sheet` are the data sheet's rates by resource (`sheet_of`).
    """
    began, figures, seen = clock(), [], list(filter(None, (despite,)))
    for probe in probes:
        left = until - clock()
        if probe.run is not None and probe.seconds > left:
            why = f"not enough time left: it takes {probe.seconds:.1f} s, and {max(left, 0.0):.1f} s are left for all"
            figures.append(Figure(probe.name, probe.unit, None, reason=why))
            continue
        figures.append(_figure(probe, max(probe.seconds, min(probe.most_s, left)), sheet))
        holding = " and ".join(held()) if probe.run is not None else ""
        if holding and not any(holding in words for words in seen):
            seen.append(f"throttled by {holding} while {probe.name} was measured")
    survey = Survey(
        device=identity.device,
        name=identity.name,
        figures=tuple(figures),
        measured_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        seconds=round(clock() - began, 3),
        despite="; ".join(seen),
    )
    try:
        record = {"format": _FORMAT, "identity": dataclasses.asdict(identity), "survey": dataclasses.asdict(survey)}
        write_json(_file(identity, folder), record)
    except OSError as error:
        log.warning("what was measured was not kept: %s", error)
    return survey


def load(identity: DeviceIdentity, folder: Path | None = None) -> Survey | None:
    """What was measured on this very device in this state, or None. An unreadable file counts as never measured."""
    try:
        record: dict[str, Any] = json.loads(_file(identity, folder).read_text())
        if record["format"] != _FORMAT:
            return None
        kept: dict[str, Any] = record["survey"]
        figures = tuple(Figure(**figure) for figure in kept.pop("figures"))
        if not all(figure.reason if figure.value is None else _is_possible(figure.value) for figure in figures):
            return None
        return Survey(**{**kept, "device": identity.device}, figures=figures)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def identify_group(machine: Machine) -> DeviceIdentity:
    """The identity of all GPUs together: theirs, in their order, and the ways between them."""
    each = [identify(machine, gpu.device) for gpu in machine.gpus]
    facts = [(f"{i} {name}", value) for i, identity in enumerate(each) for name, value in identity.facts]
    ways = [(f"path {path.first} {path.second}", f"{path.level} {path.peer} {path.nvlinks}") for path in machine.paths]
    names = " and ".join(dict.fromkeys(identity.name for identity in each))
    return DeviceIdentity(GROUP, f"{len(each)} x {names}", (*facts, *ways))


def sheet_of(machine: Machine, device: str) -> dict[str, float]:
    """What data sheets say that `device` can do: `read`, `matmul TYPE`, `host` and `link` (one direction), where known.

    Of a group the least of its GPUs' links, since a ring waits for the slowest.
    """
    if device == GROUP:
        links = [_link(gpu) for gpu in machine.gpus]
        known = [link for link in links if link is not None]
        return {"link": min(known)} if known and len(known) == len(links) else {}
    gpu = machine.gpu(device)
    if gpu is None:
        return {}
    row, host = chip(gpu.name), _host(gpu)
    rates = {} if host is None else {"host": host}
    if row is None:
        return rates
    sure = {f"matmul {dtype}": rate for dtype, rate in row.flops.items() if dtype not in row.derived | row.unverified}
    return rates | sure | {"read": row.read_bytes_per_s}


def _host(gpu: Gpu) -> float | None:
    """Bytes/s between host memory and this GPU by its slot; by its data sheet where that is more (a link of its own)."""
    row = chip(gpu.name)
    rates = (row.host_bytes_per_s if row else None, gpu.pcie.bytes_per_s if gpu.pcie else None)
    if row is not None and row.board.c2c_bytes_per_s is None and rates[1] is not None:
        return rates[1]
    return max((rate for rate in rates if rate is not None), default=None)


def _link(gpu: Gpu) -> float | None:
    """Bytes/s to other GPUs in one direction: its active NVLinks, else the way through its slot."""
    if gpu.nvlinks is not None:
        return gpu.nvlinks.bytes_per_s if gpu.nvlinks.count else _host(gpu)
    row = chip(gpu.name)
    return (row.board.link_bytes_per_s if row else None) or _host(gpu)


def _figure(probe: Probe, seconds: float, sheet: Mapping[str, float]) -> Figure:
    """Run one probe and judge its samples."""
    limit = min((factor * sheet[name] for name, factor in probe.limits if name in sheet), default=None)
    nothing = Figure(probe.name, probe.unit, None, limit=limit)
    if probe.run is None:
        return dataclasses.replace(nothing, reason=probe.reason)
    try:
        samples = probe.run(seconds)
    except RedlineError as error:
        return dataclasses.replace(nothing, reason=error.sentence())
    except Exception as error:  # whatever a probe does on a strange machine, the others are still measured
        return dataclasses.replace(nothing, reason=_why(error))
    values = list(samples.values)
    if not values or not all(map(_is_possible, values)):
        return dataclasses.replace(nothing, reason=f"the probe returned {values[:3]}", how=samples.how)
    best, middle = (min if probe.unit == "s" else max)(values), statistics.median(values)
    if limit is not None and best > limit * OVER_DATA_SHEET:
        why = f"{best:.3g} {probe.unit} were measured where its data sheet allows {limit:.3g}: a cache answered, or the clock is wrong"
        return dataclasses.replace(nothing, reason=why, how=samples.how)
    return Figure(
        name=probe.name,
        unit=probe.unit,
        value=best,
        spread=abs(middle - best) / max(middle, best),
        samples=len(values),
        how=samples.how,
        limit=limit,
    )


def _is_possible(value: float) -> bool:
    return math.isfinite(value) and value > 0


def _why(error: Exception) -> str:
    """One line of an error that is not ours."""
    line = next(iter(str(error).strip().splitlines()), "")
    return f"{type(error).__name__}: {line[:200]}" if line else type(error).__name__


def _file(identity: DeviceIdentity, folder: Path | None) -> Path:
    return (folder or env.cache_dir() / "ceilings") / f"{identity.key}.survey.json"
