"""What evidence decides of a file (`Skeleton.data`) and what is left for the model (`Question`).

Plain records and how answers are put in; which values are decided is plan.py's business. Open `Skeleton` first.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from saidata.facts import Path

Kind = Literal["choice", "prose", "words"]
Where = Literal["evidence", "model", "user"]


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """One value that the model gives: one of `allowed` ("choice"), a sentence ("prose") or a few short words ("words")."""

    key: str  # in the model's answer
    path: Path  # in the file
    kind: Kind
    schema: dict[str, Any]  # of the value, as the model is bound to it
    allowed: tuple[str, ...] = ()
    also: tuple[Path, ...] = ()  # other places that take the same value
    as_list: bool = False  # the file holds it as a list of one


class Skeleton(msgspec.Struct, frozen=True, kw_only=True):
    """A file before the model is asked."""

    name: str
    data: dict[str, Any]
    questions: tuple[Question, ...] = ()
    abstained: dict[str, str] = {}  # field: why it is left out
    given: tuple[Path, ...] = ()  # what the user wrote, which nothing changes

    def question(self, path: Path) -> Question | None:
        """The question that is asked for this place, if one is."""
        return next((each for each in self.questions if path in (each.path, *each.also)), None)

    def filled(self, answers: Mapping[str, Any]) -> dict[str, Any]:
        """The file with these answers; what was not answered, or answered with null, is left out."""
        data = copy.deepcopy(self.data)
        for question in self.questions:
            value = answers.get(question.key)
            if value is None or value == "" or value == []:
                continue
            for path in (question.path, *question.also):
                put(data, path, [value] if question.as_list else value)
        return data


def put(data: dict[str, Any], path: Path, value: Any) -> None:
    """Set `value` at `path`; mappings on the way are made, lists must be there."""
    node: Any = data
    for step in path[:-1]:
        if isinstance(step, str):
            node = node.setdefault(step, {})
        else:
            node = node[step]
    node[path[-1]] = value


def get(data: Any, path: Path) -> Any:
    """What stands at `path`, None where nothing does."""
    for step in path:
        if isinstance(step, str) and isinstance(data, dict):
            data = data.get(step)
        elif isinstance(step, int) and isinstance(data, list) and step < len(data):
            data = data[step]
        else:
            return None
    return data


def key_of(path: Path) -> str:
    """A path as people write it: services[0].name."""
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text


def drop(data: Any, path: Path) -> None:
    """Take away what stands at `path`, and its holder where that is then empty."""
    holder = get(data, path[:-1])
    last = path[-1]
    if isinstance(holder, dict) and isinstance(last, str):
        holder.pop(last, None)
    elif isinstance(holder, list) and isinstance(last, int) and last < len(holder):
        del holder[last]
    if path[:-1] and holder in ({}, []):
        drop(data, path[:-1])
