"""Whether a filled file may be written: the schema, and evidence. What is contradicted is taken out. Open `judged`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from saidata.check import verdicts
from saidata.check.check import check
from saidata.facts import Evidence, Path, Verdict
from saidata.format.document import Text
from saidata.format.emit import emit
from saidata.format.schema import mistakes
from saidata.generate.made import Fault
from saidata.generate.skeleton import Question, Skeleton, drop

Judge = Callable[[Mapping[str, Any], Evidence], Sequence[Verdict]]

CONTRADICTED = "contradicted"
SCHEMA = "schema"


class Judged(msgspec.Struct, frozen=True, kw_only=True):
    """A file with its verdicts, and what is wrong with it."""

    data: dict[str, Any]
    verdicts: tuple[Verdict, ...]
    faults: tuple[Fault, ...]


def judged(data: dict[str, Any], evidence: Evidence, skeleton: Skeleton, judge: Judge = verdicts) -> Judged:
    """The verdicts and the faults of `data`; what the user gave is judged and never a fault."""
    found = tuple(judge(data, evidence))
    faults = [Fault(code=SCHEMA, path=mistake.path, message=mistake.message) for mistake in mistakes(data, strict=True)]
    faults += [
        Fault(code=CONTRADICTED, path=verdict.path, message=f"{verdict.value!r}: {verdict.reason}")
        for verdict in found
        if verdict.status == "contradicted" and verdict.path not in skeleton.given
    ]
    return Judged(data=data, verdicts=found, faults=_with_codes(faults, data, evidence) if faults else ())


def _with_codes(faults: Sequence[Fault], data: Mapping[str, Any], evidence: Evidence) -> tuple[Fault, ...]:
    """The faults with the codes of check's rules, where a rule speaks of the same place. Only done where there is a fault."""
    report = check(Text.parse(emit(data), "generated"), lambda name: evidence)
    codes: dict[Path, str] = {}
    for finding in report.findings:
        if finding.severity != "info":
            codes.setdefault(finding.path, finding.code)
    return tuple(msgspec.structs.replace(fault, code=codes.get(fault.path, fault.code)) for fault in faults)


def asked_again(faults: Sequence[Fault], skeleton: Skeleton) -> tuple[Question, ...]:
    """The questions whose answers are at fault."""
    found = []
    for question in skeleton.questions:
        places = (question.path, *question.also)
        if any(fault.path[: len(place)] == place for fault in faults for place in places):
            found.append(question)
    return tuple(found)


def without(found: Judged, evidence: Evidence, skeleton: Skeleton, judge: Judge = verdicts) -> tuple[Judged, tuple[Fault, ...]]:
    """The file without what is at fault, and what that was. An entry goes whole where its key value is wrong."""
    removed: list[Fault] = []
    for _ in range(4):  # taking one thing out may leave a holder that lacks what it must have
        if not found.faults:
            break
        for path in sorted({_place(fault) for fault in found.faults}, key=_late, reverse=True):
            if path:
                drop(found.data, path)
        removed += found.faults
        found = judged(found.data, evidence, skeleton, judge)
    return found, tuple(removed)


# The value without which a list's entry says nothing.
_WHOLE_ENTRY = {"package_name", "service_name", "path", "port", "name", "image", "url"}


def _place(fault: Fault) -> Path:
    """What is taken out for a fault: the value, or the entry of a list that it makes."""
    path = fault.path
    if len(path) >= 2 and path[-1] in _WHOLE_ENTRY and isinstance(path[-2], int):
        return path[:-1]
    return path


def _late(path: Path) -> list[tuple[bool, int, str]]:
    """Sorts places so that, from the last on, taking one out moves no other that is still to go."""
    return [(isinstance(step, int), step if isinstance(step, int) else 0, str(step)) for step in path]
