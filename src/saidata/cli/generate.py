"""`saidata generate NAME`: one file, on standard output or in a folder; what is worth a look goes to standard error. Open `command`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import msgspec

from saidata.batch import files
from saidata.batch.answers import StoredAnswers
from saidata.batch.archive import EDITED, Archive, content_of
from saidata.cli.options import JSON
from saidata.cli.workshop import Workshop, model_options, settings_of
from saidata.errors import Misuse, SaidataError
from saidata.facts import Evidence
from saidata.facts import Path as Place
from saidata.format.document import Text
from saidata.format.layout import place, safe_name
from saidata.generate.crew import Crew
from saidata.generate.live import Live, stopped_in
from saidata.generate.made import Made
from saidata.generate.make import Maker
from saidata.generate.skeleton import key_of

INTERRUPTED = 130
SHOWN = 8  # values to review


@click.command("generate")
@click.argument("name", required=False)
@model_options
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    default=None,
    help="Folder for the file (NG/NGINX/default.yaml); kept in the archive.",
)
@click.option(
    "--continue",
    "continued",
    type=click.Path(path_type=Path),
    default=None,
    help="Go on with a file that is not finished; what it says stands.",
)
@click.option("--stream", is_flag=True, help="Show the text as the model writes it, on standard error.")
@click.option("--fresh", is_flag=True, help="Ask the model even where the same was asked before.")
@click.option("--force", is_flag=True, help="Replace a file that was edited by hand.")
@click.option("--quiet", is_flag=True, help="Say nothing but the file.")
@JSON
def command(
    name: str | None, api_key: str | None, out: Path | None, continued: Path | None, as_json: bool, **options: Any
) -> int:
    """Write the saidata file of one software, from evidence.

    Interrupted (Ctrl-C), it keeps what was written so far; edit that, and give it to --continue with the same or other options.
    """
    settings = settings_of(options)
    quiet = options["quiet"] or as_json
    given, stopped = _given(continued) if continued else (None, ())
    name = _name(name, given)
    with Workshop(settings, key=api_key, quiet=quiet) as workshop:
        evidence = workshop.evidence(name)
        answers = StoredAnswers(workshop.store, anew=options["fresh"])
        maker, live = workshop.makers(answers), None
        if isinstance(maker, Crew):
            if given is not None:
                raise Misuse("a file is gone on with by one model", hint="leave --with out")
            return _end(workshop, maker.make(evidence), options, out, as_json, ended=True)
        if (known := _known(maker, evidence, given, stopped)) is not None:
            made, ended = known, True
        else:
            live = Live(maker, evidence, given=given, stopped=stopped)
            ended = _followed(live, workshop, quiet=quiet, stream=options["stream"])
            made = live.made()
        code = _end(workshop, made, options, out, as_json, ended=ended)
        if live is not None and ended and live.kept is not None:
            answers.put(*live.kept)
        return code


def _end(workshop: Workshop, made: Made, options: dict[str, Any], out: Path | None, as_json: bool, *, ended: bool) -> int:
    """Keep or print the file, and say what is worth a look."""
    workshop.clear()
    if out is not None:
        _keep(workshop, out, made, force=options["force"])
    if as_json:
        click.echo(msgspec.json.encode(told(made)))
    elif out is None:
        click.echo(made.yaml, nl=False)
    if not options["quiet"] and not as_json:
        _summary(made)
    if ended and not made.complete:
        raise SaidataError(
            f"the model gave no whole answer: {', '.join(made.missing)} is missing",
            "ask again, with --fresh or another model; the rest of the file holds",
        )
    return 0 if ended else INTERRUPTED


def told(made: Made) -> dict[str, Any]:
    """A result as JSON shows it."""
    return {
        **msgspec.to_builtins(made),
        "review": [{"why": why, "path": key_of(f.path), "value": f.value} for why, f in made.review],
    }


def _known(maker: Maker, evidence: Evidence, given: Mapping[str, Any] | None, stopped: Place) -> Made | None:
    """The file from answers that are kept, where nothing has to be asked."""
    job = maker.begin(0, evidence, given, stopped)
    if job.asked.questions and maker.cached(job) is None:
        return None
    return maker.make(evidence, given=given, stopped=stopped)


def _given(path: Path) -> tuple[dict[str, Any], Place]:
    """What an unfinished file says, and where it was stopped."""
    text = Text.read(path)
    _, stopped = stopped_in(text.dump())
    if not isinstance(text.value.get("metadata"), dict):
        raise Misuse(f"{path} is no saidata file", hint="give one that `saidata generate` wrote")
    return text.value, stopped


def _name(name: str | None, given: dict[str, Any] | None) -> str:
    stated = (given or {}).get("metadata", {}).get("name")
    if name is None and not stated:
        raise Misuse("no software is named", hint="give a name, such as nginx, or --continue with a file")
    if name is not None and stated and name != stated:
        raise Misuse(f"the file is of {stated}, not of {name[:80]}", hint="leave the name out")
    return safe_name(str(stated if name is None else name))


def _followed(live: Live, workshop: Workshop, *, quiet: bool, stream: bool) -> bool:
    """Read the file as it is written and show each value, or with `stream` the very text; False where it was interrupted."""
    try:
        for step in live:
            workshop.clear()
            wrong = f"   refused: {step.faults[0].message}" if step.faults else ""
            if stream:
                click.echo(step.text, nl=False, err=True)
            elif step.path and not quiet:
                shown = ", ".join(step.value) if isinstance(step.value, list) else step.value
                click.echo(f"{key_of(step.path)}: {shown}{wrong}", err=True)
        if stream:
            click.echo(err=True)
    except KeyboardInterrupt:
        live.stop()
        return False
    return True


def _keep(workshop: Workshop, out: Path, made: Made, *, force: bool) -> None:
    path = out / place(made.name)
    if not made.complete:
        path = path.with_name("default.yaml.part")
        files.write(path, made.yaml)
        click.echo(f"what was written so far is in {path}: saidata generate --continue {path}", err=True)
        return
    archive = Archive(workshop.store)
    before = files.read(path)
    edited = before is not None and not archive.generated(made.name, before)
    if edited and not force:
        raise Misuse(f"{path} was edited by hand", hint="--force replaces it; the archive keeps it")
    with workshop.store.changes():
        if edited and before is not None:
            archive.add(made.name, before, content_of({"edited": before}), note=EDITED)
        version = archive.add(
            *(made.name, made.yaml, content_of(made.data)), model=made.model, note="generated", evidence=made.digest
        )
    files.write(path, archive.text(version))
    click.echo(f"{path} (version {version.number})", err=True)


def _summary(made: Made) -> None:
    """How sure it is, what it cost, what to look at."""
    counts = {status: sum(v.status == status for v in made.verdicts) for status in ("confirmed", "not_checkable", "contradicted")}
    lines = [
        f"{counts['confirmed']} values confirmed, {counts['not_checkable']} not checkable, {len(made.removed)} refused and left out"
    ]
    if made.route:
        lines.append(made.route)
    for path, said in made.disagreements.items():
        lines.append(f"{path}: " + "; ".join(f"{', '.join(models)} said {value or 'nothing'}" for value, models in said.items()))
    effort = made.effort
    if effort.from_cache:
        lines.append("the model was not asked: its answer was kept")
    elif effort.asks:
        steps = f" in {effort.steps} steps" if effort.steps is not None else ""
        lines.append(
            f"{effort.tokens} tokens{steps}, {effort.cached_tokens} of {effort.prompt_tokens} prompt tokens known before, "
            f"{made.repairs} repairs, {effort.seconds:.1f} s"
        )
    lines += [f"left out: {path}: {why}" for path, why in made.abstained.items()]
    lines += [f"refused: {key_of(fault.path)}: {fault.message}" for fault in made.removed]
    review = made.review
    lines += [f"look at {key_of(feature.path)}: {why} ({feature.value})" for why, feature in review[:SHOWN]]
    if len(review) > SHOWN:
        lines.append(f"and {len(review) - SHOWN} more: --json lists them")
    for line in lines:
        click.echo(line, err=True)
