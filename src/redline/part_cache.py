"""The ids of parts of long texts that were encoded lately: a conversation that goes on brings again all that was said.

Parts are kept by salt, as the prefix cache keeps pages: whoever may not share those cannot find out by the clock, either, what
others have sent. What was used longest ago goes first. Safe to share between threads. Open `PartCache.ids_of`.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Sequence

from redline import token_ids

MOST_CHARS = 8 << 20  # of all parts together; with their ids some 20 MB


class PartCache:
    """Ids by part. `most_chars` bounds the length of all parts together."""

    def __init__(self, most_chars: int = MOST_CHARS) -> None:
        self._most_chars = most_chars
        self._chars = 0
        self._kept: OrderedDict[tuple[Hashable, str], bytes] = OrderedDict()
        self._lock = threading.Lock()

    def ids_of(
        self, parts: Sequence[str], keys: Sequence[Hashable], encode: Callable[[list[str]], Iterable[list[int]]]
    ) -> list[list[int]]:
        """The ids of each part, as kept under its key, or as `encode` says of all that are not known. With None as its key a part
        is neither looked for nor kept."""
        found = [None if key is None else self._get((key, part)) for key, part in zip(keys, parts, strict=True)]
        unknown = [number for number, ids in enumerate(found) if ids is None]
        for number, ids in zip(unknown, encode([parts[number] for number in unknown]), strict=True):
            found[number] = ids
            if keys[number] is not None and len(parts[number]) <= self._most_chars:
                self._put((keys[number], parts[number]), ids)
        return [ids for ids in found if ids is not None]

    def _get(self, key: tuple[Hashable, str]) -> list[int] | None:
        with self._lock:
            if (found := self._kept.get(key)) is None:
                return None
            self._kept.move_to_end(key)
        return token_ids.of_bytes(found)

    def _put(self, key: tuple[Hashable, str], ids: list[int]) -> None:
        packed = token_ids.to_bytes(ids)
        with self._lock:
            self._chars += 0 if key in self._kept else len(key[1])
            self._kept[key] = packed
            while self._chars > self._most_chars:
                (_, part), _ = self._kept.popitem(last=False)
                self._chars -= len(part)
