"""`saidata archive`: what was generated before, what changed, and going back. Open `command`."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from saidata.batch import files
from saidata.batch.archive import EDITED, Archive, content_of
from saidata.batch.store import Store
from saidata.cli.options import JSON
from saidata.format.layout import place
from saidata.places import work_file


@click.group("archive")
def command() -> None:
    """Show, compare and bring back earlier results."""


@command.command("list")
@JSON
def list_names(as_json: bool) -> None:
    """Every name and its newest version."""
    with Store(work_file()) as store:
        found = Archive(store).names()
    if as_json:
        click.echo(msgspec.json.encode(found))
        return
    if not found:
        click.echo("the archive is empty: `saidata generate --out DIR` and `saidata batch` fill it")
    for version in found:
        click.echo(f"{version.name:<32} version {version.number:>3}  {version.at}  {version.note}  {version.model}")


@command.command("log")
@click.argument("name")
@JSON
def log(name: str, as_json: bool) -> None:
    """All versions of one name, the newest first."""
    with Store(work_file()) as store:
        found = Archive(store).history(name)
    if as_json:
        click.echo(msgspec.json.encode(found))
        return
    for version in found:
        job = f"job {version.job}" if version.job is not None else ""
        click.echo(f"{version.number:>3}  {version.at}  {version.note:<16}  {version.model}  {job}".rstrip())


@command.command("show")
@click.argument("name")
@click.argument("number", type=int, required=False)
def show(name: str, number: int | None) -> None:
    """Print one version, the newest without a number."""
    with Store(work_file()) as store:
        archive = Archive(store)
        click.echo(archive.text(archive.version(name, number)), nl=False)


@command.command("diff")
@click.argument("name")
@click.argument("old", type=int, required=False)
@click.argument("new", type=int, required=False)
def diff(name: str, old: int | None, new: int | None) -> None:
    """What changed between two versions: the last two without numbers, OLD and the newest with one."""
    with Store(work_file()) as store:
        click.echo(Archive(store).diff(name, old, new), nl=False)


@command.command("rollback")
@click.argument("name")
@click.argument("number", type=int)
@click.option("-o", "--out", type=click.Path(path_type=Path), default=None, help="Also write the file into this folder.")
def rollback(name: str, number: int, out: Path | None) -> None:
    """Make an old version the newest one again. Nothing is taken out of the archive."""
    with Store(work_file()) as store:
        archive = Archive(store)
        made = archive.back(name, number)
        click.echo(f"{name}: version {made.number} is {made.note}")
        if out is not None:
            path = out / place(name)
            before = files.read(path)
            if before is not None and not archive.generated(name, before):
                with store.changes():
                    archive.add(name, before, content_of({"edited": before}), note=EDITED)
                    made = archive.add(name, archive.text(made), made.content, model=made.model, note=made.note)
            files.write(path, archive.text(made))
            click.echo(str(path))
