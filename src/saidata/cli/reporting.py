"""What `lint` and `check` share: which files, how they are reported, which exit code. Open `report_options` and `finish`."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from saidata.batch import files
from saidata.check.check import Report
from saidata.check.outputs import FORMATS
from saidata.check.rule import RULES, SEVERITIES
from saidata.errors import FINDINGS, BadText, Misuse, NotHere
from saidata.format import layout
from saidata.format.document import Text
from saidata.format.tree import MAX_BYTES

Command = Callable[..., Any]


def report_options(command: Command) -> Command:
    """The options that say what is reported, where to and how."""
    for option in reversed(
        (
            click.argument("paths", nargs=-1, type=click.Path(path_type=Path)),
            click.option(
                "--format", "form", type=click.Choice(list(FORMATS)), default="text", show_default=True, help="How to report."
            ),
            click.option("--json", "as_json", is_flag=True, help="The same as --format json."),
            click.option("--output", type=click.Path(path_type=Path, dir_okay=False), help="Write the report to this file."),
            click.option("--select", metavar="CODES", default="", help="Only these rules: SD102,SD7."),
            click.option("--ignore", metavar="CODES", default="", help="All rules but these."),
            click.option("--strict", is_flag=True, help="Unknown keys are errors."),
            click.option(
                "--fail-on",
                type=click.Choice([*SEVERITIES, "never"]),
                default="warning",
                show_default=True,
                help="The mildest finding that makes the exit code 3.",
            ),
            click.option("--rules", "list_rules", is_flag=True, help="List the rules and end."),
        )
    ):
        command = option(command)
    return functools.wraps(command)(command)


def listed_rules(as_json: bool) -> str:
    """The rules, one a line or as JSON."""
    if as_json:
        rows = [
            {"code": code, "severity": RULES[code].severity, "name": RULES[code].name, "title": RULES[code].title}
            for code in sorted(RULES)
        ]
        return json.dumps(rows, indent=2) + "\n"
    return "".join(f"{code}  {RULES[code].severity:8}{RULES[code].title}\n" for code in sorted(RULES))


def codes(text: str) -> tuple[str, ...]:
    """The codes of an option's value."""
    return tuple(part for part in re.split(r"[\s,]+", text.upper()) if part)


def wanted(paths: Sequence[Path]) -> list[Path]:
    """The files to check. A file that is named is checked whatever it holds; what else is YAML in a folder is left out, and said."""
    if not paths:
        raise Misuse("No file is named.", "name files or folders: saidata lint software/")
    found: list[Path] = []
    left = 0
    for path in paths:
        if not path.exists():
            raise NotHere(f"There is no file {path}.", "check the path")
        for file in layout.files(path):
            if path.is_dir() and not _is_saidata(file):
                left += 1
            elif file not in found:
                found.append(file)
    if left:
        click.echo(f"{left} YAML files that are no saidata were left out", err=True)
    return found


def finish(reports: Sequence[Report], form: str, output: Path | None, fail_on: str) -> int:
    """Write the report and return the exit code."""
    text = FORMATS[form](reports)
    if output is None:
        click.echo(text, nl=False)
    else:
        _to_file(output, text)
        click.echo(FORMATS["text"](reports).splitlines()[-1], err=True)
    bad = () if fail_on == "never" else SEVERITIES[: SEVERITIES.index(fail_on) + 1]
    return FINDINGS if any(finding.severity in bad for report in reports for finding in report.findings) else 0


def _to_file(output: Path, text: str) -> None:
    """Whole or not at all; but what is no file, such as /dev/stderr, is written to and not replaced."""
    if output.exists() and not output.is_file():
        output.write_text(text, encoding="utf-8")
    else:
        files.write(output, text)


def _is_saidata(path: Path) -> bool:
    """Whether a file found in a folder is meant to be saidata: by where it lies, or by what it holds."""
    parts = path.absolute().parts
    if (
        path.name == "default.yaml"
        and len(parts) > 3
        and 0 < len(parts[-3]) <= 2
        and parts[-2].lower().startswith(parts[-3].lower())
    ):
        return True
    if layout.overlay_of(path):
        return True
    try:
        value = Text.read(path).value
    except BadText:
        return path.stat().st_size <= MAX_BYTES and bool(re.search(rb"^metadata:", path.read_bytes(), re.MULTILINE))
    return isinstance(value.get("metadata"), dict) and "version" in value and not {"apiVersion", "kind"} & set(value)


def each(paths: Sequence[Path], label: str, *, quiet: bool) -> Iterator[Path]:
    """The paths, with a progress bar on a terminal where there are many."""
    if quiet or len(paths) < 20:
        yield from paths
        return
    from rich.console import Console
    from rich.progress import track

    yield from track(paths, description=label, console=Console(stderr=True), transient=True)
