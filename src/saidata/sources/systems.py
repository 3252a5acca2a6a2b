"""Package managers of other systems: dnf, apk, pacman and nix. Each reader takes one answer of a client or of a mirror."""

from __future__ import annotations

import gzip
import io
import re
import tarfile
import zlib
from xml.etree import ElementTree

import msgspec

from saidata.sources.licences import to_spdx
from saidata.sources.provider import LARGEST_ANSWER, Absent, Fetch, Provider, Said, Unreadable, kept_ones, lines_of

_TAB = "%{name}\\t%{evr}\\t%{license}\\t%{url}\\t%{summary}\\n"
_RPM = "{http://linux.duke.edu/metadata/common}"
_REPOSITORY = "{http://linux.duke.edu/metadata/repo}"


def read_dnf(answer: bytes, name: str) -> list[Said]:
    """Rows of `dnf repoquery` with our format; the last is the newest."""
    rows = [line.split("\t") for line in answer.decode("utf-8", "replace").splitlines() if line.count("\t") == 4]
    if not rows:
        raise Absent
    package, version, licence, address, summary = rows[-1]
    return kept_ones(
        [
            ("package", package, ""),
            ("version", version, ""),
            ("licence", rpm_licence(licence), "spec file"),
            ("homepage", address if address != "(none)" else "", ""),
            ("summary", summary, ""),
        ]
    )


def rpm_licence(text: str) -> str:
    """Fedora's older names ("GPLv2+", "ASL 2.0", "BSD") beside SPDX; BSD and MIT without more name families of texts there."""
    text = re.sub(
        r"\b(L|A)?GPLv(\d)(?:\.(\d))?(\+)?",
        lambda m: f"{m[1] or ''}GPL-{m[2]}.{m[3] or 0}{'-or-later' if m[4] else '-only'}",
        text,
    )
    text = re.sub(r"\bMPLv(\d\.\d)", r"MPL-\1", text).replace("ASL 2.0", "Apache-2.0")
    found = to_spdx(text)
    return "" if "LicenseRef-BSD" in found else found


def fetch_rpm(name: str, get: Fetch) -> bytes:
    """The primary list of a repository, found through its repomd.xml."""
    index = ElementTree.fromstring(get("repodata/repomd.xml"))
    for data in index.iter(f"{_REPOSITORY}data"):
        place = data.find(f"{_REPOSITORY}location")
        if data.get("type") == "primary" and place is not None:
            path = place.get("href", "")
            if ".." in path or not path.startswith("repodata/"):
                raise Unreadable("its list lies outside of repodata")
            return unpacked(get(path), path)
    raise Unreadable("it names no primary list")


def unpacked(body: bytes, path: str) -> bytes:
    """A list without its compression; gzip is what the standard library reads and every older mirror has."""
    if not path.endswith(".gz"):
        if path.endswith((".zst", ".xz", ".bz2", ".br")):
            raise Unreadable(f"its list is packed as {path.rpartition('.')[2]}, which is not read here; dnf itself reads it")
        return body
    try:
        out = gzip.GzipFile(fileobj=io.BytesIO(body)).read(LARGEST_ANSWER + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise Unreadable(f"its list is damaged: {error}") from None
    if len(out) > LARGEST_ANSWER:
        raise Unreadable("its list is larger than any that belongs here")
    return out


def read_rpm(answer: bytes, name: str) -> list[Said]:
    """A primary list: the package of this name."""
    for _, element in ElementTree.iterparse(io.BytesIO(answer)):
        if element.tag != f"{_RPM}package":
            continue
        if element.findtext(f"{_RPM}name") == name:
            return _rpm(element)
        element.clear()
    raise Absent


def _rpm(element: ElementTree.Element) -> list[Said]:
    version = element.find(f"{_RPM}version")
    form = "{http://linux.duke.edu/metadata/rpm}"
    parts = element.find(f"{_RPM}format")
    said = kept_ones(
        [
            ("package", element.findtext(f"{_RPM}name"), ""),
            ("version", f"{version.get('ver')}-{version.get('rel')}" if version is not None else "", ""),
            ("summary", element.findtext(f"{_RPM}summary"), ""),
            ("description", element.findtext(f"{_RPM}description"), ""),
            ("homepage", element.findtext(f"{_RPM}url"), ""),
            ("maintainer", element.findtext(f"{_RPM}packager"), ""),
            ("licence", rpm_licence(parts.findtext(f"{form}license") or "") if parts is not None else "", "spec file"),
        ]
    )
    for file in parts.iter(f"{_RPM}file") if parts is not None else ():
        path = file.text or ""
        if re.match(r"/usr/s?bin/[^/]+$", path):
            said.append(Said("command", path))
        elif path.startswith("/etc/") and file.get("type") != "dir":
            said.append(Said("config", path))
    return said


def read_apk_search(answer: bytes, name: str) -> list[Said]:
    """A line of `apk search --exact -v`: nginx-1.24.0-r7 - HTTP and reverse proxy server."""
    for line in answer.decode("utf-8", "replace").splitlines():
        match = re.fullmatch(rf"{re.escape(name)}-(\S+-r\d+)(?: - (.*))?", line.strip())
        if match:
            return kept_ones([("package", name, ""), ("version", match[1], ""), ("summary", match[2], "")])
    raise Absent


def read_apk_index(answer: bytes, name: str) -> list[Said]:
    """A mirror's APKINDEX.tar.gz."""
    try:
        with tarfile.open(fileobj=io.BytesIO(answer), mode="r:gz") as archive:
            member = archive.extractfile("APKINDEX")
            text = member.read(LARGEST_ANSWER).decode("utf-8", "replace") if member else ""
    except (tarfile.TarError, KeyError, OSError, EOFError) as error:
        raise Unreadable(f"no APKINDEX in it: {error}") from None
    for stanza in text.split("\n\n"):
        if f"\nP:{name}\n" in f"\n{stanza}\n":
            fields = dict(line.split(":", 1) for line in stanza.splitlines() if ":" in line)
            said = kept_ones(
                [
                    ("package", fields["P"], ""),
                    ("source_package", fields.get("o"), ""),
                    ("version", fields.get("V"), ""),
                    ("summary", fields.get("T"), ""),
                    ("homepage", fields.get("U"), ""),
                    ("licence", to_spdx(fields.get("L", "")), "APKBUILD"),
                    ("maintainer", fields.get("m"), ""),
                ]
            )
            provided = [word.partition("=")[0] for word in fields.get("p", "").split()]
            return said + [Said("provides", word) for word in provided if not word.startswith("so:")]
    raise Absent


def read_pacman(answer: bytes, name: str) -> list[Said]:
    """`pacman -Si NAME`."""
    table = lines_of(answer, " : ")
    if "name" not in table:
        raise Absent
    said = kept_ones(
        [
            ("package", table["name"], table.get("repository", "")),
            ("version", table.get("version"), ""),
            ("summary", table.get("description"), ""),
            ("homepage", table.get("url"), ""),
            ("licence", _joined(table.get("licenses", "").split("  ")), "PKGBUILD"),
            ("maintainer", table.get("packager"), ""),
        ]
    )
    needed = table.get("depends on", "None")
    return said + [Said("depends", re.split(r"[<>=:]", word)[0]) for word in needed.split() if needed != "None"]


def read_arch(answer: bytes, name: str) -> list[Said]:
    """The JSON of a package search."""
    rows = [row for row in msgspec.json.decode(answer)["results"] if row["pkgname"] == name]
    if not rows:
        raise Absent
    row = rows[0]
    said = kept_ones(
        [
            ("package", row["pkgname"], row.get("repo", "")),
            ("source_package", row.get("pkgbase"), ""),
            ("version", f"{row['pkgver']}-{row['pkgrel']}", ""),
            ("summary", row.get("pkgdesc"), ""),
            ("homepage", row.get("url"), ""),
            ("licence", _joined(row.get("licenses", [])), "PKGBUILD"),
        ]
    )
    return said + [Said("depends", re.split(r"[<>=:]", word)[0]) for word in row.get("depends", [])]


def _joined(licences: list[str]) -> str:
    """Several licences of a package hold together, as far as one knows."""
    found = [to_spdx(licence) for licence in licences if licence.strip()]
    return " AND ".join(f"({one})" if " OR " in one and len(found) > 1 else one for one in found) if all(found) else ""


def read_nix(answer: bytes, name: str) -> list[Said]:
    """`nix eval --json nixpkgs#NAME.meta`."""
    meta = msgspec.json.decode(answer)
    if "description" not in meta and "name" not in meta:
        raise Unreadable("no meta")
    licences = meta.get("license") or []
    licences = licences if isinstance(licences, list) else [licences]
    names = [one.get("spdxId") or "" if isinstance(one, dict) else str(one) for one in licences]
    people = meta.get("maintainers") or []
    full = str(meta.get("name", ""))
    return kept_ones(
        [
            ("package", name, ""),
            ("version", (re.search(r"-(\d[\w.]*)$", full) or ["", ""])[1], ""),
            ("summary", meta.get("description"), ""),
            ("description", meta.get("longDescription"), ""),
            ("homepage", meta["homepage"][0] if isinstance(meta.get("homepage"), list) else meta.get("homepage"), ""),
            ("licence", _joined(names) if all(names) else "", "meta.license"),
            ("maintainer", people[0].get("name") if people and isinstance(people[0], dict) else "", ""),
            ("command", meta.get("mainProgram"), "meta.mainProgram"),
            ("url", meta.get("changelog"), "changelog"),
        ]
    )


DNF = Provider(
    name="dnf",
    command=("dnf", "repoquery", "--quiet", "--available", "--queryformat", _TAB, "{name}"),
    read=read_dnf,
    fetch=fetch_rpm,
    read_answer=read_rpm,
)
APK = Provider(
    name="apk",
    command=("apk", "search", "--exact", "-v", "{name}"),
    read=read_apk_search,
    path="APKINDEX.tar.gz",
    read_answer=read_apk_index,
)
PACMAN = Provider(
    name="pacman",
    command=("pacman", "-Si", "{name}"),
    read=read_pacman,
    absent=r"was not found",
    path="packages/search/json/?name={name}",
    read_answer=read_arch,
)
NIX = Provider(
    name="nix", command=("nix", "eval", "--json", "nixpkgs#{name}.meta"), read=read_nix, absent=r"does not provide attribute"
)
