"""What contracts learned on this machine, kept in the cache between processes: a small JSON file for each thing that was run.

Ratios of measured to promised time belong to one device in one state, one model shape, one way to run it, one version of the
curves and one measurement of the ceilings: where any of them changes, learning begins anew. Engines restore and keep through a
`Keeper`; `redline plan` and `redline doctor` only read. A file that cannot be read costs one log line. Torch-free. Open
`Corrections` first, then `Keeper`.
"""

from __future__ import annotations

import dataclasses
import datetime
import functools
import hashlib
import json
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from redline import env
from redline.hardware.ceilings import Ceilings, DeviceIdentity, write_json
from redline.plan.contract import FEW, NEAR, RECENT, Doing, Learned
from redline.plan.efficiency import curves
from redline.plan.split import Layout
from redline.shapes import ModelShape

if TYPE_CHECKING:
    from redline.plan.meter import Meter

EVERY_S = 60.0  # between writes
FAR = math.log2(NEAR)  # a step so many doublings away from those that were seen has the whole bar of its promise

_FORMAT = 1  # raised when an old file must not be believed any more
_MOST_OFF = 20.0  # a logarithm that no ratio reaches
_SAME_SPEED = {"norm_eps", "norm_offset", "max_position", "embed_scale", "attn_scale", "rope", "rope_local"}  # of shapes

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Subject:
    """What corrections belong to: a device in its state, a model, and how it is run.

    `weights` and `kv` are names of formats in memory. `ways` are options that change what a step takes, where they are not as
    usual.
    """

    identity: DeviceIdentity
    shape: ModelShape
    weights: str
    kv: str
    layout: Layout = Layout()
    ways: tuple[tuple[str, str], ...] = ()

    def file(self, folder: Path | None = None) -> Path:
        """Where they are kept. The device's key comes first, so that all of a device are found without knowing the models."""
        shape = {name: value for name, value in dataclasses.asdict(self.shape).items() if name not in _SAME_SPEED}
        parts = [_FORMAT, shape, self.weights, self.kv, str(self.layout), self.ways, version(self.identity)]
        return _folder(folder) / f"{self.identity.key}-{_digest(parts)}.json"


class Correction(NamedTuple):
    """Of one step: promises times `factor` hold within `bar` for nine steps of ten."""

    factor: float
    bar: float


@dataclass(frozen=True)
class Corrections:
    """What is kept of one `Subject`. `curves` is the version that promises stood on, `ceilings` when those were measured.

    `model` is a name for people; `measured_at` (ISO 8601, UTC) is when the newest steps were put down.
    """

    model: str
    weights: str
    kv: str
    layout: str
    ways: dict[str, str]
    curves: str
    ceilings: str
    measured_at: str
    kinds: tuple[Learned, ...]

    @property
    def steps(self) -> int:
        return sum(kind.steps for kind in self.kinds)

    @property
    def date(self) -> str:
        return self.measured_at[:10]

    def of(self, doing: Doing, tokens: int, promised_s: float, promised_bar: float) -> Correction | None:
        """For a step that is promised so; None: no step that does the same was seen.

        As in the contract, the kind of the nearest size speaks. The bar is what was seen of it, and wider the farther the
        step lies from those that were seen, in tokens or in time.
        """
        seen = [kind for kind in self.kinds if kind.doing == doing]
        if not seen:
            return None
        size = tokens.bit_length()
        kind = min(seen, key=lambda kind: abs(kind.size - size))
        factor, held = kind.middle
        away = max(abs(kind.size - size), abs(math.log2(promised_s / kind.promised_s)) - 1, 0)
        return Correction(factor, max(held, promised_bar * min(1.0, away / FAR)))

    def holds(self, identity: DeviceIdentity, ceilings: Ceilings | None) -> bool:
        """Whether promises are still made as these were."""
        return ceilings is not None and self.ceilings == ceilings.measured_at and self.curves == version(identity)

    def as_dict(self) -> dict[str, object]:
        """For documents: what was run, and the factor and bar of each kind."""
        kinds = []
        for kind in self.kinds:
            factor, bar = kind.middle
            first, last = 1 << max(0, kind.size - 1), (1 << kind.size) - 1
            numbers = {"factor": float(f"{factor:.4g}"), "bar": float(f"{bar:.4g}")}
            kinds.append({"doing": kind.doing, "tokens_from": first, "tokens_to": last, "steps": kind.steps, **numbers})
        names = ("model", "weights", "kv", "layout", "ways", "steps", "measured_at")
        return {name: getattr(self, name) for name in names} | {"kinds": kinds}


def version(identity: DeviceIdentity) -> str:
    """The curves that promises for a device stand on now; it changes with every new fit."""
    return _version(on_cpu=identity.device == "cpu")


@functools.cache
def _version(*, on_cpu: bool) -> str:
    figures = dataclasses.asdict(curves(on_cpu=on_cpu))
    del figures["source"], figures["watts"]  # words, and what no promise stands on
    return _digest(figures)


def load(subject: Subject, ceilings: Ceilings | None, folder: Path | None = None) -> Corrections | None:
    """What was learned of `subject` against these ceilings, or None."""
    found = _read(subject.file(folder)) if ceilings is not None else None
    return found if found is not None and found.holds(subject.identity, ceilings) else None


def of_device(identity: DeviceIdentity, ceilings: Ceilings | None, folder: Path | None = None) -> list[Corrections]:
    """All that holds on a device in this state, by model."""
    found = (_read(path) for path in sorted(_folder(folder).glob(f"{identity.key}-*.json")))
    valid = [each for each in found if each is not None and each.holds(identity, ceilings)]
    return sorted(valid, key=lambda each: (each.model, each.weights))


class Shelf:
    """The corrections of one device as usual runs left them, read when somebody asks."""

    def __init__(self, identity: DeviceIdentity, ceilings: Ceilings | None, folder: Path | None = None) -> None:
        self._identity = identity
        self._ceilings = ceilings
        self._folder = folder
        self._found: dict[tuple[ModelShape, str, str, Layout], Corrections | None] = {}

    def find(self, shape: ModelShape, weights: str, kv: str, layout: Layout) -> Corrections | None:
        key = shape, weights, kv, layout
        if key not in self._found:
            self._found[key] = load(Subject(self._identity, *key), self._ceilings, self._folder)
        return self._found[key]


class Keeper:
    """Keeps what one engine's contract learns. Call `begin` before the first step, `idle` when there is nothing to do, and `close`.

    A write takes about a millisecond. Of several processes that run the same model on one device, the last to write is kept.
    """

    def __init__(
        self,
        subject: Subject,
        model: str,
        meter: Meter,
        folder: Path | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._subject = subject
        self._model = model
        self._meter = meter
        self._folder = folder
        self._clock = clock
        self._looked = clock()
        self._written_steps = 0
        self._writes = True

    def begin(self) -> None:
        """Give the contract what earlier processes learned."""
        found = load(self._subject, self._meter.ceilings, self._folder)
        if found is not None:
            self._meter.contract.restore(found.kinds)
            log.info("forecasts are corrected by %d steps measured here on %s", found.steps, found.date)

    def idle(self) -> None:
        """Write if a minute has passed and there is something new."""
        if (now := self._clock()) - self._looked >= EVERY_S:
            self._looked = now
            self._write()

    def close(self) -> None:
        """Write what is new."""
        self._write()

    def _write(self) -> None:
        ceilings, contract = self._meter.ceilings, self._meter.contract
        steps = contract.steps
        if ceilings is None or not self._writes or steps == self._written_steps or not (kinds := contract.learned()):
            return
        subject = self._subject
        record = Corrections(
            model=self._model,
            weights=subject.weights,
            kv=subject.kv,
            layout=str(subject.layout),
            ways=dict(subject.ways),
            curves=version(subject.identity),
            ceilings=ceilings.measured_at,
            measured_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            kinds=tuple(kinds),
        )
        try:
            write_json(subject.file(self._folder), dataclasses.asdict(record))
        except OSError as error:
            self._writes = False
            log.warning("what steps took was not kept: %s", error)
        self._written_steps = steps


def _folder(folder: Path | None) -> Path:
    return folder or env.cache_dir() / "corrections"


def _digest(parts: object) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def _read(path: Path) -> Corrections | None:
    """What a file holds; None where it is not there or, with a log line, where it is none of ours."""
    try:
        found = msgspec.json.decode(path.read_bytes(), type=Corrections)
        for kind in found.kinds:
            _check(kind)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        log.warning("%s is ignored, for it holds no corrections: %s", path, error)
        return None
    return found


def _check(kind: Learned) -> None:
    """Raise ValueError for what no contract can have written."""
    positive = (kind.promised_s, kind.promise, kind.promised_bar)
    sizes = 0 < kind.size < 64 and FEW <= len(kind.ratios) <= RECENT and kind.steps >= len(kind.ratios)
    rates = all(0 < value < math.inf for value in positive) and all(abs(ratio) < _MOST_OFF for ratio in kind.ratios)
    if not (sizes and rates):
        raise ValueError(f"{kind.doing} steps of size {kind.size} cannot be as they stand there")
