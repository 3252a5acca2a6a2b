"""`redline list`: the models that are here, and the aliases that can be pulled. Open `command`."""

from __future__ import annotations

import json

import click

from redline.checkpoint import store
from redline.checkpoint.aliases import ALIASES
from redline.cli.arguments import JSON


@click.command("list")
@JSON
def command(as_json: bool) -> None:
    """List the models in the cache folder, and the aliases that `redline pull` knows."""
    here = store.list_models()
    names = {row.name for row in here}
    missing = [alias for alias in ALIASES.values() if alias.name not in names]
    if as_json:
        document = {
            "models": [{"name": row.name, "path": str(row.path), "bytes": row.bytes, "format": row.format} for row in here],
            "aliases": [{"name": alias.name, "about": alias.about, "bytes": alias.bytes} for alias in missing],
        }
        click.echo(json.dumps(document, indent=1))
        return
    rows = [(row.name, f"{row.bytes / 1e6:.0f} MB", row.format, str(row.path)) for row in here]
    rows += [
        (alias.name, f"{alias.bytes / 1e6:.0f} MB", "not here", f"redline pull {alias.name}: {alias.about}") for alias in missing
    ]
    width = max(len(name) for name, *_ in rows)
    for name, size, kind, rest in rows:
        click.echo(f"{name:<{width}}  {size:>9}  {kind:<11}  {rest}")
