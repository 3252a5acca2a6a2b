"""Which binary packages a piece of software consists of: `family`, and which of them is the software: `substance`. nginx is nginx, nginx-common, nginx-core and more.

The packages of the main one's source that a person would install for it, and those it needs whose names begin like its own
(postgresql needs postgresql-15, of another source). Libraries, bindings, headers and translations are left out, unless the
name means such a part itself.
"""

from __future__ import annotations

import re

from saidata.index import Index, Package
from saidata.index.lists import names

MOST = 24
MOST_STOOD_FOR = 3  # packages that a metapackage of one piece of software needs; more is a collection

# Packages that no one means by the software's name.
PART = re.compile(
    r"^(lib|python3?-|ruby-|golang-.*-dev|node-|haskell-|librust-|r-cran-|gir1\.2-|elpa-|ocaml-)"
    r"|-(dev|doc|docs|dbg|dbgsym|examples?|locales?|l10n(-.*)?|i18n|headers|source|tests?|testsuite|static|pic|dev-all)$"
)
TELLING = ("command", "unit", "config")
NEAR = ("", "-server", "-daemon", "-core", "-common", "-bin", "-base", "-utils", "-tools", "-client", "-data", "-cli")


def family(index: Index, main: Package, name: str) -> list[Package]:
    """`main` first, then by nearness; at most `MOST`."""
    alike = re.compile(rf"({re.escape(main.name)}|{re.escape(name)})\b")
    hollow = not index.files([main.name])
    needed = _needed(index, main, alike, hollow)
    siblings = index.of_source(main.source_package)
    if PART.search(main.name):  # a library is itself and its own near kin, not all that its source builds
        near = [package for package in siblings if package.name in (main.name, f"{main.name}-dev") or package.id in needed]
        return [main, *(package for package in near if package.id != main.id)][:MOST]
    telling = {file.package for file in index.files([package.name for package in needed.values()], TELLING)}
    found = {
        package.id: package
        for package in [main, *needed.values(), *siblings]
        # A library that the software needs may carry its configuration or even its commands.
        if package.id == main.id or not PART.search(package.name) or (package.id in needed and package.name in telling)
    }

    def distance(package: Package) -> tuple[object, ...]:
        ending = package.name.removeprefix(main.name)
        near = NEAR.index(ending) if ending in NEAR else len(NEAR)
        return (package.id != main.id, package.id not in needed, near, -package.prior, package.name)

    return sorted(found.values(), key=distance)[:MOST]


def substance(index: Index, members: list[Package]) -> Package:
    """The member that the software is in: the main package, or what it stands for where it ships nothing itself.

    postgresql only needs postgresql-15, whose source, version and licence are PostgreSQL's.
    """
    main = members[0]
    if len(members) == 1 or index.files([main.name], TELLING):
        return main
    direct = [package for package in index.packages(names(main.depends)) if package.id in {member.id for member in members}]
    foreign = [package for package in direct if package.source_package != main.source_package]
    shipping = [package for package in direct if index.files([package.name], TELLING)]
    return next(iter([*foreign, *shipping, *direct]), main)


def _needed(index: Index, main: Package, alike: re.Pattern[str], hollow: bool) -> dict[int, Package]:
    """What `main` depends on, two steps deep, of its own source or named like it; one that ships nothing stands for what it needs."""
    found: dict[int, Package] = {}
    edge = [main]
    stem = max(re.split(r"[-.0-9]+", main.name), key=len)  # igbinary of php-igbinary, which stands for php8.2-igbinary
    for step in range(2):
        wanted = [needed for package in edge for needed in names(package.depends)]
        any_name = hollow and step == 0 and len(wanted) <= MOST_STOOD_FOR and not any(stem in name for name in wanted)
        edge = [
            package
            for package in index.packages(wanted)
            if package.id not in found
            and package.id != main.id
            and (any_name or _akin(package, main, alike, stem if hollow else None))
        ]
        found.update({package.id: package for package in edge})
    return found


def _akin(package: Package, main: Package, alike: re.Pattern[str], stem: str | None) -> bool:
    """Of the same source, named like the software, or for a metapackage, named after its telling word."""
    return (
        package.source_package == main.source_package
        or bool(alike.match(package.name))
        or (stem is not None and stem in package.name)
    )
