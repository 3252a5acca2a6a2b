"""What evidence says of every value of a document: `verdicts`. Pure: no network, no index, no clock.

Confirmed: a fact says so. Contradicted: a fact says otherwise. Not checkable: no fact speaks of it, which is not the same as wrong:
a file that is made when the package is installed is in no list, and another repository's packages are in another index. Every
verdict has its reason as a sentence and the facts it rests on.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from saidata.check import licences
from saidata.check.addresses import alike, wrong_with
from saidata.check.claims import Claim, claims
from saidata.check.versions import upstream
from saidata.facts import Evidence, Fact, FactKind, Status, Verdict

Known = Callable[[FactKind, str, str], Sequence[Fact] | None]
"""Asks a whole index: (kind, value, provider) to the facts that have this value; empty: nothing has it; None: it cannot say."""

_FILES: tuple[FactKind, ...] = ("unit", "config", "conffile", "command", "manpage", "directory", "log")
_SHOWN = 4  # of a list of what there is instead


def verdicts(data: Mapping[str, Any], evidence: Evidence, known: Known | None = None) -> list[Verdict]:
    """One verdict for each checkable value of `data`, in the document's order.

    `known` widens what can be said of package names and paths from what was gathered for this software to all that an index
    holds. Without it, a package is contradicted where evidence names the software's packages and it is none of them.
    """
    made = list(claims(data))
    named = {claim.value for claim in made if claim.kind == "package" and claim.provider in ("", "apt")}
    judge = _Judge(evidence, known, named)
    return [judge.verdict(claim) for claim in made]


class _Judge:
    """Holds claims against one evidence. Every method named like a kind of claim returns (status, reason, facts)."""

    def __init__(self, evidence: Evidence, known: Known | None, named: set[str]):
        self.evidence = evidence
        self.known = known
        self.named = named  # the packages that the document itself names
        self.unread = sorted(named - {fact.package for fact in evidence.facts})

    def verdict(self, claim: Claim) -> Verdict:
        status, reason, facts = self.weighed(claim)
        return Verdict(path=claim.path, value=claim.value, status=status, reason=reason, facts=tuple(facts)[:_SHOWN])

    def weighed(self, claim: Claim) -> Said:
        method: Callable[[Claim], Said] = getattr(self, claim.kind)
        said = method(claim)
        if claim.elsewhere and claim.kind not in ("licence", "url") and said[0] != "not_checkable":
            # A package of another repository may share its name with the distribution's and be built otherwise.
            if said[0] == "contradicted" or claim.path[2:3] in (("repositories",), ("package_sources",)):
                return _unknown(f"it may come from the repository {claim.elsewhere}, which the index does not hold")
        if said[0] == "contradicted" and claim.kind in ("unit", "config", "command", "manpage"):
            return self.again(claim, said)
        return said

    def again(self, claim: Claim, said: Said) -> Said:
        """A second look at what no gathered package ships: another package may, or one whose files were not read."""
        for path in _places(claim):
            owners = self.ask("config", path, claim.provider) or ()
            for owner in owners:
                if owner.package in self.named:
                    return _yes(f"shipped by {owner.package} ({_source(owner)})", [owner])
            if owners:
                return _unknown(f"it is shipped by {owners[0].package}, which is no package of this file", owners)
        if self.unread:
            return _unknown(f"the file names {', '.join(self.unread[:_SHOWN])} too, whose files are not in the evidence")
        return said

    def package(self, claim: Claim) -> Said:
        facts = [fact for fact in self.of(claim, "package") if fact.value == claim.value]
        if facts:
            return _yes(f"{_source(facts[0])} has it", facts)
        facts = [fact for fact in self.of(claim, "provides") if fact.value == claim.value]
        if facts:
            return _yes(f"a virtual package that {facts[0].package} provides", facts)
        return self.any_package(claim, "package of this software")

    def alternative(self, claim: Claim) -> Said:
        facts = [fact for fact in self.of(claim, "package", "provides", "depends") if fact.value == claim.value]
        return _yes(f"{_source(facts[0])} has it", facts) if facts else self.any_package(claim, "")

    def prerequisite(self, claim: Claim) -> Said:
        return self.alternative(claim)

    def any_package(self, claim: Claim, closed: str) -> Said:
        """A package beyond those of the software. `closed`: what those are called, if no other can be meant."""
        for candidate in self.evidence.candidates:
            if candidate.package == claim.value and claim.provider in ("", candidate.provider):
                return _yes(f"the index {self.evidence.snapshot} has it", [])
        asked = self.ask("package", claim.value, claim.provider)
        if asked:
            return _yes(f"{_source(asked[0])} has it", asked)
        facts = self.of(claim, "package")
        if asked is not None:
            where = _release(facts[0]) if facts else f"the index {self.evidence.snapshot}"
            if not facts and not claim.provider:
                return _unknown(f"{where} has no such package, and the file does not say whose package manager is meant")
            return _no(f"{where} has no package of this name", facts)
        if facts and closed:
            return _no(f"it is none of the {len(facts)} packages that {_source(facts[0])} has: {_some(facts)}", facts)
        return self.nothing(claim)

    def version(self, claim: Claim) -> Said:
        facts = [fact for fact in self.of(claim, "version") if fact.package == claim.about or not claim.provider]
        for fact in facts:
            if claim.value == fact.value or claim.value == upstream(fact.value):
                return _yes(f"{fact.package} has it in {_source(fact)}", [fact])
        if facts:
            return _unknown(f"{_source(facts[0])} has {facts[0].value}; of other releases nothing is known", facts)
        return self.nothing(claim)

    def unit(self, claim: Claim) -> Said:
        if claim.about not in ("", "systemd", "init"):
            return _unknown(f"nothing is known of services of type {claim.about}")
        scripts = [fact for fact in self.of(claim, "config", "conffile") if fact.value == f"/etc/init.d/{_stem(claim.value)}"]
        units = self.of(claim, "unit") if claim.about != "init" else ()
        facts = [fact for fact in units if _is_unit(claim.value, fact.value)] or scripts
        if facts:
            return _yes(f"shipped by {facts[0].package} ({_source(facts[0])})", facts)
        near = [fact for fact in units if _stem(fact.value).rstrip("d") == _stem(claim.value).rstrip("d")]
        if near:
            return _unknown(f"{near[0].package} ships {near[0].value}; this may be another name of it", near)
        if units:
            return _no(f"its packages ship no such unit, but {_some(units)}", units)
        if self.of(claim, *_FILES):
            return _no("its packages ship no unit", self.of(claim, "package"))
        return self.nothing(claim)

    def config(self, claim: Claim) -> Said:
        path = claim.value.rstrip("/")
        facts = [fact for fact in self.of(claim, "conffile", "config", "directory") if fact.value == path]
        if facts:
            return _yes(f"shipped by {facts[0].package} ({_source(facts[0])})", facts)
        facts = [fact for fact in self.of(claim, "conffile", "config") if fact.value.startswith(path + "/")]
        if facts:
            return _yes(f"a folder in which {facts[0].package} ships {facts[0].value}", facts)
        name = path.rpartition("/")[2]
        own = name.startswith(
            tuple({self.evidence.name, *self.evidence.values("package")} - {""})
        )  # "default" is many files' name
        moved = [fact for fact in self.of(claim, "conffile", "config") if own and fact.value.rpartition("/")[2] == name]
        if moved:
            return _no(f"{moved[0].package} ships it as {moved[0].value}", moved)
        owners = self.ask("config", path, claim.provider)
        if owners and owners[0].package in self.named:
            return _yes(f"shipped by {owners[0].package} ({_source(owners[0])})", owners)
        if owners:
            return _unknown(
                f"it is shipped by {owners[0].package}, which is none of the packages of {self.evidence.name}", owners
            )
        if self.of(claim, *_FILES):
            return _unknown("no package ships it; files that are made at install are in no list")
        return self.nothing(claim)

    def path(self, claim: Claim) -> Said:
        facts = [fact for fact in self.of(claim, *_FILES) if fact.value == claim.value or fact.detail == claim.value]
        if facts:
            return _yes(f"shipped by {facts[0].package} ({_source(facts[0])})", facts)
        facts = [fact for fact in self.of(claim, "directory", "log") if claim.value.startswith(fact.value.rstrip("/") + "/")]
        if facts:
            return _unknown(
                f"it lies in {facts[0].value}, which {facts[0].package} has; nothing says that the file is there", facts
            )
        return _unknown("no list has files of this kind") if self.of(claim, *_FILES) else self.nothing(claim)

    def directory(self, claim: Claim) -> Said:
        path = claim.value.rstrip("/")
        facts = [fact for fact in self.of(claim, *_FILES) if fact.value == path or _below(fact, path)]
        if facts:
            return _yes(f"{facts[0].package} has {facts[0].value} ({_source(facts[0])})", facts)
        return _unknown("no package ships a file in it") if self.of(claim, *_FILES) else self.nothing(claim)

    def command(self, claim: Claim) -> Said:
        commands = self.of(claim, "command")
        name = claim.value.rpartition("/")[2]
        same = [fact for fact in commands if fact.value.rpartition("/")[2] == name]
        here = [fact for fact in same if not claim.value.startswith("/") or _merged(fact.value) == _merged(claim.value)]
        if here:
            return _yes(f"shipped by {here[0].package} ({_source(here[0])})", here)
        if claim.value.startswith("/") and not _merged(claim.value).startswith(("/usr/bin/", "/usr/sbin/", "/usr/games/")):
            return _unknown("no package of a distribution ships commands there")
        if same:
            return _no(f"{same[0].package} ships it as {same[0].value}", same)
        near = [fact for fact in commands if re.match(rf"{re.escape(name)}[.\d-]", fact.value.rpartition("/")[2])]
        if near:
            return _unknown(f"{near[0].package} ships {near[0].value}; this name may be set up at install", near)
        if commands:
            return _no(f"its packages ship no such command, but {_some(commands)}", commands)
        if self.of(claim, *_FILES):
            return _unknown("its packages ship no command; some are set up at install")
        return self.nothing(claim)

    def manpage(self, claim: Claim) -> Said:
        pages = {fact: _page(fact.value) for fact in self.of(claim, "manpage")}
        asked = _page(claim.value)
        facts = [fact for fact, page in pages.items() if page == asked or asked[1] == "" and page[0] == asked[0]]
        if facts:
            return _yes(f"shipped by {facts[0].package} ({_source(facts[0])})", facts)
        other = [fact for fact, page in pages.items() if page[0] == asked[0]]
        if other:
            return _no(f"{other[0].package} has this page in section {pages[other[0]][1]}", other)
        return _unknown("no package ships this page") if pages else self.nothing(claim)

    def port(self, claim: Claim) -> Said:
        if not 0 < int(claim.value) < 65536:
            return _no("ports go from 1 to 65535", [])
        ports = self.of(claim, "port")
        facts = [fact for fact in ports if fact.value == f"{claim.value}/{claim.about or 'tcp'}"]
        if facts:
            return _yes(f"named by {facts[0].package} ({_source(facts[0])})", facts)
        return _unknown(f"evidence names {_some(ports)}", ports) if ports else self.nothing(claim)

    def licence(self, claim: Claim) -> Said:
        said = licences.read(claim.value)
        if said.wrong:
            return _no(said.wrong, [])
        facts = self.evidence.of("licence")
        sound = [fact for fact in facts if licences.read(fact.value).known]
        for fact in facts:
            if licences.same(said, licences.read(fact.value)):
                against = [other for other in sound if other.provider != fact.provider and _differ(fact, other)]
                if against:
                    there = f"{_source(against[0])} says {against[0].value}"
                    return _unknown(f"sources disagree: {_source(fact)} says {fact.value}, {there}", [fact, *against])
                return _yes(f"named by {fact.package} ({_source(fact)})", [fact])
        parts = [fact for fact in sound if set(said.names) & set(licences.read(fact.value).names)]
        if parts:
            return _unknown(f"{_source(parts[0])} says {parts[0].value}, which shares a licence with it", parts)
        if sound:
            return _no(f"{_source(sound[0])} says {sound[0].value}", sound)
        return self.nothing(claim)

    def language(self, claim: Claim) -> Said:
        tags = [fact for fact in self.evidence.of("tag") if fact.value.startswith("implemented-in::")]
        wanted = claim.value.lower().replace("++", "plusplus").replace("+", "plus").replace("#", "sharp")
        facts = [
            fact for fact in tags if fact.value in (f"implemented-in::{wanted}", f"implemented-in::{wanted.replace('plus', '+')}")
        ]
        if facts:
            return _yes(f"tagged {facts[0].value} ({_source(facts[0])})", facts)
        return _unknown(f"evidence names {_some(tags)}", tags) if tags else self.nothing(claim)

    def url(self, claim: Claim) -> Said:
        wrong = wrong_with(claim.value)
        if wrong:
            return _no(wrong, [])
        facts = [fact for fact in self.evidence.of("homepage", "url") if alike(fact.value, claim.value)]
        if facts:
            return _yes(f"named by {facts[0].package} ({_source(facts[0])})", facts)
        wanted = "homepage" if claim.about == "website" else "url"
        known = [
            fact
            for fact in self.evidence.of("homepage", "url")
            if fact.kind == wanted and (claim.about in ("website", fact.detail))
        ]
        known = known if claim.about else []
        if known:
            return _unknown(f"{_source(known[0])} names {known[0].value}; both may be right", known)
        return _unknown("no evidence names it")

    def image(self, claim: Claim) -> Said:
        images = self.evidence.of("package", provider="container")
        # A registry answers with the whole name: REGISTRY/library/nginx for nginx.
        facts = [fact for fact in images if f"/{fact.value}".endswith((f"/{claim.value}", f"/library/{claim.value}"))]
        if facts:
            return _yes(f"{_source(facts[0])} has it", facts)
        return _unknown(self.evidence.not_checked.get("container") or "no registry was asked")

    def of(self, claim: Claim, *kinds: FactKind) -> tuple[Fact, ...]:
        """The facts that speak of a claim: its provider's, or all where it is made for none."""
        return self.evidence.of(*kinds, provider=claim.provider or None)

    def ask(self, kind: FactKind, value: str, provider: str) -> Sequence[Fact] | None:
        return self.known(kind, value, provider or "apt") if self.known else None

    def nothing(self, claim: Claim) -> Said:
        """No fact speaks of it: why not."""
        why = self.evidence.not_checked
        if claim.provider and not self.evidence.of("package", provider=claim.provider):
            return _unknown(why.get(claim.provider) or f"nothing was asked of {claim.provider}")
        return _unknown("; ".join(f"{provider}: {reason}" for provider, reason in why.items()) or "no evidence speaks of it")


Said = tuple[Status, str, Iterable[Fact]]


def _yes(reason: str, facts: Iterable[Fact]) -> Said:
    return ("confirmed", reason, facts)


def _no(reason: str, facts: Iterable[Fact]) -> Said:
    return ("contradicted", reason, facts)


def _unknown(reason: str, facts: Iterable[Fact] = ()) -> Said:
    return ("not_checkable", reason, facts)


def _differ(one: Fact, other: Fact) -> bool:
    """Whether two licences have no part in common."""
    return not set(licences.read(one.value).names) & set(licences.read(other.value).names)


def _source(fact: Fact) -> str:
    return fact.source or fact.provider


def _release(fact: Fact) -> str:
    """The distribution and release of a source, without the part of the archive: "debian bookworm"."""
    words = _source(fact).split()
    return " ".join([*words[:1], *(word.partition("-")[0] for word in words[1:2])])


def _places(claim: Claim) -> tuple[str, ...]:
    """The paths at which a package would ship what is claimed."""
    if claim.kind == "unit":
        name = claim.value if "." in claim.value else f"{claim.value}.service"
        return (f"/lib/systemd/system/{name}", f"/usr/lib/systemd/system/{name}")
    if claim.kind == "command" and not claim.value.startswith("/"):
        return tuple(f"/usr/{folder}/{claim.value}" for folder in ("bin", "sbin"))
    return (claim.value, claim.value.removeprefix("/usr")) if claim.value.startswith("/") else ()


def _some(facts: Iterable[Fact]) -> str:
    values = list(dict.fromkeys(fact.value for fact in facts))
    more = f" and {len(values) - _SHOWN} more" if len(values) > _SHOWN else ""
    return ", ".join(values[:_SHOWN]) + more


def _stem(unit: str) -> str:
    return unit.removesuffix(".service").partition("@")[0]


def _is_unit(claimed: str, shipped: str) -> bool:
    """Whether a name means a shipped unit: with or without .service, and x@1 means the template x@."""
    if claimed in (shipped, shipped.removesuffix(".service")):
        return True
    name, at, _ = claimed.removesuffix(".service").partition("@")
    return bool(at) and shipped == f"{name}@.service"


def _merged(path: str) -> str:
    """/bin and /sbin are names of /usr/bin and /usr/sbin on every system of today."""
    return "/usr" + path if path.startswith(("/bin/", "/sbin/")) else path


def _below(fact: Fact, folder: str) -> bool:
    return any(value.startswith(folder + "/") for value in (fact.value, fact.detail)) and folder.count("/") > 1


def _page(text: str) -> tuple[str, str]:
    """Name and section: of "nginx(8)", "nginx.8" and "/usr/share/man/man8/nginx.8.gz"."""
    name = text.rpartition("/")[2].removesuffix(".gz")
    found = re.fullmatch(r"(.+?)\s*\((\w+)\)|(.+)\.(\d\w*)", name)
    return (found[1] or found[3], found[2] or found[4]) if found else (name, "")
