"""YAML documents as a Lark grammar: block style, two spaces a level, scalars quoted wherever a reader might take them for another type.

What cannot be written soundly is refused by name: free keys (nothing keeps one from coming twice, which YAML forbids), schemas
without end, and combinations that only a validator could judge. An object gets the properties it names and no others. A free
document is YAML whatever it says, but may repeat a key. Both YAML 1.1 and 1.2 readers find the same values. Knows nothing of
tokens. Open `yaml_of_schema` first.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, NoReturn

from redline.errors import InvalidRequest, UnsupportedField

Json = Any
Object = dict[str, Any]

MAX_DEPTH = 16
MAX_RULES = 4000
FREE_DEPTH = 6

_RESERVED = "true|false|null|yes|no|on|off|y|n"
_UNSAFE = r"\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff"  # what a reader folds, drops or refuses inside quotes
_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_./+-]*(?: [A-Za-z0-9_./+-]+)*")
_TERMINALS = rf"""
PLAIN: /[A-Za-z_][A-Za-z0-9_.\/+\-]*( [A-Za-z0-9_.\/+\-]+)*/ & ~/(?i:{_RESERVED})/
QUOTED: /"([^"\\\x00-\x1f{_UNSAFE.replace("u2028", "u{2028}").replace("u2029", "u{2029}")}]|\\["\\bfnrt])*"/
INT: /-?(0|[1-9][0-9]{{0,17}})/
NUM: /-?(0|[1-9][0-9]{{0,17}})(\.[0-9]{{1,17}})?/
KEY: /[A-Za-z_][A-Za-z0-9_.\/+\-]*/ & ~/(?i:{_RESERVED})/
"""
_PRINTABLE = {"pattern": f"^[^{_UNSAFE}]*$"}
_NUMERIC = {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"}
_TEXTUAL = {"minLength", "maxLength", "pattern", "format", "allOf"}
_DEFAULT_BOUND = 10**18


def yaml_of_schema(schema: Object, write_schema: Callable[[Object], str], param: str) -> str:
    """The Lark grammar of the documents that `schema`, as json_schema.strict wrote it, allows.

    `write_schema` writes a JSON schema for `%json`. Raises UnsupportedField with the keyword that YAML cannot have.
    """
    return _Yaml(schema, write_schema, param).whole()


def free_yaml() -> str:
    """The Lark grammar of documents of mappings and sequences up to `FREE_DEPTH` levels deep."""
    rules = ["start: map0 | seq0", "scalar: PLAIN | QUOTED | NUM | /true|false|null/ | /\\[\\]|\\{\\}/", "key: KEY | QUOTED"]
    for level in range(FREE_DEPTH):
        pad, inner = _quoted("  " * level), _quoted("  " * (level + 1))
        deeper = level + 1 < FREE_DEPTH
        nested = f' | "\\n" map{level + 1} | "\\n" seq{level + 1}' if deeper else ""
        rules.append(f'value{level}: " " scalar "\\n"{nested}')
        rules.append(f'map{level}: ({pad} key ":" value{level})+')
        entry = f' | " " key ":" value{level + 1} ({inner} key ":" value{level + 1})*' if deeper else ""
        rules.append(f'seq{level}: ({pad} "-" item{level})+')
        rules.append(f'item{level}: " " scalar "\\n"{entry}')
    return "\n".join(rules) + _TERMINALS


class _Yaml:
    """Writes rules. `value` is what follows a key's colon or an item's dash, its line break included."""

    def __init__(self, root: Object, write_schema: Callable[[Object], str], param: str) -> None:
        self._definitions: Object = root.get("$defs", {})
        self._root = {keyword: value for keyword, value in root.items() if keyword != "$defs"}
        self._write_schema = write_schema
        self._param = param
        self._rules: list[str] = []
        self._known: dict[tuple[int, int, bool], str] = {}

    def whole(self) -> str:
        options = [option for schema in self._options(self._root, 0) for option in self._document(schema)]
        if not options:
            raise InvalidRequest("the schema allows no YAML document", param=self._param)
        return "\n".join([f"start: {' | '.join(options)}", *self._rules]) + _TERMINALS

    def _document(self, schema: Object) -> list[str]:
        return [
            *(f'{scalar} "\\n"' for scalar in self._scalars(schema)),
            *(block.removeprefix("!") for block in self._blocks(schema, 0, 0, first="")),
        ]

    def _value(self, schema: Json, indent: int, depth: int, *, item: bool) -> str:
        """The rule of a value whose key or dash stands at `indent`; "" if there is none that `schema` allows."""
        memo = id(schema), indent, item
        if memo not in self._known:
            self._known[memo] = ""
            options: list[str] = []
            for each in self._options(schema, depth):
                options += [f'" " {scalar} "\\n"' for scalar in self._scalars(each)]
                first = "" if item else " " * (indent + 2)
                options += [
                    f"{_quoted(' ' if item else chr(10))} {block}" if block[0] != "!" else f'" " {block[1:]}'
                    for block in self._blocks(each, indent + 2, depth, first)
                ]
            self._known[memo] = self._rule(" | ".join(options)) if options else ""
        return self._known[memo]

    def _options(self, schema: Json, depth: int) -> list[Object]:
        """The schema with references followed and alternatives apart, so that each is of types and their own keywords."""
        if depth > MAX_DEPTH:
            self._refuse("$ref", f"a YAML document can be {MAX_DEPTH} levels deep at most, and this schema has no such end")
        if schema is False:
            return []
        if schema is True:
            return [{}]
        for keyword in ("$ref", "anyOf", "oneOf"):
            if keyword in schema:
                beside = schema.keys() - {keyword}
                if keyword == "oneOf" or beside:
                    self._refuse(
                        keyword, f"not beside {', '.join(sorted(beside))}" if beside else "its branches may hold at once"
                    )
                found = [self._definitions[schema["$ref"].rpartition("/")[2]]] if keyword == "$ref" else schema["anyOf"]
                return [option for each in found for option in self._options(each, depth + 1)]
        return [schema]

    def _scalars(self, schema: Object) -> list[str]:
        if "const" in schema or "enum" in schema:
            return self._listed(schema)
        types = self._types(schema)
        found = []
        if "null" in types:
            found.append('"null"')
        if "boolean" in types:
            found.append("/true|false/")
        if types & {"integer", "number"}:
            found.append(self._number(schema, "NUM" if "number" in types else "INT"))
        if "string" in types:
            found += self._string(schema)
        return found

    def _number(self, schema: Object, terminal: str) -> str:
        bounds = {keyword: schema[keyword] for keyword in schema.keys() & _NUMERIC}
        if all(keyword in ("minimum", "maximum") and abs(value) >= _DEFAULT_BOUND for keyword, value in bounds.items()):
            return terminal
        return self._json({"type": "number" if terminal == "NUM" else "integer", **bounds})

    def _string(self, schema: Object) -> list[str]:
        constraints = {keyword: schema[keyword] for keyword in schema if keyword in _TEXTUAL}
        if not constraints:
            return ["PLAIN", "QUOTED"]
        if "allOf" in constraints and self._types(schema) != {"string"}:
            self._refuse("allOf")
        return [self._json({"type": "string", **constraints, "allOf": [*constraints.get("allOf", ()), _PRINTABLE]})]

    def _listed(self, schema: Object) -> list[str]:
        """The literals of `const` or `enum`, of the types that `type` allows."""
        keyword = "const" if "const" in schema else "enum"
        for other in schema.keys() - {"const", "enum", "type", "minimum", "maximum"}:
            self._refuse(other, f"not beside {keyword}")
        values = schema.get("enum", [schema.get("const")])
        if "const" in schema and "enum" in schema:
            self._refuse("const", "not beside enum")
        types = self._types(schema)
        return [_quoted(self._literal(value, keyword)) for value in values if _type_of(value) & types]

    def _literal(self, value: Json, keyword: str) -> str:
        if isinstance(value, float) and not re.fullmatch(r"-?\d+\.\d+", repr(value)):
            self._refuse(keyword, f"YAML readers differ on {value!r}")
        if isinstance(value, str) and _PLAIN.fullmatch(value) and not re.fullmatch(_RESERVED, value, re.IGNORECASE):
            return value
        text = json.dumps(value, ensure_ascii=False)
        return re.sub(f"[{_UNSAFE}]", lambda found: f"\\u{ord(found[0]):04x}", text)

    def _blocks(self, schema: Object, indent: int, depth: int, first: str) -> list[str]:
        """Mappings and sequences at `indent`, whose first line begins with `first`; those that are empty begin with `!`."""
        if "const" in schema or "enum" in schema:
            return []
        types = self._types(schema)
        if "allOf" in schema and types & {"object", "array"}:
            self._refuse("allOf")
        if not schema:
            return []  # anything: a scalar is one
        found = []
        if "object" in types and ("type" in schema or "properties" in schema):
            found += self._mapping(schema, indent, depth, first)
        if "array" in types and ("type" in schema or "items" in schema):
            found += self._sequence(schema, indent, depth, first)
        return found

    def _mapping(self, schema: Object, indent: int, depth: int, first: str) -> list[str]:
        properties, required = schema.get("properties", {}), schema.get("required", [])
        self._check_mapping(schema, properties, required)
        pad = " " * indent
        entries: list[tuple[str, str, bool]] = []  # as the first line, as a later one, whether it must be there
        for name, value in properties.items():
            rule = self._value(value, indent, depth + 1, item=False)
            if rule:
                key = f"{_quoted(self._literal(name, 'properties') + ':')} {rule}"
                entries.append((f"{_quoted(first)} {key}", f"{_quoted(pad)} {key}", name in required))
            elif name in required:
                return []
        found = [] if any(needed for *_, needed in entries) else ['!"{}\\n"']
        tails = [""]
        for _, later, needed in reversed(entries):
            rest = f"{later} {tails[-1]}" if needed else f"({later})? {tails[-1]}"
            tails.append(self._rule(rest))
        for number, (opening, _, needed) in enumerate(entries):
            found.append(f"{opening} {tails[len(entries) - 1 - number]}")
            if needed:
                break
        return found

    def _check_mapping(self, schema: Object, properties: Object, required: list[str]) -> None:
        if isinstance(schema.get("additionalProperties"), dict) or not (
            properties or schema.get("additionalProperties") is False
        ):
            self._refuse("additionalProperties", "nothing keeps a free key from coming twice")
        if schema.get("patternProperties"):
            self._refuse("patternProperties", "nothing keeps a free key from coming twice")
        if not properties.keys() >= set(required):
            self._refuse("required", "it names what properties does not")
        if schema.get("minProperties", 0) > len(set(required)):
            self._refuse("minProperties")
        if schema.get("maxProperties", len(properties)) < len(properties):
            self._refuse("maxProperties")

    def _sequence(self, schema: Object, indent: int, depth: int, first: str) -> list[str]:
        if "prefixItems" in schema:
            self._refuse("prefixItems")
        least, most = schema.get("minItems", 0), schema.get("maxItems")
        if most is not None and least > most:
            return []
        found = [] if least else ['!"[]\\n"']
        rule = self._value(schema.get("items", True), indent, depth + 1, item=True)
        if rule and most != 0:
            low, high = max(0, least - 1), "" if most is None else str(most - 1)
            more = "" if most == 1 else f" ({_quoted(' ' * indent + '-')} {rule}){{{low},{high}}}"
            found.append(f"{_quoted(first + '-')} {rule}{more}")
        return found

    def _types(self, schema: Object) -> set[str]:
        named = schema.get("type")
        if named is None:
            return {"null", "boolean", "integer", "number", "string", "array", "object"}
        return {named} if isinstance(named, str) else set(named)

    def _json(self, schema: Object) -> str:
        return self._rule("%json " + self._write_schema(schema))

    def _rule(self, body: str) -> str:
        if not body.strip():
            return ""
        if len(self._rules) >= MAX_RULES:
            raise UnsupportedField("the schema is too large for YAML", param=self._param)
        name = f"n{len(self._rules)}"
        self._rules.append(f"{name}: {body}")
        return name

    def _refuse(self, keyword: str, why: str = "") -> NoReturn:
        sentence = f"the keyword {keyword!r} cannot be enforced in YAML" + (f": {why}" if why else "")
        raise UnsupportedField(sentence, param=self._param)


def _quoted(text: str) -> str:
    """`text` as a Lark string; nothing for no text, which Lark has no string for."""
    return json.dumps(text, ensure_ascii=False) if text else ""


def _type_of(value: Json) -> set[str]:
    if value is None:
        return {"null"}
    if isinstance(value, bool):
        return {"boolean"}
    if isinstance(value, (int, float)):
        return {"number", "integer"} if value == int(value) else {"number"}
    return {"string"} if isinstance(value, str) else {"array"} if isinstance(value, list) else {"object"}
