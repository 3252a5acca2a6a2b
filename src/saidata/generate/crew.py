"""Several models for one list: routed by what a software is, agreeing on each file, or a fast one first. Open `Crew.make_all`.

Every file says in `route` which model made it and why. Evidence is taken a window at a time, so that each model still works on
many files together; `together` makes a crew of what a user asked for.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

import msgspec

from saidata.errors import Misuse
from saidata.facts import Evidence
from saidata.generate.category import CATEGORIES, categories
from saidata.generate.consensus import consensus
from saidata.generate.made import Made
from saidata.generate.make import Maker

Mode = Literal["route", "agree", "escalate"]
MODES: tuple[Mode, ...] = ("route", "agree", "escalate")

WINDOW = 128
COMPLEX_FACTS = 40  # more facts than this make a software a complex one
SURE = 0.5  # the share of probability, or the confidence, below which a stronger model is asked


class Rule(msgspec.Struct, frozen=True):
    """`when` is a category, "simple" or "complex"; the first rule that fits decides."""

    when: str
    model: str


class Crew:
    """Makers of several models, the first the one that is asked where nothing says otherwise."""

    def __init__(
        self, makers: Sequence[Maker], mode: Mode, *, rules: Sequence[Rule] = (), sure: float = SURE, window: int = WINDOW
    ):
        if not makers:
            raise Misuse("no model is named", hint="name one or more")
        self._makers = {maker.model.name: maker for maker in makers}
        self._mode = mode
        self._rules = rules
        self._sure = sure
        self._window = window
        for rule in rules:
            if rule.model not in self._makers:
                raise Misuse(
                    f"the rule {rule.when}={rule.model} names a model that is not asked", hint=f"there are {self._names()}"
                )
            if rule.when not in (*CATEGORIES, "simple", "complex"):
                known = ", ".join(CATEGORIES)
                raise Misuse(f"{rule.when!r} is no category", hint=f"a rule is for simple, complex, or one of {known}")
        if mode != "route" and len(makers) < 2:
            raise Misuse(f"to {mode} takes two models or more, and this is {self._names()}", hint="name another with --with")

    def make(self, evidence: Evidence) -> Made:
        """One file."""
        return next(made for _, made in self.make_all([evidence]))

    def make_all(self, evidences: Iterable[Evidence]) -> Iterator[tuple[int, Made]]:
        """The files of each window as they are ready, each with the number of its evidence."""
        coming = enumerate(evidences)
        while window := list(itertools.islice(coming, self._window)):
            if self._mode == "route":
                yield from self._routed(window)
            elif self._mode == "agree":
                yield from self._agreed(window)
            else:
                yield from self._escalated(window)

    def route(self, evidence: Evidence) -> tuple[str, str]:
        """The model for a software, and why."""
        left = categories(evidence)
        kind = "complex" if len(evidence.facts) > COMPLEX_FACTS else "simple"
        for rule in self._rules:
            if rule.when == kind:
                return rule.model, f"{rule.model}: {kind}, {len(evidence.facts)} facts"
            if left == (rule.when,):
                return rule.model, f"{rule.model}: its category is {rule.when}"
        first = next(iter(self._makers))
        return first, f"{first}: no rule fits"

    def _routed(self, window: Sequence[tuple[int, Evidence]]) -> Iterator[tuple[int, Made]]:
        groups: dict[str, list[tuple[int, Evidence, str]]] = {}
        for number, evidence in window:
            model, why = self.route(evidence)
            groups.setdefault(model, []).append((number, evidence, why))
        for model, group in groups.items():
            for place, made in self._makers[model].make_all(evidence for _, evidence, _ in group):
                number, _, why = group[place]
                yield number, msgspec.structs.replace(made, route=why)

    def _agreed(self, window: Sequence[tuple[int, Evidence]]) -> Iterator[tuple[int, Made]]:
        made = [dict(maker.make_all(evidence for _, evidence in window)) for maker in self._makers.values()]
        for place, (number, _) in enumerate(window):
            yield number, consensus([each[place] for each in made])

    def _escalated(self, window: Sequence[tuple[int, Evidence]]) -> Iterator[tuple[int, Made]]:
        """The fast model's files where it is sure, and the next model's of the rest, until the last one, who is believed."""
        waiting = [(number, evidence, "") for number, evidence in window]
        spent: dict[int, Made] = {}
        names = list(self._makers)
        for name, maker in self._makers.items():
            asked, waiting = waiting, []
            for place, made in maker.make_all(evidence for _, evidence, _ in asked):
                number, evidence, why = asked[place]
                if number in spent:
                    before = spent[number]
                    made = msgspec.structs.replace(made, effort=before.effort + made.effort, asked=before.asked + made.asked)
                doubt = "" if name == names[-1] else self.doubt(made)
                if doubt:
                    spent[number] = made
                    waiting.append((number, evidence, f"{why}{name} was not sure of {doubt}; "))
                else:
                    yield number, msgspec.structs.replace(made, route=f"{why}{name}{' is sure' if name != names[-1] else ''}")

    def doubt(self, made: Made) -> str:
        """What speaks against a fast model's file; empty where nothing does."""
        if not made.valid or not made.complete or made.removed:
            return "a value that was refused or is missing"
        for feature in made.features:
            sure = feature.confidence if feature.confidence is not None else feature.share
            if feature.by == "model" and sure is not None and sure < self._sure:
                return f"{feature.path[-1]} ({sure:.2f})"
        return ""

    def _names(self) -> str:
        return ", ".join(self._makers)


def together(makers: Sequence[Maker], mode: Mode, rules: Sequence[str], sure: float) -> Maker | Crew:
    """What makes the files: a crew, or the only maker there is where nothing is said of several."""
    if len(makers) == 1 and not rules and mode == "route":
        return makers[0]
    return Crew(makers, mode, rules=[rule_of(text) for text in rules], sure=sure)


def rule_of(text: str) -> Rule:
    """A rule as the command line has it: database=qwen2.5-coder-0.5b."""
    when, equals, model = text.partition("=")
    if not equals or not when or not model:
        raise Misuse(f"{text[:60]!r} is no rule", hint="write it like database=MODEL or complex=MODEL")
    return Rule(when, model)
