"""Check one file: `check`, or `check_path` for one on disk. Gathers what the rules look at and returns a `Report`.

What needs a network or a tool is handed in as functions (`Options.fetch`, `digest`, `trial`) and is not done without them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path as FilePath
from typing import Any

from msgspec import Struct

from saidata.check import shape_rules, text_rules, truth_rules  # noqa: F401  # registers the rules
from saidata.check.claims import Claim, claims
from saidata.check.rule import Fetched, Look, Trial, chosen, findings, rule
from saidata.check.rule import Said as Breaches
from saidata.check.verdicts import Known, verdicts
from saidata.errors import BadText, SaidataError
from saidata.facts import Evidence, Finding, Verdict
from saidata.format import layout
from saidata.format.document import Text
from saidata.format.merge import merge
from saidata.format.schema import FORMS

EvidenceOf = Callable[[str], Evidence]

# What a line, or the head of a file, says to keep a rule quiet: "# saidata: ignore SD702, SD801".
_QUIET = re.compile(r"#\s*saidata:\s*(ignore|ignore-file)((?:[\s,]+SD\d+)+)")


class Options(Struct, frozen=True, kw_only=True):
    """How to check. Without the functions nothing leaves this process."""

    strict: bool = False  # unknown keys are errors
    select: tuple[str, ...] = ()  # codes or their beginnings; empty: all
    ignore: tuple[str, ...] = ()
    system: str = ""  # the operating system that the evidence is about, "debian"; "": whatever the file is for
    known: Known | None = None  # asks a whole index
    fetch: Callable[[Sequence[str]], Mapping[str, Fetched]] | None = None  # opens addresses
    digest: Callable[[Mapping[str, str]], Mapping[str, str]] | None = None  # address and kind of checksum to checksum
    trial: Callable[[str, Sequence[str]], Mapping[str, Trial]] | None = None  # (provider, packages) to dry runs


AS_USUAL = Options()


class Report(Struct, frozen=True, kw_only=True):
    """What a check says of one file."""

    name: str
    findings: tuple[Finding, ...] = ()
    verdicts: tuple[Verdict, ...] = ()
    not_checked: dict[str, str] = {}  # what could not be checked, and why
    suppressed: int = 0  # findings that the file itself asks to leave out

    def count(self, severity: str) -> int:
        """How many findings are as bad as that."""
        return sum(finding.severity == severity for finding in self.findings)


@rule("SD301", "error")
def dry_run(look: Look) -> Breaches:
    """A package manager refuses to install it.

    Looked at only with --dry-run, in a sandbox, by the provider's own client: `apt-get -s install`, `pip install --dry-run`,
    `npm view` and the like. Nothing is installed. Where the client is not here, it was not checked.
    """
    for claim in _installable(look.data):
        provider = claim.provider or "apt"
        done = look.trials.get((provider, claim.value))
        if done and done.ran and not done.worked:
            yield claim.path, f"{provider} does not install {claim.value}: {done.reason}"


def _installable(data: Mapping[str, Any]) -> Iterator[Claim]:
    """The packages that a client can be asked for: not those of repositories that it may not know."""
    yield from (claim for claim in claims(data) if claim.kind == "package" and not claim.elsewhere)


def check(text: Text, evidence_of: EvidenceOf | None, options: Options = AS_USUAL) -> Report:
    """Check a text on its own. `evidence_of` gives what is known of a software; without it only the text itself is checked."""
    return _checked(text, None, (), evidence_of, options)


def check_path(path: FilePath, evidence_of: EvidenceOf | None, options: Options = AS_USUAL) -> Report:
    """Check a file: as part of its default file, where it is the file of one operating system.

    One that cannot be read is a finding (SD101), one that is not there raises NotHere.
    """
    try:
        text = Text.read(path)
        default = layout.overlay_of(path)
        below = Text.read(default).value if default else None
    except BadText as error:
        wrong = Finding(code="SD101", severity="error", message=error.sentence(), line=error.line, column=error.column)
        return Report(name=str(path), findings=(wrong,))
    return _checked(text, below, path.absolute().parts, evidence_of, options)


def _checked(
    text: Text, default: Mapping[str, Any] | None, place: tuple[str, ...], evidence_of: EvidenceOf | None, options: Options
) -> Report:
    codes = chosen(options.select, options.ignore)
    whole = text.value if default is None else merge(default, text.value)
    reasons: dict[str, str] = {}
    evidence = _evidence(whole, evidence_of, reasons)
    system = place[-2] if default is not None else ""
    if evidence is not None and system and options.system and system != options.system:
        reasons["evidence"] = f"the file is for {system}, and the index is of {options.system}"
        evidence = None
    look = Look(
        text=text,
        data=text.value,
        whole=whole,
        version=text.version if text.version in FORMS else "0.3",
        strict=options.strict,
        overlay=default is not None,
        place=place[-3:],
        evidence=evidence,
        verdicts=tuple(verdicts(text.value, evidence, options.known)) if evidence is not None else (),
        fetched=_fetched(text, options, reasons),
        digests=_digests(text, options),
        trials=_trials(text, options, reasons),
    )
    found = sorted(findings(look, codes), key=lambda finding: (finding.line, finding.column, finding.code))
    kept = [finding for finding in found if not _quiet(text, finding)]
    return Report(
        name=text.name,
        findings=tuple(kept),
        verdicts=tuple(look.verdicts),
        not_checked=reasons,
        suppressed=len(found) - len(kept),
    )


def _evidence(whole: Mapping[str, Any], evidence_of: EvidenceOf | None, reasons: dict[str, str]) -> Evidence | None:
    metadata = whole.get("metadata")
    name = metadata.get("name") if isinstance(metadata, Mapping) else None
    if evidence_of is None or not isinstance(name, str) or not name:
        return None
    try:
        layout.safe_name(name)
        evidence = evidence_of(name)
    except SaidataError as error:
        reasons["evidence"] = error.sentence()
        return None
    reasons |= evidence.not_checked
    return evidence


def _fetched(text: Text, options: Options, reasons: dict[str, str]) -> Mapping[str, Fetched]:
    if options.fetch is None:
        return {}
    found = dict.fromkeys(value for _, value in text_rules.addresses(text.value) if not text_rules.is_template(value))
    seen = options.fetch(list(found))
    missed = [page.reason for page in seen.values() if not page.status]
    if missed:
        reasons["addresses"] = f"{len(missed)} of {len(seen)} were not opened: {missed[0]}"
    return seen


def _digests(text: Text, options: Options) -> Mapping[str, str]:
    if options.digest is None:
        return {}
    wanted: dict[str, str] = {}
    for holder in ("sources", "binaries", "scripts"):
        entries = text.value.get(holder)
        for entry in entries if isinstance(entries, list) else ():
            url, checksum = (entry.get("url"), entry.get("checksum")) if isinstance(entry, Mapping) else (None, None)
            if isinstance(url, str) and isinstance(checksum, str) and not text_rules.is_template(url):
                wanted[url] = checksum.partition(":")[0]
    return options.digest(wanted)


def _trials(text: Text, options: Options, reasons: dict[str, str]) -> dict[tuple[str, str], Trial]:
    if options.trial is None:
        return {}
    wanted: dict[str, list[str]] = {}
    for claim in _installable(text.value):
        wanted.setdefault(claim.provider or "apt", []).append(claim.value)
    done: dict[tuple[str, str], Trial] = {}
    for provider, names in wanted.items():
        for name, trial in options.trial(provider, list(dict.fromkeys(names))).items():
            done[provider, name] = trial
            if not trial.ran:
                reasons[f"dry run with {provider}"] = trial.reason
    return done


def _quiet(text: Text, finding: Finding) -> bool:
    """Whether a comment in the line, or one for the whole file, asks to leave this finding out."""
    lines = text.dump().splitlines()
    for number, line in enumerate(lines, 1):
        asked = _QUIET.search(line) if "saidata:" in line else None
        if asked and finding.code in asked[2] and (asked[1] == "ignore-file" or number == finding.line):
            return True
    return False
