"""Evidence made by hand and a model that answers without one, for saidata's tests of generation and batches.

`Scripted` obeys the schema it is given, so what comes back is what a bound model could write; its texts are always the same.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Generator, Iterable, Iterator
from typing import Any, Self

from saidata.evaluate.gold import Gold
from saidata.facts import Candidate, Evidence, Fact, FactKind
from saidata.models import Answer, Ask, Piece, Score

TEXTS = {
    "display_name": "Web Thing",
    "description": "A server that hands out pages and passes requests on.",
    "subcategory": "server",
    "tags": ["web", "server", "web"],
}


def fact(kind: FactKind, value: str, package: str = "webthing", *, provider: str = "apt", detail: str = "") -> Fact:
    """A fact of the package."""
    source = "debian bookworm main Contents" if provider == "apt" else f"{provider} listing"
    return Fact(kind=kind, value=value, provider=provider, source=source, date="2026-11-01", package=package, detail=detail)


def gold(name: str, **truth: Any) -> Gold:
    """A gold record of the package that `webthing` is of, with what else is true of it."""
    known: dict[str, Any] = {"version": "1", "popularity": "head", "kind": "service", "split": "test"}
    parts: dict[str, Any] = {"packages": (name,), "all_packages": (name, f"{name}-common"), "units": (f"{name}.service",)}
    return Gold(name=name, source=name, **known, **parts, **truth)


def webthing(*more: Fact, name: str = "webthing", without: tuple[FactKind, ...] = ()) -> Evidence:
    """What a source would know of a small web server, `without` some kinds of facts, and what `more` it says."""
    facts = (
        fact("package", name, name),
        fact("package", f"{name}-common", f"{name}-common"),
        fact("version", "1:2.4.1+dfsg-3", name),
        fact("summary", "small server of pages", name),
        fact("description", "A web server for small machines. It serves files and passes requests on.", name),
        fact("homepage", f"https://{name}.example.org/", name),
        fact("section", "net", name),
        fact("tag", "implemented-in::c", name),
        fact("tag", "protocol::http", name),
        fact("licence", "BSD-2-Clause", name),
        fact("unit", f"{name}.service", f"{name}-common"),
        fact("config", f"/etc/{name}/{name}.conf", f"{name}-common"),
        fact("config", f"/etc/default/{name}", f"{name}-common"),
        fact("command", f"/usr/sbin/{name}", name, detail="has shell completion"),
        fact("manpage", f"/usr/share/man/man8/{name}.8.gz", name),
        fact("directory", f"/var/lib/{name}", name),
        fact("log", f"/var/log/{name}", name),
        fact("port", "80/tcp", name),
    )
    kept = (*(each for each in facts if each.kind not in without), *more)
    return Evidence(name=name, snapshot="s1", candidates=(Candidate(package=name, provider="apt", score=1.0),), facts=kept)


class Scripted:
    """Answers every ask as its schema wants it. `said` replaces the answers to the asks of these numbers by a text."""

    def __init__(self, said: dict[int, str] | None = None, *, name: str = "scripted", pause_s: float = 0.0, piece: int = 7):
        self.name = name
        self.asks: list[Ask] = []
        self._said = said or {}
        self._pause_s = pause_s
        self._piece = piece

    def answers(self, asks: Iterable[Ask]) -> Iterator[tuple[int, Answer]]:
        for number, ask in enumerate(asks):
            time.sleep(self._pause_s)
            yield number, self._answer(ask)

    def stream(self, ask: Ask) -> Generator[Piece, None, None]:
        answer = self._answer(ask)
        for at in range(0, len(answer.text), self._piece):
            yield Piece(text=answer.text[at : at + self._piece])
        yield Piece(text="", answer=answer)

    def close(self) -> None:
        pass

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def _answer(self, ask: Ask) -> Answer:
        number = len(self.asks)
        self.asks.append(ask)
        text = self._said.get(number) or (
            whole_file(ask.lark) if ask.lark else json.dumps(obeying(ask.schema), separators=(",", ":"))
        )
        scores = tuple(Score(part, -0.1, ((" other", -3.0),)) for part in re.findall(r"\w+|\W", text)) if ask.scores else ()
        return Answer(
            text=text, finish="stop", tokens=40, prompt_tokens=300, cached_tokens=288 if number else 0, steps=30, scores=scores
        )


def obeying(schema: Any) -> dict[str, Any]:
    """An answer that the schema allows."""
    return {key: _value(key, each) for key, each in schema["properties"].items()}


def whole_file(lark: str) -> str:
    """A file that a grammar of literals and holes allows."""
    rules = dict(line.split(": ", 1) for line in lark.splitlines())
    text = ""
    for part in re.findall(r'"(?:[^"\\]|\\.)*"|hole\d+', rules["start"]):
        schema = rules[part].removeprefix("%json ") if part.startswith("hole") else ""
        text += json.dumps(_of_shape(json.loads(schema))) if schema else json.loads(part)
    return text


def _of_shape(schema: dict[str, Any]) -> Any:
    """Without a key, the value is known by its schema."""
    if "enum" in schema:
        return schema["enum"][0]
    if schema["type"] == "array":
        return TEXTS["tags"]
    return next(text for text in TEXTS.values() if isinstance(text, str) and re.search(schema["pattern"], text))


def _value(key: str, schema: dict[str, Any]) -> Any:
    if "enum" in schema:
        return schema["enum"][0]
    text = TEXTS[key]
    if isinstance(text, str) and not re.search(schema["pattern"], text):
        begun = re.match(r"\^((?:\\.|[^\[\\])*)", schema["pattern"])
        assert begun is not None, schema
        return re.sub(r"\\(.)", r"\1", begun[1]) + " and goes on."
    return text
