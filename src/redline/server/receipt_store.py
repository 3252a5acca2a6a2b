"""The receipts of the newest answers, in memory and bounded in bytes. Knows nothing of what a receipt says. Open `Receipts`."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Iterable

import msgspec

from redline.errors import NotFound
from redline.server.schema import quoted

MOST_BYTES = 16 << 20  # about 20,000 answers to one prompt
_NUMBER = re.compile(r"[0-9a-f]{32}")  # the part that all spellings of one id share


class Receipts:
    """The newest receipts that fit in `most_bytes`; each costs microseconds to keep."""

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self._kept: OrderedDict[tuple[str, str], bytes] = OrderedDict()
        self._room = most_bytes

    def keep(self, ids: Iterable[str], owner: str, receipt: object) -> None:
        """Remember the receipt of one answer, under all its ids, for the caller with the id `owner`."""
        data = msgspec.json.encode(receipt)
        for key in {(owner, _short(id)) for id in ids}:
            self._room += len(self._kept.pop(key, b""))
            self._kept[key] = data
            self._room -= len(data)
        while self._room < 0:
            self._room += len(self._kept.popitem(last=False)[1])

    def find(self, id: str, owner: str) -> bytes:
        """The receipt as JSON. Raises NotFound where it is gone, never was, or belongs to somebody else."""
        data = self._kept.get((owner, _short(id)))
        if data is None:
            raise NotFound(
                f"there is no receipt of {quoted(id)}",
                hint="receipts are kept for a while, of answers that were given to their end",
                param="id",
            )
        return data


def _short(id: str) -> str:
    number = _NUMBER.search(id)
    return number[0] if number else id
