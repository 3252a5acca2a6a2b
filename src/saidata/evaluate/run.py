"""One evaluation: every task of every variant, each written down as it ends, so that a stopped run goes on. Open `Run.work`.

A run is a folder: `run.json` says what is measured with what, `outcomes.jsonl` has a line for each file. A run whose settings
differ from those asked for is refused instead of mixed.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from saidata.errors import Misuse, SaidataError
from saidata.evaluate import baselines
from saidata.evaluate.baselines import Variant
from saidata.evaluate.calibrate import Table, field_of, fit
from saidata.evaluate.gold import Gold, Split, Task
from saidata.evaluate.measures import Score, right_value, score
from saidata.facts import Evidence
from saidata.format.document import Text
from saidata.format.schema import mistakes
from saidata.generate.made import Effort, Feature
from saidata.generate.make import Maker, Options
from saidata.models import Model

Gather = Callable[[str], Evidence]
Exists = Callable[[str], bool]
Progress = Callable[[Variant, int, int], None]


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


class Judged(msgspec.Struct, frozen=True, kw_only=True):
    """A feature of a file and whether its value is right; None where the gold set does not know."""

    feature: Feature
    right: bool | None


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """One file of a run."""

    variant: Variant
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
        self.seconds: dict[Variant, float] = {}
        """What each variant took on the clock, the parts of a stopped run together."""
        if self._clock.exists():
            self.seconds = msgspec.json.decode(self._clock.read_bytes(), type=dict[Variant, float])

    @property
    def machine(self) -> str:
        """Where the files were made, a sentence."""
        file = self.folder / "machine"
        return file.read_text() if file.exists() else ""

    @machine.setter
    def machine(self, sentence: str) -> None:
        (self.folder / "machine").write_text(sentence)

    def work(self, tasks: Sequence[Task], model: Model, gather: Gather, exists: Exists, progress: Progress) -> None:
        """Make and judge what is not done yet."""
        with self._file.open("ab") as file:
            for variant in self.settings.variants:
                done = {one.key for one in self.outcomes if one.variant == variant}
                left = [task for task in tasks if task.key not in done]
                progress(variant, len(tasks) - len(left), len(tasks))
                if not left:
                    continue
                before, began = self.seconds.get(variant, 0.0), time.monotonic()
                for ended, outcome in enumerate(self._variant(variant, left, model, gather, exists), len(tasks) - len(left) + 1):
                    file.write(msgspec.json.encode(outcome) + b"\n")
                    file.flush()
                    self.outcomes.append(outcome)
                    self.seconds[variant] = before + time.monotonic() - began
                    self._clock.write_bytes(msgspec.json.encode(self.seconds))
                    progress(variant, ended, len(tasks))

    def _variant(
        self, variant: Variant, tasks: Sequence[Task], model: Model, gather: Gather, exists: Exists
    ) -> Iterator[Outcome]:
        if variant == "saidata":
            options = Options(seed=self.settings.seed, scores=self.settings.scores, form=self.settings.form, origin=False)  # type: ignore[arg-type]
            maker = Maker(model, options)
            for number, made in maker.make_all(task.evidence(gather(task.gold.name)) for task in tasks):
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
                )
            return
        asks = (
            baselines.ask(
                task.gold.name, task.evidence(gather(task.gold.name)) if variant == "index" else None, self.settings.seed
            )
            for task in tasks
        )
        for number, answer in model.answers(asks):
            effort = Effort(
                asks=1,
                tokens=answer.tokens,
                prompt_tokens=answer.prompt_tokens,
                cached_tokens=answer.cached_tokens,
                steps=answer.steps,
                seconds=answer.seconds,
            )
            yield self._outcome(variant, tasks[number], answer.text, exists, effort=effort)

    def _outcome(self, variant: Variant, task: Task, text: str, exists: Exists, *, effort: Effort, **more: Any) -> Outcome:
        data = parsed(text) if variant == "saidata" else baselines.parsed(text)
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
