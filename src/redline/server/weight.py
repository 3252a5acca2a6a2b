"""How much a JSON text costs to read, found out before it is read: 10 MB of text is cheap, 10 MB of `{},{},{}` takes seconds.

Reading is one call that nothing else runs beside, so what would take too long is refused. Open `check_weight`.
"""

from __future__ import annotations

from redline.errors import TooLarge

MAX_WEIGHT = 1 << 20  # some tenths of a second; also as many tokens as the longest contexts have
_OBJECT, _LIST, _TEXT, _NAME, _VALUE = 10, 3, 3, 2, 1
_HEAVIEST = 10  # for a byte


def check_weight(data: bytes) -> None:
    """Raise TooLarge for a JSON text of too many values. What it says of anything but JSON is meaningless."""
    if len(data) * _HEAVIEST <= MAX_WEIGHT or _weight(data) <= MAX_WEIGHT:
        return
    unescaped = data.replace(b"\\\\", b"").replace(b'\\"', b"") if b"\\" in data else data
    quotes = unescaped.count(b'"')
    if quotes // 2 * _TEXT > MAX_WEIGHT or _weight(b'""'.join(unescaped.split(b'"')[::2])) > MAX_WEIGHT:
        raise TooLarge("the request body has too many values", hint="send fewer messages, texts or tokens at a time")


def _weight(data: bytes) -> int:
    """As if no text in it held a bracket, a colon, a comma or a quotation mark."""
    marks = {b"{": _OBJECT, b"[": _LIST, b":": _NAME, b",": _VALUE}
    return sum(data.count(mark) * weight for mark, weight in marks.items()) + data.count(b'"') // 2 * _TEXT
