"""`saidata eval`: generate files about packages whose truth is known, and say how right they are. Open `command`.

The gold set, the measures and the report are the room evaluate's; this file opens the index and the model, and prints.
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click
import msgspec

from saidata.cli.workshop import engine_options, who_options
from saidata.errors import FINDINGS, Misuse

if TYPE_CHECKING:
    from saidata.evaluate.report import Report
    from saidata.evaluate.run import Run, Settings
    from saidata.facts import Evidence

VARIANTS = ("saidata", "alone", "index", "free")


@click.command("eval")
@who_options
@click.option(
    "--files", type=click.IntRange(0), default=60, show_default=True, help="How many gold packages; 0 is the whole set."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Draws the packages, and seeds the model.")
@click.option(
    "--variant",
    "variants",
    multiple=True,
    type=click.Choice(VARIANTS),
    default=VARIANTS,
    help="What is compared; all by default. `alone`: each of several models by itself.",
)
@click.option("--deep/--no-deep", default=True, show_default=True, help="Open the packages: licence, ports, maintainer scripts.")
@click.option(
    "--scores/--no-scores", default=True, show_default=True, help="Read log-probabilities, for confidence; costs steps."
)
@click.option("--form", type=click.Choice(["json", "yaml"]), default="json", show_default=True, help="How the model writes.")
@click.option("--gold", type=click.Path(path_type=Path), default=None, help="Another gold set.")
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), default=None, help="Folder of the run; a stopped one goes on."
)
@click.option("--calibration", type=click.Path(path_type=Path), default=None, help="Calibration table to judge.")
@click.option(
    "--calibrate", "write_table", type=click.Path(path_type=Path), default=None, help="Fit a table on one half; write it here."
)
@click.option("--pictures", is_flag=True, help="Draw the report, with matplotlib.")
@click.option(
    "--gate", type=click.Path(exists=True, dir_okay=False, path_type=Path), default=None, help="Exit with 3 where this fails."
)
@click.option(
    "--pack", type=click.Path(dir_okay=False, path_type=Path), default=None, help="Only write the run's evidence to a file."
)
@click.option(
    "--evidence", type=click.Path(path_type=Path), default=None, help="Use packed evidence; no index or apt is needed then."
)
@click.option(
    "--beside",
    multiple=True,
    type=click.Path(file_okay=False, path_type=Path),
    metavar="FOLDER",
    help="In the report, set this other run of the same packages beside; may be repeated.",
)
@click.option("--report-only", is_flag=True, help="Sum up what the folder holds; generate nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@click.pass_context
def command(ctx: click.Context, /, **options: Any) -> None:
    """Measure generation on the gold set: packages whose units, files, commands and licences were read from the packages themselves.

    Beside it, in the same run, free generation without the index and with it. The folder of the run holds every file's outcome,
    report.json and report.md; a run that was stopped goes on where it was.
    """
    from saidata.evaluate import calibrate, gate, report

    if options["pack"]:
        click.echo(f"the evidence of {_packed(options)} names is in {options['pack']}", err=True)
        return
    wanted = gate.load(options["gate"]) if options["gate"] else None
    if options["pictures"]:
        from saidata.evaluate import pictures

        pictures.require()
    table = calibrate.load(options["calibration"]) if options["calibration"] else None
    run = _report_only(options) if options["report_only"] else _measured(options)
    if table is not None and table.gold == run.settings.gold:
        raise Misuse("this table was fitted on this gold set, so it cannot be judged here", "give another set with --gold")
    if options["write_table"]:
        options["write_table"].write_bytes(msgspec.json.format(msgspec.json.encode(_fitted(run)), indent=1) + b"\n")
    found = report.report(run.settings, run.outcomes, run.seconds, table, run.machine)
    for folder in options["beside"]:
        other = _done(folder)
        found = report.beside(found, other.settings, other.outcomes, other.seconds)
    _write(found, run.folder, options["pictures"])
    click.echo(msgspec.json.encode(found).decode() if options["as_json"] else report.markdown(found), nl=options["as_json"])
    if wanted is not None:
        told = gate.failures(found, wanted, options["gate"])
        for sentence in told:
            click.echo(f"gate: {sentence}", err=True)
        if told:
            ctx.exit(FINDINGS)


def _settings(options: dict[str, Any], snapshot: str, gold: str) -> Settings:
    from saidata.evaluate.run import Settings

    several = len({options["model"], *options["others"]}) > 1
    order = tuple(each for each in VARIANTS if each in options["variants"] and (several or each != "alone"))
    if not order:
        raise Misuse("there is one model, so the variant saidata is that model alone", "name another model with --with")
    return Settings(
        model=options["model"],
        snapshot=snapshot,
        gold=gold,
        files=options["files"],
        seed=options["seed"],
        variants=order,  # type: ignore[arg-type]  # click has checked them
        deep=options["deep"],
        form=options["form"],
        scores=options["scores"] or options["mode"] != "route",  # votes and doubts rest on them
        others=tuple(dict.fromkeys(options["others"])),
        mode=options["mode"],
        rules=tuple(options["rules"]),
        sure=options["sure"],
    )


def _measured(options: dict[str, Any]) -> Run:
    """The run, with all its files made."""
    from saidata.evaluate import gold
    from saidata.evaluate.run import Run, gold_hash
    from saidata.generate.crew import together
    from saidata.generate.make import Maker
    from saidata.models import open_model
    from saidata.places import api_key

    records = gold.load(options["gold"])
    tasks = gold.tasks(records, options["files"], options["seed"])
    with contextlib.ExitStack() as open_:
        source = _source(options, open_)
        settings = _settings(options, source.snapshot, gold_hash(records))
        engine, key = engine_options(options["engine"]), options["api_key"] or api_key()
        models = [
            open_.enter_context(open_model(name, base_url=options["base_url"], key=key, **engine)) for name in settings.models
        ]
        together([Maker(model) for model in models], settings.mode, settings.rules, settings.sure)  # refuses what makes no sense
        run = Run(options["out"] or _folder(settings), settings)
        click.echo(f"{len(tasks)} files for each of {', '.join(settings.columns)}; the run is in {run.folder}", err=True)
        run.machine = _machine(options)
        run.work(tasks, models, source.gather, source.exists, _progress())
    return run


class _Source(NamedTuple):
    """Where a run's evidence comes from."""

    snapshot: str
    gather: Callable[[str], Evidence]
    exists: Callable[[str], bool]


def _source(options: dict[str, Any], open_: contextlib.ExitStack) -> _Source:
    """The packed evidence that was given, or else the index in use."""
    from saidata.evaluate.packed import Packed
    from saidata.evidence import gather
    from saidata.index.snapshots import current

    if options["evidence"]:
        packed = Packed(options["evidence"])
        if packed.head.deep != options["deep"]:
            raise Misuse(
                f"the packed evidence was made with --{'' if packed.head.deep else 'no-'}deep",
                "give the same option, or pack it again",
            )
        return _Source(packed.head.snapshot, packed.gather, packed.exists)
    index = open_.enter_context(current())
    deep = options["deep"]
    return _Source(index.version, lambda name: gather(name, index, deep=deep), lambda name: index.package(name) is not None)


def _packed(options: dict[str, Any]) -> int:
    """Write the evidence of the run to a file; how many names."""
    from saidata.evaluate import gold, packed
    from saidata.evidence import gather
    from saidata.index.snapshots import current

    tasks = gold.tasks(gold.load(options["gold"]), options["files"], options["seed"])
    names = list(dict.fromkeys(task.gold.name for task in tasks))
    with current() as index:
        every = tuple(name for provider, name, _ in index.every() if provider == "apt")
        head = packed.Head(index.version, options["deep"], every)
        return packed.pack(options["pack"], head, (gather(name, index, deep=options["deep"]) for name in names))


def _report_only(options: dict[str, Any]) -> Run:
    if options["out"] is None or not (options["out"] / "run.json").is_file():
        raise Misuse("--report-only needs --out with the folder of a run", "leave --report-only out to make one")
    return _done(options["out"])


def _done(folder: Path) -> Run:
    """The run that a folder holds."""
    from saidata.evaluate.run import Run, Settings

    said = folder / "run.json"
    if not said.is_file():
        raise Misuse(f"{folder} holds no run", "give the folder that `saidata eval --out` wrote")
    try:
        return Run(folder, msgspec.json.decode(said.read_bytes(), type=Settings))
    except msgspec.DecodeError as error:
        raise Misuse(f"the run in {folder} cannot be read: {error}", "make it again in another folder") from None


def _fitted(run: Run) -> Any:
    from saidata.evaluate import calibrate
    from saidata.evaluate.run import known

    if run.settings.several:
        raise Misuse("a table is of one model, and this run has several", "calibrate with a run of one model, without --with")
    table = calibrate.fit(known(run.outcomes), run.settings.model, run.settings.gold)
    if not table.groups:
        raise Misuse("too few values were judged to calibrate anything", "run more files: --files 0 is the whole set")
    return table


def _write(found: Report, folder: Path, draw: bool) -> None:
    """report.json, report.md and the pictures."""
    from saidata.evaluate.report import markdown

    drawn: Sequence[str] = ()
    if draw:
        from saidata.evaluate import pictures

        drawn = pictures.draw(found, folder)
    (folder / "report.json").write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=1) + b"\n")
    (folder / "report.md").write_text(markdown(found, drawn))


def _folder(settings: Settings) -> Path:
    from saidata.places import home

    named = settings.models if not settings.several else (*settings.models, settings.mode, *settings.rules)
    model = re.sub(r"[^A-Za-z0-9.]+", "-", "-".join(named)).strip("-")[:100]
    return home() / "eval" / f"{model}-{settings.files or 'all'}-{settings.seed}"


def _progress() -> Callable[[str, int, int], None]:
    """A line that is written over on a terminal; elsewhere one now and then."""
    live = sys.stderr.isatty()
    said: dict[str, int] = {}

    def told(variant: str, done: int, of: int) -> None:
        if live:
            click.echo(f"\r{variant}: {done} of {of} files ", err=True, nl=done == of)
        elif done == of or done - said.get(variant, -of) >= 25:
            said[variant] = done
            click.echo(f"{variant}: {done} of {of} files", err=True)

    return told


def _machine(options: dict[str, Any]) -> str:
    """Where the model ran, for the report."""
    if options["base_url"]:
        return "The model ran behind an address."
    return f"The model ran in this process: {os.cpu_count()} CPU cores, {platform.machine()}, {' '.join(options['engine']) or 'redline defaults'}."
