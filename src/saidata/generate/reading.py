"""From a model's answer to values: whole answers, and the part of one that has been written so far. Open `mended`, `read_part`.

Also what is mended without asking again: a tag that comes twice, a sentence that was cut at its longest.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from saidata.generate.skeleton import Question, Skeleton

_FILLER = re.compile(r"[\s,;:\-]+(and|or|with|for|of|the|a|an|to|in|by|that|which|it|is)?\.?$", re.IGNORECASE)
LONGEST = 200  # of a sentence: what comes so close to the bound was cut by it


def mended(answers: Mapping[str, Any], skeleton: Skeleton) -> dict[str, Any]:
    """The answers to what was asked, each in its best form. What was not asked, or is not allowed, is dropped: not every server
    binds its answers as it was told to."""
    return {
        question.key: _mended(answers[question.key], question)
        for question in skeleton.questions
        if question.key in answers and allowed(answers[question.key], question.schema)
    }


def allowed(value: Any, schema: Mapping[str, Any]) -> bool:
    """Whether a question's schema has the value: one of an enum, a text of a pattern, or a list of such."""
    if "enum" in schema:
        return value in schema["enum"] and not isinstance(value, bool)
    if schema["type"] == "array":
        fits = isinstance(value, list) and schema["minItems"] <= len(value) <= schema["maxItems"]
        return fits and all(allowed(item, schema["items"]) for item in value)
    return isinstance(value, str) and re.search(schema["pattern"], value) is not None


def _mended(value: Any, question: Question) -> Any:
    if isinstance(value, list):
        return list(dict.fromkeys(value))
    if isinstance(value, str) and question.kind == "prose":
        return whole_sentence(value)
    return value.strip() if isinstance(value, str) and question.kind == "words" else value


def whole_sentence(text: str) -> str:
    """A sentence that the bound cut off in the middle, ended at its last whole part."""
    if len(text) < LONGEST:
        return text
    kept = text[:-1]
    at = max(kept.rfind(joint) for joint in (", ", "; ", " and ", " while ", " which ", " that "))
    kept = kept[:at] if at > LONGEST // 3 else kept.rpartition(" ")[0]
    while (shorter := _FILLER.sub("", kept)) != kept:
        kept = shorter
    return (kept or text[:-1]) + "."  # one endless word has no whole part


def read_part(text: str) -> tuple[dict[str, Any], tuple[str, str] | None]:
    """The pairs of a JSON object that are complete so far, and the key and text of a string that is still written."""
    pairs: dict[str, Any] = {}
    open_string: tuple[str, str] | None = None
    for end in _commas(text):
        try:
            pairs = msgspec.json.decode((text[:end] + "}").encode())
        except (msgspec.DecodeError, UnicodeEncodeError):
            continue
        rest = re.match(r'\s*,?\s*"([^"\\]+)"\s*:\s*"((?:[^"\\]|\\.)*)$', text[end:])
        open_string = (rest[1], rest[2]) if rest else None
        break
    else:
        rest = re.match(r'\s*\{\s*"([^"\\]+)"\s*:\s*"((?:[^"\\]|\\.)*)$', text)
        open_string = (rest[1], rest[2]) if rest else None
    return pairs, open_string


def _commas(text: str) -> list[int]:
    """Where the object might be closed, the latest first: its end, and before each comma."""
    bare = text.rstrip()
    ends = [len(bare) - 1] if bare.endswith("}") else []
    return [*ends, len(bare), *(at for at in range(len(bare) - 1, 0, -1) if bare[at] == ",")]
