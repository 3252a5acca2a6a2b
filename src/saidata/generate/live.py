"""A file as it is written: `Live` yields the text and each value once it is complete, judged at once; it can be stopped and gone on with.

What was written until a stop is a file of its own (`Live.made`): valid YAML with the values so far, and where it broke off. Edit
it, and give it to a new `Live` with the same or other options. Open `Live`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from saidata.facts import Evidence, Path
from saidata.generate.forms import form_of
from saidata.generate.made import Fault, Made
from saidata.generate.make import Job, Maker
from saidata.generate.skeleton import key_of
from saidata.models import Answer

HEAD = "# saidata: not finished"
_MARK = re.compile(r"^# saidata: not finished(?:, stopped in ([a-z_.]+))?", re.MULTILINE)


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """Something new: `text` that was written, or a whole `value` at `path` with what is wrong with it."""

    text: str = ""
    path: Path = ()
    value: Any = None
    faults: tuple[Fault, ...] = ()


class Live:
    """One file while it is written. Iterate once; `stop` ends the iteration soon, also from another thread."""

    def __init__(self, maker: Maker, evidence: Evidence, *, given: Mapping[str, Any] | None = None, stopped: Path = ()):
        self._maker = maker
        self._job: Job = maker.begin(0, evidence, given, stopped)
        self._form = form_of(maker.options.form, self._job.asked)
        self._text = self._key = ""
        self._stop = self._keep = False
        self._answer: Answer | None = None
        self._made: Made | None = None

    @property
    def kept(self) -> tuple[str, str, Answer] | None:
        """Key, model and answer for a cache, once the answer is there and says all that was asked."""
        return (self._key, self._maker.model.name, self._answer) if self._keep and self._answer is not None else None

    def stop(self) -> None:
        """Write no further."""
        self._stop = True

    def __iter__(self) -> Iterator[Step]:
        if not self._job.asked.questions:
            return
        told: set[str] = set()
        ask = self._maker.ask(self._job)
        self._key = ask.key()
        pieces = self._maker.model.stream(ask)
        try:
            for piece in pieces:
                self._text += piece.text
                if piece.text:
                    yield Step(text=piece.text)
                yield from self._new_values(told)
                self._answer = piece.answer or self._answer
                if self._stop:
                    return
        finally:
            pieces.close()  # which cancels what is still written

    def _new_values(self, told: set[str]) -> Iterator[Step]:
        answers, _ = self._form.read_part(self._text)
        new = answers.keys() - told
        if not new:
            return
        told |= new
        self._job.answers = dict(answers)
        found = self._maker.judged(self._job)
        for question in self._job.asked.questions:
            if question.key in new:
                faults = tuple(fault for fault in found.faults if fault.path[: len(question.path)] == question.path)
                yield Step(path=question.path, value=answers[question.key], faults=faults)

    def made(self) -> Made:
        """The file: whole where the iteration came to its end, else what there is of it. After a whole one a repair may follow."""
        if self._made is None:
            whole = self._answer is not None or not self._job.asked.questions
            self._keep = self._answer is not None and self._maker.whole(self._job, self._answer)
            self._made = self._maker.complete(self._job, self._answer) if whole else self._so_far()
        return self._made

    def _so_far(self) -> Made:
        answers, written = self._form.read_part(self._text)
        job = self._job
        job.answers = dict(answers)
        question = next((each for each in job.asked.questions if written and each.key == written[0]), None)
        text = written[1].rstrip("\\") if written else ""
        if question is not None and question.kind == "prose" and text.strip():
            job.answers[question.key] = text
            job.stopped = question.path
        job.complete = not [each for each in job.asked.questions if each.key not in answers]
        made = self._maker.finished(job, self._maker.judged(job))
        return made if made.complete else msgspec.structs.replace(made, yaml=mark(made.stopped) + made.yaml)


def mark(stopped: Path) -> str:
    """The line that says a file is not finished, and in which text it was stopped."""
    return HEAD + (f", stopped in {key_of(stopped)}" if stopped else "") + "\n"


def stopped_in(text: str) -> tuple[bool, Path]:
    """Whether a file says that it is not finished, and where it was stopped."""
    found = _MARK.match(text)
    if found is None:
        return False, ()
    return True, tuple(found[1].split(".")) if found[1] else ()
