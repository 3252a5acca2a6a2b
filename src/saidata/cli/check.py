"""`saidata check`: hold files against evidence. The index is read; the network and package managers only where asked for."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click
import msgspec

from saidata import places
from saidata.check import Known
from saidata.check.check import EvidenceOf, Options, check_path
from saidata.check.liveness import Addresses
from saidata.check.sandbox import trials
from saidata.cli.options import DEEP, PROVIDERS, SNAPSHOT, opened
from saidata.cli.reporting import codes, each, finish, listed_rules, report_options, wanted
from saidata.errors import BadText, NotHere
from saidata.evidence import gather
from saidata.facts import Evidence, Fact, FactKind
from saidata.index import Index


@click.command()
@report_options
@SNAPSHOT
@click.option(
    "--evidence", "files", multiple=True, type=click.Path(path_type=Path), help="Evidence from a file, instead of an index."
)
@click.option("--deep", is_flag=True, help=DEEP)
@PROVIDERS
@click.option("--urls", is_flag=True, help="Open the addresses, with manners; answers are kept for a week.")
@click.option("--hashes", is_flag=True, help="Download what has a checksum and compare.")
@click.option("--dry-run", "dry_run", is_flag=True, help="Let package managers plan the installation, in a sandbox.")
def command(paths: tuple[Path, ...], form: str, as_json: bool, output: Path | None, list_rules: bool, **options: Any) -> int:
    """Check saidata files against evidence: every package, unit, path, command, port, licence and address.

    Each value is confirmed, contradicted or not checkable, with the reason (--json has all of them). Includes what `lint` does.
    """
    if list_rules:
        click.echo(listed_rules(as_json), nl=False)
        return 0
    found = wanted(paths)
    with _knowledge(options) as (evidence_of, known, system), _addresses(options) as addresses:
        settings = Options(
            strict=options["strict"],
            select=codes(options["select"]),
            ignore=codes(options["ignore"]),
            system=system,
            known=known,
            fetch=addresses.fetch if options["urls"] else None,
            digest=addresses.digest if options["hashes"] else None,
            trial=trials if options["dry_run"] else None,
        )
        reports = [check_path(path, evidence_of, settings) for path in each(found, "check", quiet=output is not None)]
    return finish(reports, "json" if as_json else form, output, options["fail_on"])


@contextlib.contextmanager
def _knowledge(options: dict[str, Any]) -> Iterator[tuple[EvidenceOf, Known | None, str]]:
    """Where evidence comes from, what else the index knows, and which operating system it is about."""
    if options["files"]:
        held = {evidence.name: evidence for path in options["files"] for evidence in _read(path)}

        def of(name: str) -> Evidence:
            if name not in held:
                raise NotHere(f"The evidence files say nothing of {name}.", "name one that does, or use an index")
            return held[name]

        yield of, None, ""
        return
    with opened(options["snapshot"]) as index:
        labels = [source.label for source in index.sources.values() if source.provider == "apt"]

        def gathered(name: str) -> Evidence:
            return gather(name, index, providers=options["providers"], deep=options["deep"])

        yield gathered, known_of(index), labels[0].split()[0] if labels else ""


@contextlib.contextmanager
def _addresses(options: dict[str, Any]) -> Iterator[Addresses]:
    kept = places.addresses_file() if options["urls"] else None
    with contextlib.closing(Addresses(kept)) as addresses:
        yield addresses


def known_of(index: Index) -> Known:
    """What a whole index can say of a package's name or a path."""
    providers = {source.provider for source in index.sources.values()}

    def known(kind: FactKind, value: str, provider: str) -> Sequence[Fact] | None:
        if provider not in providers:
            return None
        if kind == "package":
            package = index.package(value, provider)
            found = [package] if package else index.providing(value)
            return [_fact(index, kind, value, package.source, package.name) for package in found]
        return [_fact(index, kind, value, file.source, file.package) for file in index.owners([value])]

    return known


def _fact(index: Index, kind: FactKind, value: str, source: int, package: str) -> Fact:
    origin = index.sources[source]
    return Fact(kind=kind, value=value, provider=origin.provider, source=origin.label, date=origin.date, package=package)


def _read(path: Path) -> list[Evidence]:
    """Evidence as `saidata evidence NAME --json` prints it: one, or a list."""
    try:
        return _decoded(path.read_bytes())
    except OSError as error:
        raise NotHere(f"{path} cannot be read: {error.strerror}.", "check the path") from None
    except msgspec.DecodeError as error:
        raise BadText(f"{path} holds no evidence: {error}.", "`saidata evidence NAME --json` prints it") from None


def _decoded(raw: bytes) -> list[Evidence]:
    if raw.lstrip()[:1] == b"[":
        return msgspec.json.decode(raw, type=list[Evidence])
    return [msgspec.json.decode(raw, type=Evidence)]
