"""What a document claims, value by value: `claims`. Names, units, paths, commands, ports, licences and addresses, not prose.

A claim knows which provider it is made for ("" at the top level, where it holds for whatever provider installs the software) and
whether the document itself says that it comes from somewhere an index of the distribution does not hold. Any data is walked,
sound or not; what has the wrong type makes no claim.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from msgspec import Struct

from saidata.facts import Path

Kind = Literal[
    "package",
    "alternative",  # a package that would do as well
    "prerequisite",
    "version",
    "unit",
    "config",  # a file below /etc
    "path",  # any other file
    "directory",
    "command",
    "manpage",
    "port",
    "licence",
    "language",
    "url",
    "image",
]

ADDRESSES = ("website", "documentation", "source", "issues", "support", "download", "changelog", "license", "sbom", "icon")
_COMMAND_FOLDERS = ("/usr/bin/", "/usr/sbin/", "/bin/", "/sbin/", "/usr/games/")


class Claim(Struct, frozen=True, kw_only=True):
    """One value that can be true or false."""

    kind: Kind
    path: Path
    value: str
    provider: str = ""
    elsewhere: str = ""  # the repository it comes from, where that is none of the distribution's
    about: str = ""  # of a version: the package; of a port: the protocol; of a service: its type; of a command: its path


def claims(data: Mapping[str, Any]) -> Iterator[Claim]:
    """All claims of a document, in its order."""
    metadata = _object(data.get("metadata"))
    yield from _text("licence", ("metadata", "license"), metadata.get("license"))
    yield from _text("language", ("metadata", "language"), metadata.get("language"))
    for key, value in _object(metadata.get("urls")).items():
        yield from _text("url", ("metadata", "urls", key), value, about=key)
    security = _object(metadata.get("security"))
    for key in ("vulnerability_disclosure", "sbom_url", "signing_key"):
        if str(security.get(key, "")).startswith(("http:", "https:")):
            yield from _text("url", ("metadata", "security", key), security[key], about=key)
    providers = _object(data.get("providers"))
    foreign = sorted({name for config in providers.values() for name in _foreign(_object(config)) if name})
    yield from _resources(data, (), "", ", ".join(foreign))
    for provider, config in providers.items():
        yield from _provider(_object(config), ("providers", provider), provider)


def _provider(config: Mapping[str, Any], path: Path, provider: str) -> Iterator[Claim]:
    foreign = _foreign(config)
    for place, value in _list(config, "prerequisites"):
        yield from _text("prerequisite", (*path, "prerequisites", place), value, provider)
    yield from _resources(config, path, provider, ", ".join(foreign))
    for place, source in _list(config, "package_sources"):
        repository = str(_object(source).get("repository", ""))
        other = repository if repository in foreign or repository not in _repositories(config) else ""
        yield from _packages(_object(source), (*path, "package_sources", place), provider, other)
    for place, value in _list(config, "repositories"):
        entry, there = _object(value), (*path, "repositories", place)
        for key in ("url", "key"):
            if str(entry.get(key, "")).startswith(("http:", "https:")):
                yield from _text("url", (*there, key), entry[key], provider)
        yield from _resources(entry, there, provider, _name_of_foreign(entry))


def _resources(data: Mapping[str, Any], path: Path, provider: str, elsewhere: str) -> Iterator[Claim]:
    """The claims of the ten lists that the top level, a provider and a repository have alike."""
    yield from _packages(data, path, provider, elsewhere)
    for place, service in _list(data, "services"):
        entry, here = _object(service), (*path, "services", place)
        key = "service_name" if entry.get("service_name") else "name"
        yield from _text("unit", (*here, key), entry.get(key), provider, elsewhere, str(entry.get("type", "")))
        for number, value in _list(entry, "config_files"):
            yield from _text("config", (*here, "config_files", number), value, provider, elsewhere)
    for place, value in _list(data, "files"):
        path_of = _object(value).get("path")
        if not isinstance(path_of, str):
            continue
        kind: Kind = "config" if path_of.startswith("/etc/") else "command" if path_of.startswith(_COMMAND_FOLDERS) else "path"
        yield from _text(kind, (*path, "files", place, "path"), path_of, provider, elsewhere, path_of)
    for place, value in _list(data, "directories"):
        yield from _text("directory", (*path, "directories", place, "path"), _object(value).get("path"), provider, elsewhere)
    yield from _commands(data, path, provider, elsewhere)
    for place, value in _list(data, "ports"):
        entry = _object(value)
        if isinstance(entry.get("port"), int) and not isinstance(entry.get("port"), bool):
            protocol = str(entry.get("protocol", ""))
            yield from _text("port", (*path, "ports", place, "port"), str(entry["port"]), provider, elsewhere, protocol)
    for place, value in _list(data, "containers"):
        yield from _text("image", (*path, "containers", place, "image"), _object(value).get("image"), provider)
    for key in ("sources", "binaries", "scripts"):
        for place, value in _list(data, key):
            yield from _text("url", (*path, key, place, "url"), _object(value).get("url"), provider)


def _packages(data: Mapping[str, Any], path: Path, provider: str, elsewhere: str) -> Iterator[Claim]:
    for place, value in _list(data, "packages"):
        entry, here = _object(value), (*path, "packages", place)
        key = "package_name" if entry.get("package_name") else "name"
        there = str(entry.get("repository") or "") or elsewhere
        yield from _text("package", (*here, key), entry.get(key), provider, there)
        yield from _text("version", (*here, "version"), entry.get("version"), provider, there, str(entry.get(key, "")))
        for number, other in _list(entry, "alternatives"):
            yield from _text("alternative", (*here, "alternatives", number), other, provider, there)
        yield from _text("url", (*here, "download_url"), entry.get("download_url"), provider)


def _commands(data: Mapping[str, Any], path: Path, provider: str, elsewhere: str) -> Iterator[Claim]:
    for place, value in _list(data, "commands"):
        entry, here = _object(value), (*path, "commands", place)
        key = "path" if entry.get("path") else "name"
        yield from _text("command", (*here, key), entry.get(key), provider, elsewhere, str(entry.get("path", "")))
        yield from _text("manpage", (*here, "man_page"), entry.get("man_page"), provider, elsewhere)


def _foreign(config: Mapping[str, Any]) -> list[str]:
    """The repositories of a provider that are not the distribution's own."""
    return [name for _, value in _list(config, "repositories") if (name := _name_of_foreign(_object(value)))]


def _name_of_foreign(repository: Mapping[str, Any]) -> str:
    own = repository.get("type") == "os-default" or not repository.get("url") and not repository.get("type")
    return "" if own else str(repository.get("name") or "a repository of its own")


def _repositories(config: Mapping[str, Any]) -> set[str]:
    return {str(_object(value).get("name")) for _, value in _list(config, "repositories")}


def _text(kind: Kind, path: Path, value: Any, provider: str = "", elsewhere: str = "", about: str = "") -> Iterator[Claim]:
    if isinstance(value, str) and value:
        yield Claim(kind=kind, path=path, value=value, provider=provider, elsewhere=elsewhere, about=about)


def _object(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _list(data: Mapping[str, Any], key: str) -> Iterator[tuple[int, Any]]:
    value = data.get(key)
    yield from enumerate(value if isinstance(value, list | tuple) else ())
