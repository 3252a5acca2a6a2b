"""A port is taken from a line that states one, in a file that belongs to the software; examples and versions are not ports."""

from __future__ import annotations

import pytest

from saidata.sources import ports

CONF = "/etc/lantern/lantern.conf"


@pytest.mark.parametrize(
    ("path", "line", "found"),
    [
        (CONF, "listen 80 default_server;", ["80/tcp"]),
        (CONF, "    listen [::]:443 ssl;", ["443/tcp"]),
        (CONF, "Listen 0.0.0.0:8080", ["8080/tcp"]),
        (CONF, "port 6379", ["6379/tcp"]),
        (CONF, "port = 5432\t\t# (change requires restart)", ["5432/tcp"]),
        (CONF, '"http_port": 9200,', ["9200/tcp"]),
        (CONF, "server.port: 5601", ["5601/tcp"]),
        (CONF, "-p 11211", ["11211/tcp"]),
        (CONF, "udp_port = 514", ["514/udp"]),
        (CONF, "Client port:\t4894", ["4894/tcp"]),
        (CONF, '  "DicomPort" : 4242,', ["4242/tcp"]),
        (CONF, "SocksPort 9050", ["9050/tcp"]),
        (CONF, "SmtpPort = 2525", []),
        ("/etc/lantern/lantern.xml", "<listen><port>8000</port></listen>", ["8000/tcp"]),
        ("/etc/lantern/lantern.xml", "<!-- <port>8001</port> -->", []),
        (CONF, "<port>8000</port>", []),
        (CONF, "## It opens port 9050 by default", ["9050/tcp"]),
        (CONF, "# The default port is 1883.", ["1883/tcp"]),
        (CONF, "# port of the listener (defaults to 4711)", ["4711/tcp"]),
        (CONF, "# By default it listens on TCP port 4242", ["4242/tcp"]),
        (CONF, "# By default clients go to port 80 of a proxy", []),
        (CONF, "# port 8443", []),
        (CONF, "# listen 8443 ssl;", []),  # an example as well as a default
        (CONF, "listen 1.2.3.4;", []),
        (CONF, "port = 99999", []),
        (CONF, "port = 0", []),
        (CONF, "support 1234", []),
        (CONF, "listen unix:/run/l.sock", []),
        ("/etc/lantern/hook.py", "port = 25", []),
        ("/etc/init.d/lantern", "PORT=80", []),
        ("/lib/systemd/system/l.socket", "ListenStream=0.0.0.0:631", ["631/tcp"]),
        ("/lib/systemd/system/l.socket", "ListenDatagram=69", ["69/udp"]),
        ("/lib/systemd/system/l.socket", "ListenStream=/run/l.sock", []),
        ("/lib/systemd/system/l.service", "ExecStart=/usr/bin/l --web.listen-address=:9090", ["9090/tcp"]),
        ("/lib/systemd/system/l.service", "Description=port 80", []),
        ("/lib/systemd/system/l.service", "ExecStart=/usr/sbin/l \\\n  -a :6081 \\\n  -T localhost:6082", ["6081/tcp"]),
        ("/lib/systemd/system/l.service", "ExecStart=/usr/sbin/l --upstream example.org:443", []),
        ("/etc/default/lantern", 'OPTIONS="-a :6081 -T localhost:6082"', ["6081/tcp"]),
        ("/etc/ufw/applications.d/l", "ports=53", ["53/any"]),
        ("/etc/ufw/applications.d/l", "ports=80,443/tcp|53/udp", ["80/tcp", "443/tcp", "53/udp"]),
        ("/etc/services", "http 80/tcp", []),
    ],
)
def test_lines(path: str, line: str, found: list[str]) -> None:
    assert [port.value for port in ports.read(path, line + "\n")] == found


def test_every_port_says_the_line_and_the_file() -> None:
    (port,) = ports.read(CONF, "port 6379\n")
    assert port.detail == f"port 6379 ({CONF})"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("smtp_settings:\n  port: 25\napi:\n  port: 4443\n", ["4443/tcp"]),
        ("[server]\nport: 70\n[mailer]\nserver: localhost\nport: 25\n", ["70/tcp"]),
        ("[mail server]\nport = 2525\n", ["2525/tcp"]),
        ("[mysqld]\nport = 3306\n", ["3306/tcp"]),
    ],
)
def test_the_ports_of_servers_that_it_turns_to_are_not_its_own(text: str, found: list[str]) -> None:
    assert [port.value for port in ports.read(CONF, text)] == found


def test_what_a_comment_tells_is_less_sure_than_a_line_that_holds() -> None:
    text = "# The default port is 1883.\n"
    assert [(port.value, port.rank) for port in ports.read(CONF, text)] == [("1883/tcp", ports.SAID)]
    assert [(port.value, port.rank) for port in ports.read(CONF, text + "port 1884\n")] == [("1884/tcp", ports.FIRM)]


def test_a_file_of_many_ports_is_a_table_of_others() -> None:
    assert ports.read(CONF, "".join(f"port {number}\n" for number in range(1000, 1000 + ports.MOST + 1))) == []


def test_the_surest_statement_of_a_port_stays() -> None:
    found = ports.surest(
        [ports.Port("80/tcp", 2, "config"), ports.Port("80/tcp", 0, "socket"), ports.Port("81/tcp", 1, "profile")]
    )
    assert [(port.value, port.detail) for port in found] == [("80/tcp", "socket"), ("81/tcp", "profile")]


def test_services_know_aliases() -> None:
    table = ports.services("domain 53/tcp # names\ndomain 53/udp\nimap2 143/tcp imap\nbroken\n")
    assert table == {"domain": ["53/tcp", "53/udp"], "imap2": ["143/tcp"], "imap": ["143/tcp"]}
