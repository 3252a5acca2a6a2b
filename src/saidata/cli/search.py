"""`saidata search`: the packages that a name or a description means. Open `command`."""

from __future__ import annotations

import json

import click

from saidata.cli.options import JSON, SNAPSHOT, opened
from saidata.errors import FINDINGS
from saidata.retrieve import search


@click.command("search")
@click.argument("query", nargs=-1, required=True)
@click.option("--limit", type=click.IntRange(1, 1000), default=10, show_default=True, help="How many at most.")
@click.option("--explain", is_flag=True, help="Say of each why it is found and how it is ranked.")
@SNAPSHOT
@JSON
def command(query: tuple[str, ...], limit: int, explain: bool, snapshot: str | None, as_json: bool) -> int:
    """Find the packages that a name or a description means, best first. Exit 3 where there are none."""
    text = " ".join(query)
    with opened(snapshot) as index:
        found = search(text, index, limit)
        packages = {package.name: package for package in index.packages(candidate.package for candidate in found)}
    if as_json:
        rows = [
            {
                "package": candidate.package,
                "provider": candidate.provider,
                "version": packages[candidate.package].version,
                "summary": packages[candidate.package].summary,
                "score": candidate.score,
                "reasons": list(candidate.reasons),
            }
            for candidate in found
        ]
        click.echo(json.dumps({"query": text, "snapshot": index.version, "candidates": rows}, indent=1))
    else:
        width = max((len(candidate.package) for candidate in found), default=0)
        for candidate in found:
            click.echo(f"{candidate.package:<{width}}  {packages[candidate.package].summary}")
            if explain:
                click.echo(f"{'':<{width}}  {candidate.score:.2f}: {'; '.join(candidate.reasons)}")
        if not found:
            click.echo(f"nothing in {index.version} is like {text!r:.80}")
    return 0 if found else FINDINGS
