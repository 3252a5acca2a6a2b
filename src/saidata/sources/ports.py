"""Ports that a package speaks on, read out of what it ships: `read`. Each with the line that says so, surest first.

A socket unit listens on what it says; a firewall profile is written to be read; a configuration's own line is the default. A
line that is commented out may be an example as well as a default, and is not taken unless its words say "default"; nor is what
only looks like a port.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import msgspec

FIRM, SAID = 2, 3
MOST = 5  # of one configuration: more is a table of other programs' ports
LONGEST_LINE = 300


class Port(msgspec.Struct, frozen=True):
    """A port, how sure it is (0 is the surest) and where it stands."""

    value: str  # "80/tcp"; "53/any" where a firewall profile names no protocol
    rank: int  # up to FIRM: a line that holds; SAID: a comment that tells of the default
    detail: str


_SOCKET = re.compile(r"^Listen(?P<kind>Stream|Datagram)=(?:.*:)?(?P<port>\d{1,5})\s*$")
_PROFILE = re.compile(r"^ports=(?P<ports>[\d,:|/a-z]+)\s*$", re.IGNORECASE)
_OPTION = re.compile(
    r"(?:^|\s)--?(?:web\.|http[-.])?(?:port|listen(?:[-_.]address)?|bind(?:[-_.]addr(?:ess)?)?)[= ](?:\S*?:)?(?P<port>\d{2,5})(?=\s|$|[\"'])"
)
# An option whose value is an address without a host: a server listens there, whatever the option is called.
_ANY_HOST = re.compile(r"(?:^|[\s\"'])--?[A-Za-z][\w.-]*[= ](?:\*|0\.0\.0\.0|\[::\])?:(?P<port>\d{2,5})(?=[\s,\"'\\]|$)")
_ELEMENT = re.compile(r"<(?:[a-z]+[-_])?port>\s*(?P<port>\d{2,5})\s*</", re.IGNORECASE)
_SAID = re.compile(
    r"\bport (?P<port>\d{2,5}) by default\b|\bby default[^.;]{0,30}\blistens? (?:on|to)\b[^.;]{0,15}\bport (?P<after>\d{2,5})\b"
    r"|\bdefault port(?: is| of|:| =)? (?P<of>\d{2,5})\b|\bport\b[^.;]{0,30}\(?\bdefault(?:s to| is|:) (?P<to>\d{2,5})\b",
    re.IGNORECASE,
)
_XML_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_LISTEN = re.compile(r"^\s*listen\s*[=:]?\s*[\"']?(?:\[[0-9a-f:]*\]:|[\w.*-]*:)?(?P<port>\d{2,5})\b(?![.:])", re.IGNORECASE)
_FLAG = re.compile(r"^-p\s+(?P<port>\d{2,5})\s*$")  # memcached.conf holds options of a command line
_KEY = re.compile(
    r"^\s*[\"']?(?:[a-z]+[ ._-])?(?P<key>(?:(?:http|https|tcp|udp|bind|server|listen|listening|admin|rpc|web|main|service|client)[._-]?)*port)"
    r"[\"']?\s*[=:\s]\s*[\"']?(?P<port>\d{2,5})[\"',;]*\s*(?:#.*)?$",
    re.IGNORECASE,
)
_CAMEL = re.compile(  # HttpPort, DicomPort; not SmtpPort, which is another server's
    r"^\s*[\"']?(?!(?i:\w*(?:smtp|mail|remote|proxy|database|db|relay)))[A-Za-z]*[a-z]Port[\"']?\s*[=:\s]\s*[\"']?(?P<port>\d{2,5})[\"',;]*\s*$"
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
        started = (line for line in text.replace("\\\n", " ").splitlines() if line.startswith("Exec"))
        lines = "\n".join(option for line in started for option in re.split(r"\s+(?=-)", line))
        return surest(port for pattern in (_OPTION, _ANY_HOST) for port in _each(pattern, lines, FIRM, path))
    if path.startswith("/etc/ufw/applications.d/"):
        return _profile(path, text)
    if path.startswith(_OTHERS) or not _SETTINGS.search(path):
        return []
    plain = _XML_COMMENT.sub("", text).splitlines()
    active = "\n".join(line for line in plain if not _COMMENT.match(line))
    options = [_OPTION, _ANY_HOST] if path.startswith("/etc/default/") else []
    patterns = (_LISTEN, _KEY, _CAMEL, _FLAG, *([_ELEMENT] if path.endswith(".xml") else []), *options)
    out = [port for pattern in patterns for port in _each(pattern, _at_home(active), FIRM, path)]
    if not out:
        out = _each(_SAID, "\n".join(line for line in plain if _COMMENT.match(line)), SAID, path)
    out = surest(out)
    return out if len(out) <= MOST else []


_HEADER = re.compile(r"^\s*(?:\[(?P<section>[^\]]+)\]|[\"']?(?P<key>[\w.-]+)[\"']?\s*:)\s*$")
_ABROAD = {"smtp", "mail", "mailer", "email", "relay", "database", "db", "upstream", "proxy", "remote"}


def _at_home(text: str) -> str:
    """Without the blocks that say where other servers are: `[mailer]`, `smtp_settings:`."""
    kept, abroad = [], False
    for line in text.splitlines():
        if header := _HEADER.match(line):
            words = set(re.split(r"[\W_]+", (header["section"] or header["key"]).lower()))
            abroad = bool(words & _ABROAD) and "server" not in words
        if not abroad:
            kept.append(line)
    return "\n".join(kept)


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
        match = pattern.search(line) if len(line) <= LONGEST_LINE else None
        number = int(next(value for value in match.groups() if value and value.isdigit())) if match else 0
        if 0 < number < 65536:
            protocol = "udp" if _UDP.search(line) else "tcp"
            found.append(Port(f"{number}/{protocol}", rank, f"{line.strip()[:100]} ({path})"))
    return found


def _profile(path: str, text: str) -> list[Port]:
    found = []
    for line in text.splitlines():
        match = _PROFILE.match(line.strip())
        for entry in match["ports"].split("|") if match else ():
            numbers, _, protocol = entry.partition("/")
            for number in numbers.split(","):
                if number.isdigit() and 0 < int(number) < 65536:
                    found.append(Port(f"{int(number)}/{protocol or 'any'}", 1, f"{line.strip()} ({path})"))
    return found
