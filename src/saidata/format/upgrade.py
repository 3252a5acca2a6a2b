"""A file of saidata 0.1 or 0.2 as 0.3: `upgraded`.

0.2 becomes 0.3 in place: the version's line, and a line for the real name of each package that has only its logical one. 0.1 has
another shape (maps by logical name) and is written anew; what 0.3 has no place for is named.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from saidata.errors import Misuse
from saidata.facts import Path
from saidata.format.document import Text
from saidata.format.emit import emit
from saidata.format.layout import safe_name

# Keys of 0.1 that 0.3 has no place for.
_GONE = ("processes", "charts", "repos", "platforms")


def upgraded(text: Text, name: str = "") -> tuple[Text, list[str]]:
    """The text as saidata 0.3, and what was left out. `name` is the software's, which a file of 0.1 does not say."""
    if text.version == "0.3":
        return text, []
    if text.version == "0.2":
        return _in_place(text), []
    if text.version == "0.1" or not text.version and any(isinstance(text.value.get(key), Mapping) for key in _SECTIONS):
        if not name:
            raise Misuse(f"{text.name} is saidata 0.1, which does not say the software's name.", "give it with --name")
        data, left = _first_form(text, safe_name(name))
        return Text.parse(emit(data), text.name), left
    raise Misuse(f"{text.name} says that it is saidata {text.version or 'of no version'}.", "0.1 and 0.2 can be converted")


def _in_place(text: Text) -> Text:
    for path in list(_packages(text.value, ())):
        entry: Any = text.value
        for part in path:
            entry = entry[part]
        if isinstance(entry.get("name"), str) and "package_name" not in entry:
            text = text.set((*path, "package_name"), entry["name"])
    return text.set(("version",), "0.3")


def _packages(data: Any, path: Path) -> Iterator[Path]:
    """Every entry of a list called packages, wherever it stands."""
    if isinstance(data, Mapping):
        for key, value in data.items():
            if key == "packages" and isinstance(value, list):
                yield from ((*path, key, place) for place, entry in enumerate(value) if isinstance(entry, Mapping))
            else:
                yield from _packages(value, (*path, key))
    elif isinstance(data, list):
        for place, value in enumerate(data):
            yield from _packages(value, (*path, place))


def _first_form(text: Text, name: str) -> tuple[dict[str, Any], list[str]]:
    old = text.value
    category = _object(old.get("category"))
    metadata = {
        "name": name,
        "description": old.get("description"),
        "category": category.get("default"),
        "subcategory": category.get("sub"),
        "tags": category.get("tags"),
        "license": old.get("license"),
        "language": old.get("language"),
        "urls": _filled(_object(old.get("urls"))),
    }
    made: dict[str, Any] = {"version": "0.3", "metadata": _filled(metadata)}
    for section, convert in _SECTIONS.items():
        entries = [
            convert(name if key in ("default", "upstream") else key, _filled(_written(text, (section, key), entry)))
            for key, entry in _object(old.get(section)).items()
            if isinstance(entry, Mapping) and _filled(entry)
        ]
        made[section] = [entry for entry in entries if entry]
    left = [key for key in old if key in _GONE and old[key]]
    left += [
        key for key in old if key not in (*_SECTIONS, *_GONE, "version", "urls", "category", "license", "language", "description")
    ]
    return {key: value for key, value in made.items() if value}, left


def _package(key: str, old: dict[str, Any]) -> dict[str, Any]:
    version = {"version": str(old["version"])} if old.get("version") not in (None, "latest") else {}
    kept = {"name": key, "package_name": old.get("name", key), **version, "install_options": old.get("install_options")}
    return _filled(kept)


def _service(key: str, old: dict[str, Any]) -> dict[str, Any]:
    return {"name": key, "service_name": old.get("service_name", old.get("name", key))}


def _file(key: str, old: dict[str, Any]) -> dict[str, Any]:
    return (
        {"name": key, **{field: old[field] for field in ("path", "owner", "group", "mode") if field in old}}
        if "path" in old
        else {}
    )


def _command(key: str, old: dict[str, Any]) -> dict[str, Any]:
    said = str(old.get("command", key))
    place = {"path": said} if said.startswith("/") else {}
    return _filled({"name": said.rpartition("/")[2], **place, "arguments": old.get("arguments")})


def _port(key: str, old: dict[str, Any]) -> dict[str, Any]:
    return _filled({"port": old["port"], "protocol": old.get("protocol"), "service": key}) if "port" in old else {}


def _container(key: str, old: dict[str, Any]) -> dict[str, Any]:
    if "image" not in old:
        return {}
    pairs = [str(entry).partition("=") for entry in old.get("env", [])]
    new = {"name": old.get("name", key), "image": old["image"], "tag": old.get("version"), "ports": old.get("ports")}
    new |= {"volumes": old.get("volumes"), "environment": {name: value for name, _, value in pairs}}
    return _filled(new | {"networks": [old["network"]] if "network" in old else None})


_SECTIONS = {
    "packages": _package,
    "services": _service,
    "files": _file,
    "directories": _file,
    "commands": _command,
    "ports": _port,
    "containers": _container,
}


def _written(text: Text, path: Path, entry: Mapping[str, Any]) -> dict[str, Any]:
    """An entry whose mode and version are what was written: 0755 without quotes is a number to a reader."""
    return {
        key: text.plain((*path, key)) if key in ("mode", "version") and isinstance(value, int | float) else value
        for key, value in entry.items()
    }


def _filled(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value not in (None, "", [], {})}


def _object(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
