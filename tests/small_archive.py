"""A small archive of made-up packages as apt's lists have it, an index of it, and .deb files made by hand.

The packages are shaped like real cases: a server in several packages, a metapackage of another source, a transitional package, a
library with its headers, a client that has a server's name in its configuration.
"""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Mapping
from pathlib import Path

from saidata.index import Index, apt, build, snapshots

PACKAGES = """\
Package: lantern
Version: 2.4.1-3
Maintainer: Ann Example <ann@example.org>
Provides: httpd
Depends: libc6 (>= 2.34), lantern-common (= 2.4.1-3)
Description: small web server
Description-md5: 0123456789abcdef0123456789abcdef
Homepage: https://lantern.example.org
Tag: implemented-in::c, role::program, network::server
Section: httpd
Filename: pool/main/l/lantern/lantern_2.4.1-3_amd64.deb
SHA256: 00

Package: lantern-common
Source: lantern
Version: 2.4.1-3
Maintainer: Ann Example <ann@example.org>
Description: small web server - common files
Section: httpd
Filename: pool/main/l/lantern/lantern-common_2.4.1-3_all.deb

Package: lantern-doc
Source: lantern
Version: 2.4.1-3
Description: small web server - manual
Section: doc

Package: liblantern1
Source: lantern
Version: 2.4.1-3
Description: small web server - library
Section: libs

Package: liblantern-dev
Source: lantern
Version: 2.4.1-3
Depends: liblantern1
Description: small web server - headers
Section: libdevel

Package: tabledb
Source: tabledb-common
Version: 15+2
Depends: tabledb-15
Description: relational database (metapackage)
Section: database

Package: tabledb-common
Version: 15+2
Description: relational database - manager of clusters
Section: database

Package: tabledb-15
Version: 15.4-1
Depends: tabledb-common
Description: relational database, version 15 server
Homepage: https://tabledb.example.org
Section: database

Package: dock
Version: 1.9
Depends: wmdock
Description: transitional package
Section: oldlibs

Package: dock.io
Version: 20.1-1
Description: runs programs in containers
Section: admin

Package: wmdock
Source: dock
Version: 1.9
Description: system tray
Section: x11

Package: python3-lantern
Version: 0.3-1
Depends: python3
Description: Python client of the lantern web server
Section: python

Package: webapp
Version: 1-1
Depends: lantern | httpd
Recommends: lantern
Description: application that a web server runs
Section: web

Package: othersite
Version: 1-1
Depends: lantern
Description: another site
Section: web

Package: finder
Version: 13-1
Description: searches files for lines
Section: utils
"""

NEWER = """\
Package: finder
Version: 13-1+deb12u1
Description: searches files for lines
Section: utils
"""

TRANSLATION = """\
Package: lantern
Description-md5: 0123456789abcdef0123456789abcdef
Description-en: small web server
 Lantern serves files and applications. It is made
 for small machines.
 .
 It has a reverse proxy too.
"""

CONTENTS = """\
etc/default/lantern                                     httpd/lantern-common
etc/init.d/lantern                                      httpd/lantern-common
etc/lantern/lantern.conf                                httpd/lantern-common
etc/lantern/mime types                                  httpd/lantern-common
etc/logrotate.d/lantern                                 httpd/lantern-common
lib/systemd/system/lantern.service                      httpd/lantern-common
lib/systemd/system/lantern-clean.timer                  httpd/lantern-common
lib/systemd/system/lantern.service.d/local.conf         httpd/lantern-common
lib/systemd/system/tabledb.service                      database/tabledb-common
usr/bin/lanternctl                                      httpd/lantern
usr/bin/rl                                              utils/finder
usr/bin/tabledb-admin                                   database/tabledb-15
usr/bin/dock                                            admin/dock.io
usr/sbin/lantern                                        httpd/lantern
usr/share/bash-completion/completions/lanternctl        httpd/lantern
usr/share/doc/lantern/copyright                         httpd/lantern
usr/share/man/man8/lantern.8.gz                         httpd/lantern
usr/share/man/man3/lantern.3.gz                         libdevel/liblantern-dev
var/lib/lantern/cache/start                             httpd/lantern-common,web/webapp
"""


def targets(folder: Path, packages: str = PACKAGES, base: str = "") -> list[apt.Target]:
    """The lists as files in `folder`."""
    texts = [
        ("Packages", "packages", packages, "tinylinux one main"),
        ("Packages", "newer", NEWER, "tinylinux one-updates main"),
        ("Translation", "translation", TRANSLATION, "tinylinux one main"),
        ("Contents", "contents", CONTENTS, "tinylinux one main"),
    ]
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for kind, name, text, label in texts:
        (folder / name).write_text(text)
        found.append(apt.Target(kind=kind, file=folder / name, label=label, date="2026-07-11", base=base))
    return found


def make(folder: Path, packages: str = PACKAGES, base: str = "") -> Index:
    """An open index of the archive, in use in `folder`/index."""
    lists = targets(folder / "lists", packages, base)
    name = build.snapshot_name(lists)
    place = folder / "index"
    place.mkdir(parents=True, exist_ok=True)
    build.build(lists, place / f"{name}.sqlite", name)
    snapshots.use(name, place)
    return snapshots.current(place)


def deb(to: Path, control: Mapping[str, str], data: Mapping[str, str]) -> None:
    """A .deb: `control` and `data` map member names to texts; a name that ends in / is a folder."""
    parts = [("debian-binary", b"2.0\n"), ("control.tar.gz", _tar(control)), ("data.tar.gz", _tar(data))]
    with to.open("wb") as file:
        file.write(b"!<arch>\n")
        for name, body in parts:
            file.write(f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(body):<10}`\n".encode())
            file.write(body + b"\n" * (len(body) % 2))


def _tar(members: Mapping[str, str]) -> bytes:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as archive:
        for name, text in members.items():
            entry = tarfile.TarInfo(f"./{name}")
            entry.uname = entry.gname = "root"
            if name.endswith("/"):
                entry.type, entry.mode = tarfile.DIRTYPE, 0o755
                archive.addfile(entry)
            else:
                entry.size, entry.mode = len(text.encode()), 0o644
                archive.addfile(entry, io.BytesIO(text.encode()))
    return gzip.compress(raw.getvalue(), mtime=0)
