"""JSON schemas to try structured output on: those that a published package carries, and seeded random ones.

`vendored` reads the files of check-jsonschema where that is installed; `generated` makes schemas that use every keyword, alone
and combined, most of which can be enforced. `walk` follows a grammar at random, one byte at a time, as a model without any
sense would. Open `generated` first.
"""

from __future__ import annotations

import importlib.metadata
import json
from random import Random
from typing import Any

from redline.engine.grammar import Compiler, Matcher, Vocabulary
from redline.tokenizer import Tokenizer

Schema = dict[str, Any]

NAMES = ("name", "id", "size", "kind", "tags", "when", "owner", "note", "a b", 'quo"te', "é", "items", "type")
WORDS = ("red", "green", "blue", "", "two words", 'a"b', "line\nbreak", "\\", "ünï", "😀")
PATTERNS = ("^[a-z]+$", "^[A-Z]{2}-\\d{3}$", "x", "^(foo|bar)?$", "^\\w+\\s\\S$", "[^0-9]$", "^.{2,5}$", "a.c", "^[[]x]+")
FORMATS = ("date", "time", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri")


def vendored() -> dict[str, Schema]:
    """The schemas that check-jsonschema carries, by file name. Raises PackageNotFoundError where it is not installed."""
    files = importlib.metadata.distribution("check-jsonschema").files or []
    paths = [file for file in files if file.suffix == ".json" and "builtin_schemas" in file.parts]
    return {path.name: json.loads(path.read_text()) for path in sorted(paths, key=str)}


def generated(seed: int) -> Schema:
    """A random schema, the same for every run."""
    return _Maker(Random(seed)).whole()


class _Maker:
    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self._defs: dict[str, Schema] = {}

    def whole(self) -> Schema:
        root = self._object(0) if self._rng.random() < 0.8 else self._any(0)
        if self._rng.random() < 0.1 and isinstance(root, dict):
            root["description"] = "made up"
        return {**root, "$defs": self._defs} if self._defs else root

    def _any(self, depth: int) -> Schema:
        rng = self._rng
        simple = [self._string, self._integer, self._number, self._listed, self._literal]
        nested = [self._object, self._array, self._union, self._reference, self._both]
        choose = rng.choice(simple if depth > 2 or rng.random() < 0.6 else nested)
        return choose(depth)

    def _string(self, depth: int) -> Schema:
        rng = self._rng
        schema: Schema = {"type": "string"}
        kind = rng.randrange(6)
        if kind in (0, 1):
            low = rng.randrange(4)
            schema |= {"minLength": low, "maxLength": low + rng.randrange(12)}
        elif kind == 2:
            schema["pattern"] = rng.choice(PATTERNS)
            if rng.random() < 0.3:
                schema["maxLength"] = 8
        elif kind == 3:
            schema["format"] = rng.choice(FORMATS)
        return schema

    def _integer(self, depth: int) -> Schema:
        rng = self._rng
        schema: Schema = {"type": "integer"}
        low = rng.choice([-1000, -7, 0, 1, 12])
        if rng.random() < 0.5:
            schema[rng.choice(["minimum", "exclusiveMinimum"])] = low
        if rng.random() < 0.5:
            schema[rng.choice(["maximum", "exclusiveMaximum"])] = low + rng.randrange(2, 5000)
        if rng.random() < 0.2:
            schema["multipleOf"] = rng.choice([2, 3, 5, 10])
        return schema

    def _number(self, depth: int) -> Schema:
        rng = self._rng
        schema: Schema = {"type": rng.choice(["number", "number", ["number", "null"]])}
        low = rng.choice([-12.5, 0, 0.25, 3])
        if rng.random() < 0.5:
            schema[rng.choice(["minimum", "exclusiveMinimum"])] = low
        if rng.random() < 0.5:
            schema[rng.choice(["maximum", "exclusiveMaximum"])] = low + rng.choice([0.5, 1, 99.75])
        if rng.random() < 0.15:
            schema["multipleOf"] = rng.choice([0.5, 0.25, 0.1])
        return schema

    def _listed(self, depth: int) -> Schema:
        rng = self._rng
        values = [rng.choice([rng.choice(WORDS), rng.randrange(-9, 9), 0.5, True, None, [1, "x"], {"k": []}]) for _ in range(4)]
        return {"enum": values} if rng.random() < 0.7 else {"const": values[0]}

    def _literal(self, depth: int) -> Schema:
        return {"type": self._rng.choice(["boolean", "null", ["boolean", "string"], "string", "integer"])}

    def _array(self, depth: int) -> Schema:
        rng = self._rng
        schema: Schema = {"type": "array", "items": self._any(depth + 1)}
        if rng.random() < 0.5:
            low = rng.randrange(3)
            schema |= {"minItems": low, "maxItems": low + rng.randrange(1, 4)}
        if rng.random() < 0.2:
            schema["prefixItems"] = [self._any(depth + 1) for _ in range(rng.randrange(1, 3))]
        if rng.random() < 0.05:
            schema["uniqueItems"] = True
        return schema

    def _object(self, depth: int, among: tuple[str, ...] = NAMES) -> Schema:
        rng = self._rng
        names = rng.sample(among, rng.randrange(1, 5))
        schema: Schema = {"type": "object", "properties": {name: self._any(depth + 1) for name in names}}
        schema["required"] = [name for name in names if rng.random() < 0.6]
        kind = rng.random()
        if kind < 0.6:
            schema["additionalProperties"] = False
        elif kind < 0.75:
            schema["additionalProperties"] = self._any(depth + 2)
        elif kind < 0.85:
            schema["patternProperties"] = {"^x-": self._any(depth + 2)}
        if rng.random() < 0.07:
            schema[rng.choice(["minProperties", "maxProperties"])] = rng.randrange(1, 4)
        if rng.random() < 0.03:
            schema["propertyNames"] = {"maxLength": 3}
        return schema

    def _union(self, depth: int) -> Schema:
        return {self._rng.choice(["anyOf", "anyOf", "oneOf"]): [self._any(depth + 1) for _ in range(self._rng.randrange(2, 4))]}

    def _both(self, depth: int) -> Schema:
        parts = [self._object(depth + 1, NAMES[:6]), self._object(depth + 1, NAMES[6:])]
        for part in parts[: self._rng.choice([1, 2, 2, 2])]:
            part.pop("additionalProperties", None)
        return {"allOf": parts}

    def _reference(self, depth: int) -> Schema:
        name = f"d{len(self._defs)}"
        if self._defs and self._rng.random() < 0.4:
            name = self._rng.choice(list(self._defs))
        else:
            self._defs[name] = {}
            self._defs[name] = self._any(depth + 1)
        return {"$ref": f"#/$defs/{name}"}


def byte_compiler() -> Compiler:
    """A compiler for the byte tokenizer: token i is byte i, 257 ends."""
    return Compiler(Vocabulary(Tokenizer.bytes(258), 258, (257,)))


def walk(matcher: Matcher, rng: Random, most: int = 400, haste: float = 0.4) -> str | None:
    """A text that the grammar allows, drawn byte by byte; None if it did not end within `most` bytes."""
    import numpy as np

    words = np.zeros(9, np.int32)
    text = bytearray()
    while len(text) < most:
        if matcher.complete:
            assert not matcher.error, matcher.error
            return text.decode()
        matcher.fill(words)
        assert not matcher.error, matcher.error
        allowed = np.flatnonzero(np.unpackbits(words.view(np.uint8), bitorder="little")).tolist()
        assert allowed, f"nothing may follow {bytes(text)!r}"
        if 257 in allowed and (len(allowed) == 1 or rng.random() < haste):
            return text.decode()
        plain = [token for token in allowed if token < 256]
        closing = [token for token in plain if token in b'"\n:,]} ']
        token = rng.choice(closing if closing and rng.random() < haste else plain)
        text.append(token)
        assert matcher.consume(token), matcher.error
    return None
