"""All that is known of one software name: `gather(name, index)`.

The name is resolved to a main package and its family; their rows and paths become facts, best first. With `deep` the
packages themselves are opened for licence, conffiles, users, directories and ports. What could not be asked is said.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from saidata.evidence import order
from saidata.evidence.family import family, substance
from saidata.evidence.opened import masked, opened
from saidata.evidence.others import others
from saidata.facts import Candidate, Evidence, Fact, FactKind
from saidata.index import Index, Package
from saidata.index.lists import names
from saidata.index.names import SAME_SOFTWARE, Named, clean, resolve
from saidata.index.store import File

MOST_CANDIDATES = 10
MOST_PATHS = {"unit": 40, "config": 300, "command": 200, "manpage": 200, "directory": 24, "log": 12}
MOST_DEPENDS = 40
# Kinds whose facts are ordered by usefulness, and the limit that each counts against.
_GROUP = {**{kind: kind for kind in MOST_PATHS}, "conffile": "config"}


def gather(name: str, index: Index, *, providers: Sequence[str] = ("apt",), deep: bool = False) -> Evidence:
    """Facts of `name` from `providers`; `deep` also opens the packages, which takes a download of each once."""
    hits = resolve(index, name)
    facts: list[Fact] = []
    not_checked: dict[str, str] = {}
    if "apt" in providers:
        if hits and hits[0].tier <= SAME_SOFTWARE:
            found, reason = _apt(index, hits[0].package, clean(name), deep)
            facts += found
            if reason:
                not_checked["deb"] = reason
        else:
            release = next(iter(index.sources.values())).label.rsplit(" ", 1)[0]
            not_checked["apt"] = f"no package of {release} goes by this name; `saidata search` finds near ones"
    more = [provider for provider in providers if provider != "apt"]
    if more:
        found, reasons = others(name, more, facts)
        facts += found
        not_checked |= reasons
    return Evidence(
        name=name,
        snapshot=index.version,
        candidates=tuple(_candidate(hit) for hit in hits[:MOST_CANDIDATES]),
        facts=tuple(facts),
        not_checked=not_checked,
    )


def _candidate(hit: Named) -> Candidate:
    need = hit.package.reverse_depends
    reasons = (hit.reason, *([f"{need} other packages need it"] if need else []))
    score = 10.0 * (5 - hit.tier) + hit.package.prior
    return Candidate(package=hit.package.name, provider=hit.package.provider, score=round(score, 3), reasons=reasons)


def _apt(index: Index, main: Package, name: str, deep: bool) -> tuple[list[Fact], str]:
    """What the packages say of themselves, what they ship, and with `deep` what is inside them; and why that is not known."""
    members = family(index, main, name)
    body = substance(index, members)
    inside, reason = opened(index, members, body, name) if deep else ([], "")
    off = masked(members) if deep else set()
    shipped = [file for file in index.files([package.name for package in members]) if file.path not in off]
    units = [file.path.rpartition("/")[2].rpartition(".")[0] for file in shipped if file.kind == "unit"]
    position = {package.name: number for number, package in enumerate(members)}
    stems = order.stems(name, [package.name for package in members])
    paths = [*_shipped(index, shipped), *(fact for fact in inside if fact.kind in _GROUP)]
    paths.sort(key=lambda fact: (_GROUP[fact.kind], _rank(fact, stems, position[fact.package], units)))
    rest = [fact for fact in inside if fact.kind not in _GROUP]
    return [*_said(index, members, body), *_best(paths), *rest], reason


def _said(index: Index, members: list[Package], body: Package) -> Iterator[Fact]:
    """`body` is the member that the software itself is in: its version and licence are the software's."""
    main = members[0]
    for package in members:
        yield _fact(index, package, "package", package.name, package.summary)
    yield _fact(index, main, "source_package", main.source_package)
    for package in [
        body,
        *(member for member in members if member.source_package == body.source_package and member.id != body.id),
    ]:
        yield _fact(index, package, "version", package.version)
    yield _fact(index, main, "summary", main.summary)
    kind: FactKind
    for kind in ("description", "homepage", "maintainer", "section"):
        package = next((package for package in members if getattr(package, kind)), main)
        if value := getattr(package, kind):
            yield _fact(index, package, kind, value)
    for tag in dict.fromkeys(tag for package in members for tag in package.tags.split(", ") if tag):
        yield _fact(index, next(package for package in members if tag in package.tags), "tag", tag)
    for needed in names(main.depends)[:MOST_DEPENDS]:
        yield _fact(index, main, "depends", needed)
    for virtual in names(main.provides):
        yield _fact(index, main, "provides", virtual)
    yield _fact(index, main, "reverse_depends", str(main.reverse_depends))


def _fact(index: Index, package: Package, kind: FactKind, value: str, detail: str = "") -> Fact:
    source = index.sources[package.source]
    return Fact(
        kind=kind,
        value=value,
        provider=package.provider,
        source=source.label,
        date=source.date,
        package=package.name,
        detail=detail,
    )


def _shipped(index: Index, files: Iterable[File]) -> Iterator[Fact]:
    """Paths as facts. A unit is named by its file name, its path is the detail."""
    completed = {file.path.rpartition("/")[2] for file in files if file.kind == "completion"}
    for file in files:
        if file.kind not in _GROUP:
            continue
        base = file.path.rpartition("/")[2]
        value, detail = (base, file.path) if file.kind == "unit" else (file.path, "")
        if file.kind == "command" and base in completed:
            detail = "has shell completion"
        source = index.sources[file.source]
        yield Fact(
            kind=file.kind,  # type: ignore[arg-type]  # those of _GROUP are FactKinds
            value=value,
            provider=source.provider,
            source=source.label,
            date=source.date,
            package=file.package,
            detail=detail,
        )


def _best(ranked: Iterable[Fact]) -> list[Fact]:
    """The first values of each kind, in the order of the kinds."""
    kept: dict[str, list[Fact]] = {kind: [] for kind in MOST_PATHS}
    values: dict[str, set[str]] = {kind: set() for kind in MOST_PATHS}
    for fact in ranked:
        group = _GROUP[fact.kind]
        if fact.value in values[group] or len(values[group]) < MOST_PATHS[group]:
            values[group].add(fact.value)
            kept[group].append(fact)
    return [fact for kind in MOST_PATHS for fact in kept[kind]]


def _rank(fact: Fact, stems: tuple[str, ...], package: int, units: list[str]) -> order.Rank:
    kind, value = fact.kind, fact.value
    if kind == "unit":
        return order.unit_rank(value, stems, package)
    if kind in ("config", "conffile"):
        return order.config_rank(value, stems, package, units)
    if kind == "manpage":
        bare = re.sub(r"\.[0-9][a-z]*(\.gz)?$", "", value)
        return (order.command_rank(bare, stems, package), value)
    return order.command_rank(value, stems, package)
