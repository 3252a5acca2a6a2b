"""How right one file is (`score`) and how right a run's files are (`summary`). No models, no index: gold and a document.

Rates are ratios of sums over files; intervals resample files, never single values, because the values of a file are wrong
together. Open `score`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import msgspec

from saidata.evaluate.claims import Claims, claims, contradictions, same_licence, unit
from saidata.evaluate.gold import Gold, Mode, address_hash
from saidata.evaluate.intervals import Interval, ratio
from saidata.evaluate.truth import plain

KINDS = ("units", "configs", "commands")
WITHHELD_FIELDS = ("units", "configs", "commands", "ports", "licence", "website")
"""The fields that a withheld task must leave empty; an invented name must leave the packages empty too."""

Licence = Literal["right", "wrong", "unnamed", "abstained", "unknown truth"]
"""`unnamed`: the file refers to a text that SPDX has no name for (LicenseRef-...), where the gold set has one."""


class Count(msgspec.Struct, frozen=True):
    """Of one kind of value in one file."""

    written: int = 0
    right: int = 0  # of those written: any package of the software has it
    true: int = 0  # what its main package brings
    found: int = 0  # of those: written


class Score(msgspec.Struct, frozen=True, kw_only=True):
    """How right one file is."""

    name: str
    mode: Mode
    parsed: bool
    valid: bool
    counts: dict[str, Count] = {}
    packages_written: int = 0
    packages_right: int = 0
    packages_invented: int = 0  # no package of the archive is called so
    main_package: bool = False
    licence: Licence = "unknown truth"
    wanted: int = 0  # fields that have a truth or are prose
    filled: int = 0  # of those
    empty: int = 0  # fields that had to stay empty
    kept_empty: int = 0  # of those
    hand_true: int = 0  # hand-checked values that the file must hold
    hand_found: int = 0
    ports_written: int = 0
    ports_right: int = 0
    ports_true: int = 0
    ports_found: int = 0
    website_written: int = 0  # where the package gives one
    website_right: int = 0
    category_written: int = 0  # in hand-checked files, that have a truth
    category_right: int = 0
    links_written: int = 0  # hand-checked files in which a service names its configuration
    links_right: int = 0  # of those: a file that the reader would name
    consistent: bool = True
    wrong: tuple[str, ...] = ()  # "commands: /usr/bin/x", for the report


def score(gold: Gold, mode: Mode, data: Any, *, valid: bool, exists: Callable[[str], bool]) -> Score:
    """Judge `data`, the parsed file, None where it could not be parsed. `exists` says whether the archive has a package."""
    if data is None:
        return _unread(gold, mode)
    said = claims(data)
    invented = tuple(name for name in said.packages if not exists(name))
    base = Score(
        name=gold.name,
        mode=mode,
        parsed=True,
        valid=valid,
        packages_written=len(said.packages),
        packages_invented=len(invented),
        consistent=not contradictions(data),
    )
    if mode != "full":
        fields = (*WITHHELD_FIELDS, "packages") if mode == "unknown" else WITHHELD_FIELDS
        held = [field for field in fields if getattr(said, field)]
        return msgspec.structs.replace(
            base,
            empty=len(fields),
            kept_empty=len(fields) - len(held),
            wrong=tuple(f"{f}: written without evidence" for f in held),
        )
    return _against(gold, said, base, invented)


def _unread(gold: Gold, mode: Mode) -> Score:
    """A file that cannot be parsed finds nothing and keeps nothing empty."""
    base = Score(name=gold.name, mode=mode, parsed=False, valid=False, consistent=False, wrong=("not readable",))
    if mode != "full":
        return msgspec.structs.replace(base, empty=len(WITHHELD_FIELDS) + (mode == "unknown"))
    return msgspec.structs.replace(
        base,
        counts={kind: Count(true=len(getattr(gold, kind))) for kind in KINDS},
        licence="abstained" if gold.licences else "unknown truth",
        wanted=len(wanted(gold)),
        hand_true=len(_hand(gold, Claims())[0]),
        ports_true=len(gold.hand.ports) if gold.hand else 0,
    )


def _against(gold: Gold, said: Claims, base: Score, invented: Sequence[str]) -> Score:
    counts, wrong = {}, [f"packages: {name} (no such package)" for name in invented]
    for kind in KINDS:
        written, right = getattr(said, kind), _right(gold, kind, getattr(said, kind))
        true = set(getattr(gold, kind))
        bases = {path.rsplit("/", 1)[-1] for path in written} if kind == "commands" else set()
        found = {value for value in true if value in written or value.rsplit("/", 1)[-1] in bases}
        counts[kind] = Count(written=len(written), right=len(right), true=len(true), found=len(found))
        wrong += [f"{kind}: {value}" for value in written if value not in right]
    packages = [name for name in said.packages if name in gold.all_packages]
    hand_true, hand_found = _hand(gold, said)
    licence = _licence(gold, said.licence)
    if licence == "wrong":
        wrong.append(f"licence: {said.licence}, where {' or '.join(gold.licences)} is right")
    ports = set(gold.hand.ports) if gold.hand else set()
    more = set(gold.hand.more_ports) if gold.hand else set()
    return msgspec.structs.replace(
        base,
        counts=counts,
        packages_right=len(packages),
        main_package=bool(set(packages) & set(gold.hand.packages if gold.hand else gold.packages)),
        licence=licence,
        wanted=len(wanted(gold)),
        filled=len(wanted(gold) & said.filled),
        hand_true=len(hand_true),
        hand_found=len(hand_found),
        ports_written=len(said.ports) if gold.hand else 0,
        ports_right=len((ports | more) & set(said.ports)),
        ports_found=len(ports & set(said.ports)),
        ports_true=len(ports),
        website_written=int(bool(said.website and gold.homepage)),
        website_right=int(bool(said.website and address_hash(said.website) == gold.homepage)),
        category_written=int(bool(said.category and gold.hand and gold.hand.categories)),
        category_right=int(bool(said.category and right_value(gold, "category", said.category))),
        links_written=int(bool(said.service_configs and gold.hand and gold.hand.configs)),
        links_right=int(bool(gold.hand and said.service_configs & set(gold.hand.configs))),
        wrong=tuple(wrong),
    )


def _right(gold: Gold, kind: str, written: Mapping[str, Any]) -> set[str]:
    """The written values that some package of the software has. A bare command name is right if a command is called so."""
    have = set(getattr(gold, f"all_{kind}")) | set(getattr(gold, kind))
    bare = {path.rsplit("/", 1)[-1] for path in have} if kind == "commands" else set()
    return {value for value in written if value in have or value in bare}


def right_value(gold: Gold, field: str, value: str) -> bool | None:
    """Whether one value of a file is right, for calibration; None where the gold set does not know."""
    if field in KINDS:
        value = unit(value) if field == "units" else plain(value) if "/" in value else value
        return value in _right(gold, field, {value: ()})
    if field == "packages":
        return value in gold.all_packages
    if field == "licence":
        return any(same_licence(value, right) for right in gold.licences) if gold.licences else None
    if field == "category":
        return value in gold.hand.categories if gold.hand and gold.hand.categories else None
    if field == "services.config_files":
        return plain(value) in gold.hand.configs if gold.hand and gold.hand.configs else None
    if field == "ports":
        ports = {*gold.hand.ports, *gold.hand.more_ports} if gold.hand else set()
        return value in ports or value in {port.partition("/")[0] for port in ports} if gold.hand else None
    return None


def _licence(gold: Gold, written: str | None) -> Licence:
    if not gold.licences:
        return "unknown truth"
    if written is None:
        return "abstained"
    if right_value(gold, "licence", written):
        return "right"
    return "unnamed" if "LicenseRef-" in written else "wrong"


def _hand(gold: Gold, said: Claims) -> tuple[set[str], set[str]]:
    """The hand-checked values, and those of them that are in the file."""
    if gold.hand is None:
        return set(), set()
    names = {path.rsplit("/", 1)[-1] for path in said.commands}
    true = {*gold.hand.units, *gold.hand.configs, *gold.hand.commands}
    return true, {value for value in true if value in said.units or value in said.configs or value in names}


def wanted(gold: Gold) -> set[str]:
    """The fields that a complete file about it has."""
    always = {"display_name", "description", "category", "tags", "packages"}
    known = {kind for kind in KINDS if getattr(gold, kind)}
    return always | known | ({"licence"} if gold.licences else set()) | ({"website"} if gold.homepage else set())


Measure = Callable[[Score], tuple[float, float]]
"""Of one file: how much of a rate's numerator and denominator."""


def _of(kind: str, above: str, below: str) -> Measure:
    return lambda s: (getattr(s.counts.get(kind, Count()), above), getattr(s.counts.get(kind, Count()), below))


def _all(above: str, below: str) -> Measure:
    return lambda s: (
        sum(getattr(s.counts.get(kind, Count()), above) for kind in KINDS),
        sum(getattr(s.counts.get(kind, Count()), below) for kind in KINDS),
    )


def _stated(s: Score) -> bool:
    return s.licence in ("right", "wrong")


MEASURES: dict[str, tuple[str, Measure]] = {
    "schema_valid": ("files valid by the strict schema", lambda s: (s.valid, 1)),
    "readable": ("files that parse as YAML", lambda s: (s.parsed, 1)),
    "hallucinated_names": (
        "package names that no package of the archive has",
        lambda s: (s.packages_invented, s.packages_written),
    ),
    "package_precision": (
        "package names that belong to the software",
        lambda s: (s.packages_right, s.packages_written if s.mode == "full" else 0),
    ),
    "main_package": ("files with a right main package", lambda s: (s.main_package, s.mode == "full")),
    "precision": ("units, configuration files and commands that are right", _all("right", "written")),
    "recall": ("units, configuration files and commands that are found", _all("found", "true")),
    "unit_precision": ("units that are right", _of("units", "right", "written")),
    "unit_recall": ("units that are found", _of("units", "found", "true")),
    "config_precision": ("configuration files that are right", _of("configs", "right", "written")),
    "config_recall": ("configuration files that are found", _of("configs", "found", "true")),
    "command_precision": ("commands that are right", _of("commands", "right", "written")),
    "command_recall": ("commands that are found", _of("commands", "found", "true")),
    "hand_recall": ("hand-checked values that are in the file", lambda s: (s.hand_found, s.hand_true)),
    "licence_recall": (
        "known licences that are written and right",
        lambda s: (s.licence == "right", s.licence != "unknown truth"),
    ),
    "licence_accuracy": ("written licences that are right", lambda s: (s.licence == "right", _stated(s))),
    "licence_wrong": ("files with a wrong licence", lambda s: (s.licence == "wrong", s.licence != "unknown truth")),
    "website": ("written websites that are the package's own", lambda s: (s.website_right, s.website_written)),
    "port_precision": ("ports that are ports of the software (hand-checked files)", lambda s: (s.ports_right, s.ports_written)),
    "port_recall": ("default ports that are found (hand-checked files)", lambda s: (s.ports_found, s.ports_true)),
    "category": (
        "written categories that the reader would accept (hand-checked files)",
        lambda s: (s.category_right, s.category_written),
    ),
    "service_config": (
        "services' configuration that is a main one (hand-checked files)",
        lambda s: (s.links_right, s.links_written),
    ),
    "abstention": ("fields without evidence that stay empty", lambda s: (s.kept_empty, s.empty)),
    "completeness": ("fields with a truth, and prose, that are filled", lambda s: (s.filled, s.wanted)),
    "consistency": ("files that do not contradict themselves", lambda s: (s.consistent, s.mode == "full")),
}


def summary(scores: Sequence[Score], seed: int = 0) -> dict[str, Interval]:
    """Every measure over the files, with its interval; those that no file bears on are left out."""
    found = {}
    for name, (_, measure) in MEASURES.items():
        pairs = [(float(above), float(below)) for above, below in map(measure, scores)]
        if sum(below for _, below in pairs) > 0:
            found[name] = ratio(pairs, seed)
    return found


def file_recall(scores: Sequence[Score], seed: int = 0) -> Interval | None:
    """Recall averaged over files, so that one package with a hundred commands counts as one."""
    pairs = []
    for one in scores:
        above, below = _all("found", "true")(one)
        if below:
            pairs.append((above / below, 1.0))
    return ratio(pairs, seed) if pairs else None
