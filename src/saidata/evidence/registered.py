"""Which of the registered ports are a software's: by its name, by what its summary says it serves, by the protocol it is tagged with.

The table is /etc/services, a name to its ports. Pure functions, no packages. Open `registered`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

Table = Mapping[str, Sequence[str]]

# A debtag of a server's protocol, to its name in the table. Not http, which is spoken on any port.
PROTOCOLS = {
    **{name: name for name in ("ftp", "imap", "ldap", "nntp", "pop3", "sip", "smtp", "snmp", "ssh", "telnet", "tftp")},
    "dns": "domain",
    "irc": "ircd",
}
# Registered for both transports of old, and spoken over one.
_ONE_TRANSPORT = {
    **dict.fromkeys(("amqp", "ftp", "imap2", "imaps", "ldap", "ldaps", "pop3", "pop3s", "rtsp", "smtp", "ssh", "tacacs"), "tcp"),
    **dict.fromkeys(("bootps", "ntp", "openvpn", "snmp", "snmp-trap", "tftp"), "udp"),
}
# What a summary calls a server of a protocol: "AMQP server", "POP3/IMAP server", "mDNS/DNS-SD daemon".
_SPEAKER = re.compile(r"((?:[A-Za-z0-9-]+/)*[A-Za-z0-9-]+) (?:message )?(?:server|daemon|broker|agent)s?\b")
_SPELT = {"network time protocol": "ntp", "domain name server": "domain", "simple network management protocol": "snmp"}
_ANY = "/any"  # of a firewall profile that names no transport


def registered(table: Table, names: Iterable[str], tags: Iterable[str], summary: str) -> list[tuple[str, str]]:
    """(name in the table, port) of the first of `names` that has one, else of the one protocol that is served; or nothing."""
    called = [name.lower() for name in names if name.lower() in table][:1]
    if not called:
        spoken = _spoken(summary, table)
        held = set(tags)
        if not spoken and "network::server" in held and "protocol::zeroconf" not in held:
            spoken = [name for protocol, name in PROTOCOLS.items() if f"protocol::{protocol}" in held]
        called = spoken if len(spoken) == 1 else []
    return [(name, value) for name in called for value in _of(name, table.get(name, ()))]


def transports(value: str, table: Table) -> list[str]:
    """A port with its transport; where none is named, those that the table has for the number, else tcp."""
    if not value.endswith(_ANY):
        return [value]
    number = value.removesuffix(_ANY)
    known = {one for name, values in table.items() for one in _of(name, values)}
    return [one for one in (f"{number}/tcp", f"{number}/udp") if one in known] or [f"{number}/tcp"]


def _of(name: str, values: Sequence[str]) -> list[str]:
    """A protocol's ports as servers speak it."""
    one = _ONE_TRANSPORT.get(name)
    return [value for value in values if one in (None, value.partition("/")[2])]


def _spoken(summary: str, table: Table) -> list[str]:
    """The registered protocols, http apart, that a summary says the software serves."""
    words = [word for match in _SPEAKER.finditer(summary) for word in match[1].split("/")]
    names = [PROTOCOLS.get(word.lower(), word.lower()) for word in words if word[1:].isupper()]  # FTP, mDNS: no other word
    names += [name for said, name in _SPELT.items() if said in summary.lower() and "client" not in summary.lower()]
    return list(dict.fromkeys(name for name in names if name in table and not name.startswith("http")))
