"""Answers that were given before: `StoredAnswers`, a cache that generation asks before it asks a model.

The key is a hash of the whole ask: messages (with the name and what of the evidence is shown), schema, prompt, parameters; and
the model beside it. So a fact that the model does not see changes no answer, and one that it sees changes that answer alone.
"""

from __future__ import annotations

import zlib

import msgspec

from saidata.batch.store import Store
from saidata.models import Answer

_decode = msgspec.msgpack.Decoder(Answer).decode


class StoredAnswers:
    """Answers in a store. Counts what it had and what it had not. `anew`: what was answered before is asked once more."""

    def __init__(self, store: Store, *, anew: bool = False):
        self._store = store
        self._anew = anew
        self.hits = 0
        self.misses = 0

    def get(self, key: str, model: str) -> Answer | None:
        """The answer, or None."""
        rows = [] if self._anew else self._store.rows("SELECT answer FROM answers WHERE key = ? AND model = ?", key, model)
        if not rows:
            self.misses += 1
            return None
        self.hits += 1
        return _decode(zlib.decompress(rows[0][0]))

    def put(self, key: str, model: str, answer: Answer) -> None:
        """Keep an answer; one that was cut off is not kept. Its receipt is of that run and stays out."""
        if answer.finish == "stop":
            kept = zlib.compress(msgspec.msgpack.encode(msgspec.structs.replace(answer, receipt=None)), 1)
            self._store.run("INSERT OR REPLACE INTO answers VALUES (?, ?, ?)", key, model, kept)

    def forget(self) -> int:
        """Empty the cache; how many answers there were."""
        return self._store.run("DELETE FROM answers").rowcount
