"""From a name as people write it to the packages it may mean: `resolve`. Tiers of exactness, no text search.

A tier is a rule that is true or false, so that every hit can say why it is one: the package is called so, its source is, a
known ending or beginning was added, it ships the command or the unit, it provides the name, or other systems call it so.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import msgspec

from saidata.index.aliases import ALIASES
from saidata.index.paths import COMMAND_FOLDERS, UNIT_FOLDERS
from saidata.index.store import Index, Package

LONGEST_NAME = 200

# What distributions add to a name, likeliest first; {} is the name as written.
FORMS = (
    *("{}-server", "{}-daemon", "{}d", "{}.io", "{}-core", "{}-bin", "{}-ce", "{}-cli", "{}-client", "{}-common", "{}-base"),
    *(
        "{}-desktop",
        "{}-gtk",
        "{}-qt",
        "{}-utils",
        "{}-tools",
        "{}-tool",
        "{}-ng",
        "{}-all",
        "{}-full",
        "{}-engine",
        "{}-manager",
    ),
    *("{}-wm", "{}-app", "{}-ui", "{}-x11", "{}-browser", "{}-browser-esr", "{}-esr", "{}-backup", "{}-headless", "default-{}"),
    "gnome-{}",
)
# Of another software than the one named: a client library of a server, for one.
BINDINGS = ("python3-{}", "ruby-{}", "node-{}", "lib{}", "lib{}-perl", "golang-{}", "php-{}", "r-cran-{}", "fonts-{}")
# What others add to a name that Debian leaves out.
ENDINGS = frozenset(
    "engine lang scm cli mail ng php client server daemon utils tools tool core common community ce oss bin git gui qt gtk app wm pager gnu"
    " software project desktop player editor browser tc agent".split()
)
SAME_SOFTWARE = 3  # hits of this tier and better mean the software that was named
TRANSITIONAL = re.compile(r"transitional|dummy package|obsolete package", re.IGNORECASE)
DIGITS = re.compile(r"[0-9][0-9.]*$")


class Named(msgspec.Struct, frozen=True):
    """A package that a name may mean, the tier that found it (0 is the most exact) and why, in words."""

    package: Package
    tier: int
    reason: str


def clean(name: str) -> str:
    """As archives write names: lower case, hyphens. Longer than any name there is gives ""."""
    name = re.sub(r"[\s_]+", "-", name.strip().lower())
    return name if len(name) <= LONGEST_NAME else ""


def resolve(index: Index, name: str) -> list[Named]:
    """Every package that a tier finds, each once, most exact first and likeliest first within a tier."""
    wanted = clean(name)
    if not wanted:
        return []
    found: dict[int, Named] = {}
    for hit in _tiers(index, wanted):
        found.setdefault(hit.package.id, hit)
    return sorted(found.values(), key=lambda hit: (hit.tier, -hit.package.prior))


def _tiers(index: Index, name: str) -> Iterator[Named]:
    exact = index.package(name)
    if exact and TRANSITIONAL.search(exact.summary):
        yield Named(exact, 5, f"the package is called so, but only to lead to another: {exact.summary}")
        exact = None
    elif exact:
        yield Named(exact, 0, "the package is called so")
    for alias in ALIASES.get(name, ()):
        for package in index.packages([alias]):
            yield Named(package, 0 if exact is None else 1, f"other systems call {package.name} so")
    left_behind = bool(index.package(name)) and exact is None  # then others may be meant as well as what stays of that source
    for package in _best_of_source(index, name):
        # helm is a source of an Emacs add-on, and not what a person means.
        tier = 4 if package.name.startswith("elpa-") else 2 if left_behind else 1
        yield Named(package, tier, f"built from the source package {name}")
    squeezed = re.sub(r"[-.]", "", name)
    near = [name, squeezed, DIGITS.sub("", name), name.removesuffix("-server"), *([f"{name}{n}" for n in range(2, 6)])]
    for package in index.packages(part for part in near if part and part != name):
        yield Named(package, 2, f"{package.name} is {name} but for punctuation or a number")
    for package in index.packages(form.format(name) for form in FORMS):
        yield Named(package, 2, f"{package.name} is {name} with a usual addition")
    for file in index.owners(f"/{folder}/{name}" for folder in COMMAND_FOLDERS):
        yield from (Named(package, 2, f"ships the command {file.path}") for package in index.packages([file.package]))
    for file in index.owners(
        f"/{folder}/{part}.service" for folder in UNIT_FOLDERS for part in (name, f"{name}d", f"{name}-server")
    ):
        yield from (
            Named(package, 2, f"ships the unit {file.path.rpartition('/')[2]}") for package in index.packages([file.package])
        )
    for package in _numbered(index, name):
        yield Named(package, 3, f"{package.name} is {name} with a version")
    yield from _shortened(index, name)
    yield from _ending_so(index, name)
    for package in index.packages(form.format(name) for form in BINDINGS):
        yield Named(package, 4, f"{package.name} is {name} for a language, or a library")
    for package in index.providing(name)[:10]:
        yield Named(package, 4, f"provides {name}")


def _shortened(index: Index, name: str) -> Iterator[Named]:
    """git for git-scm; and bind9-utils for bind-utils, where bind is another name of bind9."""
    base, _, ending = name.rpartition("-")
    if not base or ending not in ENDINGS:
        return
    known = [hit.package for hit in resolve(index, base) if hit.tier <= 2][:3]
    for package in index.packages(f"{package.name}-{ending}" for package in known):
        yield Named(package, 2, f"{package.name} is {name} under Debian's name for {base}")
    for package in known:
        yield Named(package, 3, f"{package.name} is {name} without -{ending}")


def _ending_so(index: Index, name: str) -> Iterator[Named]:
    """prometheus-node-exporter for node-exporter: the one program that is called so after the name of a whole."""
    words = re.findall(r"[a-z0-9+.]+", name)
    if len(words) < 2:
        return
    rows = index.match('name : "' + " ".join(words) + '"', 50)
    found = [package for package in index.numbered([row for row, _ in rows]) if package.name.endswith(f"-{name}")]
    programs = [package for package in found if package.prior > 0]
    if len(programs) == 1:
        yield Named(programs[0], 3, f"{programs[0].name} is the only program whose name ends so")


def _best_of_source(index: Index, name: str) -> list[Package]:
    found = [package for package in index.of_source(name) if not TRANSITIONAL.search(package.summary)]
    return sorted(found, key=lambda package: -package.prior)[:5]


def _numbered(index: Index, name: str) -> list[Package]:
    """postgresql-15 for postgresql, openjdk-17-jre for openjdk."""
    numbered = re.compile(re.escape(name) + r"-?[0-9][0-9.]*(-|$)")
    return [package for package in index.beginning(name, 200) if numbered.match(package.name)][:5]
