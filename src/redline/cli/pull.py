"""`redline pull MODEL`: fetch a model into the cache folder. Open `command`."""

from __future__ import annotations

import json

import click

from redline.checkpoint import store
from redline.cli.arguments import JSON, MODEL
from redline.cli.fetch import reporter
from redline.cli.progress import Progress


@click.command("pull")
@MODEL
@click.option("--revision", default=None, help="Branch, tag or commit of a hub model.")
@JSON
def command(model: str, revision: str | None, as_json: bool) -> None:
    """Fetch a model into the cache folder: an alias (see `redline list`), or org/name[:QUANT] from the hub.

    A pull that was cut off goes on where it stopped; hashes are checked; what is here already is not fetched again.
    """
    with Progress(quiet=as_json) as progress:
        path = store.pull(model, revision=revision, progress=reporter(progress))
    click.echo(json.dumps({"name": model, "path": str(path)}) if as_json else f"{model} is in {path}")
