"""What one rendering of a template may use, and the checks of operations whose result may be far larger than they are.

Meters are found through a context variable, as Jinja hands its operators nothing else that belongs to one rendering.
Knows nothing of Jinja. Open `Meter` first.
"""

from __future__ import annotations

import re
import string
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Limits:
    """What one rendering may use."""

    seconds: float = 2.0
    chars: int = 4 * 2**20  # of the output, and of any one value
    items: int = 200_000  # of any one value, nested ones included
    depth: int = 64  # of nesting in any one value
    made: int = 64 * 2**20  # characters of all values made, an item counting as 16
    bits: int = 4096  # of an integer that a template computes


DEFAULT_LIMITS = Limits()


class LimitExceeded(Exception):
    """A template used more than it may. The text completes "the chat template ..."."""


class Meter:
    """Counts what one rendering uses."""

    __slots__ = ("_deadline", "_made", "limits")

    def __init__(self, limits: Limits):
        self.limits = limits
        self._deadline = time.monotonic() + limits.seconds
        self._made = 0

    def tick(self) -> None:
        """Look at the clock."""
        if time.monotonic() > self._deadline:
            raise LimitExceeded(f"ran for more than {self.limits.seconds:g} s")

    def admit(self, value: Any) -> Any:
        """Return `value`, newly made, if it is small enough to live."""
        self.tick()
        if isinstance(value, str):
            self.charge(len(value))
        elif isinstance(value, int):
            if value.bit_length() > self.limits.bits:
                raise LimitExceeded(f"computed a number of more than {self.limits.bits} bits")
        elif isinstance(value, CONTAINERS):
            self.measure(value)
            self.charge(16 * len(value))
        return value

    def charge(self, chars: int) -> None:
        """Account for a value about to be made of `chars` characters."""
        if chars > max(self.limits.chars, self.limits.items * 16):
            raise LimitExceeded(f"has a value of more than {self.limits.chars} characters")
        self._made += chars
        if self._made > self.limits.made:
            raise LimitExceeded(f"made values of more than {self.limits.made} characters in all")

    def measure(self, value: Any) -> tuple[int, int]:
        """(items, characters) of a value with all that is nested in it, counted as often as it is referred to."""
        items, chars = 0, 0
        level = [value]
        for _ in range(self.limits.depth):
            below: list[Any] = []
            for member in level:
                if isinstance(member, str):
                    chars += len(member)
                elif isinstance(member, CONTAINERS):
                    below.extend(member)
                    below.extend(member.values() if isinstance(member, dict) else ())
                    if items + len(below) > self.limits.items:
                        raise LimitExceeded(f"has a value of more than {self.limits.items} items")
            items += len(level)
            if chars > self.limits.chars:
                raise LimitExceeded(f"has a value of more than {self.limits.chars} characters")
            if not below:
                return items, chars
            level = below
        raise LimitExceeded(f"has a value nested more than {self.limits.depth} deep")

    def watch(self, values: Iterable[Any]) -> Iterator[Any]:
        """The same values, looking at the clock before each."""
        for count, value in enumerate(values):
            if count >= self.limits.items:
                raise LimitExceeded(f"looped over more than {self.limits.items} items")
            self.tick()
            yield value


CONTAINERS: Any = (list, tuple, dict, type({}.keys()), type({}.values()), type({}.items()))
_METER: ContextVar[Meter] = ContextVar("redline_template_meter")


def current() -> Meter:
    """The meter of this rendering. Raises LookupError while a template compiles, so that nothing is computed then."""
    return _METER.get()


@contextmanager
def metered(limits: Limits) -> Iterator[Meter]:
    """Make a new meter the current one of this thread or task."""
    meter = Meter(limits)
    token = _METER.set(meter)
    try:
        yield meter
    finally:
        _METER.reset(token)


# Checks of what may grow past its operands. They look at the very arguments that the operation will get.


def check_product(left: Any, right: Any) -> None:
    for value, times in ((left, right), (right, left)):
        if isinstance(times, int):
            if isinstance(value, str):
                current().charge(len(value) * max(times, 0))
            elif isinstance(value, list | tuple):
                current().charge(16 * len(value) * max(times, 0))


def check_power(base: Any, exponent: Any) -> None:
    if isinstance(base, int) and isinstance(exponent, int):
        bits = base.bit_length() * abs(exponent)
        if bits > current().limits.bits:
            raise LimitExceeded(f"computed a number of {bits} bits")


def check_join(separator: str, values: list[Any]) -> None:
    _, chars = current().measure(values)
    current().charge(len(separator) * len(values) + chars)


def check_replace(text: str, old: Any = "", new: Any = "", count: Any = None) -> None:
    old, new = str(old), str(new)
    current().charge(len(text) + text.count(old) * max(len(new) - len(old), 0))


_PERCENT = re.compile(r"%(?:\([^)]*\))?[#0\- +]*(\*|\d*)(?:\.(\*|\d*))?")
_WIDE = re.compile(r"\d{4}|[*{]")  # a width of four digits, or one that is an argument


def check_percent(text: str, values: Any) -> None:
    check_long(text)
    _check_fields([" ".join(sizes) for sizes in _PERCENT.findall(text)], text, values)


def check_braces(text: str, values: Any) -> None:
    check_long(text)
    _check_fields([spec or "" for _, name, spec, _ in string.Formatter().parse(text) if name is not None], text, values)


def _check_fields(specs: list[str], text: str, values: Any) -> None:
    if any(_WIDE.search(spec) for spec in specs):
        raise LimitExceeded("formats with a width of four digits or one that it computes")
    items, chars = current().measure(values)
    current().charge(len(text) + len(specs) * (2000 + 8 * items + chars))


def check_long(text: Any) -> None:
    if len(str(text)) > 100_000:
        raise LimitExceeded("formats or capitalises more than 100000 characters")


def check_number(value: Any, *_: Any, **__: Any) -> None:
    if isinstance(value, str) and len(value) > 1000:
        raise LimitExceeded("reads a number of more than 1000 digits")


def check_round(value: Any, precision: Any = 0, method: Any = "common") -> None:
    if not isinstance(precision, int) or abs(precision) > 30:
        raise LimitExceeded(f"rounds to {precision!r} digits")


def check_sum(value: Any, attribute: Any = None, start: Any = 0) -> None:
    if not isinstance(start, int | float):
        raise LimitExceeded("sums what are no numbers")


def check_indent(text: Any, width: Any = 4, first: bool = False, blank: bool = False) -> None:
    text = str(text)
    columns = len(width) if isinstance(width, str) else width
    current().charge(len(text) + (text.count("\n") + 1) * max(columns, 0))


def check_tojson(
    value: Any, ensure_ascii: Any = False, indent: Any = None, separators: Any = None, sort_keys: Any = False
) -> None:
    columns = len(indent) if isinstance(indent, str) else indent or 0
    if columns > 16 or any(len(text) > 16 for text in separators or ()):
        raise LimitExceeded("writes JSON with an indent or separators of more than 16 characters")
    items, chars = current().measure(value)
    current().charge(items * (columns * 4 + 4) + chars)
