"""Finds the tool calls in an answer while it is written, whatever the model's syntax.

What is told, however the text was cut:

- A call begins once its name is whole and its arguments have begun; then they are told as they come.
- What began like a call and is none is text, as it was written. Nothing is lost; special tokens that are never part of a
  text are left out of it.
- A call that was cut off has the arguments so far, none if they had not begun; before its name is whole it is text.
- White space between a text and a call, or between calls, belongs to neither.

Knows nothing of reasoning (reasoning_parser.py reads that first). Open `ToolParser.push` first.
"""

from __future__ import annotations

import re
import secrets
import string
from collections.abc import Callable, Collection

from redline.chat.call_reader import CallReader, ObjectReader, end_of
from redline.chat.parser import CallArguments, CallBegin, Event, Text, merged
from redline.chat.syntax import ToolSyntax

MAX_NAME = 256
_NAME = re.compile(r"[\w.:/-]*")
_ID = re.compile(r"[A-Za-z0-9_-]*")
_LETTERS = string.ascii_letters + string.digits


class ToolParser:
    """Reads one answer. `names` are the functions it may call; `hidden` the markers that are special tokens."""

    def __init__(self, syntax: ToolSyntax, names: Collection[str], hidden: Collection[str] = ()) -> None:
        self._syntax = syntax
        self._names = frozenset(names)
        self._hidden = tuple(hidden)
        self._openers = tuple(filter(None, (syntax.trigger, syntax.call_begin.strip())))
        self._names_first = syntax.named or bool(syntax.name_end)
        self._ends = tuple(marker.strip() for marker in (syntax.call_end, syntax.end.lstrip(" \n]")) if marker.strip())
        self._state: Callable[[], bool] = self._read_text
        self._buffer = ""
        self._events: list[Event] = []
        self._last = False
        self._raw = ""  # read since the last certain event: text again if no call comes of it
        self._is_start = True  # nothing but white space was read
        self._awaits_call = False
        self._is_list = False
        self._num_calls = 0
        self._begun = False
        self._told_arguments = False
        self._reader = self._new_reader()
        self._object = ObjectReader()

    @property
    def markers(self) -> tuple[str, ...]:
        return self._syntax.markers

    def push(self, text: str) -> list[Event]:
        self._buffer += text
        return self._run()

    def finish(self) -> list[Event]:
        self._last = True
        events = self._run()
        self._end()
        rest, self._events = self._events, []
        return merged([*events, *rest])

    def _run(self) -> list[Event]:
        while self._state():
            pass
        events, self._events = self._events, []
        return merged(events)

    def _end(self) -> None:
        """The answer ended in the middle of something."""
        reader = self._reader
        if self._state == self._read_object and not self._begun and reader.name is not None:
            self._begin_call(reader.name)
        if self._begun:
            reader.finish()
            self._tell_arguments(reader.take())
        elif self._raw and (self._awaits_call or self._state != self._read_group):
            self._fall_back()
        self._tell(self._buffer if self._state == self._read_text else "")

    # Each state reads from the buffer what it can, and says whether another look at the buffer may read more.

    def _read_text(self) -> bool:
        buffer = self._buffer
        if self._is_start and self._syntax.bare:
            start = len(buffer) - len(buffer.lstrip())
            if start == len(buffer):
                return False
            self._is_start = False
            if buffer[start] == "{":
                self._raw, self._buffer = buffer[:start], buffer[start:]
                return self._enter_object()
        markers = (*self._openers[:1], *(self._ends if self._num_calls else ()))
        at, marker = _first(buffer, markers)
        if not marker:
            certain = len(buffer) if self._last else _certain(buffer, markers)
            self._tell(buffer[:certain])
            self._buffer = buffer[certain:]
            return False
        text = buffer[:at].rstrip()
        self._tell(text)
        self._awaits_call = marker in self._openers
        self._raw = buffer[len(text) : at + len(marker)] if self._awaits_call else ""
        self._buffer = buffer[at + len(marker) :]
        self._is_list = False
        self._state = self._read_group
        return True

    def _read_group(self) -> bool:
        """Between the marker that announced calls and the text after them, outside of any call."""
        space = len(self._buffer) - len(self._buffer.lstrip())
        rest = self._buffer[space:]
        if not rest:
            return False
        for marker in (*self._openers, *self._ends):
            if rest.startswith(marker):
                return self._pass_marker(space + len(marker), opens=marker in self._openers)
            if marker.startswith(rest) and not self._last:
                return False
        char = rest[0]
        if char == "{" and (self._awaits_call or self._is_list or self._syntax.bare):
            self._take(space)
            return self._enter_object()
        if self._is_punctuation(char):
            self._take(space + 1)
            self._is_list = char == "[" or (self._is_list and char != "]")
            self._awaits_call = char != "]"
            self._raw = self._raw if self._awaits_call else ""
            return True
        if self._names_first and self._awaits_call and not self._is_list and end_of(_NAME, rest, 0, 1):
            self._take(space)
            self._state = self._read_name
            return True
        if self._awaits_call:
            self._fall_back()
        self._state = self._read_text
        return True

    def _is_punctuation(self, char: str) -> bool:
        """Whether this begins or ends a list of calls here, or stands between two."""
        if char == "[":
            return self._awaits_call and not self._is_list
        return self._is_list if char == "]" else char in ",;" and self._num_calls > 0 and not self._awaits_call

    def _read_object(self) -> bool:
        reader = self._reader
        end = reader.feed(self._buffer, 0, self._last)
        self._take(end)
        certain = reader.done or reader.has_arguments
        if not self._begun and certain and reader.name is not None:
            self._begin_call(reader.name)
        if self._begun:
            self._tell_arguments(reader.take())
        if not reader.done and not reader.failed:
            return False
        if self._begun:
            self._end_call()
        else:
            self._fall_back()
        return True

    def _read_name(self) -> bool:
        """A call that is not an object: its name, perhaps an id, a marker, and its arguments."""
        buffer, ends = self._buffer, (self._syntax.name_end.strip(), self._syntax.id_begin)
        at = end_of(_NAME, buffer)
        if at > MAX_NAME:
            self._fall_back()
            return True
        name, rest = buffer[:at], buffer[at:].lstrip()
        call_id = ""
        if self._syntax.id_begin and rest.startswith(self._syntax.id_begin):
            rest = rest.removeprefix(self._syntax.id_begin)
            size = end_of(_ID, rest, 0, MAX_NAME)
            call_id, rest = rest[:size], rest[size:].lstrip()
        if rest.startswith(ends[0]):
            rest = rest.removeprefix(ends[0]).lstrip()
        if rest.startswith("{"):
            self._take(len(buffer) - len(rest))
            self._object = ObjectReader(self._ends)
            self._begin_call(name, call_id)
            self._state = self._read_arguments
            return True
        if self._last or (rest and not any(end.startswith(rest) for end in ends)):
            self._fall_back()
            return True
        return False

    def _read_arguments(self) -> bool:
        end = self._object.feed(self._buffer, 0, self._last)
        self._tell_arguments(self._buffer[:end])
        self._buffer = self._buffer[end:]
        if self._object.done:
            self._end_call()
        return self._object.done

    # What moves between the states.

    def _pass_marker(self, size: int, *, opens: bool) -> bool:
        self._take(size)
        self._awaits_call = opens
        if not opens:
            self._raw, self._is_list = "", False
        return True

    def _enter_object(self) -> bool:
        self._reader = self._new_reader()
        self._state = self._read_object
        return True

    def _new_reader(self) -> CallReader:
        syntax = self._syntax
        announced = self._raw.strip() or not syntax.bare
        return CallReader(syntax.name_key, syntax.arguments_key, self._ends, None if announced else self._names)

    def _begin_call(self, name: str, call_id: str = "") -> None:
        self._events.append(CallBegin(self._num_calls, call_id or _new_id(self._syntax.id_chars), name))
        self._begun, self._told_arguments = True, False
        self._raw = ""

    def _tell_arguments(self, text: str) -> None:
        if text:
            self._told_arguments = True
            self._events.append(CallArguments(self._num_calls, text))

    def _end_call(self) -> None:
        if not self._told_arguments:
            self._tell_arguments("{}")
        self._num_calls += 1
        self._begun = self._awaits_call = False
        self._state = self._read_group

    def _take(self, size: int) -> None:
        """Read `size` characters, of which a call is to come."""
        if not self._begun:
            self._raw += self._buffer[:size]
        self._buffer = self._buffer[size:]

    def _fall_back(self) -> None:
        """No call came of it."""
        raw, self._raw = self._raw, ""
        for piece in self._hidden:
            raw = raw.replace(piece, "")
        self._tell(raw)
        self._awaits_call = self._is_list = False
        self._state = self._read_text

    def _tell(self, text: str) -> None:
        if text:
            self._is_start = False
            self._events.append(Text(text))


def _first(text: str, markers: tuple[str, ...]) -> tuple[int, str]:
    """Where the first of the markers is and which; (-1, "") where there is none."""
    found = [(at, marker) for marker in markers if (at := text.find(marker)) >= 0]
    return min(found, key=lambda hit: (hit[0], -len(hit[1])), default=(-1, ""))


def _certain(text: str, markers: tuple[str, ...]) -> int:
    """How much of `text` is certain: the rest may become a marker, with the white space before it."""
    longest = 0
    for marker in markers:
        for size in range(min(len(marker) - 1, len(text)), longest, -1):
            if text.endswith(marker[:size]):
                longest = size
                break
    return len(text[: len(text) - longest].rstrip()) if markers else len(text)


def _new_id(chars: int) -> str:
    if chars:
        return "".join(secrets.choice(_LETTERS) for _ in range(chars))
    return f"call_{secrets.token_hex(12)}"
