"""What a document says, in the form the gold set has it: `claims`. Reads any mapping, however badly made.

Knows no evidence and no verdicts: it must see what a user of the file would see. Open `claims`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from saidata.evaluate.truth import UNIT_KINDS, canonical, plain
from saidata.facts import Path


class Claims(msgspec.Struct, frozen=True, kw_only=True):
    """The checkable values of a document, each once, with the first place it stands at."""

    packages: dict[str, Path] = {}
    units: dict[str, Path] = {}
    configs: dict[str, Path] = {}
    commands: dict[str, Path] = {}
    ports: dict[str, Path] = {}
    licence: str | None = None
    website: str | None = None
    category: str | None = None
    service_configs: frozenset[str] = frozenset()  # what services name as their configuration
    filled: frozenset[str] = frozenset()  # of FIELDS


FIELDS = ("display_name", "description", "category", "tags", "packages", "units", "configs", "commands", "licence", "website")


def claims(data: Any) -> Claims:
    """What `data`, a parsed document, claims about the system that apt serves."""
    metadata = _mapping(_mapping(data).get("metadata"))
    licence = _text(metadata.get("license"))
    website = _text(_mapping(metadata.get("urls")).get("website"))
    found = {
        "packages": _first(_packages(data)),
        "units": _first(_units(data)),
        "configs": _first(_configs(data)),
        "commands": _first(_commands(data)),
        "ports": _first(_ports(data)),
    }
    filled = {key for key in ("packages", "units", "configs", "commands") if found[key]}
    filled |= {key for key in ("display_name", "description", "category", "tags") if metadata.get(key)}
    filled |= {key for key, value in (("licence", licence), ("website", website)) if value}
    return Claims(
        **found,
        licence=licence,
        website=website,
        category=_text(metadata.get("category")),
        service_configs=frozenset(_service_configs(data)),
        filled=frozenset(filled),
    )


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _text(value: Any) -> str | None:
    return value.strip() or None if isinstance(value, str) else None


def _first(pairs: Iterator[tuple[str, Path]]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for value, path in pairs:
        found.setdefault(value, path)
    return found


def _entries(data: Any, key: str) -> Iterator[tuple[Mapping[str, Any], Path]]:
    """The entries of a resource list, those of the provider apt after those of all."""
    for holder, start in ((data, ()), (_mapping(_mapping(data).get("providers")).get("apt"), ("providers", "apt"))):
        listed = _mapping(holder).get(key)
        for place, entry in enumerate(listed if isinstance(listed, list) else ()):
            if isinstance(entry, Mapping):
                yield entry, (*start, key, place)


def _packages(data: Any) -> Iterator[tuple[str, Path]]:
    for entry, path in _entries(data, "packages"):
        name = _text(entry.get("package_name"))
        if name:
            yield name, (*path, "package_name")


def _units(data: Any) -> Iterator[tuple[str, Path]]:
    for entry, path in _entries(data, "services"):
        name = _text(entry.get("service_name")) or _text(entry.get("name"))
        if name and entry.get("type", "systemd") in ("systemd", "init"):
            yield unit(name), (*path, "service_name")


def unit(name: str) -> str:
    """A unit's file name; a bare name means the service."""
    return name if name.endswith(UNIT_KINDS) else name + ".service"


def _service_configs(data: Any) -> Iterator[str]:
    for entry, _ in _entries(data, "services"):
        listed = entry.get("config_files")
        yield from (plain(one) for one in (listed if isinstance(listed, list) else ()) if isinstance(one, str))


def _configs(data: Any) -> Iterator[tuple[str, Path]]:
    for entry, path in _entries(data, "files"):
        place = _text(entry.get("path"))
        if place and (entry.get("type") == "config" or place.startswith("/etc/")):
            yield plain(place), (*path, "path")


def _commands(data: Any) -> Iterator[tuple[str, Path]]:
    for entry, path in _entries(data, "commands"):
        place, name = _text(entry.get("path")), _text(entry.get("name"))
        if place:
            yield (plain(place) if "/" in place else place), (*path, "path")
        elif name:
            yield name, (*path, "name")


def _ports(data: Any) -> Iterator[tuple[str, Path]]:
    for entry, path in _entries(data, "ports"):
        number = entry.get("port")
        if isinstance(number, int):
            yield f"{number}/{_text(entry.get('protocol')) or 'tcp'}", (*path, "port")


def same_licence(written: str, right: str) -> bool:
    """Whether two SPDX expressions say the same; one that cannot be read is like nothing but its own text."""
    return written == right or (canonical(written) or written) == (canonical(right) or right)


def contradictions(data: Any) -> list[str]:
    """What a document says against itself, a sentence each."""
    found = []
    for key in ("packages", "services", "files", "directories", "commands"):
        names = [str(entry.get("name")) for entry, path in _entries(data, key) if path[0] == key]
        if len(set(names)) < len(names):
            found.append(f"two {key} share a name")
    paths = set(_first(_configs(data)))
    for entry, path in _entries(data, "services"):
        listed = entry.get("config_files")
        strange = [
            one for one in (listed if isinstance(listed, list) else ()) if isinstance(one, str) and plain(one) not in paths
        ]
        if strange:
            found.append(f"service {path[-1]} names a configuration file that the file list does not have: {strange[0]}")
    above = {_text(e.get("package_name")) for e, path in _entries(data, "packages") if path[0] == "packages"}
    below = {_text(e.get("package_name")) for e, path in _entries(data, "packages") if path[0] == "providers"}
    if above and below and not above & below:
        found.append("apt's packages are none of the packages above")
    return found
