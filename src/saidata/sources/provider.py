"""What a provider is, and `ask`: the facts it has of one name, or why it could not be asked.

A provider is asked through its own client where that is installed, else at the address that the user's settings give for it:

    [sources.brew]
    address = "https://..."

No address is built in. Without client and address the answer is a reason, which is never taken for "there is no such package".
Answers are kept for a week. Readers of the answers are in registries.py, systems.py, desktops.py and containers.py.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import re
import shutil
import subprocess
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec

from saidata import places
from saidata.errors import Misuse
from saidata.facts import Fact, FactKind

KEPT_DAYS = 7
TIMEOUT_S = 60
LARGEST_ANSWER = 256 << 20  # some providers have one list for all packages
# What a client says that found no network. Some say "no such package" in the same breath, as pip does.
NO_NETWORK = re.compile(
    r"temporary failure|could not resolve|failed to resolve|name or service not known|network is unreachable|no route to host|timed out"
    r"|connection (refused|reset|broken|error)|failed to establish|ENOTFOUND|EAI_AGAIN|ECONN|ETIMEDOUT|certificate",
    re.IGNORECASE,
)
_NAME = re.compile(r"(?!.*\.\.)[A-Za-z0-9@][A-Za-z0-9@._+/-]{0,199}")  # no option, no path out of its place


class Said(msgspec.Struct, frozen=True):
    """One thing a provider says: a Fact without what is the same for its whole answer."""

    kind: FactKind
    value: str
    detail: str = ""


class Absent(Exception):
    """The provider was asked and has no such package."""


class Unreadable(Exception):
    """The answer is not what this provider answers."""


Reader = Callable[[bytes, str], list[Said]]  # answer, name: what it says; raises Absent or Unreadable
Fetch = Callable[[str], bytes]  # a path below the provider's address


class Provider(msgspec.Struct, frozen=True, kw_only=True):
    """How one provider is asked. `{name}` stands for the package in `command` and `path`."""

    name: str
    command: tuple[str, ...] = ()  # its client and what it is asked; empty where that has no answer a program can read
    client: str = ""  # what a person calls the client, where that is not the command's first word
    read: Reader | None = None
    absent: str = ""  # what the client says of a name it does not have, a regular expression over both its outputs
    path: str = ""  # below the address
    read_answer: Reader | None = None  # of an HTTP answer; `read` where both have one form
    fetch: Callable[[str, Fetch], bytes] | None = None  # where one answer takes several questions


class Answer(msgspec.Struct):
    """What is kept of an answer."""

    name: str
    date: str
    source: str
    said: list[Said]
    absent: bool = False


def ask(provider: Provider, name: str) -> tuple[list[Fact], str]:
    """The facts, and "" or the reason why there are none."""
    if not _NAME.fullmatch(name):
        return [], f"{name!r:.60} is no name of a package of {provider.name}"
    answer = _kept(provider, name)
    if answer is None:
        found = (
            _by_client(provider, name) if provider.command and shutil.which(provider.command[0]) else _by_address(provider, name)
        )
        if isinstance(found, str):
            return [], found
        answer = found
        _keep(provider, answer)
    if answer.absent:
        return [], f"{provider.name} has no package {name}"
    return [
        Fact(
            kind=said.kind,
            value=said.value,
            provider=provider.name,
            source=answer.source,
            date=answer.date,
            package=next((s.value for s in answer.said if s.kind == "package"), name),
            detail=said.detail,
        )
        for said in answer.said
        if said.value
    ], ""


def settings() -> Mapping[str, Mapping[str, str]]:
    """The `sources` part of the user's settings; empty where there are none."""
    try:
        with places.settings_file().open("rb") as file:
            found = tomllib.load(file).get("sources", {})
    except FileNotFoundError:
        return {}
    except tomllib.TOMLDecodeError as error:
        raise Misuse(f"the settings {places.settings_file()} are no TOML: {error}", "mend the file or remove it") from None
    if not isinstance(found, dict) or not all(isinstance(part, dict) for part in found.values()):
        raise Misuse(
            f"`sources` in {places.settings_file()} is no table of tables", "write [sources.brew] and address = below it"
        )
    return found


def _by_client(provider: Provider, name: str) -> Answer | str:
    command = [part.replace("{name}", name) for part in provider.command]
    try:
        done = subprocess.run(
            command, capture_output=True, timeout=TIMEOUT_S, stdin=subprocess.DEVNULL, env=places.for_child(LC_ALL="C.UTF-8")
        )
    except subprocess.TimeoutExpired:
        return f"not checked: {provider.command[0]} did not answer in {TIMEOUT_S} s"
    except OSError as error:
        return f"not checked: {provider.command[0]} could not be run ({error.strerror})"
    both = (done.stdout + done.stderr).decode(errors="replace")
    source = f"{provider.name} by its client {provider.client or command[0]}"
    if done.returncode and (trouble := NO_NETWORK.search(both)):
        return f"not checked: {provider.client or command[0]} found no network ({trouble[0]})"
    if provider.absent and re.search(provider.absent, both):
        return Answer(name, _today(), source, [], absent=True)
    if done.returncode:
        said = next((line for line in done.stderr.decode(errors="replace").splitlines() if line.strip()), "nothing")
        return f"not checked: {provider.command[0]} ended with {done.returncode} and said: {said.strip()[:160]}"
    assert provider.read is not None
    return _read(provider.read, done.stdout, name, source)


def _by_address(provider: Provider, name: str) -> Answer | str:
    own = settings().get(provider.name, {})
    address = own.get("address", "").rstrip("/")
    client = f"this machine has no {provider.command[0]}, and " if provider.command else ""
    reader = provider.read_answer or provider.read
    if not (provider.path or provider.fetch) or reader is None:
        return f"not checked: this machine has no {provider.command[0]}"
    if not address:
        return f"not checked: {client}no address for {provider.name} is set"
    if not address.startswith(("https://", "http://")):
        raise Misuse(f"the address for {provider.name} is no http address: {address:.80}", f"mend it in {places.settings_file()}")
    import httpx2

    def get(path: str) -> bytes:
        with httpx2.stream("GET", f"{address}/{path}", timeout=TIMEOUT_S, follow_redirects=True) as response:
            if response.status_code == 404:
                raise Absent
            response.raise_for_status()
            parts, size = [], 0
            for part in response.iter_bytes():
                size += len(part)
                if size > LARGEST_ANSWER:
                    raise Unreadable("the answer is larger than any that belongs here")
                parts.append(part)
            return b"".join(parts)

    try:
        body = provider.fetch(name, get) if provider.fetch else get(provider.path.replace("{name}", name))
    except Absent:
        return Answer(name, _today(), f"{provider.name} at {address}", [], absent=True)
    except Unreadable as error:
        return f"not checked: {provider.name}: {error}"
    except (httpx2.HTTPError, OSError) as error:
        return f"not checked: {provider.name} could not be asked at {address} ({error})"
    return _read(reader, body, name, f"{provider.name} at {address}")


def _read(reader: Reader, body: bytes, name: str, source: str) -> Answer | str:
    try:
        return Answer(name, _today(), source, reader(body, name))
    except Absent:
        return Answer(name, _today(), source, [], absent=True)
    except Unreadable as error:
        return f"not checked: the answer of {source} cannot be read ({error})"
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, msgspec.DecodeError) as error:
        return f"not checked: the answer of {source} is not of the form that is known ({type(error).__name__}: {error})"


def _today() -> str:
    return datetime.datetime.now(datetime.UTC).date().isoformat()


def _file(provider: Provider, name: str) -> Path:
    """Readable, and different for names that differ only in what a file's name cannot hold."""
    readable, digest = re.sub(r"[^A-Za-z0-9._+-]", "%", name)[:80], hashlib.sha256(name.encode()).hexdigest()[:12]
    return places.evidence_dir() / provider.name / f"{readable}-{digest}.json"


def _kept(provider: Provider, name: str) -> Answer | None:
    with contextlib.suppress(OSError, msgspec.DecodeError, ValueError):
        answer = msgspec.json.decode(_file(provider, name).read_bytes(), type=Answer)
        age = datetime.datetime.now(datetime.UTC).date() - datetime.date.fromisoformat(answer.date)
        if answer.name == name and age.days < KEPT_DAYS:
            return answer
    return None


def _keep(provider: Provider, answer: Answer) -> None:
    places.put(_file(provider, answer.name), msgspec.json.encode(answer))


def lines_of(answer: bytes, separator: str = ":") -> dict[str, str]:
    """`Key : value` lines as a table, keys in lower case; the first of each key."""
    table: dict[str, str] = {}
    for line in answer.decode("utf-8", "replace").splitlines():
        key, found, value = line.partition(separator)
        if found and key.strip() and value.strip():
            table.setdefault(key.strip().lower(), value.strip())
    return table


def kept_ones(rows: Sequence[tuple[FactKind, object, str]]) -> list[Said]:
    """Rows whose value is a text with something in it."""
    return [
        Said(kind, " ".join(value.split()), detail) for kind, value, detail in rows if isinstance(value, str) and value.strip()
    ]
