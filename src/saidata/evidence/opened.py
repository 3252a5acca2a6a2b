"""Facts that only an opened package gives: `opened`. Joins the index, which knows where a package lies, with the reader.

At most `MOST` packages of a family are opened: the main one, then those that ship units or configuration. What could not be
fetched is said once, and the facts of the others still count.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from saidata.evidence import order
from saidata.evidence.registered import Table, registered, transports
from saidata.facts import Fact, FactKind
from saidata.index import Index, Package, apt
from saidata.index.lists import names
from saidata.index.store import File
from saidata.sources import deb
from saidata.sources.deb import Inside
from saidata.sources.ports import FIRM, SAID

MOST = 6
MOST_PORTS = 8
_TABLE = "netbase"  # the package that ships /etc/services


def opened(index: Index, members: Sequence[Package], body: Package, name: str) -> tuple[list[Fact], str]:
    """Facts from inside the family's packages, `body`'s first, and why some could not be read ("" where all were).

    Paths below /etc and commands come in no order: `gather` ranks them among those that the index knows.
    """
    shipped = index.files([package.name for package in members], ("unit", "config"))
    telling = {file.package for file in shipped}
    wanted = [body, *(package for package in members if package.name in telling and package.id != body.id)][:MOST]
    found: list[tuple[Package, Inside]] = []
    reason = ""
    for package in wanted:
        # After one failure no other download is tried: without a network each would wait for its own time-out.
        inside, why = (deb.remembered(package.name, package.version), "") if reason else _inside(index, package)
        if inside is not None:
            found.append((package, inside))
        reason = reason or why
    stems = order.stems(name, [package.name for package in members])
    units = [file.path.rpartition("/")[2] for file in shipped if file.kind == "unit"]
    if not any(inside.licence for _, inside in found):
        found += _papers(index, found)
    own = {body.name, members[0].name, *names(members[0].depends), *names(body.depends), *_serving(shipped, stems, members)}
    near = [(package, inside) for package, inside in found if package.name in own]
    ports: list[Fact] = []
    # A client's configuration names the ports of servers: only a service has ports of its own.
    if any(file.path.endswith((".service", ".socket")) or file.path.startswith("/etc/init.d/") for file in shipped):
        tags = {tag for package, _ in near for tag in package.tags.split(", ")}
        registry, table = _table(index, offline=bool(reason))
        ports = _stated(near, FIRM, table)
        if not ports and registry is not None:
            called = registered(table, dict.fromkeys([*stems, *_bodies(units)]), tags, members[0].summary)
            ports = [_fact(registry, "/etc/services", "port", value, f"registered for {name}") for name, value in called]
        ports = ports or _stated(found, 1, table) or _stated(near, SAID, table)
    return [*_licences(found), *_configs(found), *_made(found, stems), *ports[:MOST_PORTS]], reason


def masked(members: Sequence[Package]) -> set[str]:
    """Paths of units that these packages ship only to switch them off; what was not opened before is not asked."""
    return {path for package in members if (inside := deb.remembered(package.name, package.version)) for path in inside.masked}


def _papers(index: Index, found: Sequence[tuple[Package, Inside]]) -> list[tuple[Package, Inside]]:
    """The package that the first one's documentation is a link to: there the copyright file lies."""
    package = index.package(found[0][1].papers) if found and found[0][1].papers else None
    if package is None or package.source_package != found[0][0].source_package:
        return []
    inside, _ = _inside(index, package)
    return [(package, inside)] if inside else []


def _serving(shipped: Sequence[File], stems: tuple[str, ...], members: Sequence[Package]) -> set[str]:
    """The package of the unit that is most like the software."""
    position = {package.name: at for at, package in enumerate(members)}
    ranked = [
        (order.unit_rank(file.path.rpartition("/")[2], stems, position[file.package]), file.package)
        for file in shipped
        if file.kind == "unit"
    ]
    return {min(ranked)[1]} if ranked else set()


def _bodies(units: Sequence[str]) -> list[str]:
    return [unit.rpartition(".")[0].rstrip("@") for unit in units]


def _inside(index: Index, package: Package) -> tuple[Inside | None, str]:
    def fetch(to: Path) -> str:
        if why := deb.available() or apt.available():
            return why
        base = index.sources[package.source].base
        if not base or not package.file_name:
            return f"the index does not say where {package.name} lies"
        if why := apt.download(f"{base.rstrip('/')}/{package.file_name}", package.sha256, to):
            return f"{package.name} {package.version} could not be fetched ({why}); `saidata index update` brings the lists up to date"
        return ""

    return deb.kept(package.name, package.version, fetch)


def _fact(package: Package, part: str, kind: FactKind, value: str, detail: str = "") -> Fact:
    source = f"{package.name} {package.version} {part}"
    return Fact(kind=kind, value=value, provider=package.provider, source=source, date="", package=package.name, detail=detail)


def _licences(found: Sequence[tuple[Package, Inside]]) -> list[Fact]:
    facts = [_fact(p, "copyright", "licence", inside.licence, inside.licence_from) for p, inside in found if inside.licence]
    facts += [_fact(p, "copyright", "url", inside.source_address, "source") for p, inside in found if inside.source_address]
    return facts


def _configs(found: Sequence[tuple[Package, Inside]]) -> list[Fact]:
    """What the package manager lists as configuration, and what is put below /etc at install."""
    facts = []
    for package, inside in found:
        facts += [_fact(package, "conffiles", "conffile", path) for path in inside.conffiles]
        facts += [_fact(package, "maintainer scripts", "config", path, "made at install") for path in inside.configs_made]
    return facts


def _made(found: Sequence[tuple[Package, Inside]], stems: tuple[str, ...]) -> list[Fact]:
    """Users, state folders, and commands that stand for another by the alternatives system."""
    facts = []
    for package, inside in found:
        facts += [_fact(package, "maintainer scripts", "user", user) for user in inside.users]
        for path, owner in inside.directories:
            kind: FactKind = "log" if path.startswith("/var/log/") else "directory"
            facts.append(_fact(package, "file list", kind, path, owner))
        for link, path in inside.links:
            # /usr/bin/editor is everybody's: only a name of the software's own is a command of it.
            if order.likeness(link.rpartition("/")[2], stems) < 2:
                facts.append(_fact(package, "maintainer scripts", "command", link, f"an alternative, stands for {path}"))
        for alias in inside.aliases:
            facts.append(_fact(package, "unit file", "provides", alias, "another name of its unit"))
    return facts


def _table(index: Index, offline: bool) -> tuple[Package | None, Table]:
    """/etc/services and the package that ships it; nothing where it is not known and cannot be fetched."""
    package = index.package(_TABLE)
    if package is None:
        return None, {}
    inside = deb.remembered(package.name, package.version) if offline else _inside(index, package)[0]
    return package, inside.services if inside else {}


def _stated(found: Sequence[tuple[Package, Inside]], rank: int, table: Table) -> list[Fact]:
    """Ports that files state, down to this rank of sureness; surest first."""
    rows = [
        (port.rank, at, port, package) for at, (package, inside) in enumerate(found) for port in inside.ports if port.rank <= rank
    ]
    facts: dict[str, Fact] = {}
    for _, _, port, package in sorted(rows, key=lambda row: row[:2]):
        for value in transports(port.value, table):
            facts.setdefault(value, _fact(package, "files", "port", value, port.detail))
    return list(facts.values())
