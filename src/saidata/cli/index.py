"""`saidata index`: build, update, list, show, use, compare, export, import and search the index of real packages. Open `command`."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from saidata.cli.options import JSON, opened
from saidata.cli.search import command as search_command
from saidata.errors import FINDINGS, Misuse
from saidata.index import Index, snapshots

MOST_SHOWN = 20


@click.group("index")
def command() -> None:
    """Build, update, search, export and import the index of real packages."""


@command.command("build")
@click.option("--force", is_flag=True, help="Build again even where nothing changed.")
@click.option("--no-fetch", is_flag=True, help="Use the lists of the last update; no network.")
@JSON
def build(force: bool, no_fetch: bool, as_json: bool) -> None:
    """Fetch apt's lists into a folder of our own and build the index. No root, and the machine's apt is left alone."""
    _refresh(force, not no_fetch, as_json)


@command.command("update")
@JSON
def update(as_json: bool) -> None:
    """Bring the index up to date: built beside the old one, which stays in use until the new one is whole."""
    _refresh(False, True, as_json)


@command.command("list")
@JSON
def list_(as_json: bool) -> None:
    """List the snapshots that are kept, newest first."""
    names = snapshots.names()
    here = _current_name()
    if as_json:
        click.echo(json.dumps({"current": here, "snapshots": names}))
        return
    for name in names:
        click.echo(f"{'*' if name == here else ' '} {name}")
    if not names:
        click.echo("no snapshot is kept: run `saidata index build`, or `saidata index import FILE`")


@command.command("show")
@click.argument("name", required=False)
@click.option("--check", is_flag=True, help="Read every page of the file and say whether it is sound.")
@JSON
def show(name: str | None, check: bool, as_json: bool) -> None:
    """Show a snapshot: where it comes from, how old it is and what it holds."""
    with opened(name) as index:
        if check:
            index.check()
        document = _about(index)
        if as_json:
            click.echo(json.dumps(document, indent=1))
            return
        counts = "; ".join(f"{kind}: {number:,}" for kind, number in index.counts().items())
        click.echo(f"{index.version}  built {document['built']}, {document['bytes'] / 1e6:.0f} MB{', sound' if check else ''}")
        click.echo(counts)
        width = max(len(source.label) for source in index.sources.values())
        for source in index.sources.values():
            click.echo(f"  {source.label:<{width}}  {source.date or 'undated':<10}  {source.entries:>9,} entries")


@command.command("use")
@click.argument("name")
def use(name: str) -> None:
    """Make a kept snapshot the one in use."""
    snapshots.use(name)
    click.echo(f"in use: {name}")


@command.command("diff")
@click.argument("old")
@click.argument("new", required=False)
@JSON
def diff(old: str, new: str | None, as_json: bool) -> int:
    """Compare two snapshots (NEW is the one in use where not given): packages that came, went or changed. Exit 3 if any."""
    with snapshots.named(old) as before, snapshots.named(new) as after:
        change = snapshots.compare(before, after)
        title = f"{before.version} -> {after.version}"
    if as_json:
        document = {"added": change.added, "removed": change.removed, "changed": change.changed}
        click.echo(json.dumps(document, indent=1))
    else:
        click.echo(f"{title}: {len(change.added)} added, {len(change.removed)} removed, {len(change.changed)} changed")
        _some("+", change.added)
        _some("-", change.removed)
        _some("~", [f"{name} {was} -> {now}" for name, (was, now) in change.changed.items()])
    return FINDINGS if change.added or change.removed or change.changed else 0


@command.command("export")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@JSON
def export(file: Path, as_json: bool) -> None:
    """Write the index in use to one compressed file, for machines without apt."""
    if not file.absolute().parent.is_dir():
        raise Misuse(f"there is no folder {file.absolute().parent}", "make it first")
    manifest = snapshots.export(file)
    if as_json:
        document = {"version": manifest.version, "sha256": manifest.sha256, "file": str(file), "bytes": file.stat().st_size}
        click.echo(json.dumps(document))
        return
    click.echo(
        f"{file}: {manifest.version}, {file.stat().st_size / 1e6:.0f} MB; take it in with `saidata index import {file.name}`"
    )


@command.command("import")
@click.argument("file", type=click.Path(path_type=Path))
@JSON
def import_(file: Path, as_json: bool) -> None:
    """Take in an exported index. Its hash and its pages are checked before it is put in use."""
    manifest = snapshots.import_file(file)
    if as_json:
        click.echo(json.dumps({"version": manifest.version, "sha256": manifest.sha256}))
        return
    click.echo(f"in use: {manifest.version}, exported {manifest.exported}")


command.add_command(search_command, "search")


def _refresh(force: bool, fetch: bool, as_json: bool) -> None:
    start = time.monotonic()
    console = Console(file=sys.stderr)
    columns = (TextColumn("{task.description:<22}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("apt lists", total=1.0)
        name, new = snapshots.refresh(
            fetch=fetch, force=force, progress=lambda stage, part: bar.update(task, description=stage, completed=part)
        )
    seconds = time.monotonic() - start
    with snapshots.current() as index:
        counts = index.counts()
    if as_json:
        click.echo(json.dumps({"version": name, "new": new, "seconds": round(seconds, 2), "counts": counts}))
        return
    click.echo(f"{name}: {'built' if new else 'nothing changed'}, {counts['packages']:,} packages, {seconds:.1f} s")


def _about(index: Index) -> dict[str, Any]:
    return {
        "version": index.version,
        "built": index.meta["built"],
        "age_days": index.age_days,
        "path": str(index.path),
        "bytes": index.path.stat().st_size,
        "counts": index.counts(),
        "sources": [
            {"label": source.label, "provider": source.provider, "date": source.date, "entries": source.entries}
            for source in index.sources.values()
        ],
    }


def _current_name() -> str:
    try:
        with snapshots.current() as index:
            return index.version
    except Misuse:
        return ""


def _some(mark: str, lines: list[str]) -> None:
    for line in lines[:MOST_SHOWN]:
        click.echo(f"{mark} {line}")
    if len(lines) > MOST_SHOWN:
        click.echo(f"{mark} ... and {len(lines) - MOST_SHOWN} more: --json lists all")
