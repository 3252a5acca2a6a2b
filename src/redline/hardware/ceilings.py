"""What a device really does: measured read bandwidth and matrix rates, cached as JSON.

The probes come in as callables (`kernels/probes.py` makes them); this file owns which of their samples count, whether
they can be true, and the cache. A ceiling belongs to one device in one state: the cache key holds the identity with
driver, power limit and clocks, so any change asks for a new measurement. Open `measure` first.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import hashlib
import json
import logging
import math
import os
import statistics
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from redline import env
from redline.errors import ConfigError, InternalError
from redline.hardware.specs import Chip, chip

if TYPE_CHECKING:
    from redline.hardware.machine import Cpu, Gpu, Machine

_FORMAT = 1  # raised when an old file's figures must not be believed any more
OVER_DATA_SHEET = 1.15  # a faster sample than this was served by a cache, or the clock was wrong

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DeviceIdentity:
    """One device in one state. `facts` are all that may change what it can do."""

    device: str
    name: str
    facts: tuple[tuple[str, str], ...]

    @property
    def key(self) -> str:
        """A file name for it. The index of the device is left out: cards may be renumbered."""
        text = json.dumps([_FORMAT, self.name, self.facts])
        return hashlib.sha256(text.encode()).hexdigest()[:24]


@dataclass(frozen=True)
class Ceilings:
    """The most that a device was seen to do. `matmul_flops` by torch's name of the type, in FLOP/s.

    `spread` is the share by which the middle sample lay below the best, the worst of all probes: near 0 on a quiet
    machine, large when others were using it.
    """

    device: str
    name: str
    read_bytes_per_s: float
    matmul_flops: Mapping[str, float]
    measured_at: str  # ISO 8601, UTC; empty for a table
    source: Literal["measured", "table"] = "measured"
    spread: float = 0.0


@dataclass(frozen=True)
class Probes:
    """Micro-benchmarks of one device. Each call returns the rates of several repeats: bytes/s, or FLOP/s by type."""

    read: Callable[[], list[float]]
    matmul: Mapping[str, Callable[[], list[float]]]


def identify(machine: Machine, device: str) -> DeviceIdentity:
    """The identity of `cpu` or `cuda:N`. Raises ConfigError if the machine has no such device."""
    if device == "cpu":
        return DeviceIdentity("cpu", machine.cpu.model, _cpu_facts(machine.cpu))
    gpu = machine.gpu(device)
    if gpu is None:
        raise ConfigError(f"there is no device {device} on this machine", hint="; ".join(machine.notes), param="device")
    return DeviceIdentity(device, gpu.name, _gpu_facts(gpu))


def load(identity: DeviceIdentity, folder: Path | None = None) -> Ceilings | None:
    """What was measured on this very device in this state, or None. An unreadable file counts as never measured."""
    try:
        record: dict[str, Any] = json.loads(_file(identity, folder).read_text())
        ceilings = Ceilings(**record["ceilings"])
        _check(identity, ceilings)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, InternalError):
        return None
    return dataclasses.replace(ceilings, device=identity.device)


def measure(identity: DeviceIdentity, probes: Probes, folder: Path | None = None) -> Ceilings:
    """Run the probes and keep the result.

    The best sample of a probe is the ceiling: what the device did once it can do, while the middle one also measures
    who else was using the machine (that goes into `spread`). Raises InternalError for samples that cannot be true. A
    cache folder that cannot be written costs a warning and a new measurement next time.
    """
    samples = {"read": probes.read()} | {f"matmul {dtype}": probe() for dtype, probe in probes.matmul.items()}
    for name, rates in samples.items():
        if not rates or not all(math.isfinite(rate) and rate > 0 for rate in rates):
            raise InternalError(f"the probe {name} of {identity.name} returned {rates}")
    ceilings = Ceilings(
        device=identity.device,
        name=identity.name,
        read_bytes_per_s=max(samples["read"]),
        matmul_flops={dtype: max(samples[f"matmul {dtype}"]) for dtype in probes.matmul},
        measured_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        spread=max(1 - statistics.median(rates) / max(rates) for rates in samples.values()),
    )
    _check(identity, ceilings)
    try:
        write_json(_file(identity, folder), {"identity": dataclasses.asdict(identity), "ceilings": dataclasses.asdict(ceilings)})
    except OSError as error:
        log.warning("measured ceilings were not kept: %s", error)
    return ceilings


def from_table(device: str, row: Chip) -> Ceilings:
    """A data sheet's figures in the shape of a measurement, for a card that was not measured."""
    return Ceilings(
        device=device,
        name=row.name,
        read_bytes_per_s=row.read_bytes_per_s,
        matmul_flops=dict(row.flops),
        measured_at="",
        source="table",
    )


def _check(identity: DeviceIdentity, ceilings: Ceilings) -> None:
    """Raise InternalError if a figure is no positive number or beats the chip's data sheet."""
    rates = {"read": ceilings.read_bytes_per_s} | {f"matmul {dtype}": rate for dtype, rate in ceilings.matmul_flops.items()}
    row = chip(identity.name)
    peaks: dict[str, float] = {}
    if row is not None:  # rates that no sheet was seen to give are no ground to call a measurement impossible
        sheet = {f"matmul {dtype}": rate for dtype, rate in row.flops.items() if dtype not in row.derived | row.unverified}
        peaks = {"read": row.read_bytes_per_s} | sheet
    for name, rate in rates.items():
        if not (math.isfinite(rate) and rate > 0):
            raise InternalError(f"the ceiling {name} of {identity.name} is {rate}")
        if rate > peaks.get(name, math.inf) * OVER_DATA_SHEET:
            raise InternalError(f"measured {name} of {identity.name} is {rate:.3g}, its data sheet says {peaks[name]:.3g}")


def _cpu_facts(cpu: Cpu) -> tuple[tuple[str, str], ...]:
    return (("cores", str(cpu.cores)), ("vectors", " ".join(cpu.vectors)), ("l3_bytes", str(cpu.l3_bytes)))


def _gpu_facts(gpu: Gpu) -> tuple[tuple[str, str], ...]:
    names = ("uuid", "driver", "power_limit_w", "max_sm_mhz", "max_memory_mhz")
    return tuple((name, str(getattr(gpu, name))) for name in names)


def _file(identity: DeviceIdentity, folder: Path | None) -> Path:
    return (folder or env.cache_dir() / "ceilings") / f"{identity.key}.json"


def write_json(path: Path, record: dict[str, Any]) -> None:
    """Atomically: a reader sees the old file or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".part")
    try:
        with os.fdopen(handle, "w") as file:
            json.dump(record, file, indent=1)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
