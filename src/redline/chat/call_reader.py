"""Reads one tool call's JSON while it is written: `{"name": "f", "arguments": {...}}`, keys in any order.

It says what is certain so far: the name once it is whole, the text of the arguments as it comes. It reads exactly one object
and no more, and gives up (`failed`) at the first character that cannot be part of a call. Knows no markers but those it is
told to end at. Open `CallReader.feed` first.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Collection

_SPACE = " \t\r\n"
_PLAIN = re.compile(r'[^"\\{}\[\]]*')  # outside of strings; what may begin a marker is looked for in it
_IN_STRING = re.compile(r'[^"\\]*')
_NAMES = frozenset({"name"})
_ARGUMENTS = frozenset({"arguments", "parameters"})  # models mix them up
_KNOWN = frozenset({"type", "id", "function"})


def end_of(pattern: re.Pattern[str], text: str, at: int = 0, most: int = sys.maxsize) -> int:
    """Where a match that begins at `at` ends; `pattern` matches nothing, too."""
    match = pattern.match(text, at, most)
    assert match is not None
    return match.end()


class ObjectReader:
    """Follows one JSON object or array to its end, by brackets and strings alone; what is between them is not checked.

    Outside of strings one of `ends` (markers that close a call) ends it early: a model that forgot a bracket.
    """

    def __init__(self, ends: Collection[str] = ()) -> None:
        self._ends = tuple(end for end in ends if end[0] not in '{}[],:"')
        self._depth = 0
        self._in_string = False
        self.done = False

    def feed(self, text: str, at: int, last: bool) -> int:
        """Read from `at`; how far it came. It stops at its end, before a marker, and before what may become one."""
        while at < len(text) and not self.done:
            if self._in_string:
                at = end_of(_IN_STRING, text, at)
                if text[at : at + 1] == "\\":
                    if at + 1 == len(text) and not last:
                        return at
                    at += 2
                elif at < len(text):
                    self._in_string = False
                    at += 1
                continue
            stop = end_of(_PLAIN, text, at)
            found = min((_find(text, end, at, stop, last) for end in self._ends), default=stop)
            if found < stop:
                self.done = text.startswith(self._ends, found)
                return found
            at = stop
            if at < len(text):
                self._bracket(text[at])
                at += 1
        return min(at, len(text))

    def _bracket(self, char: str) -> None:
        if char == '"':
            self._in_string = True
        elif char in "{[":
            self._depth += 1
        elif char in "}]":
            self._depth -= 1
            self.done = self._depth <= 0


def _find(text: str, marker: str, start: int, stop: int, last: bool) -> int:
    """Where between `start` and `stop` the marker begins, or may begin as far as the text goes; `stop` where it does not."""
    at = text.find(marker[0], start, stop)
    while at >= 0:
        if text.startswith(marker, at) or (not last and marker.startswith(text[at:])):
            return at
        at = text.find(marker[0], at + 1, stop)
    return stop


class CallReader:
    """One call. Feed it until it is `done` or `failed`; take the arguments' text with `take`.

    With `only` the name must be one of these and all keys those of a call: an object that nothing announced may be an
    answer in JSON.
    """

    def __init__(self, name_key: str, arguments_key: str, ends: Collection[str], only: Collection[str] | None) -> None:
        self._names = _NAMES | {name_key}
        self._arguments = _ARGUMENTS | {arguments_key}
        self._ends = tuple(ends)
        self._only = only
        self._state: Callable[[str, int, bool], int] = self._open
        self._key = ""
        self._word: list[str] = []  # the string, number or word that is being read
        self._value: ObjectReader | None = None
        self._text: list[str] = []  # of the arguments, not taken yet
        self.name: str | None = None
        self.has_arguments = False
        self.done = False
        self.failed = False

    def feed(self, text: str, at: int, last: bool) -> int:
        """Read from `at`; how far it came. It needs more text where that is short of the end."""
        while at < len(text) and not self.done and not self.failed:
            before, state = at, self._state
            at = state(text, at, last)
            if at == before and self._state == state:
                break
        return at

    def take(self) -> str:
        """The arguments' text since the last time."""
        text = "".join(self._text)
        self._text.clear()
        return text

    def finish(self) -> None:
        """The answer has ended: what is left of arguments that came as a string becomes their text."""
        if self._state == self._string_arguments:
            self._text.append(_unquoted("".join(self._word)))

    def _open(self, text: str, at: int, last: bool) -> int:
        assert text[at] == "{"
        self._state = self._before_key
        return at + 1

    def _before_key(self, text: str, at: int, last: bool) -> int:
        char = text[at]
        if char == '"':
            self._word = []
            self._state = self._in_key
        elif char == "}":
            self.done = True
        elif char not in _SPACE + ",":
            self.failed = True
            return at
        return at + 1

    def _in_key(self, text: str, at: int, last: bool) -> int:
        at, whole = self._string(text, at, last)
        if whole:
            self._key = _unquoted("".join(self._word))
            known = self._names | self._arguments | _KNOWN
            self.failed = self._only is not None and self._key not in known
            self._state = self._before_value
        return at

    def _before_value(self, text: str, at: int, last: bool) -> int:
        char = text[at]
        if char in _SPACE + ":":
            return at + 1
        if self._key in self._names and self.name is None:
            if char != '"':
                self.failed = True
                return at
            self._word = []
            self._state = self._in_name
            return at + 1
        if self._key in self._arguments and not self.has_arguments:
            return self._begin_arguments(char, at)
        self._value = ObjectReader(self._ends) if char in "{[" else None
        self._word = []
        self._state = self._other
        return at

    def _begin_arguments(self, char: str, at: int) -> int:
        self._word = []
        if char == "{":
            self.has_arguments = True
            self._value = ObjectReader(self._ends)
            self._state = self._object_arguments
        elif char == '"':
            self.has_arguments = True
            self._state = self._string_arguments
            return at + 1
        elif char == "n":  # null: none
            self._state = self._other
        else:
            self.failed = True
        return at

    def _in_name(self, text: str, at: int, last: bool) -> int:
        at, whole = self._string(text, at, last)
        if whole:
            name = _unquoted("".join(self._word))
            self.failed = not name or (self._only is not None and name not in self._only)
            self.name = None if self.failed else name
            self._state = self._after_value
        return at

    def _object_arguments(self, text: str, at: int, last: bool) -> int:
        assert self._value is not None
        end = self._value.feed(text, at, last)
        self._text.append(text[at:end])
        if self._value.done:
            self._state = self._after_value
        return end

    def _string_arguments(self, text: str, at: int, last: bool) -> int:
        """Arguments as OpenAI's API writes them, JSON in a string: held until the string is whole."""
        at, whole = self._string(text, at, last)
        if whole:
            self._text.append(_unquoted("".join(self._word)))
            self._state = self._after_value
        return at

    def _other(self, text: str, at: int, last: bool) -> int:
        """A value of no interest."""
        if self._value is not None:
            at = self._value.feed(text, at, last)
            if self._value.done:
                self._state = self._after_value
            return at
        if not self._word and text[at] == '"':
            self._word = ['"']
            self._state = self._other_string
            return at + 1
        end = at
        while end < len(text) and text[end] not in ",}" + _SPACE:
            end += 1
        self._word.append(text[at:end])
        if end < len(text):
            word = "".join(self._word)
            self.failed = re.fullmatch(r"-?[0-9.eE+-]+|true|false|null", word) is None
            self._state = self._after_value
        return end

    def _other_string(self, text: str, at: int, last: bool) -> int:
        at, whole = self._string(text, at, last)
        if whole:
            self._state = self._after_value
        return at

    def _after_value(self, text: str, at: int, last: bool) -> int:
        char = text[at]
        if char == "}":
            self.done = True
        elif char == ",":
            self._state = self._before_key
        elif char not in _SPACE:
            self.failed = True
            return at
        return at + 1

    def _string(self, text: str, at: int, last: bool) -> tuple[int, bool]:
        """The inside of a string, into `_word`; whether its closing quote was reached."""
        while at < len(text):
            end = end_of(_IN_STRING, text, at)
            if text[end : end + 1] == '"':
                self._word.append(text[at:end])
                return end + 1, True
            if text[end : end + 1] == "\\":
                if end + 1 == len(text) and not last:
                    self._word.append(text[at:end])
                    return end, False
                end += 2
            self._word.append(text[at:end])
            at = end
        return min(at, len(text)), False


def _unquoted(inside: str) -> str:
    """What the inside of a JSON string says; of one that was cut off, as much as can be read."""
    for cut in range(min(len(inside), 12) + 1):  # two \\uXXXX of one character at most
        try:
            return str(json.loads(f'"{inside[: len(inside) - cut]}"', strict=False))
        except ValueError:
            continue
    return inside
