"""`saidata merge`: a default file as it stands on one operating system."""

from __future__ import annotations

import json
from pathlib import Path

import click

from saidata.errors import Misuse
from saidata.format.emit import emit
from saidata.format.merge import on_system


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--os", "system", required=True, metavar="NAME[/VERSION]", help="The operating system: ubuntu/22.04.")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def command(path: Path, system: str, as_json: bool) -> None:
    """Print what PATH, a default.yaml, says on one operating system: its overlay merged in."""
    name, _, version = system.partition("/")
    if not name or not version:
        raise Misuse(f"{system!r} names no operating system and release.", "write it like ubuntu/22.04")
    data, used = on_system(path / "default.yaml" if path.is_dir() else path, name, version)
    if len(used) == 1:
        click.echo(f"there is nothing for {system}: this is the default file", err=True)
    click.echo(json.dumps(data, indent=2, ensure_ascii=False) if as_json else emit(data), nl=as_json)
