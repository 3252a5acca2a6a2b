"""Ports that a package speaks on, read out of what it ships: `read`. Each with the line that says so, surest first.

A socket unit listens on what it says; a firewall profile is written to be read; a configuration's own line is the default. A
line that is commented out may be an example as well as a default, and is not taken; nor is what only looks like a port.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import msgspec

MOST = 5  # of one configuration: more is a table of other programs' ports
LONGEST_LINE = 300


class Port(msgspec.Struct, frozen=True):
    """A port, how sure it is (0 is the surest) and where it stands."""

    value: str  # "80/tcp"
    rank: int
    detail: str


_SOCKET = re.compile(r"^Listen(?P<kind>Stream|Datagram)=(?:.*:)?(?P<port>\d{1,5})\s*$")
_PROFILE = re.compile(r"^ports=(?P<ports>[\d,:|/a-z]+)\s*$", re.IGNORECASE)
_OPTION = re.compile(
    r"(?:^|\s)--?(?:web\.|http[-.])?(?:port|listen(?:[-_.]address)?|bind(?:[-_.]addr(?:ess)?)?)[= ](?:\S*?:)?(?P<port>\d{2,5})(?=\s|$|[\"'])"
)
_LISTEN = re.compile(r"^\s*listen\s*[=:]?\s*[\"']?(?:\[[0-9a-f:]*\]:|[\w.*-]*:)?(?P<port>\d{2,5})\b(?![.:])", re.IGNORECASE)
_FLAG = re.compile(r"^-p\s+(?P<port>\d{2,5})\s*$")  # memcached.conf holds options of a command line
_KEY = re.compile(
    r"^\s*[\"']?(?:[a-z]+[._-])?(?P<key>(?:(?:http|https|tcp|udp|bind|server|listen|listening|admin|rpc|web|main|service|client)[._-]?)*port)"
    r"[\"']?\s*[=:\s]\s*[\"']?(?P<port>\d{2,5})[\"',;]*\s*(?:#.*)?$",
    re.IGNORECASE,
)
_SETTINGS = re.compile(r"(\.(conf|cfg|ini|ya?ml|toml|json|xml|cnf|cf|properties|config)|rc|/[^./]+|_config)$")
_OTHERS = tuple(f"/etc/{folder}/" for folder in "init.d logrotate.d cron.d cron.daily pam.d bash_completion.d apparmor.d".split())
_COMMENT = re.compile(r"^\s*(?:#|;|//)+\s?")
_UDP = re.compile(r"udp", re.IGNORECASE)


def read(path: str, text: str) -> list[Port]:
    """The ports that one file of a package states; `path` decides how it is read."""
    if path == "/etc/services":
        return []  # a table of everybody's ports: see `services`
    if path.endswith(".socket"):
        found = _each(_SOCKET, text, 0, path)
        return [Port(p.value.replace("/tcp", "/udp") if "Datagram" in p.detail else p.value, p.rank, p.detail) for p in found]
    if path.endswith(".service"):
        lines = "\n".join(line for line in text.splitlines() if line.startswith("Exec"))
        return _each(_OPTION, lines, 2, path)
    if path.startswith("/etc/ufw/applications.d/"):
        return _profile(path, text)
    if path.startswith(_OTHERS) or not _SETTINGS.search(path):
        return []
    active = "\n".join(line for line in text.splitlines() if not _COMMENT.match(line))
    patterns = (_LISTEN, _KEY, _FLAG, *([_OPTION] if path.startswith("/etc/default/") else []))
    out = [port for pattern in patterns for port in _each(pattern, active, 2, path)]
    return out if len({port.value for port in out}) <= MOST else []


def services(text: str) -> dict[str, list[str]]:
    """The table /etc/services: a name or an alias to its ports, "80/tcp"."""
    table: dict[str, list[str]] = {}
    for line in text.splitlines():
        words = line.split("#", 1)[0].split()
        if len(words) > 1 and re.fullmatch(r"\d{1,5}/(tcp|udp|sctp)", words[1]):
            for name in (words[0], *words[2:]):
                table.setdefault(name.lower(), []).append(words[1])
    return table


def surest(ports: Iterable[Port]) -> list[Port]:
    """Each port once, where it is surest; surest first."""
    best: dict[str, Port] = {}
    for port in sorted(ports, key=lambda port: port.rank):
        best.setdefault(port.value, port)
    return list(best.values())


def _each(pattern: re.Pattern[str], text: str, rank: int, path: str) -> list[Port]:
    found = []
    for line in text.splitlines():
        if len(line) <= LONGEST_LINE and (match := pattern.search(line)) and 0 < int(match["port"]) < 65536:
            protocol = "udp" if _UDP.search(line) else "tcp"
            found.append(Port(f"{int(match['port'])}/{protocol}", rank, f"{line.strip()[:100]} ({path})"))
    return found


def _profile(path: str, text: str) -> list[Port]:
    found = []
    for line in text.splitlines():
        match = _PROFILE.match(line.strip())
        for entry in match["ports"].split("|") if match else ():
            numbers, _, protocol = entry.partition("/")
            for number in numbers.split(","):
                if number.isdigit() and 0 < int(number) < 65536:
                    found += [
                        Port(f"{int(number)}/{p}", 1, f"{line.strip()} ({path})") for p in ([protocol] if protocol else ["tcp"])
                    ]
    return found
