"""Rules a file keeps or breaks by itself: SD1xx reading and shape, SD0xx ports. None needs evidence or a network."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from typing import Any

from saidata.check.rule import Look, Said, rule, scalars
from saidata.errors import BadName
from saidata.facts import Path
from saidata.format.layout import folder, safe_name
from saidata.format.schema import FORMS, Mistake, known_keys, mistakes, words

_PLACEHOLDERS = re.compile(
    r"(todo|tbd|fixme|xxx+|changeme|placeholder|n/?a|\.\.\.|<[^<>]+>|your[-_ ].*|lorem ipsum.*)", re.IGNORECASE
)
_READ_AS_NUMBER = re.compile(r"[-+]?[0-9]+(:[0-5]?[0-9])+(\.[0-9]*)?|[-+]?[0-9][0-9_]*_[0-9_]*")  # 22:22 and 1_000 in YAML 1.1
_READ_AS_TRUTH = {"y", "n", "yes", "no", "on", "off"}
_SECTIONS = ("packages", "services", "files", "directories", "commands", "containers", "sources", "binaries", "scripts")


@rule("SD101", "error")
def unreadable(look: Look) -> Said:
    """The file cannot be read.

    It is no YAML 1.2, has a key twice in one object, is indented with tabs, holds several documents, is no UTF-8, is larger than
    10 MB, or grows beyond measure when its aliases are written out. The message says which, and where. Nothing else is checked.
    """
    yield from ()  # check.py makes this finding: where it applies there is nothing to look at


@rule("SD102", "error")
def schema(look: Look) -> Said:
    """A value breaks the schema.

    A key is missing, or a value has the wrong type, is none of the allowed words or does not match the pattern. A number where
    text belongs is mostly a version or a mode without quotes: 1.10 is the number 1.1, and 0644 the number 644. Entries under
    `providers` may leave out what the entry of the same name at the top level has.
    """
    for mistake in mistakes(look.data, look.version, overlay=look.overlay):
        if mistake.keyword != "required" or not _inherited(look, mistake):
            yield mistake.path, _explained(look, mistake)


@rule("SD103", "warning")
def unknown_key(look: Look) -> Said:
    """A key that saidata does not have.

    Readers skip it silently, so what it says is lost. Mostly a spelling (`licence`, `pakages`). An error with --strict.
    """
    if look.version == "0.1":
        return
    for mistake in mistakes(look.data, look.version, strict=True, overlay=look.overlay):
        for key in mistake.unknown:
            near = difflib.get_close_matches(key, known_keys(mistake.path), n=1, cutoff=0.82)
            yield (
                (*mistake.path, key),
                f"saidata {look.version} has no key {key!r} here" + (f"; did you mean {near[0]!r}?" if near else "."),
            )


@rule("SD104", "warning")
def duplicate_name(look: Look) -> Said:
    """Two entries of one list have the same name.

    `name` is how other parts of a file, and overlays, mean an entry. Readers take the first or the last, each as it likes.
    """
    seen: dict[tuple[Path, str], int] = {}
    for path, entry in look.of(*_SECTIONS, "repositories"):
        name = entry.get("name")
        if isinstance(name, str):
            first = seen.setdefault((path[:-1], name), int(path[-1]))
            if first != path[-1]:
                line = look.text.place((*path[:-1], first))[0]
                yield (*path, "name"), f"{path[-2]} has {name!r} already in line {line}."
    ports: dict[tuple[Path, Any, str], int] = {}
    for path, entry in look.of("ports"):
        key = (path[:-1], entry.get("port"), str(entry.get("protocol") or "tcp"))
        if ports.setdefault(key, int(path[-1])) != path[-1]:
            yield (*path, "port"), f"ports has {key[1]}/{key[2]} already."


@rule("SD105", "warning")
def two_readings(look: Look) -> Said:
    """A value that readers of YAML 1.1 and 1.2 take for different things.

    Without quotes, `no` is text in YAML 1.2 and false in 1.1; 22:22 is text or the number 1342; 1_000 is text or a number. Half of
    all readers follow 1.1. Put the value in quotes.
    """
    for path, value in scalars(look.data):
        written = look.text.plain(path)
        if isinstance(value, str) and written and (written.lower() in _READ_AS_TRUTH or _READ_AS_NUMBER.fullmatch(written)):
            yield path, f'{written} without quotes means different things to different readers; write "{written}".'


@rule("SD106", "error")
def version(look: Look) -> Said:
    """The file does not say which saidata it is, or says one that does not exist.

    `version` at the top is the version of the format, "0.3" today, not of the software.
    """
    said = look.text.version
    if said not in FORMS and not (look.overlay and not said):
        shown = f"saidata {said} does not exist" if said else "the file does not say which saidata it is"
        yield ("version",), f'{shown}; write version: "0.3".'


@rule("SD107", "info")
def old_version(look: Look) -> Said:
    """The file is of an older saidata.

    It is read and checked as what it is. `saidata convert` writes it as 0.3 and leaves untouched lines as they are.
    """
    if look.text.version in FORMS[:-1]:
        yield ("version",), f"saidata {look.text.version} is older than 0.3; `saidata convert` writes it as 0.3."


@rule("SD108", "warning")
def wrong_place(look: Look) -> Said:
    """The file does not lie where its name belongs.

    Readers find nginx in ng/nginx/default.yaml. A file in another folder is not found, or found for another name.
    """
    name = _name(look.whole)
    if len(look.place) < 3 or look.place[-1] != "default.yaml" or not name or len(look.place[-3]) > 2:
        return  # lies in no such tree
    here = look.place[-3:-1]
    try:
        wanted = folder(name).parts
    except BadName:
        return  # SD113 says so
    if here != wanted:
        yield (
            ("metadata", "name"),
            f"{name} belongs in {'/'.join(wanted)}/default.yaml, and this is {'/'.join(here)}/default.yaml.",
        )


@rule("SD109", "warning")
def mode(look: Look) -> Said:
    """A mode that is no file mode.

    Three or four octal digits in quotes: "0644". Anything else is guessed at by the tool that applies it.
    """
    for path, entry in look.of("files", "directories"):
        value = entry.get("mode")
        if isinstance(value, str) and not re.fullmatch("0?[0-7]{3,4}", value):
            yield (*path, "mode"), f'{value!r} is no file mode; write it like "0644".'


@rule("SD110", "warning")
def relative_path(look: Look) -> Said:
    """A path that does not begin at the root.

    Paths of files, directories and commands are absolute (/etc/nginx, C:\\nginx) or begin with ~, a variable or a placeholder.
    """
    places = [((*path, "path"), entry.get("path")) for path, entry in look.of("files", "directories", "commands")]
    for path, entry in look.of("services"):
        values = entry.get("config_files")
        places += [
            ((*path, "config_files", place), value) for place, value in enumerate(values if isinstance(values, list) else ())
        ]
    for path, value in places:
        if isinstance(value, str) and not re.match(r"/|~|\$|%|\{\{|[A-Za-z]:[\\/]|\\\\|HK", value):
            yield path, f"{value!r} is no absolute path."
        elif isinstance(value, str) and (".." in re.split(r"[\\/]", value) or not value.isprintable()):
            yield path, f"{value!r} leads through .. or holds a character that cannot be seen."


@rule("SD111", "warning")
def left_over(look: Look) -> Said:
    """A value that was never filled in.

    TODO, TBD, <name>, "..." and the like. Leave the key out where nothing is known.
    """
    for path, value in scalars(look.data):
        if "environment" in path or "labels" in path:
            continue  # there an empty value is a value
        if isinstance(value, str) and (not value.strip() or _PLACEHOLDERS.fullmatch(value.strip())):
            yield (
                path,
                f"{value!r} says nothing; leave the key out." if value.strip() else "the value is empty; leave the key out.",
            )


@rule("SD112", "info")
def repeated(look: Look) -> Said:
    """A provider says again what the top level says.

    What a provider does not say is taken from the top level. An entry that is equal to the one there only has to be kept equal.
    """
    if look.overlay:
        return
    top = {(path[0], str(entry.get("name"))): entry for path, entry in look.of(*_SECTIONS) if len(path) == 2}
    for path, entry in look.of(*_SECTIONS):
        if len(path) == 4 and len(entry) > 2 and top.get((str(path[2]), str(entry.get("name")))) == entry:
            yield path, f"{path[2]} has the same entry {entry.get('name')!r} at the top level."


@rule("SD113", "error")
def unsafe_name(look: Look) -> Said:
    """A software name that cannot be a file's name.

    The name becomes a folder (ng/nginx). It begins with a letter or a digit and has letters, digits, dot, dash, plus and underscore,
    at most 128 characters.
    """
    name = _name(look.data)
    try:
        if name:
            safe_name(name)
    except BadName as error:
        yield ("metadata", "name"), error.message


@rule("SD001", "error")
def port_range(look: Look) -> Said:
    """A port that does not exist.

    Ports go from 1 to 65535.
    """
    for path, entry in look.of("ports"):
        value = entry.get("port")
        if isinstance(value, int) and not isinstance(value, bool) and not 0 < value < 65536:
            yield (*path, "port"), f"{value} is no port; ports go from 1 to 65535."


@rule("SD002", "warning")
def container_port(look: Look) -> Said:
    """A container's port that no container tool understands.

    "8080:80", "127.0.0.1:8080:80/udp", "9000-9010:9000-9010" or "80".
    """
    number = r"\d{1,5}(-\d{1,5})?"
    for path, entry in look.of("containers"):
        values = entry.get("ports")
        for place, value in enumerate(values if isinstance(values, list) else ()):
            if not isinstance(value, str) or "{{" in value or "$" in value:
                continue
            if not re.fullmatch(rf"(([\d.]+|\[[0-9a-f:]+\]):)?({number}:)?{number}(/(tcp|udp|sctp))?", value) or _too_large(
                value
            ):
                yield (*path, "ports", place), f'{value!r} is no port of a container; write it like "8080:80".'


def _too_large(value: str) -> bool:
    return any(int(port) > 65535 for port in re.findall(r"(?<![\d.])\d{1,5}(?![\d.])", value.rpartition("]:")[2]))


def _inherited(look: Look, mistake: Mistake) -> bool:
    """Whether an entry under a provider gets what it lacks from the entry of the same name at the top level."""
    path = mistake.path
    if len(path) < 4 or path[0] != "providers" or not isinstance(path[-1], int):
        return False
    entries = look.whole.get(str(path[-2]))
    name = _at(look.data, path).get("name")
    above = (entry for entry in (entries if isinstance(entries, list) else ()) if isinstance(entry, Mapping))
    return any(entry.get("name") == name and mistake.missing in entry for entry in above)


def _explained(look: Look, mistake: Mistake) -> str:
    """The schema's complaint as a sentence that says what to write."""
    if mistake.keyword == "required":
        where = f"{mistake.path[-2]} entry" if mistake.path and isinstance(mistake.path[-1], int) else "object"
        return f"this {where} lacks {mistake.missing!r}." if mistake.path else f"the file lacks {mistake.missing!r}."
    written = look.text.plain(mistake.path)
    if mistake.keyword == "type" and written and mistake.message.endswith('"string"'):
        return f'{written} is read as {_kind_of(look, mistake.path)}, and text belongs here; write "{written}".'
    if mistake.keyword == "enum":
        return f"{_shown(_at_any(look.data, mistake.path))} is not allowed here; one of {', '.join(words(mistake.path))} is."
    if mistake.keyword == "pattern" and mistake.path[-1] in _LIKE:
        return f"{_shown(_at_any(look.data, mistake.path))} is no {mistake.path[-1]}; write it like {_LIKE[mistake.path[-1]]}."
    return f"{mistake.message}."


_LIKE: dict[str | int, str] = {"checksum": "sha256: and 64 hex digits", "permissions": '"0755"', "version": '"0.3"'}


def _kind_of(look: Look, path: Path) -> str:
    value = _at_any(look.data, path)
    return {bool: "true or false", int: "a number", float: "a number", type(None): "nothing"}.get(type(value), "something else")


def _shown(value: Any) -> str:
    return repr(value) if len(repr(value)) <= 60 else repr(value)[:57] + "..."


def _at(data: Any, path: Path) -> Mapping[str, Any]:
    found = _at_any(data, path)
    return found if isinstance(found, Mapping) else {}


def _at_any(data: Any, path: Path) -> Any:
    for part in path:
        data = data[part]
    return data


def _name(data: Mapping[str, Any]) -> str:
    metadata = data.get("metadata")
    name = metadata.get("name") if isinstance(metadata, Mapping) else None
    return name if isinstance(name, str) else ""
