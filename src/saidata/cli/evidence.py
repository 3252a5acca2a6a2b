"""`saidata evidence`: what is known about one software, and from where. Open `command`."""

from __future__ import annotations

import re

import click
import msgspec

from saidata.cli.options import DEEP, JSON, PROVIDERS, SNAPSHOT, opened
from saidata.errors import FINDINGS, BadName
from saidata.evidence import gather
from saidata.facts import Evidence

# A package's name in any provider (@scope/name too), or a software's as people write it.
_NAME = re.compile(r"(?!.*\.\.)@?[^\W_][\w@ .+/-]{0,199}")
PER_KIND = 12
LONGEST_VALUE = 100


@click.command("evidence")
@click.argument("name")
@PROVIDERS
@click.option("--deep", is_flag=True, help=DEEP)
@click.option("--all", "every", is_flag=True, help=f"Print every fact, not {PER_KIND} of a kind.")
@SNAPSHOT
@JSON
def command(name: str, providers: tuple[str, ...], deep: bool, every: bool, snapshot: str | None, as_json: bool) -> int:
    """Show what is known about a software: each fact with its package and where it was read. Exit 3 where nothing is."""
    if not _NAME.fullmatch(name):
        shown = ascii(name[:40]) + "..." * (len(name) > 40)
        raise BadName(f"{shown} is no name of a software", "give one such as nginx; `saidata search` takes a description")
    with opened(snapshot) as index:
        evidence = gather(name, index, providers=providers, deep=deep)
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(evidence), indent=1).decode())
    else:
        _print(evidence, every)
    return 0 if evidence.facts else FINDINGS


def _print(evidence: Evidence, every: bool) -> None:
    click.echo(f"{evidence.name}: {len(evidence.facts)} facts, index {evidence.snapshot}")
    for candidate in evidence.candidates[:3]:
        click.echo(f"  candidate {candidate.package} ({candidate.provider}): {'; '.join(candidate.reasons)}")
    for kind in dict.fromkeys(fact.kind for fact in evidence.facts):
        facts = evidence.of(kind)
        click.echo(f"{kind}")
        for fact in facts if every else facts[:PER_KIND]:
            value = " ".join(fact.value.split())
            short = value if len(value) <= LONGEST_VALUE else value[: LONGEST_VALUE - 3] + "..."
            detail = f"  ({fact.detail})" if fact.detail and len(fact.detail) <= LONGEST_VALUE else ""
            click.echo(f"  {short}{detail}  [{fact.source}{'' if fact.package in fact.source else ', ' + fact.package}]")
        if len(facts) > PER_KIND and not every:
            click.echo(f"  ... and {len(facts) - PER_KIND} more: --all prints them")
    for provider, reason in evidence.not_checked.items():
        click.echo(f"{provider}: {reason}")
