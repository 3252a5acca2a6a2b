"""What is known and from where (`Fact`, `Evidence`), and what was found about a document (`Verdict`, `Finding`).

The records every room of saidata passes to the next. They know nothing of YAML, databases or models. Open `Evidence` first.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Literal

import msgspec

Path = tuple[str | int, ...]
"""Where a value stands in a document: keys and list positions, ("packages", 0, "package_name")."""

FactKind = Literal[
    "package",  # the name of a binary package
    "source_package",
    "version",
    "summary",  # one line
    "description",  # the long text
    "homepage",
    "maintainer",
    "section",  # the archive's category
    "tag",  # a debtag or keyword, "role::program"
    "licence",  # an SPDX expression, or "LicenseRef-..." where a text is named that SPDX does not know
    "unit",  # a service unit's file name, "nginx.service"
    "config",  # an absolute path below /etc that the package ships
    "conffile",  # one that the package manager itself lists as configuration
    "command",  # an absolute path of something that can be run
    "manpage",  # an absolute path
    "directory",  # an absolute path made for data, logs or state
    "log",
    "user",  # made at install
    "port",  # "80/tcp"
    "depends",
    "provides",
    "reverse_depends",  # how many packages need this one, as a decimal number
    "url",  # any other address; `detail` says of what (source, issues, documentation, download ...)
]

Status = Literal["confirmed", "contradicted", "not_checkable"]
Severity = Literal["error", "warning", "info"]


class Fact(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that a source says of a package."""

    kind: FactKind
    value: str
    provider: str  # apt, pypi, npm, dnf, brew ...
    source: str  # where it was read: "debian bookworm main Contents", "nginx 1.22.1-9 copyright"
    date: str  # of the source, ISO 8601; "" where it has none
    package: str  # the provider's package that has it
    detail: str = ""


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """A package that a name may mean, as retrieval ranks them."""

    package: str
    provider: str
    score: float  # higher is better; comparable within one query only
    reasons: tuple[str, ...] = ()  # "exact name", "text rank 3", "312 packages need it" ...


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """All that was found about one name, best first in every list."""

    name: str
    snapshot: str  # of the index: its version, "" without one
    candidates: tuple[Candidate, ...] = ()
    facts: tuple[Fact, ...] = ()
    not_checked: dict[str, str] = {}  # provider: why nothing is known from it

    def of(self, *kinds: FactKind, provider: str | None = None) -> tuple[Fact, ...]:
        """The facts of these kinds, in their order."""
        return tuple(fact for fact in self.facts if fact.kind in kinds and provider in (None, fact.provider))

    def values(self, *kinds: FactKind, provider: str | None = None) -> tuple[str, ...]:
        """Their values, each once, in their order."""
        return tuple(dict.fromkeys(fact.value for fact in self.of(*kinds, provider=provider)))

    def digest(self, kinds: Iterable[FactKind] | None = None) -> str:
        """A hash of the facts that matter, so that only what depends on a changed fact is made again. Dates do not count."""
        wanted = None if kinds is None else set(kinds)
        kept = sorted(
            (f.kind, f.value, f.provider, f.package, f.detail) for f in self.facts if wanted is None or f.kind in wanted
        )
        return hashlib.sha256(msgspec.json.encode((self.name, kept))).hexdigest()


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What evidence says of one value of a document."""

    path: Path
    value: str
    status: Status
    reason: str  # a sentence: "shipped by nginx-common (debian bookworm main Contents)"
    facts: tuple[Fact, ...] = ()


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """What a check has to say about a place of a file."""

    code: str  # of the rule, "SD201"
    severity: Severity
    message: str
    path: Path = ()
    line: int = 0  # from 1; 0: of the whole file
    column: int = 0
