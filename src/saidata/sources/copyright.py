"""A Debian copyright file: `read`. Machine-readable ones (DEP-5) name the licence; of free text only the unmistakable is taken.

The licence of a package is that of its `Files: *` paragraph: other paragraphs speak of parts, often of the build files alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import msgspec
from debian.deb822 import Deb822

from saidata.sources.licences import to_spdx

LARGEST = 4 << 20


class Copyright(msgspec.Struct, frozen=True):
    """What a copyright file says."""

    licence: str = ""  # an SPDX expression
    how: str = ""  # "Files: *", or the words that were recognised
    parts: tuple[str, ...] = ()  # licences of other paragraphs
    source: str = ""  # address where upstream's source is


# Free text: each pattern is the licence's own grant, not its name, which is also used in passing.
_FREE = r"you can redistribute it and/or modify it under the terms of (?:version \d of )?the GNU "
_GRANTS = (
    (_FREE + r"(?:Lesser|Library) General Public License.{0,80}?version (\d(?:\.\d)?).{0,80}?any later", "LGPL-{}-or-later"),
    (_FREE + r"Affero General Public License.{0,80}?version (3).{0,80}?any later", "AGPL-{}-or-later"),
    (_FREE + r"General Public License.{0,80}?version (\d).{0,80}?any later", "GPL-{}-or-later"),
    (r"Licensed under the Apache License, Version (2\.0)", "Apache-{}"),
    (r"Permission is hereby granted, free of charge, to any person obtaining a copy of this software()", "MIT"),
    (r"Permission to use, copy, modify, (?:and/or|and) distribute this software for any purpose with or without fee()", "ISC"),
    (r"Mozilla Public License,? (?:Version|v\.) ?(2\.0)", "MPL-{}"),
)
# One family of licences each. A free text in which two show speaks of several works, or of none of these.
_FAMILIES = (
    r"General Public License|\bL?GPL\b",
    r"Redistribution and use|\bBSD\b",
    r"Permission is hereby granted|\bMIT\b|Expat",
    r"Permission to use, copy|\bISC license",
    r"Apache (?:Software )?License",
    r"Mozilla Public",
    r"Artistic License",
    r"Eclipse|IBM Public|Common Public License",
    r"public domain",
    r"Creative Commons|\bCC-?BY|\bCC0",
    r"Free Documentation License",
    r"exception",
)


def read(text: str) -> Copyright:
    """The licence and what else the file says; all empty where nothing can be read."""
    text = text[:LARGEST]
    if re.search(r"(?im)^Format(-Specification)?:.*(copyright-format|dep-?5|dep\.debian)", text[:2000]):
        return _machine_readable(text)
    licence = _recognised(text)
    return Copyright(licence=licence, how="the words of its grant" if licence else "")


def _machine_readable(text: str) -> Copyright:
    try:
        paragraphs = [dict(paragraph) for paragraph in Deb822.iter_paragraphs(text.splitlines(), use_apt_pkg=False)]
    except (ValueError, TypeError):
        return Copyright()
    header = paragraphs[0] if paragraphs else {}
    licence, how, parts = "", "", []
    for paragraph in paragraphs:
        stated = to_spdx(_synopsis(paragraph.get("License", "")))
        if "Files" not in paragraph or not stated:
            continue
        if "*" in paragraph["Files"].split() and not licence:
            licence, how = stated, "Files: *"
        else:
            parts.append(stated)
    if not licence and (stated := to_spdx(_synopsis(header.get("License", "")))):
        licence, how = stated, "the header's License"
    others = tuple(part for part in dict.fromkeys(parts) if part != licence)
    address = re.search(r"https?://[^\s,;<>]+", header.get("Source", ""))
    return Copyright(licence=licence, how=how, parts=others, source=address[0].rstrip(".)") if address else "")


def _synopsis(field: str) -> str:
    """The first line of a License field, which names it."""
    return field.split("\n", 1)[0].strip()


def _recognised(text: str) -> str:
    """The one licence whose grant stands in free text; "" where there are none or signs of several: their extent is unclear."""
    flat = " ".join(text.split())
    found = set(_grants(flat))
    families = sum(re.search(family, flat, re.IGNORECASE) is not None for family in _FAMILIES)
    return found.pop() if len(found) == 1 and families == 1 else ""


def _grants(flat: str) -> Iterable[str]:
    for pattern, name in _GRANTS:
        for match in re.finditer(pattern, flat, re.IGNORECASE):
            number = match[1] if "." in match[1] or not match[1] else f"{match[1]}.0"
            yield name.format(number)
