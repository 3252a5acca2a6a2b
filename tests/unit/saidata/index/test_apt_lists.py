"""apt's lists are read as Debian's formats say: stanzas with continued lines, Contents with blanks in paths, relations."""

from __future__ import annotations

import pytest

from saidata.index.lists import contents, long_description, names, stanzas
from saidata.index.paths import folder_of, kind_of


def test_stanzas_keep_continued_lines_and_their_order() -> None:
    text = b"Package: a\nTag: one,\n two\nDescription: x\n\n\nPackage: b\n"
    first, second = stanzas(text.splitlines(keepends=True))
    assert first == {"Package": "a", "Tag": "one,\ntwo", "Description": "x"}
    assert second == {"Package": "b"}


def test_bytes_that_are_no_utf8_do_not_stop_a_list() -> None:
    assert next(stanzas([b"Package: caf\xe9\n"]))["Package"] == "caf\N{REPLACEMENT CHARACTER}"


def test_contents_give_every_package_of_a_path_and_keep_blanks() -> None:
    lines = [
        b"usr/bin/both                 utils/one,contrib/net/two\n",
        b"etc/with blank/file          admin/one\n",
        b"usr/share/doc/one/README     utils/one\n",
        b"var/lib/one/state/deep       utils/one\n",
    ]
    assert list(contents(lines)) == [
        ("one", "command", "/usr/bin/both"),
        ("two", "command", "/usr/bin/both"),
        ("one", "config", "/etc/with blank/file"),
        ("one", "directory", "/var/lib/one"),
    ]


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("lib/systemd/system/a.service", "unit"),
        ("usr/lib/systemd/system/a@.socket", "unit"),
        ("lib/systemd/system/a.service.d/x.conf", None),
        ("lib/systemd/system/multi-user.target.wants/a.service", None),
        ("usr/lib/systemd/user/a.service", None),
        ("usr/bin/a", "command"),
        ("usr/bin/sub/a", None),
        ("etc/a/b/c", "config"),
        ("usr/share/man/man8/a.8.gz", "manpage"),
        ("usr/share/man/fr/man8/a.8.gz", None),
        ("var/log/a/", None),
    ],
)
def test_kind_of_a_path(path: str, kind: str | None) -> None:
    assert kind_of(path) == kind


def test_folder_of_a_state_file_is_the_packages_own() -> None:
    assert folder_of("var/lib/lantern/body/0") == "var/lib/lantern"
    assert folder_of("srv/ftp/welcome") == "srv/ftp"


def test_relations_give_bare_names_once() -> None:
    assert names("a (>= 1:2~), b:any | c [amd64], a") == ("a", "b", "c")
    assert names("") == ()


def test_long_description_has_paragraphs() -> None:
    assert long_description("short\none\ntwo\n.\nthree") == "one\ntwo\n\nthree"
