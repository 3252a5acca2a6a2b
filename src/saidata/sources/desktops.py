"""Package managers of macOS and Windows: brew, winget and choco. Each reader takes one answer of a client or of an API."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import msgspec

from saidata.sources.licences import to_spdx
from saidata.sources.provider import Absent, Provider, Said, kept_ones, lines_of

_ATOM = "{http://www.w3.org/2005/Atom}"
_DATA = "{http://schemas.microsoft.com/ado/2007/08/dataservices}"


def read_brew(answer: bytes, name: str) -> list[Said]:
    """`brew info --json=v2 NAME`, or the one formula of the API."""
    found = msgspec.json.decode(answer)
    formulae = found.get("formulae", [found] if "versions" in found else [])
    if not formulae:
        casks = found.get("casks") or []
        if not casks:
            raise Absent
        return kept_ones(
            [
                ("package", casks[0]["token"], "cask"),
                ("version", casks[0].get("version"), ""),
                ("summary", casks[0].get("desc"), ""),
                ("homepage", casks[0].get("homepage"), ""),
            ]
        )
    about = formulae[0]
    service = about.get("service") or {}
    stable = (about.get("urls") or {}).get("stable") or {}
    said = kept_ones(
        [
            ("package", about["name"], "formula"),
            ("version", (about.get("versions") or {}).get("stable"), ""),
            ("summary", about.get("desc"), ""),
            ("homepage", about.get("homepage"), ""),
            ("licence", to_spdx(about.get("license") or ""), "formula"),
            ("url", stable.get("url"), "download"),
        ]
    )
    run = service.get("run")
    if run:
        said.append(Said("unit", f"homebrew.mxcl.{about['name']}", "launchd, made by brew services"))
    return said + [Said("depends", needed) for needed in about.get("dependencies", [])]


def read_winget(answer: bytes, name: str) -> list[Said]:
    """`winget show`: a heading with the identifier, then keys and values."""
    text = answer.decode("utf-8-sig", "replace")
    heading = re.search(r"^\S*\s*(.+?) \[([\w.+-]+)\]\s*$", text, re.MULTILINE)
    table = lines_of(answer)
    if heading is None or "version" not in table:
        raise Absent
    said = kept_ones(
        [
            ("package", heading[2], heading[1].removeprefix("Found ")),
            ("version", table["version"], ""),
            ("maintainer", table.get("publisher"), ""),
            ("homepage", table.get("homepage"), ""),
            ("licence", to_spdx(table.get("license", "")), "manifest"),
            ("url", table.get("license url"), "license"),
            ("url", table.get("publisher support url"), "support"),
            ("url", table.get("release notes url"), "changelog"),
        ]
    )
    description = re.search(r"^Description:[ \t]*\n?((?:[ \t]+\S.*\n?|\S.*\n?)+?)(?=^\S[^:\n]*:)", text, re.MULTILINE)
    return said + kept_ones([("summary", description[1] if description else table.get("description"), "")])


def read_choco(answer: bytes, name: str) -> list[Said]:
    """`choco info NAME`: a heading, then " Key: value" with a bar between two of one line."""
    text = answer.decode("utf-8-sig", "replace")
    heading = re.search(rf"^({re.escape(name)}) (\d\S*)", text, re.MULTILINE | re.IGNORECASE)
    if heading is None:
        raise Absent
    table = lines_of("\n".join(text.replace(" | ", "\n").splitlines()).encode())
    address = table.get("software license", "")
    said = kept_ones(
        [
            ("package", heading[1], table.get("title", "")),
            ("version", heading[2], ""),
            ("summary", table.get("summary"), ""),
            ("homepage", table.get("software site"), ""),
            ("url", address if address.startswith("http") else "", "license"),
            ("url", table.get("software source"), "source"),
            ("url", table.get("documentation"), "documentation"),
            ("url", table.get("issues"), "issues"),
        ]
    )
    return said + [Said("tag", word) for word in table.get("tags", "").split()]


def read_choco_feed(answer: bytes, name: str) -> list[Said]:
    """An Atom entry of a feed."""
    for entry in ElementTree.fromstring(answer).iter(f"{_ATOM}entry"):
        title = entry.findtext(f"{_ATOM}title") or ""
        if title.lower() != name.lower():
            continue
        said = kept_ones(
            [
                ("package", title, ""),
                *[
                    (kind, next(iter(entry.iter(f"{_DATA}{field}")), ElementTree.Element("x")).text, detail)
                    for kind, field, detail in (
                        ("version", "Version", ""),
                        ("description", "Description", ""),
                        ("homepage", "ProjectUrl", ""),
                        ("url", "LicenseUrl", "license"),
                        ("url", "ProjectSourceUrl", "source"),
                        ("url", "DocsUrl", "documentation"),
                    )
                ],  # type: ignore[list-item]  # mypy sees kinds as plain texts
            ]
        )
        return said + kept_ones([("summary", entry.findtext(f"{_ATOM}summary"), "")])
    raise Absent


BREW = Provider(
    name="brew",
    command=("brew", "info", "--json=v2", "{name}"),
    read=read_brew,
    absent=r"No available formula",
    path="formula/{name}.json",
)
WINGET = Provider(
    name="winget",
    command=("winget", "show", "--name", "{name}", "--exact", "--disable-interactivity", "--accept-source-agreements"),
    read=read_winget,
    absent=r"No package found",
)
CHOCO = Provider(
    name="choco",
    command=("choco", "info", "{name}"),
    read=read_choco,
    absent=r"\b0 packages found",
    path="Packages()?$filter=IsLatestVersion%20and%20Id%20eq%20'{name}'",
    read_answer=read_choco_feed,
)
