"""How an answer is written: a compact JSON object with what is asked (`JsonForm`), or the whole file as YAML (`YamlForm`).

In the YAML form everything that evidence decides is a literal of the grammar, so that it costs no decode step and cannot be
changed, and only the values that are asked are open. Both forms say what to ask and read what came back. Open `form_of`.
"""

from __future__ import annotations

import json
import re
from typing import Any, Protocol

import msgspec

from saidata.format.emit import emit
from saidata.generate.questions import answer_schema
from saidata.generate.reading import mended, read_part
from saidata.generate.skeleton import Question, Skeleton, put
from saidata.models import Ask
from saidata.models.ask import Form

_HOLE = re.compile(r"[\"']?saidata-hole-(\d+)-end[\"']?")


class Written(Protocol):
    """One way to write answers to one skeleton."""

    def bound(self, ask: Ask) -> Ask:
        """The ask, bound to this form."""
        ...

    def read(self, text: str) -> dict[str, Any] | None:
        """The answers by key; None for a text that does not have the form."""
        ...

    def read_part(self, text: str) -> tuple[dict[str, Any], tuple[str, str] | None]:
        """The answers that are complete so far, and the key and text of a string that is still written."""
        ...


def form_of(form: Form, skeleton: Skeleton) -> Written:
    """The form called so."""
    return YamlForm(skeleton) if form == "yaml" else JsonForm(skeleton)


class JsonForm:
    """A JSON object of the questions' keys."""

    def __init__(self, skeleton: Skeleton):
        self._skeleton = skeleton

    def bound(self, ask: Ask) -> Ask:
        return msgspec.structs.replace(ask, schema=answer_schema(self._skeleton.questions), form="json")

    def read(self, text: str) -> dict[str, Any] | None:
        try:
            found = msgspec.json.decode(text.encode())
        except (msgspec.DecodeError, UnicodeEncodeError):
            return None
        return mended(found, self._skeleton) if isinstance(found, dict) else None

    def read_part(self, text: str) -> tuple[dict[str, Any], tuple[str, str] | None]:
        pairs, open_string = read_part(text)
        return mended(pairs, self._skeleton), open_string


class YamlForm:
    """The file as it will be, with holes where something is asked; in a hole stands a JSON value, which YAML reads."""

    def __init__(self, skeleton: Skeleton):
        self._skeleton = skeleton
        data = skeleton.filled({})
        for number, question in enumerate(skeleton.questions):
            hole: Any = f"saidata-hole-{number}-end"
            for path in (question.path, *question.also):
                put(data, path, [hole] if question.as_list else hole)
        parts = _HOLE.split(emit(data))
        self._literals = parts[::2]
        self._holes: list[Question] = [skeleton.questions[int(number)] for number in parts[1::2]]

    def bound(self, ask: Ask) -> Ask:
        return msgspec.structs.replace(ask, lark=self.lark())

    def lark(self) -> str:
        """The grammar of the file."""
        body = [json.dumps(self._literals[0], ensure_ascii=False)] if self._literals[0] else []
        rules = []
        for number, (question, literal) in enumerate(zip(self._holes, self._literals[1:], strict=True)):
            rules.append(f"hole{number}: %json {json.dumps(question.schema)}")
            body += [f"hole{number}", *([json.dumps(literal, ensure_ascii=False)] if literal else [])]
        return "\n".join([f"start: {' '.join(body)}", *rules])

    def read(self, text: str) -> dict[str, Any] | None:
        found, open_string, ended = self._walk(text)
        return mended(found, self._skeleton) if ended and open_string is None else None

    def read_part(self, text: str) -> tuple[dict[str, Any], tuple[str, str] | None]:
        found, open_string, _ = self._walk(text)
        return mended(found, self._skeleton), open_string

    def _walk(self, text: str) -> tuple[dict[str, Any], tuple[str, str] | None, bool]:
        """Answers as far as they are written, the string that is open, and whether the text is the whole file."""
        found: dict[str, Any] = {}
        at = len(self._literals[0])
        if not text.startswith(self._literals[0]):
            return found, None, False
        for question, literal in zip(self._holes, self._literals[1:], strict=True):
            try:
                value, end = json.JSONDecoder().raw_decode(text, at)
            except ValueError:
                rest = text[at:]
                return found, (question.key, rest[1:]) if rest.startswith('"') else None, False
            if literal and not text.startswith(literal, end):
                if literal.startswith(text[end:]):  # the value is complete, what follows it is not
                    found[question.key] = value
                return found, None, False
            found[question.key] = value
            at = end + len(literal)
        return found, None, at == len(text)
