"""What a run came to: `report` (plain data), `markdown` (for a person). The pictures are drawn elsewhere. Open `report`;
`beside` sets other runs of the same packages in columns next to it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence

import msgspec

from saidata.errors import Misuse
from saidata.evaluate.calibrate import Reliability, Table, reliability
from saidata.evaluate.intervals import Interval, middle, ratio
from saidata.evaluate.measures import MEASURES, Score, file_recall, summary
from saidata.evaluate.run import FREE, Outcome, Settings, Sureness, alone, crossed, foreign

STRATA_SHOWN = ("precision", "recall", "licence_recall", "completeness")
MOST_WRONG = 60
TITLES = {
    "saidata": "saidata",
    "index": "free generation, with the index",
    "free": "free generation, without the index",
}
MORE = {
    "file_recall": "recall, averaged over files",
    "repair_free": "files that needed no repair",
}


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    """What a file costs, averages with intervals."""

    tokens: Interval
    prompt_tokens: Interval
    cached_share: float  # of all prompt tokens, that were computed before
    steps: Interval | None  # decode steps, where they are counted
    seconds: float  # of the whole variant, divided by its files


class Team(msgspec.Struct, frozen=True, kw_only=True):
    """How several models shared the work."""

    asked: dict[str, int]  # files that each was asked for
    written: dict[str, int]  # files by who wrote them
    voted: dict[str, tuple[int, int]]  # field: files in which the models differ on it, and all in which several answered it


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """One column: a variant, or one of several models."""

    files: int
    title: str = ""
    measures: dict[str, Interval]
    strata: dict[str, dict[str, Interval]]
    cost: Cost
    team: Team | None = None


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """A run, summed up."""

    settings: Settings
    variants: dict[str, Part]
    reliability: Reliability | None = None  # of confidences that were fitted without the source packages they are judged on
    by_the_model: Reliability | None = None  # the same, of the values that the model chose
    foreign_table: bool = False  # they came from a table that another gold set made
    wrong: tuple[str, ...] = ()  # of the variant saidata: "nginx: commands: /usr/bin/x"
    machine: str = ""


def report(
    settings: Settings,
    outcomes: Sequence[Outcome],
    seconds: dict[str, float],
    table: Table | None,
    machine: str,
) -> Report:
    """The report of a run. `seconds` is what each column took on the clock, as far as this machine did the work."""
    made = [one for one in outcomes if one.variant == "saidata"]
    chosen = [msgspec.structs.replace(one, judged=tuple(j for j in one.judged if j.feature.by == "model")) for one in made]
    wrong = [f"{one.key}: {text}" for one in made for text in one.score.wrong]
    return Report(
        settings=settings,
        variants=_parts(settings, outcomes, seconds),
        reliability=reliability(_sureness_of(made, table)),
        by_the_model=reliability(_sureness_of(chosen, table)),
        foreign_table=table is not None,
        wrong=tuple(wrong[:MOST_WRONG]),
        machine=machine,
    )


SAME = ("gold", "files", "seed", "snapshot", "deep")
"""The settings that runs must share to stand side by side."""


def beside(found: Report, settings: Settings, outcomes: Sequence[Outcome], seconds: dict[str, float]) -> Report:
    """The report with another run's columns, free generation apart. Raises Misuse where that run is of other packages, or not done."""
    other = [field for field in SAME if getattr(settings, field) != getattr(found.settings, field)]
    if other:
        raise Misuse(f"the runs differ in {' and '.join(other)}", "only runs of the same packages can stand side by side")
    columns = dict(found.variants)
    files = max((part.files for part in columns.values()), default=0)
    for variant, part in _parts(settings, outcomes, seconds).items():
        if variant not in FREE:
            if part.files != files:
                raise Misuse(f"{part.title} has {part.files} files, and the run has {files}", "let both runs end first")
            name = part.title if settings.several else alone(settings.model)
            columns.setdefault(name, msgspec.structs.replace(part, title=name))
    return msgspec.structs.replace(found, variants=columns)


def _parts(settings: Settings, outcomes: Sequence[Outcome], seconds: dict[str, float]) -> dict[str, Part]:
    by_variant: dict[str, list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        by_variant[outcome.variant].append(outcome)
    return {
        variant: _part(by_variant[variant], _title(settings, variant), seconds.get(variant, 0.0))
        for variant in settings.columns
        if by_variant[variant]
    }


def _title(settings: Settings, variant: str) -> str:
    if variant == "saidata" and settings.several:
        return f"{settings.mode}: {', '.join((*settings.models, *settings.rules))}"
    return TITLES.get(variant, variant)


def _sureness_of(outcomes: Sequence[Outcome], table: Table | None) -> Sureness:
    return crossed(outcomes) if table is None else foreign(outcomes, table)


def _part(outcomes: Sequence[Outcome], title: str, seconds: float) -> Part:
    scores = [one.score for one in outcomes]
    measures = summary(scores)
    averaged = file_recall(scores)
    if averaged is not None:
        measures["file_recall"] = averaged
    if outcomes[0].variant not in FREE:  # which are never asked again
        measures["repair_free"] = ratio([(float(one.repairs == 0), 1.0) for one in outcomes])
    groups: dict[str, list[Score]] = defaultdict(list)
    for one in outcomes:
        if one.score.mode == "full":
            groups[f"popularity: {one.popularity}"].append(one.score)
            groups[f"kind: {one.kind}"].append(one.score)
            groups[f"half: {one.split}"].append(one.score)
    strata = {
        name: {measure: value for measure, value in summary(part).items() if measure in STRATA_SHOWN}
        for name, part in sorted(groups.items())
    }
    prompt = sum(one.effort.prompt_tokens for one in outcomes)
    steps = [float(one.effort.steps) for one in outcomes if one.effort.steps is not None]
    return Part(
        files=len(outcomes),
        title=title,
        measures=measures,
        strata=strata,
        cost=Cost(
            tokens=middle([float(one.effort.tokens) for one in outcomes]),
            prompt_tokens=middle([float(one.effort.prompt_tokens) for one in outcomes]),
            cached_share=sum(one.effort.cached_tokens for one in outcomes) / prompt if prompt else 0.0,
            steps=middle(steps) if steps else None,
            seconds=seconds / len(outcomes),
        ),
        team=_team(outcomes),
    )


def _team(outcomes: Sequence[Outcome]) -> Team | None:
    """None where one model did it all."""
    if len({name for one in outcomes for name in one.asked}) < 2:
        return None
    fields = dict.fromkeys(field for one in outcomes for field in one.agreed)
    votes = {field: [one.agreed[field] for one in outcomes if field in one.agreed] for field in fields}
    return Team(
        asked=dict(Counter(name for one in outcomes for name in dict.fromkeys(one.asked))),
        written=dict(Counter(one.model for one in outcomes if one.asked)),
        voted={field: (said.count(False), len(said)) for field, said in votes.items()},
    )


def markdown(found: Report, pictures: Iterable[str] = ()) -> str:
    """The report for a person."""
    return "\n".join(_lines(found, list(pictures))) + "\n"


def _lines(found: Report, pictures: Sequence[str]) -> Iterator[str]:
    settings = found.settings
    whole = "the whole gold set" if settings.files == 0 else f"{settings.files} gold packages (seed {settings.seed})"
    yield "# saidata: is what it writes true?\n"
    yield f"{_models(settings)}, index `{settings.snapshot}`, {whole}, plus tasks whose evidence is withheld and invented names."
    yield f"Packages were {'opened for licence and ports' if settings.deep else 'not opened: no licences, no ports'}. {found.machine}\n"
    yield "Square brackets are 95 % intervals, made by resampling files.\n"
    columns = list(found.variants)
    yield "| measure | " + " | ".join(found.variants[one].title for one in columns) + " |"
    yield "|---" * (len(columns) + 1) + "|"
    for name, title in [*((name, title) for name, (title, _) in MEASURES.items()), *MORE.items()]:
        cells = [found.variants[one].measures.get(name) for one in columns]
        if any(cells):
            yield f"| {title} | " + " | ".join(_cell(cell) for cell in cells) + " |"
    yield from _costs(found)
    yield from (f"\n![{name}]({name})" for name in pictures)
    yield from _teams(found)
    yield from _strata(found)
    yield from _sureness(found)
    if found.wrong:
        yield "\n## What was wrong\n"
        yield from (f"- {text}" for text in found.wrong)


def _models(settings: Settings) -> str:
    if not settings.several:
        return f"Model `{settings.model}`"
    said = {
        "route": f"each its kind of software ({', '.join(settings.rules) or 'no rule'}), the first where no rule fits",
        "agree": "all of them every file, and they vote",
        "escalate": f"the next where one is not sure of a choice (share below {settings.sure:g})",
    }
    return f"Models {', '.join(f'`{name}`' for name in settings.models)}: {said[settings.mode]}"


def _teams(found: Report) -> Iterator[str]:
    teams = [(part.title, part.files, part.team) for part in found.variants.values() if part.team is not None]
    if teams:
        yield "\n## How the models shared the work\n"
        yield "| models | asked for, of all files | wrote | differed on |"
        yield "|---|---|---|---|"
    for title, files, team in teams:
        asked = ", ".join(f"{name}: {number}" for name, number in team.asked.items())
        wrote = ", ".join(f"{name}: {number}" for name, number in team.written.items())
        voted = ", ".join(f"{field}: {apart} of {of}" for field, (apart, of) in team.voted.items())
        yield f"| {title} | {asked}, of {files} | {wrote} | {voted or 'not asked about the same'} |"


def _cell(value: Interval | None) -> str:
    return "" if value is None else f"{value} ({value.above:g} of {value.of:g})"


def _costs(found: Report) -> Iterator[str]:
    costs = [part.cost for part in found.variants.values()]
    yield "| tokens written per file | " + " | ".join(f"{cost.tokens.value:.0f}" for cost in costs) + " |"
    yield "| decode steps per file | " + " | ".join("" if c.steps is None else f"{c.steps.value:.0f}" for c in costs) + " |"
    yield "| prompt tokens per file | " + " | ".join(f"{cost.prompt_tokens.value:.0f}" for cost in costs) + " |"
    yield "| of the prompt, computed before | " + " | ".join(f"{cost.cached_share:.2f}" for cost in costs) + " |"
    yield "| seconds per file | " + " | ".join(f"{cost.seconds:.2f}" if cost.seconds else "" for cost in costs) + " |"


def _strata(found: Report) -> Iterator[str]:
    part = found.variants.get("saidata")
    if part is None:
        return
    yield "\n## saidata by stratum\n"
    yield "| stratum | " + " | ".join(STRATA_SHOWN) + " |"
    yield "|---" * (len(STRATA_SHOWN) + 1) + "|"
    for name, measures in part.strata.items():
        cells = [str(measures[measure]) if measure in measures else "" for measure in STRATA_SHOWN]
        yield f"| {name} | " + " | ".join(cells) + " |"


def _sureness(found: Report) -> Iterator[str]:
    yield "\n## Confidence\n"
    if found.reliability is None:
        yield "Too few values have a truth to fit and judge a confidence; none is shown."
        return
    yield (
        "Each value is judged by a table that was fitted on another gold set."
        if found.foreign_table
        else "Each value is judged by a table that was fitted without its source package's half of the gold set."
    )
    yield from _reliability("All values", found.reliability)
    if found.by_the_model is not None:
        yield from _reliability("What the model chose", found.by_the_model)
    else:
        yield "\nToo few of the model's choices have a truth."


def _reliability(title: str, sure: Reliability) -> Iterator[str]:
    yield f"\n{title}: {sure.values} values, reliability error {sure.error:.4f}, Brier score {sure.brier:.4f}, mean risk {sure.area:.4f}.\n"
    yield "| confidence | right | values |"
    yield "|---|---|---|"
    yield from (f"| {confidence:.3f} | {right:.3f} | {number} |" for confidence, right, number in sure.bins)
    yield "\n| of the values, surest first | wrong |"
    yield "|---|---|"
    step = max(1, len(sure.curve) // 12)
    shown = [point for place, point in enumerate(sure.curve, 1) if place % step == 0 or place == len(sure.curve)]
    yield from (f"| {coverage:.3f} | {risk:.4f} |" for coverage, risk in shown)
