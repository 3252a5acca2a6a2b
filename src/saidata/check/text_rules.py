"""Rules on what values say by themselves: SD5xx licences, SD6xx identifiers, SD7xx addresses, SD8xx downloads, SD9xx sense."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from packageurl import PackageURL

from saidata.check import licences
from saidata.check.addresses import PLACEHOLDERS, host, wrong_with
from saidata.check.rule import Look, Said, rule, scalars
from saidata.check.versions import compared, upstream
from saidata.facts import Path

_DIGITS = {"md5": 32, "sha256": 64, "sha512": 128}
_PIPED = re.compile(
    r"\b(curl|wget|fetch|iwr|irm|invoke-webrequest)\b[^;&\n]*\|\s*(sudo\s+(-\w+\s+)*)?(env\s+)?(ba|z|da|k)?sh\b|\b(iex|invoke-expression)\b",
    re.IGNORECASE,
)
_CPE = re.compile(r"cpe:2\.3:[aho*-](:(\*|-|([A-Za-z0-9._~-]|\\[^\w\s])+)){10}")
_SWHID = re.compile(r"swh:1:(cnt|dir|rev|rel|snp):[0-9a-f]{40}(;\w+=[^;]+)*")
_CVE = re.compile(r"CVE-(1999|2\d{3})-\d{4,}")
_DOWNLOADS = ("sources", "binaries", "scripts")
_LOCAL = re.compile(r"https?://(localhost|127\.|\[::1\]|0\.0\.0\.0|10\.|192\.168\.)")
_ADDRESS_KEYS = {"url", "download_url", "sbom_url", "vulnerability_disclosure"}


@rule("SD501", "warning")
def licence_expression(look: Look) -> Said:
    """The licence is no SPDX expression.

    `license` is an expression of SPDX identifiers ("Apache-2.0 OR MIT"), or LicenseRef-NAME for a licence that SPDX does not list.
    """
    value = _licence(look)
    if value and (wrong := licences.read(value).wrong):
        near = licences.near(value)
        yield ("metadata", "license"), f"{value!r}: {wrong}." + (f" Did you mean {near}?" if near else "")


@rule("SD503", "info")
def licence_spelling(look: Look) -> Said:
    """A licence in a spelling that SPDX has given up.

    GPL-2.0 does not say whether a later version will do. GPL-2.0-only and GPL-2.0-or-later do.
    """
    value = _licence(look)
    said = licences.read(value) if value else None
    if said and not said.wrong and said.text != value:
        yield ("metadata", "license"), f"SPDX writes {value} as {said.text}."


@rule("SD601", "warning")
def identifier(look: Look) -> Said:
    """A package URL, CPE or SWHID that is not well formed.

    A purl is read and written again and must stay what it is (pkg:deb/debian/nginx@1.22.1-9); a CPE has thirteen parts
    (cpe:2.3:a:...); a SWHID ends in forty hex digits.
    """
    for path, value in scalars(look.data):
        if not isinstance(value, str):
            continue
        if value.startswith("pkg:") and (wrong := _wrong_purl(value)):
            yield path, f"{value} is no package URL: {wrong}."
        elif value.startswith("cpe:") and not _CPE.fullmatch(value):
            yield path, f"{value} is no CPE 2.3 name."
        elif value.startswith("swh:") and not _SWHID.fullmatch(value):
            yield path, f"{value} is no SWHID."


@rule("SD602", "warning")
def cve(look: Look) -> Said:
    """A CVE exception that is no CVE number.

    CVE-2024-1234: the year and at least four digits.
    """
    for path, value in scalars(_object(_object(look.data.get("metadata")).get("security")).get("cve_exceptions")):
        if isinstance(value, str) and not _CVE.fullmatch(value):
            yield ("metadata", "security", "cve_exceptions", *path), f"{value!r} is no CVE number."


@rule("SD701", "error")
def address(look: Look) -> Said:
    """An address that cannot be opened by anybody.

    It has no scheme, no host, a space, a password, another scheme than http and https, or a placeholder that does not exist.
    """
    for path, value in addresses(look.data):
        if wrong := wrong_with(value):
            yield path, f"{value[:80]}: {wrong}."


@rule("SD702", "warning")
def plain_http(look: Look) -> Said:
    """An address without encryption.

    Whoever sits between can change what is read. For something that is run afterwards (scripts, binaries, sources, keys) that is
    a way in.
    """
    for path, value in addresses(look.data):
        if value.startswith("http://") and not _LOCAL.match(value):
            yield path, f"{value[:80]} is not encrypted; use https:// if the host has it."


@rule("SD703", "warning")
def dead_address(look: Look) -> Said:
    """An address that does not answer, or says that the page is gone.

    Looked at only with --urls. One that was slow, refused us or could not be reached is not reported: it was not checked.
    """
    for path, value in addresses(look.data):
        seen = look.fetched.get(value)
        if seen and (seen.status in (404, 410) or seen.missing):
            why = f"answers {seen.status}" if seen.status in (404, 410) else "answers with a page that says it is not there"
            yield path, f"{value[:80]} {why} ({seen.date[:10]})."


@rule("SD704", "info")
def moved_address(look: Look) -> Said:
    """An address that leads to another host.

    Looked at only with --urls. The project may have moved, or lost its domain.
    """
    for path, value in addresses(look.data):
        seen = look.fetched.get(value)
        if seen and 200 <= seen.status < 300 and seen.final and _other_host(value, seen.final):
            yield path, f"{value[:80]} leads to {seen.final[:80]}."


@rule("SD801", "warning")
def no_checksum(look: Look) -> Said:
    """A download that nothing verifies.

    Sources, binaries and scripts are built or run. Without a checksum nobody notices when they have changed.
    """
    top = {(path[0], entry.get("name"), entry.get("url")): entry for path, entry in look.of(*_DOWNLOADS) if len(path) == 2}
    for path, entry in look.of(*_DOWNLOADS):
        above = top.get(
            (str(path[-2]), entry.get("name"), entry.get("url")), {}
        )  # what a provider does not say is taken from there
        if entry.get("url") and not entry.get("checksum") and not above.get("checksum") and "{{" not in str(entry["url"]):
            yield (
                (*path, "url"),
                f"{str(path[-2])[:-1] if path[-2] != 'binaries' else 'binary'} {entry.get('name')!r} has no checksum.",
            )


@rule("SD802", "warning")
def weak_checksum(look: Look) -> Said:
    """A checksum that proves little, or that is no checksum of its kind.

    Files of equal MD5 are made in minutes. A sha256 has 64 hex digits, a sha512 128. Equal digits are a placeholder.
    """
    for path, entry in look.of("sources", "binaries", "scripts", "packages"):
        value = entry.get("checksum")
        kind, _, digits = value.partition(":") if isinstance(value, str) else ("", "", "")
        if not re.fullmatch("[0-9a-fA-F]{32,128}", digits):
            continue  # SD102 says so
        if kind in _DIGITS and len(digits) != _DIGITS[kind]:
            yield (*path, "checksum"), f"a {kind} has {_DIGITS[kind]} hex digits, and this has {len(digits)}."
        elif kind in _DIGITS and len(set(digits.lower())) < 4 or re.match("(0123456789|1234567890|abcdef123456)", digits):
            yield (*path, "checksum"), "these digits are a placeholder, no checksum."
        elif kind == "md5":
            yield (*path, "checksum"), "MD5 proves nothing today; use sha256."


@rule("SD803", "error")
def wrong_checksum(look: Look) -> Said:
    """The download has another checksum than the file says.

    Looked at only with --hashes, which downloads what has a checksum.
    """
    for path, entry in look.of("sources", "binaries", "scripts"):
        found, said = look.digests.get(str(entry.get("url"))), str(entry.get("checksum"))
        if found and found.lower() != said.lower() and found.partition(":")[0] == said.partition(":")[0]:
            yield (*path, "checksum"), f"the download has {found[:24]}..., and the file says {said[:24]}...."


@rule("SD804", "warning")
def piped_script(look: Look) -> Said:
    """A script that is run while it is still being downloaded.

    `curl ... | sh` runs whatever the server sends today, with no checksum and no trace, and half of it when the line breaks.
    Download, compare the checksum, then run.
    """
    for path, value in scalars(look.data):
        if isinstance(value, str) and _PIPED.search(value) and not path[:2] == ("metadata", "description"):
            yield path, f"{value[:80]} runs what it downloads without looking."


@rule("SD901", "warning")
def order_of_versions(look: Look) -> Said:
    """Versions that cannot all be right.

    `minimum` is not above `latest`, and `latest_lts` not either.
    """
    versions = _object(_object(look.data.get("compatibility")).get("versions"))
    latest = versions.get("latest")
    for key in ("minimum", "latest_lts", "latest_minimum"):
        value = versions.get(key)
        if isinstance(value, str) and isinstance(latest, str) and compared(value, latest) > 0:
            yield ("compatibility", "versions", key), f"{key} {value} is above latest {latest}."


@rule("SD902", "warning")
def providers_disagree(look: Look) -> Said:
    """The compatibility matrix says both yes and no of a provider on the same platform."""
    matrix = _object(look.data.get("compatibility")).get("matrix")
    seen: dict[str, bool] = {}
    for place, value in enumerate(matrix if isinstance(matrix, list) else ()):
        entry = _object(value)
        provider, supported = entry.get("provider"), entry.get("supported")
        path: Path = ("compatibility", "matrix", place, "supported")
        where = repr([entry.get(key) for key in ("platform", "architecture", "os_version")])
        if isinstance(supported, bool) and seen.setdefault(f"{provider} {where}", supported) != supported:
            yield path, f"the matrix says both yes and no of {provider} on {entry.get('platform')}."


@rule("SD903", "info")
def newer_than_latest(look: Look) -> Said:
    """A provider's version is above the software's own.

    The software's version is `compatibility.versions.latest`, or `metadata.version`. A package cannot be newer than what it packs,
    so one of the two is old.
    """
    latest = _object(_object(look.whole.get("compatibility")).get("versions")).get("latest")
    latest = latest or _object(look.whole.get("metadata")).get("version")
    if not isinstance(latest, str) or not re.match(r"\d", latest):
        return
    for path, entry in look.of("packages"):
        value = entry.get("version")
        if (
            isinstance(value, str)
            and re.match(r"(\d+:)?\d", value)
            and entry.get("name") == _object(look.whole.get("metadata")).get("name")
        ):
            if compared(upstream(value), latest) > 0 and not upstream(value).startswith(latest):
                yield (*path, "version"), f"{value} is above {latest}, the software's own version."


def addresses(data: Mapping[str, Any]) -> Iterator[tuple[Path, str]]:
    """Every address of a document and its place."""
    for path, value in scalars(data):
        if not isinstance(value, str) or not value or not path:
            continue
        of_metadata = len(path) == 3 and path[:2] == ("metadata", "urls")
        of_key = path[-1] in ("key", "signing_key", "vulnerability_disclosure") and value.startswith(("http:", "https:"))
        if of_metadata or of_key or path[-1] in _ADDRESS_KEYS and path[-1] != "vulnerability_disclosure":
            if not (path[-1] == "url" and "environment" in path):
                yield path, value


def is_template(address: str) -> bool:
    """Whether an address holds a placeholder, and so cannot be opened as it stands."""
    return any("{{" in address and name in address for name in PLACEHOLDERS)


def _licence(look: Look) -> str:
    value = _object(look.data.get("metadata")).get("license") if look.version != "0.1" else None
    return value if isinstance(value, str) else ""


def _wrong_purl(value: str) -> str:
    try:
        again = PackageURL.from_string(value).to_string()
    except ValueError as error:
        return " ".join(str(error).split())[:80]
    return "" if again == value else f"its usual form is {again}"


def _other_host(one: str, other: str) -> bool:
    return host(one).split(".")[-2:] != host(other).split(".")[-2:]


def _object(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
