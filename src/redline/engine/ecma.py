"""Patterns of JSON schemas, written for the engine that enforces them.

A `pattern` is an ECMA-262 regular expression. The matcher reads the Rust dialect, in which some of the same characters mean
something else: `[[a]]` nests, `.` takes a carriage return, `\\s` takes U+0085 and not U+FEFF. `portable` writes a pattern whose
matches satisfy both readings, and refuses what has no such form. Knows nothing of schemas. Open `portable` first.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from redline.errors import UnsupportedField

_SPACES = r"\t\n\x0b\x0c\r\x20\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
_IS_SPACE = _SPACES  # in both dialects
_MAY_BE_SPACE = _SPACES + r"\x85\ufeff"  # in either
_LINE_ENDS = r"\n\r\u2028\u2029"

_QUANTIFIER = re.compile(r"[*+?]|\{\d+(?:,\d*)?\}")
_HEX = re.compile(r"x[0-9A-Fa-f]{2}|u[0-9A-Fa-f]{4}|u\{[0-9A-Fa-f]{1,6}\}")
_PROPERTY = re.compile(r"[pP]\{\^?[A-Za-z0-9_=]+\}")
_LOW_SURROGATE = re.compile(r"\\u([dD][c-fC-F][0-9A-Fa-f]{2})")
_GROUP = re.compile(r"\?(?::|<[A-Za-z_][A-Za-z0-9_]*>)")
_SYNTAX = "^$\\.*+?()[]{}|/-"
_MAX_CHARS = 4096


def portable(pattern: str) -> str:
    """`pattern` so that what the matcher accepts, ECMA accepts. Raises UnsupportedField with what it cannot write."""
    if len(pattern) > _MAX_CHARS:
        raise UnsupportedField(f"a pattern of {len(pattern)} characters is too long", hint=f"use at most {_MAX_CHARS}")
    return _Translator(pattern).whole()


class _Translator:
    """Reads one pattern from left to right."""

    def __init__(self, pattern: str) -> None:
        self._text = pattern
        self._at = 0
        self._written: list[str] = []

    def whole(self) -> str:
        quantifiable = False
        while self._at < len(self._text):
            char = self._text[self._at]
            quantifier = _QUANTIFIER.match(self._text, self._at)
            if quantifier and quantifiable:
                self._take(len(quantifier[0]))
                if self._text.startswith("?", self._at):
                    self._at += 1  # lazy: the same language
                quantifiable = False
                continue
            quantifiable = char not in "^$(|"
            if char == "\\":
                self._at += 1
                self._written.append(self._escape(lambda spaces: f"[{spaces}]"))
            elif char == "[":
                self._class()
            elif char == ".":
                self._put(f"[^{_LINE_ENDS}]", 1)
            elif char == "(":
                self._group()
            elif char in "{}]":
                self._put("\\" + char, 1)
            elif quantifier:
                raise self._refusal(f"the quantifier {quantifier[0]!r} has nothing to repeat")
            else:
                self._take(1)
        return "".join(self._written)

    def _group(self) -> None:
        self._take(1)
        if not self._text.startswith("?", self._at):
            return
        opening = _GROUP.match(self._text, self._at)
        if opening is None:
            raise self._refusal("groups that begin with '(?' and look around or set flags are not supported")
        self._put("?:", len(opening[0]))

    def _class(self) -> None:
        """A class in brackets, where only `^`, `-`, `\\` and `]` are special to ECMA."""
        self._at += 1
        negated = self._text.startswith("^", self._at)
        self._at += negated
        if self._text.startswith("]", self._at):
            raise self._refusal("an empty class is not supported")
        self._written.append("[^" if negated else "[")
        # In a negated class what is named is what must not match: there the wider reading of \s is the safe one.
        spaces, others = (_MAY_BE_SPACE, _IS_SPACE) if negated else (_IS_SPACE, _MAY_BE_SPACE)
        while not self._text.startswith("]", self._at):
            if self._at >= len(self._text):
                raise self._refusal("a class has no end")
            char = self._text[self._at]
            if char == "\\":
                self._at += 1
                self._written.append(self._escape(lambda _: spaces, lambda _: f"[^{others}]"))
            elif char in "[&~":
                self._put("\\" + char, 1)
            elif self._text.startswith("--", self._at):
                raise self._refusal("'--' in a class is not supported")
            else:
                self._take(1)
        self._take(1)

    def _escape(self, spaces: Callable[[str], str], others: Callable[[str], str] | None = None) -> str:
        """What stands for the escape after a backslash; the two functions write `\\s` and `\\S` where they stand."""
        char = self._text[self._at : self._at + 1]
        if char == "s":
            self._at += 1
            return spaces(_IS_SPACE)
        if char == "S":
            self._at += 1
            return others(_MAY_BE_SPACE) if others else f"[^{_MAY_BE_SPACE}]"
        for known in (_HEX, _PROPERTY):
            match = known.match(self._text, self._at)
            if match:
                self._at += len(match[0])
                return self._code_point(match[0]) if known is _HEX else "\\" + match[0]
        if char == "0" and not self._text[self._at + 1 : self._at + 2].isdigit():
            self._at += 1
            return r"\x00"
        if char == "c" and re.match(r"[A-Za-z]", self._text[self._at + 1 : self._at + 2]):
            self._at += 2
            return f"\\x{ord(self._text[self._at - 1]) % 32:02x}"
        if not char or char not in "dDwWtnrfv" + _SYNTAX:
            raise self._refusal(f"the escape '\\{char}' is not supported")
        self._at += 1
        return "\\" + char

    def _code_point(self, spelled: str) -> str:
        """A code point by number; the two halves of a surrogate pair are one."""
        number = int(spelled[1:].strip("{}"), 16)
        if 0xD800 <= number < 0xDC00:
            low = _LOW_SURROGATE.match(self._text, self._at)
            if low:
                self._at += len(low[0])
                number = 0x10000 + ((number - 0xD800) << 10) + int(low[1], 16) - 0xDC00
        if 0xD800 <= number < 0xE000 or number > 0x10FFFF:
            raise self._refusal(f"the escape '\\{spelled}' is no character")
        return f"\\u{{{number:x}}}"

    def _take(self, count: int) -> None:
        self._put(self._text[self._at : self._at + count], count)

    def _put(self, written: str, read: int) -> None:
        self._written.append(written)
        self._at += read

    def _refusal(self, why: str) -> UnsupportedField:
        shown = self._text if len(self._text) <= 60 else self._text[:60] + "..."
        return UnsupportedField(f"the pattern {shown!r} cannot be enforced: {why}")
