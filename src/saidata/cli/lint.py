"""`saidata lint`: check files by themselves, without an index, a network or a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from saidata.check.check import Options, check_path
from saidata.cli.reporting import codes, each, finish, listed_rules, report_options, wanted


@click.command()
@report_options
def command(paths: tuple[Path, ...], form: str, as_json: bool, output: Path | None, list_rules: bool, **options: Any) -> int:
    """Check saidata files by themselves: format, spelling, shape, licences, addresses, checksums as text.

    PATHS are files and folders. Exit code 3 where something was found. A comment `# saidata: ignore SD702` in a line keeps a rule
    quiet there, and `# saidata: ignore-file SD702` in the whole file.
    """
    if list_rules:
        click.echo(listed_rules(as_json), nl=False)
        return 0
    settings = Options(strict=options["strict"], select=codes(options["select"]), ignore=codes(options["ignore"]))
    reports = [check_path(path, None, settings) for path in each(wanted(paths), "lint", quiet=output is not None)]
    return finish(reports, "json" if as_json else form, output, options["fail_on"])
