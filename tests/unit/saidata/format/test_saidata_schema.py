"""The schema made from the records accepts what the format allows, refuses what it forbids, and the records agree with it."""

from __future__ import annotations

import copy
from typing import Any

import check_jsonschema.builtin_schemas  # noqa: F401  # the package that brings the draft-07 meta-schema below
import jsonschema
import msgspec
import pytest

from saidata.errors import Misuse
from saidata.format.records import Document
from saidata.format.schema import FORMS, known_keys, mistakes, schema, words

WHOLE: dict[str, Any] = {
    "version": "0.3",
    "metadata": {
        "name": "a",
        "display_name": "A",
        "description": "d",
        "version": "1",
        "category": "c",
        "subcategory": "s",
        "tags": ["t"],
        "license": "MIT",
        "language": "c",
        "maintainer": "m",
        "urls": {"website": "w", "icon": "i"},
        "security": {"cve_exceptions": ["CVE-2024-1234"], "signing_key": "k"},
    },
    "saidata": {"model": "m", "generation_date": "2026-01-01T00:00:00Z", "generation_time": 1.5},
    "packages": [{"name": "a", "package_name": "a", "alternatives": ["b"]}],
    "services": [{"name": "a", "type": "none", "enabled": True, "config_files": ["/etc/a"]}],
    "files": [{"name": "a", "path": "/etc/a", "type": "config", "backup": False}],
    "directories": [{"name": "a", "path": "/etc", "recursive": True}],
    "commands": [{"name": "a", "arguments": ["-x"], "shell_completion": True, "man_page": "a(1)"}],
    "ports": [{"port": 80, "protocol": "sctp", "service": "a", "description": "d"}],
    "containers": [{"name": "a", "image": "a", "environment": {"A": "b"}, "labels": {"c": "d"}, "networks": ["n"]}],
    "sources": [
        {
            "name": "a",
            "url": "u",
            "build_system": "cmake",
            "checksum": "sha256:" + "0a" * 32,
            "custom_commands": {"build": "make"},
        }
    ],
    "binaries": [
        {"name": "a", "url": "u", "permissions": "0755", "archive": {"format": "zip"}, "custom_commands": {"extract": "x"}}
    ],
    "scripts": [{"name": "a", "url": "u", "timeout": 3600, "custom_commands": {"install": "x"}}],
    "providers": {
        "apt": {
            "prerequisites": ["p"],
            "package_sources": [
                {"name": "a", "repository": "r", "packages": [{"name": "a", "package_name": "a"}], "priority": 1}
            ],
            "repositories": [{"name": "r", "type": "os-backports", "ports": [{"port": 1}], "components": ["main"]}],
            "scripts": [{"name": "a", "url": "u"}],
        }
    },
    "compatibility": {
        "matrix": [{"provider": "apt", "platform": ["linux"], "architecture": "amd64", "supported": True, "os_version": ["12"]}],
        "versions": {"latest": "2", "minimum": "1", "latest_lts": "1", "latest_minimum": "1"},
    },
}

WRONG: dict[str, tuple[tuple[str | int, ...], Any, str]] = {
    "no metadata": (("metadata",), ..., "required"),
    "no version": (("version",), ..., "required"),
    "a version of one number": (("version",), "3", "pattern"),
    "no real name": (("packages", 0, "package_name"), ..., "required"),
    "a service type": (("services", 0, "type"), "upstart", "enum"),
    "text for a port": (("ports", 0, "port"), "80", "type"),
    "a number for text": (("metadata", "version"), 1.1, "type"),
    "null": (("metadata", "license"), None, "type"),
    "a checksum": (("sources", 0, "checksum"), "sha1:" + "0" * 40, "pattern"),
    "permissions": (("binaries", 0, "permissions"), "rwx", "pattern"),
    "a timeout": (("scripts", 0, "timeout"), 3601, "maximum"),
    "seconds below nothing": (("saidata", "generation_time"), -1, "minimum"),
    "no build system": (("sources", 0, "build_system"), ..., "required"),
    "a label": (("containers", 0, "labels", "c"), 1, "type"),
    "a platform": (("compatibility", "matrix", 0, "platform"), 3, "oneOf"),
    "supported": (("compatibility", "matrix", 0, "supported"), ..., "required"),
    "below a provider": (("providers", "apt", "repositories", 0, "ports", 0, "port"), ..., "required"),
    "a date": (("saidata", "generation_date"), "yesterday", "format"),
}


def changed(path: tuple[str | int, ...], value: Any) -> dict[str, Any]:
    data = copy.deepcopy(WHOLE)
    holder: Any = data
    for part in path[:-1]:
        holder = holder[part]
    if value is ...:
        del holder[path[-1]]
    else:
        holder[path[-1]] = value
    return data


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("overlay", [False, True])
def test_it_is_a_schema_of_draft_07_with_no_reference_into_nothing(form: str, strict: bool, overlay: bool) -> None:
    made = schema(strict, form, overlay=overlay)
    jsonschema.Draft7Validator.check_schema(made)
    wanted = set(_references(made))
    assert wanted == {f"#/definitions/{name}" for name in made.get("definitions", {})}


def test_a_document_with_everything_is_sound_and_stays_itself_as_a_record() -> None:
    assert mistakes(WHOLE, strict=True) == []
    assert msgspec.to_builtins(msgspec.convert(WHOLE, Document)) == WHOLE


@pytest.mark.parametrize("case", WRONG)
def test_each_constraint_holds_and_says_where(case: str) -> None:
    path, value, keyword = WRONG[case]
    (found,) = mistakes(changed(path, value))
    assert found.keyword == keyword
    assert (*found.path, found.missing) == path if value is ... else found.path == path
    if keyword != "format" and value is not None:  # to a record an absent value is None
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert(changed(path, value), Document)


def test_unknown_keys_pass_unless_strict() -> None:
    for path in [("pakages",), ("metadata", "licence"), ("packages", 0, "id"), ("providers", "apt", "casks")]:
        data = changed(path, ["x"])
        assert mistakes(data) == []
        (found,) = mistakes(data, strict=True)
        assert (*found.path, *found.unknown) == path


def test_older_versions() -> None:
    old = {"version": "0.2", "metadata": {"name": "a"}, "packages": [{"name": "a"}]}
    assert mistakes(old, "0.2", strict=True) == [] and mistakes(old)[0].missing == "package_name"
    assert [found.unknown for found in mistakes({**old, "sources": []}, "0.2", strict=True)] == [("sources",)]
    assert mistakes({"version": 0.1, "packages": {"default": {"name": "a"}, "dev": None}}, "0.1") == []
    assert mistakes({"packages": []}, "0.1")[0].keyword == "type"
    with pytest.raises(Misuse, match="no saidata version 0.4"):
        schema(True, "0.4")


def test_an_overlay_says_only_what_differs() -> None:
    over = {"version": "0.3", "metadata": {"license": None}, "providers": {"apt": None, "dnf": {"packages": None}}, "ports": None}
    assert mistakes(over, overlay=True, strict=True) == []
    assert {found.keyword for found in mistakes(over)} == {"required", "type"}
    assert mistakes({"version": "0.3", "packages": [{"name": "a"}]}, overlay=True)[0].missing == "package_name"


def test_keys_and_words_along_a_path() -> None:
    assert known_keys(("providers", "apt", "packages", 3))[:3] == ("name", "package_name", "version")
    assert known_keys(("compatibility", "matrix", 0))[0] == "provider"
    assert known_keys(("containers", 0, "environment")) == known_keys(("nothing", 1)) == ()
    assert "systemd" in words(("services", 0, "type"))


def _references(shape: Any) -> list[str]:
    if isinstance(shape, dict):
        own = [shape["$ref"]] if "$ref" in shape else []
        return own + [found for value in shape.values() for found in _references(value)]
    return [found for value in shape for found in _references(value)] if isinstance(shape, list) else []
