"""The licence of a package is that of `Files: *`; free text counts only where its words leave no doubt."""

from __future__ import annotations

from saidata.sources.copyright import read

HEADER = "Format: https://www.example.org/doc/packaging-manuals/copyright-format/1.0/\nSource: https://src.example.org/lantern.\n"
GRANT = """This program is free software; you can redistribute it and/or modify
it under the terms of the GNU General Public License as published by
the Free Software Foundation; either version 2 of the License, or
(at your option) any later version.
"""


def test_the_paragraph_of_all_files_counts_and_others_are_parts() -> None:
    text = (
        HEADER
        + "\nFiles: debian/*\nLicense: GPL-3+\n\nFiles: *\nCopyright: 2020 Ann\nLicense: BSD-2-clause\n Long text.\n\nLicense: GPL-3+\n Text\n"
    )
    found = read(text)
    assert (found.licence, found.how, found.parts) == ("BSD-2-Clause", "Files: *", ("GPL-3.0-or-later",))
    assert found.source == "https://src.example.org/lantern"


def test_the_header_counts_where_no_paragraph_is_for_all_files() -> None:
    assert read(HEADER + "License: MPL-2.0\n\nFiles: a/*\nLicense: ISC\n").licence == "MPL-2.0"
    assert read(HEADER + "\nFiles: a/*\nLicense: ISC\n").licence == ""


def test_free_text_with_one_grant() -> None:
    assert read("It was packaged by Ann.\n\n" + GRANT).licence == "GPL-2.0-or-later"


def test_free_text_with_signs_of_another_licence_says_nothing() -> None:
    for sign in (
        "Redistribution and use in source and binary forms",
        "The icons are in the public domain.",
        "with the OpenSSL exception",
    ):
        assert read(GRANT + sign).licence == ""


def test_a_licence_that_another_only_mentions_is_not_taken() -> None:
    text = """License: Eclipse Public License - v 2.0
    "Secondary License" means either the GNU General Public License, Version 2.0, or any later versions of that license."""
    assert read(text).licence == ""


def test_broken_files_say_nothing() -> None:
    for text in ("", HEADER, HEADER + "\n:::\n", "\0" * 100, HEADER + "\nFiles: *\nLicense:\n"):
        assert read(text).licence == ""
