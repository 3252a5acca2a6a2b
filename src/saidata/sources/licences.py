"""Licence names as distributions and registries write them, as SPDX expressions: `to_spdx`.

Only names that mean exactly one SPDX licence are turned into it. Another name becomes `LicenseRef-...`, which says that a
licence is stated and that SPDX has no name for it; nothing is guessed from a likeness.
"""

from __future__ import annotations

import functools
import re

from license_expression import ExpressionError, Licensing, get_spdx_licensing

LONGEST = 400

# Names in use for what SPDX calls otherwise; the keys are lower case.
NAMES = {
    "expat": "MIT",
    "mit license": "MIT",
    "the mit license": "MIT",
    "mit/x11": "LicenseRef-MIT-X11",  # either of two texts
    "apache": "LicenseRef-Apache",  # of no version
    "apache-2": "Apache-2.0",
    "apache 2.0": "Apache-2.0",
    "apache license 2.0": "Apache-2.0",
    "apache license, version 2.0": "Apache-2.0",
    "apache software license 2.0": "Apache-2.0",
    "asl 2.0": "Apache-2.0",
    "artistic": "Artistic-1.0-Perl",  # Debian means the text that comes with Perl
    "artistic-1": "Artistic-1.0-Perl",
    "artistic-2": "Artistic-2.0",
    "bsd-2": "BSD-2-Clause",
    "bsd 2-clause": "BSD-2-Clause",
    "bsd-3": "BSD-3-Clause",
    "bsd 3-clause": "BSD-3-Clause",
    "bsd-4": "BSD-4-Clause",
    "bsl-1": "BSL-1.0",
    "boost-1.0": "BSL-1.0",
    "cc0": "CC0-1.0",
    "edl-1.0": "BSD-3-Clause",  # the Eclipse Distribution License is that text
    "epl-1": "EPL-1.0",
    "epl-2": "EPL-2.0",
    "mpl-2": "MPL-2.0",
    "mplv2.0": "MPL-2.0",
    "openldap-2.8": "OLDAP-2.8",
    "psf-2": "PSF-2.0",
    "sgi-2": "LicenseRef-SGI-2",
    "public domain": "LicenseRef-public-domain",
    "public-domain": "LicenseRef-public-domain",
    "pd": "LicenseRef-public-domain",
}
# Words that stand where a name belongs and name nothing.
NO_NAMES = frozenset("other custom unknown none various license licence permissive see-below ad-hoc".split())
EXCEPTIONS = {
    "classpath": "Classpath-exception-2.0",
    "font": "Font-exception-2.0",
    "libtool": "Libtool-exception",
    "linux-syscall-note": "Linux-syscall-note",
    "llvm": "LLVM-exception",
}
_GNU = re.compile(
    r"(?:gnu )?(?P<family>agpl|lgpl|gpl|gfdl)[- ]?v?(?P<number>[123](?:\.[0-9])?)(?:\.0)?(?P<later>\+|-or-later| or later)?(?P<only>-only)?"
)
_JOIN = re.compile(r"(\s*,\s+(?:and|or)\s+|\s+and\s+|\s+or\s+|\(|\))", re.IGNORECASE)
_REFERENCE = re.compile(r"LicenseRef-[A-Za-z0-9.-]+")
_WITH = re.compile(r"^(?P<licence>.+?)\s+with\s+(?P<name>.+?)(?:[- ]exceptions?)?$", re.IGNORECASE)


@functools.cache
def licensing() -> Licensing:
    """The table of SPDX names; a second to load, so it is loaded once and late."""
    return get_spdx_licensing()


def to_spdx(text: str) -> str:
    """The SPDX expression that `text` means, or "" where it states none that can be read."""
    text = " ".join(text.split()).strip(" .")
    if not text or len(text) > LONGEST or text.lower() in NO_NAMES:
        return ""
    if (whole := NAMES.get(text.lower())) is not None:
        return whole
    parts = [part for part in _JOIN.split(text) if part and part.strip()]
    # A comma before "and" or "or" binds looser than both: what stands before it is one group.
    out: list[str] = []
    for part in parts:
        word = part.strip().lower()
        if word.startswith(","):
            out = ["(", *out, ")", word.lstrip(", ").upper()]
        elif word in ("and", "or"):
            out.append(word.upper())
        elif word in ("(", ")"):
            out.append(word)
        else:
            out.append(_licence(part.strip(" ,")))
    return canonical(" ".join(out))


def canonical(expression: str) -> str:
    """The expression as the SPDX list spells it, its parts in one order, so that equal ones compare equal; "" where it is none."""
    try:
        parsed = licensing().parse(expression, validate=False)
    except ExpressionError:
        return ""
    if parsed is None:
        return ""
    known = licensing().known_symbols
    for symbol in licensing().license_symbols(parsed, unique=True, decompose=True):
        if symbol.key not in known and not _REFERENCE.fullmatch(symbol.key):
            return ""
    return str(parsed.simplify().render("{symbol.key}"))


def _licence(text: str) -> str:
    if match := _WITH.match(text):
        exception = EXCEPTIONS.get(re.sub(r"[- ]exception.*$", "", match["name"].lower()))
        base = _one(match["licence"])
        return f"{base} WITH {exception}" if exception and base and not base.startswith("LicenseRef") else _reference(text)
    return _one(text) or _reference(text)


def _one(text: str) -> str:
    """The SPDX name of one licence, or ""."""
    lower = text.lower()
    if _REFERENCE.fullmatch(text):
        return text
    if lower in NAMES:
        return NAMES[lower]
    if match := _GNU.fullmatch(lower):
        number = match["number"] if "." in match["number"] else f"{match['number']}.0"
        family = match["family"].upper()
        if family == "GFDL" and number == "1.0":
            return ""
        return f"{family}-{number}-{'or-later' if match['later'] else 'only'}"
    return _spelling().get(lower, "")


@functools.cache
def _spelling() -> dict[str, str]:
    """Lower-case SPDX licence name: its spelling. Names that SPDX has given up are left out, their meaning is `_GNU`'s."""
    return {
        key.lower(): key for key, symbol in licensing().known_symbols.items() if not symbol.is_exception and not key.endswith("+")
    }


def _reference(text: str) -> str:
    body = re.sub(r"[^A-Za-z0-9.-]+", "-", text.replace("+", "-or-later")).strip("-.")
    return f"LicenseRef-{body[:80]}" if body else ""
