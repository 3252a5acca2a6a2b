"""The pool of KV pages: who holds which page, counted, never copied.

A page is free, in use (held by one or more sequences) or idle (held by none, its content kept by the prefix cache until the
page is needed). free + idle + used = all pages, always; `check` says so. Knows nothing of tokens or devices, and raises
nothing when it runs dry. Open `PagePool.allocate` first.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable


class PagePool:
    """`num_pages` pages of `page_size` tokens. Every operation is O(1) per page."""

    def __init__(self, num_pages: int, page_size: int) -> None:
        assert num_pages > 0 and page_size > 0
        self.num_pages = num_pages
        self.page_size = page_size
        self._free = list(range(num_pages - 1, -1, -1))
        self.holders = [0] * num_pages  # of each page; for reading, and for this class alone to change
        self.num_shared = 0  # holders beyond the first, of all pages; likewise
        self._keepers: dict[int, Callable[[int], None]] = {}
        self._idle: OrderedDict[int, None] = OrderedDict()  # least recently used first

    @property
    def num_free(self) -> int:
        return len(self._free)

    @property
    def num_idle(self) -> int:
        return len(self._idle)

    @property
    def num_available(self) -> int:
        """Pages that `allocate` can give: free ones, then idle ones."""
        return len(self._free) + len(self._idle)

    @property
    def num_used(self) -> int:
        return self.num_pages - len(self._free) - len(self._idle)

    @property
    def shared_tokens(self) -> int:
        """Tokens in pages that sequences hold together, for each holder but the first."""
        return self.num_shared * self.page_size

    def pages_for(self, num_tokens: int) -> int:
        """Pages that hold `num_tokens` tokens."""
        return -(-num_tokens // self.page_size)

    def refs(self, page: int) -> int:
        """How many sequences hold `page`; above 1 it must not be written to, 0 is free or idle."""
        return self.holders[page]

    def allocate(self, count: int) -> list[int] | None:
        """`count` pages held once each, or None, with nothing taken, if there are not as many.

        Free pages go first, then idle ones, least recently used first; their keeper is told to forget them.
        """
        if count > self.num_available:
            return None
        return [self._take() for _ in range(count)]

    def _take(self) -> int:
        if self._free:
            page = self._free.pop()
        else:
            page, _ = self._idle.popitem(last=False)
            self._keepers.pop(page)(page)
        self.holders[page] = 1
        return page

    def ref(self, page: int) -> None:
        """Hold a page that is in use or idle once more."""
        if self.holders[page] == 0:
            del self._idle[page]
        else:
            self.num_shared += 1
        self.holders[page] += 1

    def unref(self, page: int) -> None:
        """Let go of a page; the last holder frees it, or leaves it idle if it is kept."""
        assert self.holders[page] > 0, f"page {page} is not in use"
        self.holders[page] -= 1
        if self.holders[page] > 0:
            self.num_shared -= 1
        elif page in self._keepers:
            self._idle[page] = None
        else:
            self._free.append(page)

    def free(self, pages: list[int]) -> None:
        """Let go of a sequence's pages, last first, so that of one prefix the end is reclaimed before the beginning."""
        for page in reversed(pages):
            self.unref(page)

    def keep(self, page: int, forget: Callable[[int], None]) -> None:
        """Keep the content of `page`, which is in use, after its last holder left; `forget(page)` tells when it goes."""
        assert self.holders[page] > 0 and page not in self._keepers, f"page {page} cannot be kept"
        self._keepers[page] = forget

    def discard(self, page: int) -> None:
        """Stop keeping `page`; its keeper is not told. An idle page becomes free."""
        del self._keepers[page]
        if page in self._idle:
            del self._idle[page]
            self._free.append(page)

    def check(self) -> None:
        """Assert the conservation law: each page is exactly one of free, idle and in use, and idle pages are kept ones."""
        free, idle = set(self._free), set(self._idle)
        used = {page for page, refs in enumerate(self.holders) if refs > 0}
        assert len(free) == len(self._free), "a page is free twice"
        assert len(free) + len(idle) + len(used) == self.num_pages, "pages were lost or counted twice"
        assert free | idle | used == set(range(self.num_pages)), "pages were lost"
        assert self.num_shared == sum(self.holders) - len(used), "holders were miscounted"
        assert idle <= self._keepers.keys() <= idle | used, "a kept page is free, or an idle one is not kept"
