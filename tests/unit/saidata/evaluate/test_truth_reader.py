"""The truth of the gold set is read from packages themselves: a .deb made here byte by byte must be read for what it holds.

If this reader is wrong, every figure of the evaluation is.
"""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from saidata.evaluate import truth

COPYRIGHT = """Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: quill

Files: *
Copyright: 2020 Somebody
License: GPL-2+

Files: debian/*
Copyright: 2021 Somebody Else
License: Expat

License: GPL-2+
 The usual words.

License: Expat
 Other words.
"""
UNIT = "[Service]\nExecStart=/usr/sbin/quilld\n[Install]\nAlias=quill.service printing.service\n"
POSTINST = """#!/bin/sh
ucf /usr/share/quill/quill.conf /etc/quill/made.conf
TARGET="/etc/quill/by-variable.conf"
ucf "$new" "${TARGET}"
EITHER=/etc/quill/one
EITHER=/etc/quill/two
cp "$new" $EITHER
update-alternatives --install /usr/bin/quill-editor quill-editor /usr/bin/quilled 10
cp /usr/share/x "/etc/quill/$NAME.conf"
echo /etc/quill/never-made
"""


def _tar(files: dict[str, tuple[str, int]], links: dict[str, str] | None = None) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for name, (text, mode) in files.items():
            member = tarfile.TarInfo(f"./{name}")
            member.size, member.mode = len(text.encode()), mode
            archive.addfile(member, io.BytesIO(text.encode()))
        for name, target in (links or {}).items():
            member = tarfile.TarInfo(f"./{name}")
            member.type, member.linkname = tarfile.SYMTYPE, target
            archive.addfile(member)
    return out.getvalue()


def _deb(path: Path, control: bytes, data: bytes) -> Path:
    def part(name: str, body: bytes) -> bytes:
        head = f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(body):<10}`\n".encode()
        return head + body + b"\n" * (len(body) % 2)

    path.write_bytes(b"!<arch>\n" + part("debian-binary", b"2.0\n") + part("control.tar.gz", control) + part("data.tar.gz", data))
    return path


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> truth.Held:
    control = _tar(
        {
            "control": ("Package: quill\nVersion: 1.2-3\nArchitecture: all\nHomepage: https://quill.example.org\n", 0o644),
            "conffiles": ("/etc/quill/quill.conf\n/etc/init.d/quill\n", 0o644),
            "postinst": (POSTINST, 0o755),
        }
    )
    data = _tar(
        {
            "bin/quill": ("x", 0o755),
            "usr/sbin/quilld": ("x", 0o755),
            "usr/bin/notes.txt": ("not to be run", 0o644),
            "usr/lib/quill/helper": ("x", 0o755),
            "lib/systemd/system/quilld.service": (UNIT, 0o644),
            "lib/systemd/system/quill@.service": ("[Service]\n", 0o644),
            "lib/systemd/system/quilld.service.d/extra.conf": ("", 0o644),
            "etc/quill/quill.conf": ("", 0o644),
            "etc/init.d/quill": ("", 0o755),
            "etc/logrotate.d/quill": ("", 0o644),
            "usr/share/doc/quill/copyright": (COPYRIGHT, 0o644),
        },
        {
            "usr/bin/quillctl": "../sbin/quilld",
            "lib/systemd/system/old.service": "/dev/null",
            "lib/systemd/system/q.service": "quilld.service",
        },
    )
    return truth.read(_deb(tmp_path_factory.mktemp("deb") / "quill_1.2-3_all.deb", control, data))


def test_commands_are_what_can_be_run_where_commands_lie(held: truth.Held) -> None:
    assert held.commands == ("/usr/bin/quill", "/usr/bin/quillctl", "/usr/sbin/quilld")


def test_a_masked_unit_is_no_unit_and_aliases_stand_apart(held: truth.Held) -> None:
    assert held.units == ("quilld.service",)
    assert held.templates == ("quill@.service",)
    assert set(held.aliases) == {"q.service", "quill.service", "printing.service"}


def test_files_below_etc_and_those_that_scripts_make(held: truth.Held) -> None:
    assert held.configs == ("/etc/init.d/quill", "/etc/logrotate.d/quill", "/etc/quill/quill.conf")
    assert held.conffiles == ("/etc/init.d/quill", "/etc/quill/quill.conf")
    assert "/etc/quill/made.conf" in held.made and "/usr/bin/quill-editor" in held.made
    assert "/etc/quill/by-variable.conf" in held.made and "/etc/quill/one" not in held.made
    assert not any("never-made" in path or "$" in path for path in held.made)


def test_what_takes_part_in_other_programs_is_not_asked_for(held: truth.Held) -> None:
    assert truth.telling(held.configs, held.conffiles) == ("/etc/quill/quill.conf",)


def test_the_licence_is_that_of_all_files_not_of_the_packaging(held: truth.Held) -> None:
    assert (held.licence, held.copyright, held.homepage) == ("GPL-2.0-or-later", True, "https://quill.example.org")


@pytest.mark.parametrize(
    ("short", "expected"),
    [
        ("Expat", "MIT"),
        ("GPL-3", "GPL-3.0-only"),
        ("LGPL-2.1+", "LGPL-2.1-or-later"),
        ("Artistic or GPL-1+", "Artistic-1.0-Perl OR GPL-1.0-or-later"),
        ("GPL-1+ or Artistic", "Artistic-1.0-Perl OR GPL-1.0-or-later"),
        ("BSD-3-clause and Expat", "BSD-3-Clause AND MIT"),
        ("GPL-2+ with OpenSSL exception", ""),
        ("BSD-something", ""),
        ("GPL-2+ and weird", ""),
        ("GPL-2 and/or Expat", ""),
        ("", ""),
    ],
)
def test_short_names_become_spdx_or_nothing(short: str, expected: str) -> None:
    assert truth.spdx(short) == expected


@pytest.mark.parametrize(
    "text",
    [
        "This package was made by hand.\nIt is free.\n",
        "",
        "Files: *\nLicense: Expat\n",
        COPYRIGHT.replace("Files: *", "Files: a"),
    ],
)
def test_a_copyright_file_that_is_not_machine_readable_says_nothing(text: str) -> None:
    assert truth.main_licence(text) == ""


def test_a_neighbours_licence_is_not_taken_where_the_package_has_its_own_text() -> None:
    own = truth.Held(package="a", version="1", sha256="", licence="", copyright=True)
    linked = truth.Held(package="b", version="1", sha256="", licence="", copyright=False)
    other = truth.Held(package="c", version="1", sha256="", licence="MIT", copyright=True)
    held = {one.package: one for one in (own, linked, other)}
    assert truth.licence_of(held, ("a", "c")) == ""
    assert truth.licence_of(held, ("b", "c")) == "MIT"
