"""The prefix cache: finds full KV pages whose tokens, and all tokens before them, a new prompt shares.

A page is known by a chained SHA-256 over its tokens and everything before them; the chain begins with the tenant's salt, so
different salts never meet. A hit also compares the tokens themselves. Pages stay in the pool that owns them: in use while
a sequence holds them, idle after that, forgotten when the pool needs them. Knows nothing of sequences or scheduling.
Open `PrefixCache.match` first.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from redline import token_ids
from redline.engine.pages import PagePool


class PrefixCache:
    """Full pages by digest. The first page registered under a digest is the one that is shared."""

    def __init__(self, pool: PagePool) -> None:
        self._pool = pool
        self._pages: dict[bytes, int] = {}
        self._contents: dict[int, tuple[bytes, bytes]] = {}  # page -> its digest and packed tokens

    def __len__(self) -> int:
        return len(self._pages)

    def extend(self, digests: list[bytes], salt: str, tokens: list[int], count: int) -> None:
        """Append to `digests`, those of the first pages of `tokens`, until there are `count`.

        digest[i] = SHA-256(digest[i - 1] + tokens of page i as 32-bit integers), digest[-1] = SHA-256(salt).
        """
        for page in self._pages_of(tokens, len(digests), count):
            digests.append(_digest(digests, salt, page))

    def match(self, digests: list[bytes], salt: str, tokens: list[int], most: int) -> list[int]:
        """The longest run of cached pages, of `most` at the most, that `tokens` begins with. Takes no reference.

        `digests` grows as far as was looked: who finds nothing has not waited for those of a long prompt.
        """
        found: list[int] = []
        while len(found) < most:
            # Packed a run at a time, each as long as all that was found.
            ahead = min(most, max(1, 2 * len(found)))
            for packed in self._pages_of(tokens, len(found), ahead):
                if len(found) == len(digests):
                    digests.append(_digest(digests, salt, packed))
                page = self._pages.get(digests[len(found)])
                if page is None or self._contents[page][1] != packed:
                    return found
                found.append(page)
        return found

    def insert(self, digest: bytes, page: int, tokens: list[int]) -> None:
        """Offer a full page that is in use; a page with this digest that is already there stays instead."""
        if digest not in self._pages:
            self._pool.keep(page, self._forget)
            self._pages[digest] = page
            self._contents[page] = digest, token_ids.to_bytes(tokens)

    def clear(self) -> None:
        """Forget every page."""
        for page in self._contents:
            self._pool.discard(page)
        self._pages.clear()
        self._contents.clear()

    def _pages_of(self, tokens: list[int], begin: int, end: int) -> Iterator[memoryview]:
        """The tokens of pages `begin` to `end`, packed."""
        size = self._pool.page_size
        packed = memoryview(token_ids.to_bytes(tokens[begin * size : end * size]))
        step = size * token_ids.BYTES
        for at in range(0, len(packed), step):
            yield packed[at : at + step]

    def _forget(self, page: int) -> None:
        digest, _ = self._contents.pop(page)
        del self._pages[digest]

    def check(self) -> None:
        """Assert that both directions agree."""
        assert len(self._pages) == len(self._contents)
        assert all(self._contents[page][0] == digest for digest, page in self._pages.items())


def _digest(before: list[bytes], salt: str, packed: memoryview) -> bytes:
    """The digest of a page with those of all pages before it."""
    chain = before[-1] if before else hashlib.sha256(salt.encode("utf-8", "surrogatepass")).digest()
    return hashlib.sha256(chain + packed).digest()
