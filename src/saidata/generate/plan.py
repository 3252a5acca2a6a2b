"""From evidence to a skeleton: what it decides alone is filled in, what several candidates stand for becomes a question.

Nothing is asked that a fact answers, and nothing that no fact bears out may be written: without evidence of a licence or a
port there is none, and the skeleton says so. Prose is the model's. Open `plan`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

import msgspec

from saidata.check.versions import upstream
from saidata.errors import Misuse
from saidata.evidence.order import HOSTS, PLUGGED, main_config, stems
from saidata.facts import Evidence, Fact, Path
from saidata.generate.category import categories
from saidata.generate.naming import apart, logical, purpose
from saidata.generate.questions import choice, prose_questions
from saidata.generate.skeleton import Question, Skeleton, get

SCHEMA_VERSION = "0.3"


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """How many of each thing a file lists at most; the best come first in evidence."""

    packages: int = 16
    services: int = 32
    files: int = 200
    commands: int = 200
    directories: int = 32
    ports: int = 16


DEFAULT_LIMITS = Limits()

# Characters of a text that is gone on with: altogether, and of what is added at least.
LONGEST_TEXT = 240
SHORTEST_REST = 40

# `detail` of a url fact, to the key of metadata.urls.
_URLS = {
    "website": "website",
    "homepage": "website",
    "source": "source",
    "repository": "source",
    "issues": "issues",
    "bugs": "issues",
    "documentation": "documentation",
    "docs": "documentation",
    "support": "support",
    "download": "download",
    "changelog": "changelog",
    "license": "license",
}
_OF_OTHERS = tuple(f"/etc/{folder}/" for folder in (*PLUGGED, "cron", "sudoers.d") if folder != "default")
"""Folders of files by which a package takes part in another program: none of them is its own service's configuration. What
/etc/default holds may be all that a small service has."""

_RELEASE = re.compile(r"^(debian|ubuntu) ([a-z]+)\b")
_WRITTEN_IN = "implemented-in::"
_LANGUAGES = {"c++": "C++", "c": "C", "javascript": "JavaScript", "php": "PHP", "ocaml": "OCaml", "lisp": "Lisp", "tcl": "Tcl"}


def plan(
    evidence: Evidence, limits: Limits = DEFAULT_LIMITS, given: Mapping[str, Any] | None = None, stopped: Path = ()
) -> Skeleton:
    """The skeleton of the file for `evidence.name`.

    `given` is what a user wrote: it stands above evidence, and what it has is not asked. `stopped` is the place in it where
    the writing was cut off: that text is gone on with.
    """
    if not evidence.name:
        raise Misuse("evidence has no name", hint="say of which software the file is to be")
    home = _home_provider(evidence)
    data: dict[str, Any] = {"version": SCHEMA_VERSION, "metadata": {"name": evidence.name}}
    abstained: dict[str, str] = {}
    questions = list(prose_questions(evidence))
    if not questions:
        abstained["metadata.description"] = "no source describes it"
    _metadata(evidence, data["metadata"], questions, abstained)
    data |= _listed(evidence, home, limits)
    _service_config(evidence, data, questions)
    if not data.get("ports"):
        abstained["ports"] = "no source names a port of it"
    if not data.get("packages"):
        abstained["packages"] = _why_unknown(evidence)
    _providers(evidence, data, home, limits)
    skeleton = Skeleton(name=evidence.name, data=data, questions=tuple(questions), abstained=abstained)
    return skeleton if given is None else _with_given(skeleton, given, stopped)


def main_package(evidence: Evidence, provider: str | None = None) -> str | None:
    """The provider's package that the name means: the one called so, else the best candidate that evidence knows."""
    names = evidence.values("package", provider=provider)
    if evidence.name in names:
        return evidence.name
    ranked = [each.package for each in evidence.candidates if provider in (None, each.provider) and each.package in names]
    return ranked[0] if ranked else names[0] if names else None


def _home_provider(evidence: Evidence) -> str | None:
    """The provider whose packages the file is built on: the system's where it has any, else the first that knows the name."""
    providers = list(dict.fromkeys(fact.provider for fact in evidence.of("package")))
    return "apt" if "apt" in providers else providers[0] if providers else None


def _metadata(evidence: Evidence, metadata: dict[str, Any], questions: list[Question], abstained: dict[str, str]) -> None:
    main = main_package(evidence)
    if len(left := categories(evidence)) == 1:
        metadata["category"] = left[0]
    for fact in _of_package(evidence.of("version"), main)[:1]:
        metadata["version"] = upstream(fact.value) if fact.provider == "apt" else fact.value
    licences = evidence.values("licence")
    if licences:
        metadata["license"] = licences[0]
    else:
        abstained["metadata.license"] = "no source states its licence"
    maintainers = _of_package(evidence.of("maintainer"), main)
    if maintainers:
        metadata["maintainer"] = maintainers[0].value
    urls = _urls(evidence, main)
    if urls:
        metadata["urls"] = urls
    else:
        abstained["metadata.urls"] = "no source gives an address"
    _language(evidence, metadata, questions, abstained)


def _language(evidence: Evidence, metadata: dict[str, Any], questions: list[Question], abstained: dict[str, str]) -> None:
    tags = [tag.removeprefix(_WRITTEN_IN) for tag in evidence.values("tag") if tag.startswith(_WRITTEN_IN)]
    languages = list(dict.fromkeys(_LANGUAGES.get(tag, tag.capitalize()) for tag in tags if tag != "TODO"))
    if len(languages) == 1:
        metadata["language"] = languages[0]
    elif languages:
        questions.append(choice("language", ("metadata", "language"), languages))
    else:
        abstained["metadata.language"] = "no source says what it is written in"


def _urls(evidence: Evidence, main: str | None) -> dict[str, str]:
    found: dict[str, str] = {}
    for fact in _of_package(evidence.of("homepage"), main)[:1]:
        found["website"] = fact.value
    for fact in evidence.of("url"):
        key = _URLS.get(fact.detail.lower())
        if key is not None:
            found.setdefault(key, fact.value)
    return found


def _of_package(facts: Iterable[Fact], package: str | None) -> list[Fact]:
    """Facts of that package before those of others."""
    listed = list(facts)
    return [fact for fact in listed if fact.package == package] + [fact for fact in listed if fact.package != package]


def _listed(evidence: Evidence, home: str | None, limits: Limits) -> dict[str, Any]:
    """The resource lists of the file, from the facts of one provider, and ports from any."""
    lists = {
        "packages": _packages(evidence, home, limits) if home else [],
        "services": _services(evidence, limits),
        "files": _files(evidence, limits),
        "directories": _directories(evidence, limits),
        "commands": _commands(evidence, limits),
        "ports": _ports(evidence, limits),
    }
    return {key: value for key, value in lists.items() if value}


def _packages(evidence: Evidence, provider: str, limits: Limits) -> list[dict[str, Any]]:
    main = main_package(evidence, provider)
    names = [main, *(name for name in evidence.values("package", provider=provider) if name != main)]
    versions = {fact.package: fact.value for fact in evidence.of("version", provider=provider)}
    found = []
    for name in names[: limits.packages]:
        assert name is not None
        entry = {"name": evidence.name if name == main else name, "package_name": name}
        if name in versions:
            entry["version"] = versions[name]
        found.append(entry)
    if len(found) > 1 and any(entry["name"] == found[0]["name"] for entry in found[1:]):
        found[0]["name"] = found[0]["package_name"]
    return found


def _services(evidence: Evidence, limits: Limits) -> list[dict[str, Any]]:
    units = [unit for unit in evidence.values("unit") if not unit.endswith(".slice")][: limits.services]  # nobody starts a slice
    found = []
    for unit in units:
        stem, _, kind = unit.rpartition(".")
        service = kind == "service"
        found.append({"name": stem if service else unit, "service_name": stem if service else unit, "type": "systemd"})
    return found


def _files(evidence: Evidence, limits: Limits) -> list[dict[str, Any]]:
    paths = evidence.values("config", "conffile")[: limits.files]
    names = apart((logical(path, evidence.name), path) for path in paths)
    return [{"name": name, "path": path, "type": "config"} for name, path in zip(names, paths, strict=True)]


def _directories(evidence: Evidence, limits: Limits) -> list[dict[str, Any]]:
    paths = evidence.values("directory", "log")[: limits.directories]
    names = apart((purpose(path), path + "/") for path in paths)
    return [{"name": name, "path": path} for name, path in zip(names, paths, strict=True)]


def _commands(evidence: Evidence, limits: Limits) -> list[dict[str, Any]]:
    pages = {PurePosixPath(path).name.split(".")[0]: path for path in reversed(evidence.values("manpage"))}
    paths = evidence.values("command")[: limits.commands]
    completed = {fact.value for fact in evidence.of("command") if fact.detail == "has shell completion"}
    names = apart((PurePosixPath(path).name, path) for path in paths)
    found = []
    for name, path in zip(names, paths, strict=True):
        entry: dict[str, Any] = {"name": name, "path": path}
        if path in completed:
            entry["shell_completion"] = True
        page = pages.get(PurePosixPath(path).name)
        if page:
            entry["man_page"] = page
        found.append(entry)
    return found


def _ports(evidence: Evidence, limits: Limits) -> list[dict[str, Any]]:
    found = []
    for value in evidence.values("port")[: limits.ports]:
        number, _, protocol = value.partition("/")
        if number.isdigit() and 1 <= int(number) <= 65535:
            entry: dict[str, Any] = {"port": int(number)}
            if protocol in ("tcp", "udp", "sctp"):
                entry["protocol"] = protocol
            found.append(entry)
    return found


def _service_config(evidence: Evidence, data: dict[str, Any], questions: list[Question]) -> None:
    """The configuration of the first service: decided where its name points to it or it is the only one, else asked."""
    services = data.get("services", [])
    files = [entry["path"] for entry in data.get("files", []) if not entry["path"].startswith(_OF_OTHERS)]
    if not services:
        return
    named = (*stems(evidence.name, [entry["package_name"] for entry in data.get("packages", [])]), services[0]["name"])
    # A service's folder may drop the d of its name: etc/ssh of sshd.
    named = tuple(dict.fromkeys([*named, *(name.removesuffix("d") for name in named if len(name) > 3)]))
    files = [path for path in files if _sets(path, named)]
    if not files:
        return
    likely = main_config([path for path in files if not path.startswith("/etc/default/")], named)
    if len(files) == 1 or likely:
        services[0]["config_files"] = [likely or files[0]]
        return
    own = [path for path in files if path.split("/")[2].startswith(named) or path.startswith("/etc/default/")]
    questions.append(choice("config_file", ("services", 0, "config_files"), (own or files)[:8], as_list=True))


def _sets(path: str, named: tuple[str, ...]) -> bool:
    """Whether a file can be a service's configuration: no text about it, and in no other program's folder."""
    folder = path.split("/")[2]
    return not path.rpartition("/")[2].lower().startswith("readme") and (folder not in HOSTS or folder.startswith(named))


def _providers(evidence: Evidence, data: dict[str, Any], home: str | None, limits: Limits) -> None:
    """What each provider calls it, and on which release that was seen."""
    providers = {}
    for provider in dict.fromkeys(fact.provider for fact in evidence.of("package")):
        entries = _packages(evidence, provider, limits)
        providers[provider] = {"packages": [{"name": e["name"], "package_name": e["package_name"]} for e in entries]}
    if providers:
        data["providers"] = providers
    seen = [(fact.provider, found[1], found[2]) for fact in evidence.of("package") if (found := _RELEASE.match(fact.source))]
    matrix = [
        {"provider": provider, "platform": platform, "os_version": release, "supported": True}
        for provider, platform, release in dict.fromkeys(seen)
    ]
    if matrix:
        data["compatibility"] = {"matrix": matrix}


def _why_unknown(evidence: Evidence) -> str:
    if evidence.not_checked:
        return "not checked: " + "; ".join(f"{provider}: {why}" for provider, why in sorted(evidence.not_checked.items()))
    return f"no source knows a package for {evidence.name}"


def _with_given(skeleton: Skeleton, given: Mapping[str, Any], stopped: Path) -> Skeleton:
    """The skeleton under what the user wrote: his values stand, and only what he does not have is asked."""
    data = {**skeleton.data, **{key: value for key, value in given.items() if key != "saidata"}}
    data["metadata"] = {**skeleton.data["metadata"], **given.get("metadata", {})}
    own = [path for path in _leaves(given) if get(skeleton.data, path) != get(given, path)]
    questions = []
    for question in skeleton.questions:
        before = get(given, question.path)
        if before is None:
            if isinstance(get(data, question.path[:-1]), dict) or question.path[0] == "metadata":
                questions.append(question)
        elif question.path == stopped and isinstance(before, str) and question.kind == "prose":
            questions.append(continued(question, before))
    return msgspec.structs.replace(skeleton, data=data, questions=tuple(questions), given=tuple(own))


def continued(question: Question, text: str) -> Question:
    """The question with an answer that begins with `text`."""
    rest = max(SHORTEST_REST, LONGEST_TEXT - len(text))
    pattern = f'^{_escaped(text)}[^\\n"\\\\]{{0,{rest}}}$'
    return msgspec.structs.replace(question, schema={"type": "string", "pattern": pattern})


def _escaped(text: str) -> str:
    return re.sub(r"([.^$*+?()\[\]{}|\\/-])", r"\\\1", text)


def _leaves(data: Any, path: Path = ()) -> list[Path]:
    if isinstance(data, Mapping):
        return [leaf for key, value in data.items() for leaf in _leaves(value, (*path, key))]
    if isinstance(data, Sequence) and not isinstance(data, str):
        return [leaf for place, value in enumerate(data) for leaf in _leaves(value, (*path, place))]
    return [path]
