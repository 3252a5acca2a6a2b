"""Registered ports: only where the name, the summary or a tag says that the software serves that one protocol."""

from __future__ import annotations

import pytest

from saidata.evidence.registered import registered, transports

TABLE = {
    "domain": ["53/tcp", "53/udp"],
    "tftp": ["69/udp"],
    "http": ["80/tcp"],
    "ntp": ["123/udp"],
    "snmp": ["161/tcp", "161/udp"],
    "ldap": ["389/tcp", "389/udp"],
    "amqp": ["5672/tcp", "5672/sctp"],
    "mdns": ["5353/udp"],
    "lantern": ["4711/tcp"],
}


@pytest.mark.parametrize(
    ("names", "tags", "summary", "found"),
    [
        (["Lantern"], [], "an AMQP server", ["4711/tcp"]),  # its own name first
        (["x"], [], "AMQP server written in Erlang", ["5672/tcp"]),  # registered for sctp too, and spoken over tcp
        (["x"], [], "x mDNS/DNS-SD daemon", ["5353/udp"]),
        (["x"], [], "implementation of the Network Time Protocol", ["123/udp"]),
        (["x"], [], "Network Time Protocol client", []),
        (["x"], [], "LDAP/TFTP server", []),  # two: which of them is on by default is not said
        (["x"], [], "fast HTTP server", []),
        (["x"], [], "library to talk to an AMQP broker of yours", ["5672/tcp"]),
        (["x"], [], "small domain server", []),  # an everyday word
        (["x"], ["network::server", "protocol::snmp"], "agents", ["161/udp"]),
        (["x"], ["protocol::snmp"], "agents", []),  # a client is tagged so too
        (["x"], ["network::server", "protocol::snmp", "protocol::ldap"], "agents", []),
        (["x"], ["network::server", "protocol::dns", "protocol::zeroconf"], "announcer", []),
    ],
)
def test_registered(names: list[str], tags: list[str], summary: str, found: list[str]) -> None:
    assert [value for _, value in registered(TABLE, names, tags, summary)] == found


def test_a_port_without_a_transport_gets_those_that_are_registered() -> None:
    assert transports("53/any", TABLE) == ["53/tcp", "53/udp"]
    assert transports("161/any", TABLE) == ["161/udp"]
    assert transports("4242/any", TABLE) == ["4242/tcp"]
    assert transports("161/tcp", TABLE) == ["161/tcp"], "what a file says stands"
