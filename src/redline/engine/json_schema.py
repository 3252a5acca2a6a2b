"""JSON schemas as the matcher takes them: every keyword is enforced, or refused by its name.

The matcher (llguidance) relaxes some things in silence: keywords it does not know, escaped spellings of a property's name,
integers past 2^53, `prefixItems` beside `additionalItems`, repeated keys that count for minProperties, options that a schema
brings along. `strict` writes a schema in which none of that can happen, in the one dialect 2020-12; where our reading is
narrower than the schema's (integers of at most 18 digits, no exponents) the answer is still valid. Knows nothing of tokens or
requests. Open `strict` first.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Iterable
from decimal import Decimal
from typing import Any, NoReturn
from urllib.parse import unquote

from redline.engine.ecma import portable
from redline.errors import InvalidRequest, UnsupportedField

Json = Any
Object = dict[str, Any]

MAX_DEPTH = 50
MAX_NODES = 20_000
MAX_COUNTED_PROPERTIES = 100  # optional ones beside minProperties or maxProperties: the matcher's cost is their square
MAX_COMPARISONS = 100_000  # of parts of the branches of `oneOf`, in one schema: a second
LARGEST_INTEGER = 10**18
LARGEST_NUMBER = 1e18

TYPES = ("null", "boolean", "integer", "number", "string", "array", "object")
ANNOTATIONS = frozenset(
    "$schema $comment $anchor $defs definitions title description default example examples deprecated readOnly writeOnly"
    " contentEncoding contentMediaType contentSchema markdownDescription markdownEnumDescriptions enumDescriptions enumNames"
    " defaultSnippets deprecationMessage errorMessage doNotSuggest discriminator externalDocs xml".split()
)
UNENFORCED = frozenset(
    "not if then else contains minContains maxContains propertyNames dependencies dependentRequired dependentSchemas"
    " unevaluatedItems unevaluatedProperties $dynamicRef $dynamicAnchor $recursiveRef $recursiveAnchor $vocabulary"
    " nullable x-guidance".split()
)
_DRAFTS = {"draft-04": 4, "draft-06": 6, "draft-07": 7, "2019-09": 2019, "2020-12": 2020}
_UNSPELT = re.compile(r"[\x00-\x07\x0b\x0e-\x1f\x7f]")
_HOST_LABEL = "[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
FORMATS: dict[str, str] = {  # the matcher's own, and what its pattern forgets
    "date": "",
    "time": "^..:..:[0-5]",  # a leap second is one at midnight UTC alone
    "date-time": "^.{11}..:..:[0-5]",
    "duration": "",
    "email": rf"^[^@]{{1,64}}@{_HOST_LABEL}(?:\.{_HOST_LABEL}){{0,3}}$",
    "hostname": rf"^{_HOST_LABEL}(?:\.{_HOST_LABEL}){{0,3}}$",
    "ipv4": "",
    "ipv6": "",
    "uuid": "",
    "uri": "",
}


def strict(schema: Json, param: str = "schema") -> Object:
    """`schema` with every keyword checked, ready for the matcher. `param` names it in errors.

    Raises UnsupportedField with the keyword that cannot be enforced, InvalidRequest for what is no schema.
    """
    return _Strict(schema, param).whole()


class _Strict:
    """Writes one schema anew. Targets of `$ref` are written once each, under short names."""

    def __init__(self, root: Json, param: str) -> None:
        self._root = root
        self._param = param
        self._draft = self._draft_of(root)
        self._id = root.get("$id", root.get("id", "")) if isinstance(root, dict) else ""
        self._names: dict[str, str] = {}
        self._pending: list[tuple[str, Json]] = []
        self._grounded: set[str] = set()  # pointers from which references lead to something else than references
        self._nodes = 0
        self._comparisons = 0

    def whole(self) -> Object:
        root = self.schema(self._root, "", 0)
        if root is False:
            raise InvalidRequest("the schema false allows no answer", param=self._param)
        written: Object = {} if root is True else dict(root)
        definitions: Object = {}
        while self._pending:
            pointer, target = self._pending.pop()
            definitions[self._names[pointer]] = self.schema(target, pointer, 0)
        return {**written, "$defs": definitions} if definitions else written

    def schema(self, value: Json, path: str, depth: int) -> Object | bool:
        """One schema at the pointer `path`."""
        if isinstance(value, bool):
            return value
        if not isinstance(value, dict):
            self.invalid(path, "a schema must be an object or a boolean")
        self._nodes += 1
        if depth > MAX_DEPTH or self._nodes > MAX_NODES:
            limit = f"{MAX_DEPTH} levels" if depth > MAX_DEPTH else f"{MAX_NODES} schemas"
            raise UnsupportedField(f"the schema is too large: more than {limit}", param=self._param)
        writer = _Writer(self, value, path, depth)
        return writer.whole()

    def subschemas(self, values: Iterable[tuple[str, Json]], path: str, depth: int) -> dict[str, Object | bool]:
        return {name: self.schema(value, f"{path}/{name}", depth + 1) for name, value in values}

    @property
    def draft(self) -> int:
        return self._draft

    def may_compare(self, a: Object, b: Object) -> bool:
        """Whether two branches may still be compared: pairs, and references back and forth, can be any number."""
        listed = sum(len(each[name]) for each in (a, b) for name in ("enum", "required") if isinstance(each.get(name), list))
        self._comparisons += 1 + listed // 16
        return self._comparisons <= MAX_COMPARISONS

    def reference(self, ref: Json, path: str) -> str:
        """The name of a `$ref`'s target, which will be written too."""
        pointer, target = self.target(ref, path)
        passed, further, following = {pointer}, pointer, target
        while isinstance(following, dict) and "$ref" in following and further not in self._grounded:
            further, following = self.target(following["$ref"], path)
            if further in passed:
                self.invalid(path, f"$ref: {str(ref)[:80]!r} leads back to itself")
            passed.add(further)
        self._grounded |= passed
        if pointer not in self._names:
            self._names[pointer] = f"r{len(self._names)}"
            self._pending.append((pointer, target))
        return f"#/$defs/{self._names[pointer]}"

    def target(self, ref: Json, path: str) -> tuple[str, Json]:
        """What a `$ref` points at, and the pointer to it. Raises UnsupportedField for anything outside this document."""
        if not isinstance(ref, str):
            self.invalid(path, "$ref must be a string")
        local = ref.removeprefix(self._id) if isinstance(self._id, str) else ref
        if local not in ("#", "") and not local.startswith("#/"):
            self.refuse("$ref", path, f"only references into the schema itself are followed, not {ref[:80]!r}")
        found, pointer = self._root, ""
        for part in unquote(local[2:]).split("/") if len(local) > 1 else ():
            key = part.replace("~1", "/").replace("~0", "~")
            if isinstance(found, list) and key.isdecimal() and int(key) < len(found):
                found = found[int(key)]
            elif isinstance(found, dict) and key in found:
                found = found[key]
            else:
                self.invalid(path, f"$ref: there is nothing at {ref[:80]!r}")
            if isinstance(found, dict) and isinstance(found.get("$id"), str):
                self.refuse("$id", path, "a schema with an $id of its own inside another is not supported")
            pointer += "/" + part
        return pointer, found

    def refuse(self, keyword: str, path: str, why: str = "", hint: str = "") -> NoReturn:
        """Raise for a keyword that is not enforced."""
        sentence = f"the keyword {keyword!r} cannot be enforced" + (f": {why}" if why else "")
        raise UnsupportedField(f"{sentence} (at {self._shown(path)})", hint=hint, param=self._param)

    def invalid(self, path: str, why: str) -> NoReturn:
        """Raise for what is no schema."""
        raise InvalidRequest(f"{why} (at {self._shown(path)})", param=self._param)

    @staticmethod
    def _shown(path: str) -> str:
        return "#" + (path if len(path) <= 120 else path[:120] + "...")

    def _draft_of(self, root: Json) -> int:
        named = root.get("$schema") if isinstance(root, dict) else None
        if named is None:
            return 2020
        for part, draft in _DRAFTS.items():
            if isinstance(named, str) and f"json-schema.org/{part}/schema" in named.replace("/draft/", "/"):
                return draft
        self.refuse("$schema", "", f"{str(named)[:80]!r} is no known draft", "leave it out for 2020-12")


class _Writer:
    """One schema object, keyword by keyword, in the order they were written."""

    def __init__(self, owner: _Strict, source: Object, path: str, depth: int) -> None:
        self._owner = owner
        self._source = source
        self._path = path
        self._depth = depth
        self._out: Object = {}
        self._all_of: list[Object | bool] = []
        self._types = frozenset(TYPES)

    def whole(self) -> Object:
        if "type" in self._source:
            self._types = frozenset(self._type(self._source["type"]))
        for keyword, value in self._source.items():
            handler = _HANDLERS.get(keyword)
            if handler is not None:
                handler(self, keyword, value)
            elif keyword not in ANNOTATIONS and not (keyword.startswith(("x-", "$$")) and keyword != "x-guidance"):
                self._refuse_unknown(keyword)
        self._close_bounds()
        self._bound_numbers()
        if self._all_of:
            self._out["allOf"] = self._out.get("allOf", []) + self._all_of
        return self._out

    def _refuse_unknown(self, keyword: str) -> NoReturn:
        if keyword in UNENFORCED:
            self._owner.refuse(keyword, self._path)
        near = difflib.get_close_matches(keyword[:80], _HANDLERS, n=1)
        self._owner.refuse(
            keyword[:80], self._path, "it is not a keyword of JSON schema", f"did you mean {near[0]}?" if near else ""
        )

    def _type(self, value: Json) -> list[str]:
        names = [value] if isinstance(value, str) else value
        if not isinstance(names, list) or not names or not all(isinstance(name, str) and name in TYPES for name in names):
            self._owner.invalid(self._path, f"type must be one or more of {', '.join(TYPES)}")
        return names

    def _write_type(self, keyword: str, value: Json) -> None:
        self._out["type"] = value

    def _base(self, keyword: str, value: Json) -> None:
        if self._path:
            self._owner.refuse(keyword, self._path, "a schema with an id of its own inside another is not supported")

    # Values

    def _const(self, keyword: str, value: Json) -> None:
        self._check_value(keyword, value, 0)
        self._out[keyword] = value

    def _enum(self, keyword: str, value: Json) -> None:
        if not isinstance(value, list) or not value:
            self._owner.invalid(self._path, "enum must be a list that is not empty")
        for item in value:
            self._check_value(keyword, item, 0)
        self._out[keyword] = value

    def _check_value(self, keyword: str, value: Json, depth: int) -> None:
        if depth > MAX_DEPTH:
            self._owner.invalid(self._path, f"{keyword} is nested too deeply")
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            self._number(keyword, value)
        if isinstance(value, str) and _UNSPELT.search(value):
            self._owner.refuse(keyword, self._path, "it holds a control character that answers cannot spell")
        for item in value if isinstance(value, list) else value.values() if isinstance(value, dict) else ():
            self._check_value(keyword, item, depth + 1)

    # Numbers

    def _number(self, keyword: str, value: Json) -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            self._owner.invalid(self._path, f"{keyword} must be a number")
        if not abs(value) < 1e300 or int(float(value)) != int(value):
            self._owner.refuse(keyword, self._path, f"{value} is not a number that a double holds exactly")
        return value

    def _bound(self, keyword: str, value: Json) -> None:
        if isinstance(value, bool) and self._owner.draft == 4 and keyword.startswith("exclusive"):
            inclusive = keyword[9:].lower()
            if value and inclusive in self._source:
                self._out.pop(inclusive, None)
                self._out[keyword] = self._number(inclusive, self._source[inclusive])
            return
        if keyword == "multipleOf" and self._number(keyword, value) <= 0:
            self._owner.invalid(self._path, "multipleOf must be above 0")
        if self._owner.draft == 4 and self._source.get("exclusive" + keyword.capitalize()) is True:
            return
        self._out[keyword] = self._number(keyword, value)

    def _close_bounds(self) -> None:
        """Open ends of numbers that are not whole: the matcher lets an end itself through where it is written without a point."""
        if "number" not in self._types:
            return
        for keyword, side in (("exclusiveMinimum", 1), ("exclusiveMaximum", -1)):
            if keyword in self._out:
                end = self._out.pop(keyword)
                inside = float(Decimal(repr(end)) + side * Decimal("1e-9"))
                inside = inside if inside != end else math.nextafter(end, side * math.inf)
                closed, choose = ("minimum", max) if side > 0 else ("maximum", min)
                self._out[closed] = choose(inside, self._out.get(closed, inside))

    def _bound_numbers(self) -> None:
        """Numbers of any length are a loop that small models fall into, and past a double no parser reads them alike."""
        numeric = self._types & {"integer", "number"}
        mentions = self._out.keys() & {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"}
        if not numeric or not ("type" in self._out or mentions):
            return
        most: float = LARGEST_INTEGER if "number" not in numeric else LARGEST_NUMBER
        if not self._out.keys() & {"minimum", "exclusiveMinimum"}:
            highest = self._out["maximum"] if "maximum" in self._out else self._out.get("exclusiveMaximum") or 0
            self._out["minimum"] = min(-most, highest * 2)
        if not self._out.keys() & {"maximum", "exclusiveMaximum"}:
            lowest = self._out["minimum"] if "minimum" in self._out else self._out.get("exclusiveMinimum") or 0
            self._out["maximum"] = max(most, lowest * 2)

    # Strings

    def _count(self, keyword: str, value: Json) -> None:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or value < 0 or value != int(value):
            self._owner.invalid(self._path, f"{keyword} must be a whole number, 0 or more")
        if value > 2**31 and keyword.startswith("max"):
            return  # beyond any answer
        self._out[keyword] = int(value)
        if keyword == "minProperties" or keyword == "maxProperties":
            self._check_property_counts(keyword, int(value))

    def _pattern(self, keyword: str, value: Json) -> None:
        if not isinstance(value, str):
            self._owner.invalid(self._path, "pattern must be a string")
        self._add_pattern(self._portable(keyword, value))

    def _portable(self, keyword: str, pattern: str) -> str:
        try:
            return portable(pattern)
        except UnsupportedField as error:
            self._owner.refuse(keyword, self._path, error.message)

    def _add_pattern(self, pattern: str) -> None:
        if "pattern" in self._out:
            self._all_of.append({"pattern": pattern})
        else:
            self._out["pattern"] = pattern

    def _format(self, keyword: str, value: Json) -> None:
        if not isinstance(value, str):
            self._owner.invalid(self._path, "format must be a string")
        if "string" not in self._types:
            return  # a format says nothing of other types
        if value not in FORMATS:
            self._owner.refuse(keyword, self._path, f"there is no format {value[:40]!r}", f"known: {', '.join(FORMATS)}")
        self._out[keyword] = value
        if FORMATS[value]:
            self._add_pattern(FORMATS[value])

    # Arrays

    def _items(self, keyword: str, value: Json) -> None:
        if isinstance(value, list):
            if self._owner.draft >= 2020:
                self._owner.refuse("items", self._path, "a list of schemas is prefixItems in 2020-12", "use prefixItems")
            self._prefix_items(keyword, value)
            rest = self._source.get("additionalItems")
            if rest is not None:
                self._out["items"] = self._owner.schema(rest, f"{self._path}/additionalItems", self._depth + 1)
        else:
            self._out["items"] = self._owner.schema(value, f"{self._path}/items", self._depth + 1)

    def _prefix_items(self, keyword: str, value: Json) -> None:
        if keyword == "prefixItems" and self._owner.draft < 2020:
            self._owner.refuse(keyword, self._path, "the draft that $schema names does not have it")
        self._out["prefixItems"] = self._list(keyword, value)

    def _additional_items(self, keyword: str, value: Json) -> None:
        if self._owner.draft >= 2020:
            self._owner.refuse(keyword, self._path, "2020-12 does not have it", "use items beside prefixItems")

    def _unique_items(self, keyword: str, value: Json) -> None:
        most = self._source.get("maxItems")
        if value is not False and not (isinstance(most, int) and most <= 1):
            self._owner.refuse(keyword, self._path)

    # Objects

    def _properties(self, keyword: str, value: Json) -> None:
        if not isinstance(value, dict):
            self._owner.invalid(self._path, f"{keyword} must be an object")
        written = self._owner.subschemas(value.items(), f"{self._path}/{keyword}", self._depth)
        if keyword == "patternProperties":
            written = {self._portable(keyword, pattern): each for pattern, each in written.items()}
        self._out[keyword] = written

    def _additional_properties(self, keyword: str, value: Json) -> None:
        self._out[keyword] = self._owner.schema(value, f"{self._path}/{keyword}", self._depth + 1)

    def _required(self, keyword: str, value: Json) -> None:
        if isinstance(value, bool) and self._owner.draft == 4:
            self._owner.invalid(self._path, "required must be a list of names")
        if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
            self._owner.invalid(self._path, "required must be a list of names")
        self._out[keyword] = value

    def _check_property_counts(self, keyword: str, count: int) -> None:
        """Nothing keeps a free key from coming twice, so only one of them can be counted on."""
        required, properties = self._source.get("required"), self._source.get("properties")
        needed = set(required) if isinstance(required, list) else set()
        optional = len(properties.keys() - needed) if isinstance(properties, dict) else 0
        if keyword == "minProperties" and count - len(needed) > 1:
            self._owner.refuse(keyword, self._path, "it may exceed the number of required properties by one at most")
        if optional > MAX_COUNTED_PROPERTIES:
            self._owner.refuse(keyword, self._path, f"at most {MAX_COUNTED_PROPERTIES} optional properties may stand beside it")

    # Combinations

    def _list(self, keyword: str, value: Json) -> list[Object | bool]:
        if not isinstance(value, list) or not value:
            self._owner.invalid(self._path, f"{keyword} must be a list that is not empty")
        named = ((str(number), item) for number, item in enumerate(value))
        return list(self._owner.subschemas(named, f"{self._path}/{keyword}", self._depth).values())

    def _combination(self, keyword: str, value: Json) -> None:
        self._out[keyword] = self._list(keyword, value)

    def _one_of(self, keyword: str, value: Json) -> None:
        """Where no two branches can hold at once, one of them is any of them; else the matcher must prove it, or refuse."""
        written = self._list(keyword, value)
        pairs = ((a, b) for number, a in enumerate(value) for b in value[number + 1 :])
        if not all(self._apart(a, b, 0) for a, b in pairs):
            self._out["oneOf"] = written
        elif "anyOf" in self._source:
            self._all_of.append({"anyOf": written})
        else:
            self._out["anyOf"] = written

    def _reference(self, keyword: str, value: Json) -> None:
        self._out[keyword] = self._owner.reference(value, self._path)

    def _apart(self, a: Json, b: Json, depth: int) -> bool:
        """Whether no value can satisfy both schemas, as far as that is plain to see."""
        if a is False or b is False:
            return True
        if not isinstance(a, dict) or not isinstance(b, dict) or depth > 8 or not self._owner.may_compare(a, b):
            return False
        for one, other in ((a, b), (b, a)):
            if "$ref" in one:
                target = self._owner.target(one["$ref"], self._path)[1]
                if self._apart(target, other, depth + 1):
                    return True
        types_a, types_b = _types_of(a), _types_of(b)
        if not types_a & types_b:
            return True
        values_a, values_b = _values_of(a), _values_of(b)
        if values_a is not None and values_b is not None and not values_a & values_b:
            return True
        if types_a != {"object"} or types_b != {"object"}:
            return False
        keys = dict.fromkeys(key for each in (a, b) for key in each.get("required") or () if isinstance(key, str))
        return any(self._apart_at(key, a, b, depth) for key in keys)

    def _apart_at(self, key: str, a: Object, b: Object, depth: int) -> bool:
        """Whether objects with the property `key` cannot satisfy both."""
        found = []
        for each in (a, b):
            properties = each.get("properties")
            known = isinstance(properties, dict) and key in properties
            closed = each.get("additionalProperties") is False and not each.get("patternProperties")
            found.append(properties[key] if known and isinstance(properties, dict) else not closed)
        return self._apart(found[0], found[1], depth + 1)


def _types_of(schema: Object) -> frozenset[str]:
    """The types a schema allows by `type` alone; a number may be an integer too."""
    named = schema.get("type")
    names = TYPES if named is None else [named] if isinstance(named, str) else named
    if not isinstance(names, (list, tuple)):
        return frozenset(TYPES)
    return frozenset(name for name in names if isinstance(name, str)) | ({"integer"} if "number" in names else frozenset())


def _values_of(schema: Object) -> frozenset[Any] | None:
    """The scalars that `const` or `enum` list, told apart as JSON does; None where there are none, or others."""
    values = [schema["const"]] if "const" in schema else schema.get("enum")
    if not isinstance(values, list) or any(isinstance(value, (dict, list)) for value in values):
        return None
    return frozenset((isinstance(value, bool), value) for value in values)


_HANDLERS: dict[str, Callable[[_Writer, str, Json], None]] = {
    "$id": _Writer._base,
    "id": _Writer._base,
    "type": _Writer._write_type,
    "const": _Writer._const,
    "enum": _Writer._enum,
    "$ref": _Writer._reference,
    "allOf": _Writer._combination,
    "anyOf": _Writer._combination,
    "oneOf": _Writer._one_of,
    "minimum": _Writer._bound,
    "maximum": _Writer._bound,
    "exclusiveMinimum": _Writer._bound,
    "exclusiveMaximum": _Writer._bound,
    "multipleOf": _Writer._bound,
    "minLength": _Writer._count,
    "maxLength": _Writer._count,
    "pattern": _Writer._pattern,
    "format": _Writer._format,
    "items": _Writer._items,
    "prefixItems": _Writer._prefix_items,
    "additionalItems": _Writer._additional_items,
    "minItems": _Writer._count,
    "maxItems": _Writer._count,
    "uniqueItems": _Writer._unique_items,
    "properties": _Writer._properties,
    "patternProperties": _Writer._properties,
    "additionalProperties": _Writer._additional_properties,
    "required": _Writer._required,
    "minProperties": _Writer._count,
    "maxProperties": _Writer._count,
}
