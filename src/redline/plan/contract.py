"""The plan as a contract: what was promised of each kind of step, what steps took, and the promise corrected by that.

A kind is what a step does (decode, prefill, or both: mixed) and about how many tokens it computes, within a factor of two.
Of each the newest ratios of measured to promised time are kept; their median corrects later predictions, and what lies
beyond the error bar is counted, logged once, and pulled in by the correction. The promise itself comes from a `Predictor`;
without one it is the roofline's limit times what good kernels usually take (`FIRST`). What was learned can be taken out and put
into the contract of a later process (`learned`, `restore`); corrections.py keeps it on disk.

Torch-free, a microsecond or two a step. Open `Contract.step` first.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from redline.plan.roofline import StepWork

Doing = Literal["decode", "prefill", "mixed"]

RECENT = 32  # ratios of a kind that count
FEW = 3  # before there are so many the promise stands as it was made
EVERY = 16  # steps between corrections, later on
HELD = 0.9  # of the steps of a kind lie within its bar
LEAST_BAR = 0.05  # narrower would count the noise of a quiet machine
MOVED = 0.05  # of a correction: readers are told (`revision`)
NEAR = 4  # in tokens: how far the rate of steps says something of others
_FINE = 8  # predictions are asked for anew when the limit changes by a factor of e^(1/8)

log = logging.getLogger(__name__)


class Expected(NamedTuple):
    """Seconds of a step. `bar` is relative, either way: nine steps of ten take between seconds / (1 + bar) and seconds * (1 + bar)."""

    seconds: float
    bar: float
    source: str


Predictor = Callable[[StepWork], Expected | None]
"""What a step takes, wall time; None: nothing is known. Its answers are kept, so it may take its time."""

FIRST: Mapping[Doing, Expected] = {
    # The best engine of each published batch-1 bf16 row of 7B and more takes 1.0 to 1.7 times its limit.
    "decode": Expected(1.3, 0.3, "limit x 1.3, between 1.0 and 1.7 that good engines take"),
    # Long prompts run at 0.7 to 0.9 of the measured matrix rate; short ones also wait for launches.
    "prefill": Expected(1.25, 0.3, "limit x 1.25, for 0.8 of the matrix rate"),
    "mixed": Expected(1.3, 0.3, "limit x 1.3, as decode"),
}
"""Where there is no predictor: time in units of the limit, its bar, and where that comes from."""


@dataclass(frozen=True, slots=True)
class Kept:
    """One kind of step, told. Times are means of the newest steps, in seconds.

    `correction` is what promises are multiplied by, `bar` what then holds for nine steps of ten and `promised_bar` what was
    said to. `error` is how far the newest steps lay from the promise, `corrected_error` from its corrected form: means,
    0.1 for 10 %. `deviations` counts the steps beyond the bar that was in force, or beyond the promised one where that was less.
    `steps` and `deviations` are this process's, `steps_before` those of earlier ones, whose correction and means it began with.
    """

    doing: str
    tokens_from: int
    tokens_to: int
    steps: int
    promised_s: float
    measured_s: float
    correction: float
    bar: float
    promised_bar: float
    deviations: int
    error: float
    corrected_error: float
    source: str
    steps_before: int = 0


@dataclass(frozen=True, slots=True)
class Learned:
    """What steps of one kind have shown, as it outlives a process.

    `size` is the bit length of their tokens, `steps` counts those of all processes, `promised_s` is the newest steps' mean,
    `promise` the newest step's in units of its limit, and `ratios` are the logarithms of measured over promised, oldest first.
    """

    doing: Doing
    size: int
    steps: int
    promised_s: float
    promise: float
    promised_bar: float
    ratios: tuple[float, ...]

    @property
    def middle(self) -> tuple[float, float]:
        """The factor on promises, and the bar around it that was seen."""
        offset, held = _middle(self.ratios)
        return math.exp(offset), max(held, LEAST_BAR)


def _middle(ratios: Iterable[float]) -> tuple[float, float]:
    """The median of such logarithms, and the bar within which `HELD` of them lie around it."""
    ordered = sorted(ratios)
    middle = ordered[len(ordered) // 2]
    rest = sorted([abs(each - middle) for each in ordered])
    return middle, math.expm1(rest[math.ceil(HELD * len(rest)) - 1])


@dataclass(slots=True)
class _Kind:
    """What is known of one kind. `promise` is the newest step's, in units of its limit."""

    promise: Expected
    bar: float
    offset: float = 0.0  # the correction's logarithm
    correction: float = 1.0
    most: float = 0.0  # the logarithm of 1 + bar, or of 1 + what was promised if that is less: farther off, a step deviates
    steps: int = 0
    deviations: int = 0
    logged: bool = False
    before: int = 0  # steps of earlier processes
    base: float = 0.0  # the offset that they left
    promised_s: float = 0.0
    measured_s: float = 0.0
    error: float = 0.0
    corrected_error: float = 0.0
    recent: deque[float] = field(default_factory=lambda: deque(maxlen=RECENT))  # logarithms of measured over promised

    @property
    def known(self) -> bool:
        """Whether enough steps were seen to correct by them."""
        return len(self.recent) >= FEW

    def add(self, promised_s: float, measured_s: float) -> bool:
        """One more step; whether it lay beyond the bar."""
        off = math.log(measured_s / promised_s)
        left = abs(off - self.offset)
        self.steps += 1
        self.recent.append(off)
        weight = 1 / len(self.recent)
        self.promised_s += weight * (promised_s - self.promised_s)
        self.measured_s += weight * (measured_s - self.measured_s)
        self.error += weight * (abs(off) - self.error)
        self.corrected_error += weight * (left - self.corrected_error)
        beyond = left > self.most
        self.deviations += beyond
        return beyond

    def correct(self) -> None:
        """Take the median of the newest ratios, and as the bar what holds around it. Beyond what was promised steps deviate."""
        self.offset, held = _middle(self.recent)
        self.correction = math.exp(self.offset)
        self.bar = max(held, LEAST_BAR)
        self.most = math.log1p(min(self.bar, max(self.promise.bar, LEAST_BAR)))

    @classmethod
    def again(cls, learned: Learned) -> _Kind:
        """A kind as an earlier process left it."""
        bar = learned.promised_bar
        kind = cls(Expected(learned.promise, bar, "as promised before"), bar, before=learned.steps, promised_s=learned.promised_s)
        kind.recent.extend(learned.ratios)
        kind.correct()
        kind.base, kind.measured_s = kind.offset, learned.promised_s * kind.correction
        kind.error = sum(map(abs, kind.recent)) / len(kind.recent)
        kind.corrected_error = sum(abs(off - kind.offset) for off in kind.recent) / len(kind.recent)
        return kind


class Contract:
    """Holds every step against its promise. `predict` makes the promises; without it they are `FIRST`.

    `revision` changes when a correction has moved so far that who planned with it should look again.
    """

    def __init__(self, predict: Predictor | None = None) -> None:
        self.revision = 0
        self._predict = predict
        self._promises: dict[tuple[Doing, int, int], Expected | None] = {}  # seconds over the limit's
        self._kinds: dict[tuple[Doing, int], _Kind] = {}
        self._told: dict[tuple[Doing, int], float] = {}  # offsets at the last revision

    def promise(self, predict: Predictor | None) -> None:
        """Let `predict` make the promises from now on, as when the machine was measured. What steps took is kept."""
        self._predict = predict
        self._promises.clear()

    def restore(self, learned: Sequence[Learned]) -> None:
        """Begin with what earlier processes learned, before the first step."""
        for each in learned:
            key = each.doing, each.size
            kind = self._kinds[key] = _Kind.again(each)
            self._told[key] = kind.offset
        self.revision += bool(learned)

    def learned(self) -> list[Learned]:
        """What is worth keeping: every kind of which enough steps were seen, in this process or before."""
        return [
            Learned(
                doing=doing,
                size=size,
                steps=kind.before + kind.steps,
                promised_s=kind.promised_s,
                promise=kind.promise.seconds,
                promised_bar=kind.promise.bar,
                ratios=tuple(kind.recent),
            )
            for (doing, size), kind in sorted(self._kinds.items())
            if kind.known
        ]

    @property
    def steps(self) -> int:
        """Steps of this process, of all kinds."""
        return sum(kind.steps for kind in self._kinds.values())

    @property
    def deviations(self) -> int:
        """Steps beyond their bars, of all kinds."""
        return sum(kind.deviations for kind in self._kinds.values())

    def step(self, doing: Doing, work: StepWork, limit_s: float, measured_s: float) -> float:
        """A step of `work`, whose limit is `limit_s`, took `measured_s` of wall time; what would have been said before it."""
        if limit_s <= 0.0 or measured_s <= 0.0:
            return 0.0
        key = (doing, work.tokens.bit_length())
        promise = self._promise(doing, work, limit_s)
        kind = self._kinds.get(key)
        if kind is None:
            kind = self._kinds[key] = self._new(doing, work, promise)
        kind.promise = promise
        promised_s = promise.seconds * limit_s
        said = promised_s * kind.correction
        beyond = kind.add(promised_s, measured_s)
        if kind.known and (len(kind.recent) < RECENT or beyond or not kind.steps % EVERY):
            kind.correct()
            self._tell(key, kind)
        return said

    def expected(self, doing: Doing, work: StepWork, limit_s: float) -> Expected:
        """What a step will take: the promise, corrected by what steps of its kind, or of the nearest, took."""
        promise = self._promise(doing, work, limit_s)
        kind = self._nearest(doing, work.tokens)
        if kind is None:
            return Expected(promise.seconds * limit_s, promise.bar, promise.source)
        seconds = promise.seconds * limit_s * kind.correction
        return Expected(seconds, kind.bar, f"{promise.source}; corrected by the last {len(kind.recent)} steps like it")

    def slowdown(self, doing: Doing, tokens: int) -> float | None:
        """What steps of about so many tokens took over their limit, lately; None: too few were seen within a factor of `NEAR`."""
        kind = self._nearest(doing, tokens, NEAR)
        return None if kind is None else kind.promise.seconds * kind.correction

    def kept(self) -> list[Kept]:
        """Every kind that was seen, promise beside truth."""
        return [_told(doing, bits, kind) for (doing, bits), kind in sorted(self._kinds.items())]

    def _promise(self, doing: Doing, work: StepWork, limit_s: float) -> Expected:
        """The promise of a step whose limit is `limit_s`, in units of that."""
        if self._predict is not None:
            key = (doing, work.tokens.bit_length(), round(math.log(limit_s) * _FINE))
            if key not in self._promises:
                made = self._predict(work)
                self._promises[key] = None if made is None else made._replace(seconds=made.seconds / limit_s)
            if (kept := self._promises[key]) is not None:
                return kept
        return FIRST[doing]

    def _new(self, doing: Doing, work: StepWork, promise: Expected) -> _Kind:
        """A kind that begins: with the correction of the nearest, within the promised bar."""
        near = self._nearest(doing, work.tokens)
        offset, base = (0.0, 0.0) if near is None else (near.offset, near.base)
        return _Kind(promise, promise.bar, offset, math.exp(offset), math.log1p(promise.bar), base=base)

    def _nearest(self, doing: Doing, tokens: int, factor: int = 1 << 62) -> _Kind | None:
        """The kind of a step, or the one of the nearest size within a factor, that was seen often enough."""
        bits, most = tokens.bit_length(), factor.bit_length() - 1
        seen = [size for (other, size), kind in self._kinds.items() if other == doing and kind.known]
        sizes = [size for size in seen if abs(size - bits) <= most]
        return self._kinds[doing, min(sizes, key=lambda size: abs(size - bits))] if sizes else None

    def _tell(self, key: tuple[Doing, int], kind: _Kind) -> None:
        """Count a correction that has moved; log the first of a kind that leaves the promised bar."""
        before = self._told.get(key, 0.0)
        if abs(kind.offset - before) > MOVED:
            self._told[key] = kind.offset
            self.revision += 1
        if not kind.logged and abs(kind.offset - kind.base) > math.log1p(kind.promise.bar):
            kind.logged = True
            told = _told(*key, kind)
            size = f"{told.tokens_from} to {told.tokens_to} tokens" if told.tokens_to > 1 else "one token"
            log.info(
                "%s steps of %s take %.2f times what the plan said (within %.0f %%): later predictions are corrected",
                *(told.doing, size, math.exp(kind.offset - kind.base), 100 * kind.promise.bar),
            )


def _told(doing: Doing, bits: int, kind: _Kind) -> Kept:
    return Kept(
        doing=doing,
        tokens_from=1 << (bits - 1) if bits else 0,
        tokens_to=(1 << bits) - 1,
        steps=kind.steps,
        promised_s=kind.promised_s,
        measured_s=kind.measured_s,
        correction=kind.correction,
        bar=kind.bar,
        promised_bar=kind.promise.bar,
        deviations=kind.deviations,
        error=math.expm1(kind.error),
        corrected_error=math.expm1(kind.corrected_error),
        source=kind.promise.source,
        steps_before=kind.before,
    )
