"""What the model is asked: the prose every file has, and choices among candidates. Also the schemas that bind the answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from saidata.facts import Evidence, Path
from saidata.generate.category import categories
from saidata.generate.skeleton import Question

# One sentence. A full stop inside it is followed by a small letter or a digit, as in Node.js; the first that is not ends it.
SENTENCE = r'^[A-Z0-9]([^.\n"\\]|\.[a-z0-9]){20,200}\.$'
SHORT_NAME = r"^[A-Za-z0-9][A-Za-z0-9 .+\-]{0,30}[A-Za-z0-9+]$"
WORD = r"^[a-z0-9][a-z0-9+\-]{1,20}$"


def prose_questions(evidence: Evidence) -> Iterator[Question]:
    """What is asked of every software that some source describes. Of one that none does, nothing true could be written."""
    if not evidence.of("summary", "description"):
        return
    word = {"type": "string", "pattern": WORD}
    tags = {"type": "array", "items": word, "minItems": 2, "maxItems": 5}
    name, sentence = {"type": "string", "pattern": SHORT_NAME}, {"type": "string", "pattern": SENTENCE}
    yield Question(key="display_name", path=("metadata", "display_name"), kind="words", schema=name)
    yield Question(key="description", path=("metadata", "description"), kind="prose", schema=sentence)
    if len(left := categories(evidence)) > 1:
        yield choice("category", ("metadata", "category"), left, may_abstain=False)
    yield Question(key="subcategory", path=("metadata", "subcategory"), kind="words", schema=word)
    yield Question(key="tags", path=("metadata", "tags"), kind="words", schema=tags)


def choice(key: str, path: Path, allowed: Sequence[str], *, may_abstain: bool = True, as_list: bool = False) -> Question:
    """One of `allowed`, or with `may_abstain` none of them."""
    values: list[str | None] = [*allowed, None] if may_abstain else list(allowed)
    return Question(key=key, path=path, kind="choice", schema={"enum": values}, allowed=tuple(allowed), as_list=as_list)


def answer_schema(questions: Sequence[Question]) -> dict[str, Any]:
    """The JSON object that answers them all, in their order."""
    return {
        "type": "object",
        "properties": {question.key: question.schema for question in questions},
        "required": [question.key for question in questions],
        "additionalProperties": False,
    }
