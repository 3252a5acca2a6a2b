"""The prefix cache: finds full KV pages whose tokens, and all tokens before them, a new prompt shares.

A page is known by a chained SHA-256 over its tokens and everything before them; the chain begins with the tenant's salt, so
different salts never meet. A hit also compares the tokens themselves. Pages stay in the pool that owns them: in use while
a sequence holds them, idle after that, forgotten when the pool needs them. Knows nothing of sequences or scheduling.
Open `PrefixCache.match` first.
"""

from __future__ import annotations

import hashlib
from array import array

from redline.engine.pages import PagePool


class PrefixCache:
    """Full pages by digest. The first page registered under a digest is the one that is shared."""

    def __init__(self, pool: PagePool) -> None:
        self._pool = pool
        self._pages: dict[bytes, int] = {}
        self._contents: dict[int, tuple[bytes, list[int]]] = {}  # page -> its digest and tokens

    def __len__(self) -> int:
        return len(self._pages)

    def extend(self, digests: list[bytes], salt: str, tokens: list[int], count: int) -> None:
        """Append to `digests`, those of the first pages of `tokens`, until there are `count`.

        digest[i] = SHA-256(digest[i - 1] + tokens of page i as 64-bit integers), digest[-1] = SHA-256(salt).
        """
        size = self._pool.page_size
        for i in range(len(digests), count):
            before = digests[-1] if digests else hashlib.sha256(salt.encode("utf-8", "surrogatepass")).digest()
            digests.append(hashlib.sha256(before + array("q", tokens[i * size : (i + 1) * size]).tobytes()).digest())

    def match(self, digests: list[bytes], salt: str, tokens: list[int], most: int) -> list[int]:
        """The longest run of cached pages, of `most` at the most, that `tokens` begins with. Takes no reference.

        `digests` grows as far as was looked: who finds nothing has not waited for those of a long prompt.
        """
        size = self._pool.page_size
        found: list[int] = []
        for i in range(most):
            self.extend(digests, salt, tokens, i + 1)
            page = self._pages.get(digests[i])
            if page is None or self._contents[page][1] != tokens[i * size : (i + 1) * size]:
                break
            found.append(page)
        return found

    def insert(self, digest: bytes, page: int, tokens: list[int]) -> None:
        """Offer a full page that is in use; a page with this digest that is already there stays instead."""
        if digest not in self._pages:
            self._pool.keep(page, self._forget)
            self._pages[digest] = page
            self._contents[page] = digest, tokens

    def clear(self) -> None:
        """Forget every page."""
        for page in self._contents:
            self._pool.discard(page)
        self._pages.clear()
        self._contents.clear()

    def _forget(self, page: int) -> None:
        digest, _ = self._contents.pop(page)
        del self._pages[digest]

    def check(self) -> None:
        """Assert that both directions agree."""
        assert len(self._pages) == len(self._contents)
        assert all(self._contents[page][0] == digest for digest, page in self._pages.items())
