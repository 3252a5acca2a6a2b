"""From what is recorded of a value to the chance that it is right: `fit` on one half of the gold set, `Table` for generation.

Values are grouped by field, by who decided them and by their verdict; within a group with enough values an isotonic curve over
one score (never falling where the score rises) says the chance. A group that is too small has no confidence: none is made up.
Open `Table`.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from importlib import resources
from pathlib import Path

import msgspec

from saidata.errors import Misuse, NotHere
from saidata.generate.made import Feature

ENOUGH = 20  # values of a group, under which nothing is said of it
CURVE = 60  # from which on its score is used
BINS = 10


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """What was seen of one kind of value, on the half of the gold set that is for fitting."""

    field: str
    by: str
    status: str
    seen: int
    right: int
    edges: tuple[float, ...] = ()  # scores at which a step of the curve begins, rising; none: the score says nothing
    chances: tuple[float, ...] = ()  # of each step

    def chance(self, score: float) -> float:
        """The chance of being right at this score."""
        if not self.edges:
            return (self.right + 1) / (self.seen + 2)
        step = sum(score >= edge for edge in self.edges[1:])
        return self.chances[step]


class Table(msgspec.Struct, frozen=True, kw_only=True):
    """A fitted table. Calling it with a feature gives the confidence, None where nothing was calibrated for it."""

    model: str
    gold: str  # hash of the gold set
    groups: tuple[Group, ...] = ()

    def __call__(self, feature: Feature) -> float | None:
        key = (field_of(feature), feature.by, feature.status or "")
        group = next((one for one in self.groups if (one.field, one.by, one.status) == key), None)
        return None if group is None else round(group.chance(score_of(feature)), 4)


def load(path: Path | None = None) -> Table | None:
    """The table of `path`, or the one that comes with saidata; None where none does."""
    if path is not None and not path.is_file():
        raise NotHere(f"there is no calibration table at {path}", "`saidata eval --calibrate FILE` writes one")
    shipped = resources.files("saidata.evaluate").joinpath("calibration.json")
    if path is None and not shipped.is_file():
        return None
    try:
        return msgspec.json.decode(path.read_bytes() if path else shipped.read_bytes(), type=Table)
    except msgspec.DecodeError as error:
        raise Misuse(
            f"the calibration table cannot be read: {error}", "make it again with `saidata eval --calibrate FILE`"
        ) from None


def field_of(feature: Feature) -> str:
    """The name of a feature's field as the gold set has it: "units" for services[0].service_name, "category" ..."""
    path = [step for step in feature.path if isinstance(step, str)]
    named = {
        "package_name": "packages",
        "service_name": "units",
        "license": "licence",
        "category": "category",
        "port": "ports",
        "website": "website",
    }
    if path and path[-1] in named:
        return named[path[-1]]
    if path and path[-1] == "path":
        return {"files": "configs", "commands": "commands"}.get(path[-2] if len(path) > 1 else "", ".".join(path))
    return ".".join(path)


def score_of(feature: Feature) -> float:
    """One number that rises with certainty: the share of the allowed probability, else the log-probability, else the rank."""
    if feature.share is not None:
        return feature.share
    if feature.logprob is not None:
        return math.exp(feature.logprob)
    return 1.0 / (1 + feature.rank)


Pair = tuple[Feature, bool]


def fit(pairs: Iterable[Pair], model: str, gold: str) -> Table:
    """A table from features whose truth is known."""
    seen: dict[tuple[str, str, str], list[tuple[float, bool]]] = defaultdict(list)
    for feature, right in pairs:
        seen[field_of(feature), feature.by, feature.status or ""].append((score_of(feature), right))
    groups = []
    for (field, by, status), values in sorted(seen.items()):
        if len(values) < ENOUGH:
            continue
        edges, chances = isotonic(values) if len(values) >= CURVE else ((), ())
        number = sum(right for _, right in values)
        groups.append(Group(field=field, by=by, status=status, seen=len(values), right=number, edges=edges, chances=chances))
    return Table(model=model, gold=gold, groups=tuple(groups))


def isotonic(values: Sequence[tuple[float, bool]]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The rising step curve nearest to (score, right): pool adjacent violators, each step smoothed as one more right and wrong.

    Nothing where the scores are all the same or the curve has one step: then the score says nothing.
    """
    steps: list[list[float]] = []  # first score, right, number
    by_score: dict[float, list[bool]] = defaultdict(list)
    for score, right in values:
        by_score[score].append(right)
    for score in sorted(by_score):
        steps.append([score, sum(by_score[score]), len(by_score[score])])
        while len(steps) > 1 and steps[-2][1] * steps[-1][2] >= steps[-1][1] * steps[-2][2]:
            _, above, number = steps.pop()
            steps[-1][1] += above
            steps[-1][2] += number
    if len(steps) < 2:
        return (), ()
    chances = [(above + 1) / (number + 2) for _, above, number in steps]
    for place in range(1, len(chances)):  # smoothing small steps may turn them over
        chances[place] = max(chances[place], chances[place - 1])
    return tuple(first for first, _, _ in steps), tuple(round(chance, 4) for chance in chances)


class Reliability(msgspec.Struct, frozen=True, kw_only=True):
    """How well confidences fit, on the half that was not fitted."""

    values: int
    error: float  # expected calibration error: mean distance of confidence and truth over bins, by their size
    brier: float
    bins: tuple[tuple[float, float, int], ...]  # mean confidence, share right, number
    curve: tuple[tuple[float, float], ...]  # coverage, risk: the surest share of the values, and how much of it is wrong
    area: float  # under that curve: the mean risk


def reliability(pairs: Iterable[tuple[float, bool]]) -> Reliability | None:
    """The reliability error and the risk-coverage curve of (confidence, right); None for no pairs.

    Values of equal confidence enter the curve together, since nothing orders them.
    """
    known = sorted(pairs, key=lambda pair: -pair[0])
    if not known:
        return None
    bins: dict[int, list[tuple[float, bool]]] = defaultdict(list)
    for confidence, right in known:
        bins[min(BINS - 1, int(confidence * BINS))].append((confidence, right))
    shown = [
        (sum(c for c, _ in part) / len(part), sum(r for _, r in part) / len(part), len(part)) for _, part in sorted(bins.items())
    ]
    curve, wrong = [], 0
    for number, (confidence, right) in enumerate(known, 1):
        wrong += not right
        if number == len(known) or known[number][0] != confidence:
            curve.append((number / len(known), wrong / number))
    area, before = 0.0, 0.0
    for coverage, risk in curve:
        area += (coverage - before) * risk
        before = coverage
    return Reliability(
        values=len(known),
        error=sum(number * abs(c - r) for c, r, number in shown) / len(known),
        brier=sum((c - right) ** 2 for c, right in known) / len(known),
        bins=tuple(shown),
        curve=tuple(curve),
        area=area,
    )
