"""`saidata convert`: a file of saidata 0.1 or 0.2 as 0.3."""

from __future__ import annotations

from pathlib import Path

import click

from saidata.batch import files
from saidata.format.document import Text
from saidata.format.upgrade import upgraded


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--name", default="", help="The software's name, which a file of 0.1 does not say.")
@click.option("--in-place", is_flag=True, help="Write the file itself instead of printing.")
def command(path: Path, name: str, in_place: bool) -> None:
    """Write PATH, a file of saidata 0.1 or 0.2, as saidata 0.3.

    A file of 0.2 keeps every line that need not change. What 0.3 has no place for is named.
    """
    text, left = upgraded(Text.read(path), name)
    for key in left:
        click.echo(f"left out: {key}, for which saidata 0.3 has no place", err=True)
    if not in_place:
        click.echo(text.dump(), nl=False)
        return
    files.write(path, text.dump())
