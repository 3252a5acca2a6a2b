"""SPDX licence expressions: `read` and `Licence`. license-expression parses them; nothing here knows a document."""

from __future__ import annotations

from functools import cache

from license_expression import ExpressionError, ExpressionParseError, LicenseExpression
from msgspec import Struct

from saidata.sources.licences import licensing

MAX_LENGTH = 1000  # of an expression: the parser calls itself for every bracket


class Licence(Struct, frozen=True):
    """An expression in its usual spelling, the licences it names, and what is wrong with it ("" if nothing is)."""

    text: str
    names: tuple[str, ...] = ()
    wrong: str = ""

    @property
    def known(self) -> bool:
        """Whether SPDX knows every licence in it."""
        return not self.wrong and not any(name.startswith("LicenseRef-") for name in self.names)


@cache
def read(text: str) -> Licence:
    """What an expression says: "GPL-2.0+" is GPL-2.0-or-later."""
    if not text.strip():
        return Licence(text, wrong="it is empty")
    if len(text) > MAX_LENGTH:
        return Licence(text, wrong=f"it has {len(text)} characters; an expression has at most {MAX_LENGTH}")
    try:
        parsed = licensing().parse(text)
    except (ExpressionParseError, ExpressionError, RecursionError) as error:
        return Licence(text, wrong=f"it is no SPDX expression: {_reason(error)}")
    names = tuple(licensing().license_keys(parsed))
    unknown = [name for name in names if not name.startswith(("LicenseRef-", "DocumentRef-")) and name in _unknown(parsed)]
    if unknown:
        return Licence(text, names, f"SPDX knows no licence {', '.join(unknown)}")
    return Licence(str(parsed), names)


def same(one: Licence, other: Licence) -> bool:
    """Whether two sound expressions say the same, whatever the order of their parts."""
    if one.wrong or other.wrong:
        return False
    return one.text == other.text or bool(licensing().is_equivalent(one.text, other.text))


def near(name: str) -> str | None:
    """The SPDX licence that was probably meant: Apache-2.0 for "Apache 2.0", BSD-2-Clause for "bsd 2 clause"."""
    bare = {_bare(known): known for known in sorted(licensing().known_symbols, key=len, reverse=True)}
    asked = _bare(name).replace("license", "").replace("licence", "").replace("version", "").removesuffix("v")
    return bare.get(asked) or bare.get(asked.replace("v", "")) or bare.get(asked + "0") or bare.get(asked + "only")


def _unknown(parsed: LicenseExpression) -> set[str]:
    return set(licensing().unknown_license_keys(parsed))


def _bare(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())


def _reason(error: Exception) -> str:
    """The parser's words, without those of its own errors."""
    try:
        said = str(error)
    except AttributeError:  # license-expression 30.4 fails to print some of its own errors
        said = ""
    return " ".join(said.split())[:100] or "an operator lacks a licence beside it"
