"""Options that several commands have, and what they stand for: `JSON`, `SNAPSHOT`, `PROVIDERS`, and `opened`, the index they name."""

from __future__ import annotations

import click

from saidata.index import Index, snapshots

OLD_DAYS = 30


def _known(context: click.Context, parameter: click.Parameter, names: tuple[str, ...]) -> tuple[str, ...]:
    """Refuse a provider that does not exist before anything else is done."""
    from saidata.sources.listing import find

    for name in names:
        if name != "apt":
            find(name)
    return names


JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of text.")
SNAPSHOT = click.option("--index", "snapshot", metavar="NAME", default=None, help="A kept snapshot; the one in use without it.")
PROVIDERS = click.option(
    "--provider",
    "providers",
    multiple=True,
    default=("apt",),
    show_default=True,
    callback=_known,
    help="Ask this provider for facts; may be repeated.",
)
DEEP = "Open the packages too: licence, users, folders, ports. Downloads each once."


def opened(snapshot: str | None = None) -> Index:
    """The index, by its name or the one in use; says so on standard error where it is old."""
    index = snapshots.named(snapshot)
    if index.age_days > OLD_DAYS:
        click.echo(f"the index is {index.age_days} days old: `saidata index update` brings it up to date", err=True)
    return index
