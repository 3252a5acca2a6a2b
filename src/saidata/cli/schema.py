"""`saidata schema`: print the JSON schema, for editors and other validators."""

from __future__ import annotations

import json

import click

from saidata.format.schema import FORMS, schema


@click.command()
@click.option("--strict", is_flag=True, help="Refuse unknown keys.")
@click.option("--version", "form", type=click.Choice(FORMS), default="0.3", show_default=True, help="Of which saidata.")
@click.option(
    "--overlay", is_flag=True, help="For the files per operating system, which may leave out what their default file has."
)
@click.option("--json", "as_json", is_flag=True, help="On one line.")
def command(strict: bool, form: str, overlay: bool, as_json: bool) -> None:
    """Print the JSON schema (draft-07) of saidata."""
    made = schema(strict, form, overlay=overlay)
    click.echo(json.dumps(made, separators=(",", ":")) if as_json else json.dumps(made, indent=2))
