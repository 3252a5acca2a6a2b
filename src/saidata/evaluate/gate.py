"""May this be merged? A gate file names the least and the most a report's measures may be. Open `failures`.

    {"variant": "saidata",
     "at_least": {"precision": 0.98},
     "at_most": {"hallucinated_names": 0.005},
     "against": {"report": "last.json", "drop": 0.01}}

`against` compares with an earlier report: a measure fails that fell by more than `drop` and whose earlier value lies outside
its interval now.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from saidata.errors import Misuse, NotHere
from saidata.evaluate.report import Report

LOWER_IS_BETTER = {"hallucinated_names", "licence_wrong"}


class Against(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An earlier report, beside the gate file unless its path is absolute."""

    report: str
    drop: float = 0.01


class Gate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a report must reach."""

    variant: str = "saidata"
    at_least: dict[str, float] = {}
    at_most: dict[str, float] = {}
    against: Against | None = None


def load(path: Path) -> Gate:
    """The gate of a file; Misuse says what is wrong with it."""
    try:
        found = msgspec.json.decode(path.read_bytes(), type=Gate)
    except (msgspec.DecodeError, OSError) as error:
        raise Misuse(f"the gate {path} cannot be read: {error}", "docs/saidata/evaluation.md shows one") from None
    if not (found.at_least or found.at_most or found.against):
        raise Misuse(f"the gate {path} asks for nothing", "give it at_least, at_most or against")
    if found.against is not None and not _beside(path, found.against).is_file():
        raise NotHere(
            f"the gate compares with {found.against.report}, which is not there", "give the path of an earlier report.json"
        )
    return found


def failures(found: Report, gate: Gate, path: Path) -> list[str]:
    """A sentence for each measure that does not reach what the gate asks for. A measure that was not taken fails too."""
    part = found.variants.get(gate.variant)
    if part is None:
        return [f"the run has no variant {gate.variant}; it has {', '.join(found.variants)}"]
    told = []
    for wanted, sign, word in ((gate.at_least, 1, "at least"), (gate.at_most, -1, "at most")):
        for name, bound in wanted.items():
            value = part.measures.get(name)
            if value is None:
                told.append(f"{name} was not measured; the gate wants {word} {bound:g}")
            elif sign * value.value < sign * bound:
                told.append(f"{name} is {value}, the gate wants {word} {bound:g}")
    if gate.against is not None:
        told += _fallen(found, gate, _beside(path, gate.against))
    return told


def _fallen(found: Report, gate: Gate, earlier: Path) -> list[str]:
    assert gate.against is not None
    try:
        before = msgspec.json.decode(earlier.read_bytes(), type=Report).variants[gate.variant].measures
    except (msgspec.DecodeError, KeyError) as error:
        raise Misuse(
            f"{earlier} is no report with the variant {gate.variant}: {error}", "give a report.json of `saidata eval`"
        ) from None
    told = []
    for name, value in found.variants[gate.variant].measures.items():
        old = before.get(name)
        sign = -1 if name in LOWER_IS_BETTER else 1
        if old is None or sign * (old.value - value.value) <= gate.against.drop:
            continue
        if not value.low <= old.value <= value.high:
            told.append(f"{name} was {old.value:.3f} and is {value}")
    return told


def _beside(path: Path, against: Against) -> Path:
    return path.parent / against.report
