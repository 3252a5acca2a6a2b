"""One evaluation: every task of every variant, each written down as it ends, so that a stopped run goes on. Open `Run.work`.

A run is a folder: `run.json` says what is measured with what, `outcomes.jsonl` has a line for each file. A run whose settings
differ from those asked for is refused instead of mixed.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from saidata.errors import Misuse, SaidataError
from saidata.evaluate import baselines
from saidata.evaluate.calibrate import Table, field_of, fit
from saidata.evaluate.gold import Gold, Split, Task
from saidata.evaluate.measures import Score, right_value, score
from saidata.facts import Evidence
from saidata.format.document import Text
from saidata.format.schema import mistakes
from saidata.generate.crew import SURE, Crew, Mode, together
from saidata.generate.made import Effort, Feature, Made
from saidata.generate.make import Maker, Options
from saidata.models import Model

Gather = Callable[[str], Evidence]
Exists = Callable[[str], bool]
Variant = Literal["saidata", "alone", "index", "free"]
"""What can be measured: the models together, each of them alone, and free generation with the index or without."""
Progress = Callable[[str, int, int], None]

FREE = ("index", "free")


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What a run measures and with what. Two runs with the same settings are one run."""

    model: str
    snapshot: str  # of the index
    gold: str  # hash of the gold set
    files: int  # 0: the whole set
    seed: int
    variants: tuple[Variant, ...]
    deep: bool
    form: str = "json"
    scores: bool = True
    others: tuple[str, ...] = ()  # models beside the first, and how they work together
    mode: Mode = "route"
    rules: tuple[str, ...] = ()
    sure: float = SURE

    @property
    def models(self) -> tuple[str, ...]:
        """All that answer, the first one first."""
        return tuple(dict.fromkeys((self.model, *self.others)))

    @property
    def several(self) -> bool:
        """Whether the variant saidata is more than one model."""
        return len(self.models) > 1

    @property
    def columns(self) -> tuple[str, ...]:
        """What a report sets side by side: each variant, and for `alone` each model."""
        named = ([alone(model) for model in self.models] if variant == "alone" else [variant] for variant in self.variants)
        return tuple(column for columns in named for column in columns)


class Judged(msgspec.Struct, frozen=True, kw_only=True):
    """A feature of a file and whether its value is right; None where the gold set does not know."""

    feature: Feature
    right: bool | None


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """One file of a run."""

    variant: str  # of the settings' columns
    key: str
    score: Score
    split: str
    popularity: str
    kind: str
    seconds: float  # of its answer; files of one wave overlap, so these do not add up
    effort: Effort
    repairs: int = 0
    removed: int = 0  # values that were contradicted and not written
    text: str = ""  # what was written, as it came
    judged: tuple[Judged, ...] = ()
    model: str = ""  # who wrote it, where several could have
    asked: tuple[str, ...] = ()  # the models that were asked
    agreed: dict[str, bool] = {}  # field that several models answered: whether they said the same


class Run:
    """A run in `folder`, new or gone on with."""

    def __init__(self, folder: Path, settings: Settings):
        """Raises Misuse where the folder holds a run with other settings."""
        self.folder, self.settings = folder, settings
        self._file = folder / "outcomes.jsonl"
        folder.mkdir(parents=True, exist_ok=True)
        said = folder / "run.json"
        if said.exists():
            before = msgspec.json.decode(said.read_bytes(), type=Settings)
            if before != settings:
                changed = [field for field in Settings.__struct_fields__ if getattr(before, field) != getattr(settings, field)]
                raise Misuse(
                    f"{folder} holds a run with another {' and '.join(changed)}",
                    "name another folder with --out, or remove this one",
                )
        else:
            said.write_bytes(msgspec.json.format(msgspec.json.encode(settings), indent=1) + b"\n")
        self.outcomes: list[Outcome] = list(_read(self._file))
        self._clock = folder / "seconds.json"
        self.seconds: dict[str, float] = {}
        """What each column took on the clock, the parts of a stopped run together."""
        if self._clock.exists():
            self.seconds = msgspec.json.decode(self._clock.read_bytes(), type=dict[str, float])

    @property
    def machine(self) -> str:
        """Where the files were made, a sentence."""
        file = self.folder / "machine"
        return file.read_text() if file.exists() else ""

    @machine.setter
    def machine(self, sentence: str) -> None:
        (self.folder / "machine").write_text(sentence)

    def work(self, tasks: Sequence[Task], models: Sequence[Model], gather: Gather, exists: Exists, progress: Progress) -> None:
        """Make and judge what is not done yet, with the models of the settings in their order."""
        with self._file.open("ab") as file:
            for variant in self.settings.columns:
                done = {one.key for one in self.outcomes if one.variant == variant}
                left = [task for task in tasks if task.key not in done]
                progress(variant, len(tasks) - len(left), len(tasks))
                if not left:
                    continue
                for model in models if self.settings.several else ():
                    model.close()  # so that no column finds its prompts computed by the one before; it opens again when asked
                before, began = self.seconds.get(variant, 0.0), time.monotonic()
                for ended, outcome in enumerate(self._variant(variant, left, models, gather, exists), len(tasks) - len(left) + 1):
                    file.write(msgspec.json.encode(outcome) + b"\n")
                    file.flush()
                    self.outcomes.append(outcome)
                    self.seconds[variant] = before + time.monotonic() - began
                    self._clock.write_bytes(msgspec.json.encode(self.seconds))
                    progress(variant, ended, len(tasks))

    def _variant(
        self, variant: str, tasks: Sequence[Task], models: Sequence[Model], gather: Gather, exists: Exists
    ) -> Iterator[Outcome]:
        if variant not in FREE:
            for number, made in self._maker(variant, models).make_all(task.evidence(gather(task.gold.name)) for task in tasks):
                task = tasks[number]
                yield self._outcome(
                    variant,
                    task,
                    made.yaml,
                    exists,
                    effort=made.effort,
                    repairs=made.repairs,
                    removed=len(made.removed),
                    judged=tuple(judge(task.gold, each) for each in made.features) if task.mode == "full" else (),
                    model=made.model,
                    asked=made.asked,
                    agreed=_agreed(made),
                )
            return
        asks = (
            baselines.ask(
                task.gold.name, task.evidence(gather(task.gold.name)) if variant == "index" else None, self.settings.seed
            )
            for task in tasks
        )
        for number, answer in models[0].answers(asks):
            effort = Effort(
                asks=1,
                tokens=answer.tokens,
                prompt_tokens=answer.prompt_tokens,
                cached_tokens=answer.cached_tokens,
                steps=answer.steps,
                seconds=answer.seconds,
            )
            yield self._outcome(variant, tasks[number], answer.text, exists, effort=effort)

    def _maker(self, variant: str, models: Sequence[Model]) -> Maker | Crew:
        settings = self.settings
        options = Options(seed=settings.seed, scores=settings.scores, form=settings.form, origin=False)  # type: ignore[arg-type]
        makers = [Maker(model, options) for model in models]
        if variant == "saidata":
            return together(makers, settings.mode, settings.rules, settings.sure)
        return next(maker for maker, name in zip(makers, settings.models, strict=True) if alone(name) == variant)

    def _outcome(self, variant: str, task: Task, text: str, exists: Exists, *, effort: Effort, **more: Any) -> Outcome:
        data = baselines.parsed(text) if variant in FREE else parsed(text)
        valid = data is not None and not mistakes(data, strict=True)
        return Outcome(
            variant=variant,
            key=task.key,
            score=score(task.gold, task.mode, data, valid=valid, exists=exists),
            split=task.gold.split,
            popularity="hand" if task.gold.hand else task.gold.popularity,
            kind=task.gold.kind,
            seconds=effort.seconds,
            effort=effort,
            text=text,
            **more,
        )


def alone(model: str) -> str:
    """The column of one of several models."""
    return f"{model} alone"


def _agreed(made: Made) -> dict[str, bool]:
    """Of the fields that models voted on, by name, where they were of one mind."""
    voted = {[step for step in f.path if isinstance(step, str)][-1]: True for f in made.features if f.agreement is not None}
    return voted | {place.rpartition(".")[2]: False for place in made.disagreements}


def parsed(text: str) -> Any:
    """The document of a file, read as any reader would; None where it cannot be read."""
    try:
        return Text.parse(text, "generated").value
    except SaidataError:
        return None


def judge(gold: Gold, feature: Feature) -> Judged:
    """A feature with its truth, in the gold set's terms."""
    return Judged(feature=feature, right=right_value(gold, field_of(feature), feature.value))


def known(outcomes: Iterable[Outcome], split: Split | None = None) -> Iterator[tuple[Feature, bool]]:
    """The features, of one half or of both, whose truth is known."""
    for outcome in outcomes:
        if outcome.variant == "saidata" and split in (None, outcome.split):
            for judged in outcome.judged:
                if judged.right is not None:
                    yield judged.feature, judged.right


Sureness = list[tuple[float, bool]]
"""Confidences beside the truth."""


def crossed(outcomes: Sequence[Outcome]) -> Sureness:
    """The confidence of every value by a table fitted on the half that it is not in: no source package judges itself."""
    found: Sureness = []
    for one, other in HALVES:
        found += _told(known(outcomes, other), fit(known(outcomes, one), "", ""))
    return found


def foreign(outcomes: Sequence[Outcome], table: Table) -> Sureness:
    """The confidences that a table from another gold set gives."""
    return _told(known(outcomes), table)


HALVES: tuple[tuple[Split, Split], ...] = (("fit", "test"), ("test", "fit"))


def _told(pairs: Iterable[tuple[Feature, bool]], table: Table) -> Sureness:
    told = ((table(feature), right) for feature, right in pairs)
    return [(confidence, right) for confidence, right in told if confidence is not None]


def gold_hash(gold: Sequence[Gold]) -> str:
    """Names a gold set, by all it says."""
    return hashlib.sha256(msgspec.json.encode(list(gold))).hexdigest()[:16]


def _read(file: Path) -> Iterator[Outcome]:
    """The lines that are whole; a last one that was cut off when the run was stopped is cut away, so that its file is made again."""
    if not file.exists():
        return
    data = file.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if len(whole) < len(data):
        file.write_bytes(whole)
    for line in whole.splitlines():
        yield msgspec.json.decode(line, type=Outcome)
