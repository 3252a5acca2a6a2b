"""Registries of languages: PyPI, npm and conda, asked through pip, npm and conda. Each reader takes one answer.

Nothing is installed, and no code of a package runs: pip is asked for a dry run with wheels only.
"""

from __future__ import annotations

import re
import sys

import msgspec

from saidata.sources.licences import to_spdx
from saidata.sources.provider import Absent, Provider, Said, Unreadable, kept_ones

# Labels of a project's addresses, as people write them, to what they are of.
_ADDRESSES = {
    "homepage": "homepage",
    "home": "homepage",
    "website": "homepage",
    "source": "source",
    "source code": "source",
    "sourcecode": "source",
    "repository": "source",
    "code": "source",
    "github": "source",
    "issues": "issues",
    "bug tracker": "issues",
    "bugs": "issues",
    "tracker": "issues",
    "issue tracker": "issues",
    "documentation": "documentation",
    "docs": "documentation",
    "changelog": "changelog",
    "changes": "changelog",
    "release notes": "changelog",
    "download": "download",
}
_CLASSIFIER = "License :: OSI Approved :: "
_BY_CLASSIFIER = {
    "MIT License": "MIT",
    "Apache Software License": "",  # of no version
    "BSD License": "",  # of any form
    "ISC License (ISCL)": "ISC",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "GNU General Public License v2 (GPLv2)": "GPL-2.0-only",
    "GNU General Public License v2 or later (GPLv2+)": "GPL-2.0-or-later",
    "GNU General Public License v3 (GPLv3)": "GPL-3.0-only",
    "GNU General Public License v3 or later (GPLv3+)": "GPL-3.0-or-later",
    "GNU Lesser General Public License v3 or later (LGPLv3+)": "LGPL-3.0-or-later",
    "GNU Affero General Public License v3 or later (AGPLv3+)": "AGPL-3.0-or-later",
    "The Unlicense (Unlicense)": "Unlicense",
}


def read_pip(answer: bytes, name: str) -> list[Said]:
    """The report of `pip install --dry-run --report -`."""
    installs = msgspec.json.decode(answer)["install"]
    if not installs:
        raise Absent
    about = installs[0]["metadata"]
    said = kept_ones(
        [
            ("package", about["name"], ""),
            ("version", about["version"], ""),
            ("summary", about.get("summary"), ""),
            ("description", _plain(about.get("description", "")), ""),
            ("homepage", about.get("home_page"), ""),
            ("maintainer", about.get("maintainer") or about.get("author") or about.get("author_email"), ""),
            ("licence", _pip_licence(about), "wheel metadata"),
        ]
    )
    for entry in about.get("project_url", []):
        label, _, address = entry.partition(",")
        said += _address(label, address.strip())
    said += [Said("tag", word) for word in about.get("keywords", []) if isinstance(word, str)]
    said += [
        Said("depends", re.split(r"[\s;<>=!~\[(]", needed)[0])
        for needed in about.get("requires_dist", [])
        if "extra ==" not in needed
    ]
    return said


def _pip_licence(about: dict[str, object]) -> str:
    """The expression, else a classifier of one meaning, else a licence field that is a name; long texts are no names."""
    if isinstance(expression := about.get("license_expression"), str):
        return to_spdx(expression)
    listed = about.get("classifier") or []
    classified = (
        [line.removeprefix(_CLASSIFIER) for line in listed if isinstance(line, str) and line.startswith(_CLASSIFIER)]
        if isinstance(listed, list)
        else []
    )
    if len(classified) == 1 and _BY_CLASSIFIER.get(classified[0]):
        return _BY_CLASSIFIER[classified[0]]
    field = about.get("license")
    found = to_spdx(field) if isinstance(field, str) and len(field) < 60 else ""
    return "" if "LicenseRef" in found else found


def read_npm(answer: bytes, name: str) -> list[Said]:
    """`npm view NAME --json`; a list where the name stands for several versions."""
    if not answer.strip():
        raise Absent
    about = msgspec.json.decode(answer)
    about = about[-1] if isinstance(about, list) else about
    repository = about.get("repository") or {}
    bugs = about.get("bugs") or {}
    licence = about.get("license")
    said = kept_ones(
        [
            ("package", about["name"], ""),
            ("version", about["version"], ""),
            ("summary", about.get("description"), ""),
            ("homepage", about.get("homepage"), ""),
            ("licence", to_spdx(licence) if isinstance(licence, str) else "", "package.json"),
            ("url", _repository(repository.get("url", "") if isinstance(repository, dict) else str(repository)), "source"),
            ("url", bugs.get("url") if isinstance(bugs, dict) else "", "issues"),
        ]
    )
    people = about.get("maintainers") or []
    said += kept_ones([("maintainer", people[0], "")] if people and isinstance(people[0], str) else [])
    said += [Said("tag", word) for word in about.get("keywords") or [] if isinstance(word, str)]
    programs = about.get("bin") or {}
    said += (
        [Said("command", command, "on the path npm installs to") for command in programs] if isinstance(programs, dict) else []
    )
    said += [Said("depends", needed) for needed in about.get("dependencies") or {}]
    return said


def read_conda(answer: bytes, name: str) -> list[Said]:
    """`conda search --json NAME`: builds of each version; the newest counts."""
    found = msgspec.json.decode(answer)
    builds = found.get(name)
    if not builds:
        raise Absent if not found or "error" in found or name not in found else Unreadable("no builds")
    newest = max(builds, key=lambda build: build.get("timestamp", 0))
    said = kept_ones(
        [
            ("package", newest["name"], newest.get("channel", "")),
            ("version", newest["version"], ""),
            ("licence", to_spdx(newest.get("license") or ""), "recipe"),
        ]
    )
    return said + [Said("depends", needed.split()[0]) for needed in newest.get("depends", []) if needed.split()]


def read_conda_page(answer: bytes, name: str) -> list[Said]:
    """A channel's own page of one package."""
    about = msgspec.json.decode(answer)
    rows = kept_ones(
        [
            ("package", about["name"], ""),
            ("version", about.get("latest_version"), ""),
            ("summary", about.get("summary"), ""),
            ("licence", to_spdx(about.get("license") or ""), "recipe"),
            ("homepage", about.get("home") or about.get("url"), ""),
        ]
    )
    return rows + kept_ones([("url", about.get("dev_url"), "source"), ("url", about.get("doc_url"), "documentation")])


def _address(label: str, address: str) -> list[Said]:
    what = _ADDRESSES.get(label.strip().lower())
    if what is None or not address.startswith(("https://", "http://")):
        return []
    return [Said("homepage", address)] if what == "homepage" else [Said("url", address, what)]


def _repository(text: str) -> str:
    """A git address as a browser takes it."""
    text = re.sub(r"^git\+", "", text)
    text = re.sub(r"^(git|ssh)://(git@)?", "https://", text)
    text = re.sub(r"^git@([\w.-]+):", r"https://\1/", text)
    return text.removesuffix(".git") if text.startswith(("https://", "http://")) else ""


def _plain(text: str) -> str:
    """The first paragraph of prose in a readme."""
    for paragraph in re.split(r"\n\s*\n", text[:20_000]):
        flat = " ".join(paragraph.split())
        if len(flat) > 60 and not re.match(r"[#=\-*.|<!\[`>]", flat):
            return flat[:1000]
    return ""


PYPI = Provider(
    name="pypi",
    client="pip",
    command=(
        sys.executable,
        "-m",
        "pip",
        "install",
        "--dry-run",
        "--ignore-installed",
        "--no-deps",
        "--only-binary",
        ":all:",
        "--quiet",
        "--retries",
        "1",
        "--report",
        "-",
        "{name}",
    ),
    read=read_pip,
    absent=r"No matching distribution found|Could not find a version that satisfies",
)
NPM = Provider(name="npm", command=("npm", "view", "{name}", "--json", "--fetch-retries=1"), read=read_npm, absent=r"E404")
CONDA = Provider(
    name="conda",
    command=("conda", "search", "--json", "{name}"),
    read=read_conda,
    absent=r"PackagesNotFoundError",
    path="{name}",
    read_answer=read_conda_page,
)
