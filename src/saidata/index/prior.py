"""How likely a person who types a name means this package at all: `prior`. The weights were set once, by judgement.

An archive says nothing of popularity, but other packages do: what many others need or recommend is known to many. A
program, and more so a service, is meant more often than a library, a language binding or a part of something else. What the
whole is worth is measured: `python bench/retrieval.py --without prior`.
"""

from __future__ import annotations

import math
import re

# Parts of something else, by the names that Debian's policy gives them.
PART = re.compile(
    r"^(lib(?!reoffice|rewolf|recad|virt-)|python3?-|ruby-|golang-|node-|haskell-|librust-|r-(cran|bioc|other)-|elpa-|php[0-9.]*-|"
    r"fonts-|texlive-|gir1\.2-|task-|education-|linux-(image|headers|doc|source|config|support)-|gcc-\d|ocaml-|puppet-module-)"
    r"|-(dev|doc|docs|dbg|dbgsym|data|common|examples|locales?|l10n(-.*)?|i18n|plugins?|extra|extras|java|perl|headers|tests?)$"
)
SECTIONS_OF_PARTS = frozenset(
    "libs libdevel oldlibs doc debug localization perl python ruby haskell rust golang javascript fonts introspection metapackages".split()
)


def prior(name: str, section: str, tags: str, reverse_depends: int, kinds: frozenset[str]) -> float:
    """From about -2 (a debug library) to about 6 (a server that hundreds of packages need)."""
    score = 0.45 * math.log1p(reverse_depends)
    score += 0.8 * ("command" in kinds) + 0.9 * ("unit" in kinds)
    score += 0.5 * ("role::program" in tags)
    score -= 1.2 * bool(PART.search(name))
    score -= 0.8 * (section.rpartition("/")[2] in SECTIONS_OF_PARTS)
    return round(score, 4)
