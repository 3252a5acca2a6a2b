"""Maintainer scripts are read, never run; only names said outright are taken."""

from __future__ import annotations

import pytest

from saidata.sources import scripts


@pytest.mark.parametrize(
    ("line", "users"),
    [
        ("adduser --system --group --home /var/lib/lantern --no-create-home lantern", ["lantern"]),
        ("useradd -r -s /usr/sbin/nologin -d /nonexistent lantern", ["lantern"]),
        ("if ! getent passwd lantern; then adduser --quiet --system lantern; fi", ["lantern"]),
        ("adduser lantern adm", []),  # into a group
        ("adduser --group lantern", []),
        ("echo adduser --system lantern", []),
        ("# adduser --system lantern", []),
        ('adduser --system "$OTHER"', []),
        ("adduser --system 'lantern", []),  # a quote that is never closed
    ],
)
def test_users(line: str, users: list[str]) -> None:
    assert scripts.read([f"#!/bin/sh\nset -e\n{line}\n"]).users == users


def test_a_variable_with_a_plain_value_is_followed() -> None:
    made = scripts.read(
        ['USER="lantern"\nHOME_DIR=/var/lib/$USER\nadduser --system \\\n  --home /x \\\n  $USER\nmkdir -p /var/lib/${USER}\n']
    )
    assert (made.users, made.directories) == (["lantern"], ["/var/lib/lantern"])


def test_directories_files_and_links() -> None:
    text = """
install -d -o lantern -g adm -m 0750 /var/log/lantern
install -m 644 /usr/share/lantern/a /etc/lantern/a
mkdir -p /var/cache/lantern/../../../root /tmp/lantern
ucf --three-way --sum-file /usr/share/s.md5 "$new" /etc/lantern/lantern.conf
ucf --purge /etc/lantern/other.conf
update-alternatives --install /usr/bin/editor editor /usr/bin/lantern-edit 30 --slave /usr/share/man/man1/editor.1.gz editor.1.gz /usr/share/man/man1/l.1.gz
"""
    made = scripts.read([text])
    assert made.copied == {} and made.directories == ["/var/log/lantern"]
    assert made.configs == ["/etc/lantern/lantern.conf"]
    assert made.links == [("/usr/bin/editor", "/usr/bin/lantern-edit")]


def test_a_shipped_file_that_is_put_below_etc_is_a_configuration() -> None:
    text = """
CONFIG=/etc/lantern/lantern.conf
[ -e /etc/lantern.conf ] || cp -p /usr/share/lantern/lantern.conf.default /etc/lantern.conf
install -m 640 -o root -g lantern /usr/share/lantern/users.yml /etc/lantern/users.yml
ucf --three-way --debconf-ok "$new" "$CONFIG"
cp /etc/lantern.conf /etc/lantern.conf.old
cp /usr/share/lantern/a /etc/lantern/
cp "$some" /etc/lantern/b.conf
cp /usr/share/lantern/c.conf "$where"
"""
    made = scripts.read([text])
    assert made.configs == ["/etc/lantern.conf", "/etc/lantern/users.yml", "/etc/lantern/lantern.conf"]
    assert made.copied == {
        "/usr/share/lantern/lantern.conf.default": "/etc/lantern.conf",
        "/usr/share/lantern/users.yml": "/etc/lantern/users.yml",
    }


def test_sysusers_and_tmpfiles() -> None:
    assert scripts.sysusers('# none\nu lantern - "The server" /var/lib/lantern\ng adm -\nu! locked 500\nu bad/name -\n') == [
        "lantern",
        "locked",
    ]
    text = "d /run/lantern 0755 lantern\nd /var/lib/lantern 0750 lantern\nL /etc/x - - - - y\nd /var/lib/%i\nD! /var/cache/l\n"
    assert scripts.tmpfiles(text) == ["/run/lantern", "/var/lib/lantern", "/var/cache/l"]
