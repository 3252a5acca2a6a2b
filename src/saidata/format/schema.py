"""The JSON schema (draft-07) of saidata, made from `records.py`. Open `schema` first.

Also `mistakes`, which holds data against it. The non-strict schema accepts and refuses what the published one does (unknown
keys pass); strict refuses unknown keys; an overlay may leave out what its default file supplies, and may say null to remove it.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, Literal

import jsonschema_rs
import msgspec
from msgspec import inspect

from saidata.errors import Misuse
from saidata.facts import Path
from saidata.format.records import Document

Form = Literal["0.1", "0.2", "0.3"]
FORMS: tuple[Form, ...] = ("0.1", "0.2", "0.3")

# What came with 0.3; in 0.2 a package needs only its name, which is then the real one.
_NEW_IN_0_3 = ("saidata", "sources", "binaries", "scripts")

# The records that an overlay changes key by key.
_MERGED = ("Document", "Metadata", "Urls", "Security", "Origin", "Compatibility", "Versions", "ProviderConfig")

_PLAIN = {
    inspect.StrType: "string",
    inspect.IntType: "integer",
    inspect.FloatType: "number",
    inspect.BoolType: "boolean",
}


class Mistake(msgspec.Struct, frozen=True, kw_only=True):
    """One place where data breaks the schema. `keyword` is the schema's word for the rule: required, type, enum, pattern ..."""

    path: Path
    keyword: str
    message: str
    missing: str = ""  # for `required`: the key that is not there
    unknown: tuple[str, ...] = ()  # for `additionalProperties`: the keys that do not exist


def schema(strict: bool, version: str = "0.3", *, overlay: bool = False) -> dict[str, Any]:
    """The JSON schema. `strict` refuses unknown keys, `overlay` is for the files per operating system. A copy each time."""
    if version not in FORMS:
        raise Misuse(f"There is no saidata version {version}.", f"the versions are {', '.join(FORMS)}")
    if version == "0.1":
        return _first_form()
    made: dict[str, Any] = {"$schema": "http://json-schema.org/draft-07/schema#", "title": f"saidata {version}"}
    shapes: dict[str, dict[str, Any]] = {}
    root = _shape(inspect.type_info(Document), shapes, strict=strict, overlay=overlay)
    made |= shapes.pop(root["$ref"].rpartition("/")[2])
    if version == "0.2":
        for holder in (made, shapes["Repository"], shapes["ProviderConfig"]):
            for key in _NEW_IN_0_3:
                holder["properties"].pop(key, None)
        if not overlay:
            shapes["Package"]["required"].remove("package_name")
        shapes = {name: shape for name, shape in shapes.items() if name in _reached(made, shapes)}
    return made | {"definitions": dict(sorted(shapes.items()))}


def mistakes(data: Any, version: str = "0.3", *, strict: bool = False, overlay: bool = False) -> list[Mistake]:
    """Where `data` breaks the schema, in the order of the document."""
    found = [_mistake(error) for error in _validator(version, strict, overlay).iter_errors(data)]
    return sorted(found, key=lambda mistake: [(isinstance(part, str), part) for part in mistake.path])


def known_keys(path: Path) -> tuple[str, ...]:
    """The keys that saidata 0.3 has in the object at `path`, in their order; empty where any key is allowed or nothing is known."""
    return tuple(_at(path).get("properties", ()))


def words(path: Path) -> tuple[str, ...]:
    """The words that may stand at `path`; empty where any text may."""
    return tuple(_at(path).get("enum", ()))


def _shape(kind: inspect.Type, shapes: dict[str, dict[str, Any]], *, strict: bool, overlay: bool) -> dict[str, Any]:
    """The schema of one type; records go into `shapes` under their class's name."""
    if isinstance(kind, inspect.Metadata):
        return _shape(kind.type, shapes, strict=strict, overlay=overlay) | (kind.extra_json_schema or {})
    if isinstance(kind, inspect.UnionType):
        options = [option for option in kind.types if not isinstance(option, inspect.NoneType)]
        made = [_shape(option, shapes, strict=strict, overlay=overlay) for option in options]
        return made[0] if len(made) == 1 else {"oneOf": made}
    if isinstance(kind, inspect.LiteralType):
        return {"type": "string", "enum": [value for value in _ordered(kind) if isinstance(value, str)]}
    if isinstance(kind, inspect.ListType):
        return {"type": "array", "items": _shape(kind.item_type, shapes, strict=strict, overlay=overlay)}
    if isinstance(kind, inspect.DictType):
        values = _shape(kind.value_type, shapes, strict=strict, overlay=overlay)
        return {"type": "object", "additionalProperties": _or_null(values) if overlay else values}
    if isinstance(kind, inspect.StructType):
        if kind.cls.__name__ not in shapes:
            shapes[kind.cls.__name__] = {}  # first, should a record ever hold itself
            shapes[kind.cls.__name__] = _object(kind, shapes, strict=strict, overlay=overlay)
        return {"$ref": f"#/definitions/{kind.cls.__name__}"}
    return _scalar(kind)


def _object(kind: inspect.StructType, shapes: dict[str, dict[str, Any]], *, strict: bool, overlay: bool) -> dict[str, Any]:
    properties = {field.name: _shape(field.type, shapes, strict=strict, overlay=overlay) for field in kind.fields}
    required = [field.name for field in kind.fields if field.required]
    merged = overlay and kind.cls.__name__ in _MERGED
    if overlay:  # entries of lists replace, so they stay whole; the rest of the tree is merged key by key
        required = [name for name in required if name == "version"] if merged else required
        properties = {key: _or_null(value) if merged and key != "version" else value for key, value in properties.items()}
    kinds = ["object", "null"] if merged and kind.cls is not Document else "object"
    made: dict[str, Any] = {"type": kinds, "description": (kind.cls.__doc__ or "").strip(), "properties": properties}
    if required:
        made["required"] = required
    if strict:
        made["additionalProperties"] = False
    return made


def _scalar(kind: inspect.Type) -> dict[str, Any]:
    made: dict[str, Any] = {"type": _PLAIN[type(kind)]}
    for name, word in (("pattern", "pattern"), ("ge", "minimum"), ("le", "maximum")):
        if (value := getattr(kind, name, None)) is not None:
            made[word] = value
    return made


def _ordered(kind: inspect.LiteralType) -> tuple[Any, ...]:
    # msgspec sorts the values of a Literal; enumerations here have no order that matters.
    return tuple(kind.values)


def _or_null(shape: dict[str, Any]) -> dict[str, Any]:
    """The shape, or null. A record that is merged says so itself, so that a mistake inside it keeps its own place."""
    if "type" not in shape:
        return shape
    made = shape | {"type": [shape["type"], "null"]}
    return made | {"enum": [*shape["enum"], None]} if "enum" in shape else made


def _reached(root: dict[str, Any], shapes: dict[str, dict[str, Any]]) -> set[str]:
    """The names of the definitions that `root` needs."""
    found: set[str] = set()
    pending: list[Any] = [root]
    while pending:
        item = pending.pop()
        if isinstance(item, dict):
            name = str(item.get("$ref", "")).rpartition("/")[2]
            if name and name not in found:
                found.add(name)
                pending.append(shapes[name])
            pending.extend(item.values())
        elif isinstance(item, list):
            pending.extend(item)
    return found


def _first_form() -> dict[str, Any]:
    """saidata 0.1: sections are maps by logical name, and nothing is required."""
    text, sections = {"type": ["string", "null"]}, ("packages", "services", "files", "directories", "commands", "ports")
    entry = {"type": ["object", "null"]}
    maps = {name: {"type": ["object", "null"], "additionalProperties": entry} for name in (*sections, "containers")}
    category = {"default": text, "sub": text, "tags": {"type": ["array", "null"], "items": {"type": "string"}}}
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "saidata 0.1",
        "type": "object",
        "properties": {
            "version": {"type": ["string", "number", "null"]},
            **maps,
            "urls": {"type": "object", "additionalProperties": text},
            "language": text,
            "category": {"type": "object", "properties": category},
            "license": text,
            "platforms": {"type": "array", "items": {"type": "string"}},
        },
    }


@cache
def _validator(version: str, strict: bool, overlay: bool) -> jsonschema_rs.Draft7Validator:
    return jsonschema_rs.Draft7Validator(schema(strict, version, overlay=overlay), validate_formats=True)


def _mistake(error: jsonschema_rs.ValidationError) -> Mistake:
    kind = error.kind
    missing = str(getattr(kind, "property", "")) if kind.name == "required" else ""
    unknown = tuple(getattr(kind, "unexpected", ())) if kind.name == "additionalProperties" else ()
    return Mistake(
        path=tuple(error.instance_path), keyword=kind.name, message=error.message, missing=missing.strip('"'), unknown=unknown
    )


def _at(path: Path) -> Mapping[str, Any]:
    """The schema of what stands at `path` of a saidata 0.3 document; empty where nothing is known of it."""
    whole = _strict()
    here: Mapping[str, Any] = whole
    for part in path:
        step = (
            here.get("items")
            if isinstance(part, int)
            else here.get("properties", {}).get(part) or here.get("additionalProperties")
        )
        if not isinstance(step, dict):
            return {}
        name = str(step.get("$ref", "")).rpartition("/")[2]
        here = whole["definitions"][name] if name else step
    return here


@cache
def _strict() -> dict[str, Any]:
    return schema(True)
