"""Rules that hold a file against evidence: SD2xx packages, SD4xx files, SD003 ports, part of SD5xx. They report what verdicts.py
found contradicted; what is not checkable is no breach.
"""

from __future__ import annotations

from collections.abc import Mapping

from saidata.check.addresses import host
from saidata.check.rule import Look, Said, rule
from saidata.facts import Path, Verdict


@rule("SD201", "error")
def no_such_package(look: Look) -> Said:
    """A package that does not exist.

    The index of this provider and release has no package of this name. Names that sound right and do not exist are registered by
    people who wait for somebody to install them, so nothing is installed by such a name.
    """
    yield from _contradicted(look, "package_name", "alternatives", "prerequisites")
    for verdict in look.verdicts:  # in saidata 0.2 the name of a package is the real one
        if verdict.status == "contradicted" and verdict.path[-1] == "name" and "packages" in verdict.path:
            yield verdict.path, _sentence(verdict)


@rule("SD202", "info")
def other_project(look: Look) -> Said:
    """The package's homepage is on another host than the file's own addresses.

    The name exists, but may belong to another project. Compare the two pages.
    """
    if look.evidence is None:
        return
    urls = look.data.get("metadata", {}).get("urls") if isinstance(look.data.get("metadata"), Mapping) else None
    own = {host(str(value)) for key, value in (urls.items() if isinstance(urls, Mapping) else ()) if key in ("website", "source")}
    own.discard("")
    pages = [
        fact for fact in look.evidence.of("homepage", "url") if fact.kind == "homepage" or fact.detail in ("source", "homepage")
    ]
    if own and pages and not any(_related(host(fact.value), mine) for fact in pages for mine in own):
        said = f"{pages[0].package} of {pages[0].source} has the homepage {pages[0].value}, on another host than this file's addresses."
        yield ("metadata", "urls"), said


@rule("SD203", "warning")
def unanchored_package(look: Look) -> Said:
    """A package of an open registry that names neither a homepage nor a source.

    Anybody can put a package of any name on such a registry. Nothing ties this one to the project that the file is about.
    """
    for verdict in look.verdicts:
        for fact in verdict.facts[:1]:
            if fact.kind != "package" or fact.provider not in ("pypi", "npm", "choco", "winget", "container"):
                continue
            if look.evidence is not None and not look.evidence.of("homepage", "url", provider=fact.provider):
                yield (
                    verdict.path,
                    f"the {fact.provider} package {verdict.value} names no homepage and no source: is it this software?",
                )


@rule("SD401", "warning")
def no_such_unit(look: Look) -> Said:
    """A service that the packages do not ship.

    The file lists of the software's packages hold other units, or none.
    """
    yield from _contradicted(look, "service_name", within="services")
    yield from _contradicted(look, "name", within="services")


@rule("SD402", "warning")
def no_such_config(look: Look) -> Said:
    """A configuration file that lies elsewhere.

    The packages ship a file of this name at another place. A file that no list has at all is not reported: it may be made when the
    package is installed.
    """
    yield from _contradicted(look, "config_files", "path", within=("services", "files"), start="/etc/")


@rule("SD403", "warning")
def no_such_command(look: Look) -> Said:
    """A command that the packages do not ship, or ship at another place."""
    yield from _contradicted(look, "path", "name", within="commands")
    for verdict in _wrong(look, "path", within="files"):
        if "bin/" in verdict.value or "/games/" in verdict.value:
            yield verdict.path, _sentence(verdict)


@rule("SD404", "info")
def no_such_page(look: Look) -> Said:
    """A manual page in another section than the packages have it."""
    yield from _contradicted(look, "man_page")


@rule("SD405", "info")
def no_conffile(look: Look) -> Said:
    """A file of type config that the package manager does not treat as configuration.

    It is shipped, but is none of the package's conffiles: an update overwrites changes to it.
    """
    if look.evidence is None:
        return
    listed = {fact.package for fact in look.evidence.of("conffile")}  # packages whose list was read
    conffiles = set(look.evidence.values("conffile"))
    shipped = {fact.value: fact for fact in look.evidence.of("config")}
    for path, entry in look.of("files"):
        fact = shipped.get(str(entry.get("path")))
        if entry.get("type") == "config" and fact and fact.package in listed and fact.value not in conffiles:
            yield (
                (*path, "path"),
                f"{fact.value} is shipped by {fact.package} and is none of its conffiles: an update overwrites it.",
            )


@rule("SD003", "info")
def unbacked_port(look: Look) -> Said:
    """A port that no evidence names.

    Neither unit files, nor configuration, nor the list of services name it. It may be right; look at it before others do.
    """
    if look.evidence is None or not look.evidence.of("port", "conffile", "licence"):
        return  # the packages were not opened, so their files could name none
    for verdict in look.verdicts:
        if verdict.path[-1] == "port" and verdict.status == "not_checkable":
            yield verdict.path, f"nothing confirms port {verdict.value}: {verdict.reason}."


@rule("SD502", "error")
def other_licence(look: Look) -> Said:
    """The licence is another than the package's own copyright file, or registry, says."""
    if look.evidence is not None and look.evidence.of("licence"):
        for verdict in _wrong(look, "license"):
            if verdict.facts:
                yield verdict.path, _sentence(verdict)


def _contradicted(look: Look, *keys: str, within: str | tuple[str, ...] = "", start: str = "") -> Said:
    for verdict in _wrong(look, *keys, within=within):
        if verdict.value.startswith(start):
            yield verdict.path, _sentence(verdict)


def _wrong(look: Look, *keys: str, within: str | tuple[str, ...] = "") -> list[Verdict]:
    """The contradicted values of these keys, in entries of these lists."""
    lists = (within,) if isinstance(within, str) else within
    return [
        verdict
        for verdict in look.verdicts
        if verdict.status == "contradicted"
        and _key(verdict.path) in keys
        and (lists == ("",) or any(name in verdict.path for name in lists))
    ]


def _key(path: Path) -> str | int:
    return path[-2] if isinstance(path[-1], int) else path[-1]


def _sentence(verdict: Verdict) -> str:
    return f"{verdict.value}: {verdict.reason}."


def _related(one: str, other: str) -> bool:
    """Whether two hosts are of one domain, or one is a forge's page of a project that the other names."""
    return (
        bool(one) and bool(other) and (one.split(".")[-2:] == other.split(".")[-2:] or one.split(".")[0] == other.split(".")[0])
    )
