"""Requests that are almost right: a valid body with one thing wrong, and what must be said about it.

Every mutation knows its own verdict, from the API's documentation and not from the server's records: the statuses that are
allowed, and the field that a refusal has to name. Open `Mutator.next` first.
"""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

Json = dict[str, Any]
Path = tuple[str | int, ...]

# Field -> (least, most) that the API takes; outside is 400. Whole numbers must be whole.
RANGES: dict[str, tuple[float, float]] = {
    "temperature": (0, 100),  # beyond OpenAI's 2, as other servers take it
    "top_p": (0, 1),
    "min_p": (0, 1),
    "frequency_penalty": (-2, 2),
    "presence_penalty": (-2, 2),
    "n": (1, 128),
    "max_tokens": (1, 4096),
    "max_completion_tokens": (1, 4096),
    "top_logprobs": (0, 20),
    "seed": (-(2**63), 2**63 - 1),
    "min_tokens": (0, 2**31 - 1),
    "priority": (-(2**31), 2**31),
    "deadline_ms": (1, 24 * 3600 * 1000),
}
WHOLE = {"n", "max_tokens", "max_completion_tokens", "top_logprobs", "seed", "min_tokens", "priority", "max_output_tokens"}
# Field -> JSON types that it may have beside null.
TYPES: dict[str, set[str]] = {
    "messages": {"array"},
    "prompt": {"string", "array"},
    "input": {"string", "array"},
    "role": {"string"},
    "content": {"string", "array"},
    "stop": {"string", "array"},
    "model": {"string"},
    "stream": {"boolean"},
    "stream_options": {"object"},
    "logit_bias": {"object"},
    "metadata": {"object"},
    "user": {"string"},
    "logprobs": {"boolean", "number"},
    "tools": {"array"},
    "tool_choice": {"string", "object"},
    "response_format": {"object"},
    "chat_template_kwargs": {"object"},
    "cache_salt": {"string"},
    "instructions": {"string"},
    **{name: {"number"} for name in RANGES},
}
FREE = {
    "metadata",
    "chat_template_kwargs",
    "parameters",
    "schema",
    "logit_bias",
    "input_schema",
}  # objects with keys of the caller's

NUMBERS: tuple[Any, ...] = (
    -1, 0, 1, 2, 20, 21, 128, 129, 4096, 4097, 0.5, -0.0, 1.5, -2.0, 2.0, 2.0000001, 1e-320, 1e308, -1e308,
    2**31 - 1, 2**31, -(2**31) - 1, 2**53 + 1, 2**63 - 1, 2**63, -(2**63) - 1, 2**64, 10**400,
)  # fmt: skip
ODD_TEXTS = (
    "",
    "\0",
    "\ufeff",
    "\u202etxet",
    "e\u0301" * 40,
    "\U0001f600",
    "\ufffd",
    "a" * 70_000,
    "\r\n\r\n",
    "../../etc/passwd",
    "{{7*7}}",
)
OTHER_TYPES: dict[str, Callable[[], Any]] = {
    "string": lambda: "seven",
    "number": lambda: 7,
    "boolean": lambda: True,
    "array": lambda: [[]],
    "object": lambda: {"unheard of": 1},
}


@dataclass(frozen=True)
class Mutation:
    """One request. `names`: a part of the path of the field that a 400 must name, or None where any reason will do."""

    what: str
    data: bytes
    statuses: frozenset[int]
    names: str | None = None
    headers: dict[str, str] = field(default_factory=dict)


REFUSED = frozenset({400})
ANY = frozenset({200, 400, 413})


class Mutator:
    """An endless supply of mutations of `seeds`, the same for the same random generator."""

    def __init__(self, seeds: list[Json], rng: random.Random) -> None:
        self._seeds = seeds
        self._rng = rng
        self._kinds = (
            self._unknown_field, self._unknown_field, self._wrong_type, self._wrong_type, self._number, self._number, self._nesting,
            self._size, self._text, self._bytes, self._missing, self._duplicate,
        )  # fmt: skip

    def next(self) -> Mutation:
        while True:
            made = self._rng.choice(self._kinds)(copy.deepcopy(self._rng.choice(self._seeds)))
            if made is not None:
                return made

    def _unknown_field(self, body: Json) -> Mutation | None:
        places = [path for path in _objects(body) if not FREE.intersection(path)]
        path = self._rng.choice(places)
        name = self._rng.choice(("temprature", "x", "__class__", "modell", "\u00fcnknown", "a.b", "$ref", "constructor"))
        _at(body, path)[name] = self._rng.choice((1, None, "x", [], {}))
        return Mutation(f"unknown field {name} at {path}", _dump(body), REFUSED, name)

    def _wrong_type(self, body: Json) -> Mutation | None:
        fields = [path for path in _fields(body) if path[-1] in TYPES and not FREE.intersection(path[:-1])]
        if not fields:
            return None
        path = self._rng.choice(fields)
        name = str(path[-1])
        kind = self._rng.choice([kind for kind in OTHER_TYPES if kind not in TYPES[name]])
        _set(body, path, OTHER_TYPES[kind]())
        return Mutation(f"{kind} for {path}", _dump(body), REFUSED, name)

    def _number(self, body: Json) -> Mutation | None:
        names = [name for name in RANGES if name in body]
        if not names:
            return None
        name, value = self._rng.choice(names), self._rng.choice(NUMBERS)
        body[name] = value
        low, high = RANGES[name]
        whole = isinstance(value, int) or value == int(value)
        if not low <= value <= high or (name in WHOLE and not whole):
            return Mutation(f"{name} = {str(value)[:30]}", _dump(body), REFUSED, name)
        return Mutation(f"{name} = {value}", _dump(body), ANY)  # it may contradict another field, or not fit the context

    def _nesting(self, body: Json) -> Mutation | None:
        path = self._rng.choice(_fields(body))
        depth = self._rng.choice((100, 10_000))
        opening, closing = self._rng.choice((("[", "]"), ('{"a":', "}")))
        _set(body, path, "@@")
        inner = opening * depth + "1" + closing * depth
        allowed = ANY if FREE.intersection(path) else REFUSED
        return Mutation(f"{depth} levels at {path}", _dump(body).replace(b'"@@"', inner.encode(), 1), allowed)

    def _size(self, body: Json) -> Mutation | None:
        name = self._rng.choice(("stop", "logit_bias", "messages", "metadata", "prompt", "tools"))
        big: Any = {
            "stop": ["x"] * 5000,
            "logit_bias": {str(i): 1 for i in range(5000)},
            "messages": [{"role": "user", "content": "x"}] * 20_000,
            "metadata": {str(i): "x" for i in range(5000)},
            "prompt": [1] * 100_000,
            "tools": [{"type": "function", "function": {"name": f"f{i}"}} for i in range(5000)],
        }[name]
        body[name] = big
        return Mutation(f"many {name}", _dump(body), ANY)

    def _text(self, body: Json) -> Mutation | None:
        texts = [path for path in _fields(body) if isinstance(_at(body, path), str)]
        if not texts:
            return None
        path, text = self._rng.choice(texts), self._rng.choice(ODD_TEXTS)
        _set(body, path, text)
        return Mutation(f"text {text[:20]!r} at {path}", _dump(body), frozenset({200, 400, 404}))

    def _bytes(self, body: Json) -> Mutation | None:
        data = bytearray(_dump(body))
        for _ in range(self._rng.randint(1, 8)):
            at = self._rng.randrange(len(data))
            match self._rng.randrange(4):
                case 0:
                    data[at] = self._rng.randrange(256)
                case 1:
                    del data[at : at + self._rng.randint(1, 9)]
                case 2:
                    data[at:at] = self._rng.choice(
                        (b"\xff", b"\x00", b"\\ud800", b"NaN", b"Infinity", b'"', b"}", b"[[", b"1e999")
                    )
                case 3:
                    del data[at:]
            data = data or bytearray(b" ")
        return Mutation("broken bytes", bytes(data), frozenset({200, 400, 404}))

    def _missing(self, body: Json) -> Mutation | None:
        for name in ("messages", "prompt", "input"):
            if name in body:
                del body[name]
                return Mutation(f"no {name}", _dump(body), REFUSED, name)
        return None

    def _duplicate(self, body: Json) -> Mutation | None:
        data = _dump(body)
        return Mutation("a key twice", b'{"stream":false,' + data[1:], frozenset({200, 400}))


def _dump(body: Json) -> bytes:
    return json.dumps(body).encode()


def _at(body: Any, path: Path) -> Any:
    for step in path:
        body = body[step]
    return body


def _set(body: Json, path: Path, value: Any) -> None:
    _at(body, path[:-1])[path[-1]] = value


def _fields(value: Any, path: Path = ()) -> list[Path]:
    """Paths of everything inside `value`."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [inner for key, item in items for inner in ((*path, key), *_fields(item, (*path, key)))]


def _objects(body: Json) -> list[Path]:
    return [(), *(path for path in _fields(body) if isinstance(_at(body, path), dict))]
