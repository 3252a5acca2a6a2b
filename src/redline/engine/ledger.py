"""The page account of sequences: what each can share, needs, may still take, and holds.

Joins the pool, the prefix cache and the sequences' page lists; sharing, copy-on-write and registration happen here and
nowhere else. Knows nothing of queues, ranks or budgets: the scheduler decides who gets pages. Open `Ledger.shared` first.
"""

from __future__ import annotations

from redline.engine.pages import PagePool
from redline.engine.prefix import PrefixCache
from redline.engine.request import Sequence


class Ledger:
    """Counts in pages of `pool`. `query_tokens` were looked up by sequences that started, `hit_tokens` were found."""

    def __init__(self, pool: PagePool, prefix: PrefixCache | None) -> None:
        self._pool = pool
        self._prefix = prefix
        self.planned: list[Sequence] = []  # that have new tokens in the newest plan, whose pages are not in the prefix cache yet
        self.query_tokens = 0
        self.hit_tokens = 0

    def shared(self, seq: Sequence) -> tuple[list[int], int]:
        """Pages that hold the beginning of waiting `seq` already, and how many of its tokens need not be computed.

        They are its parent's, whose prompt KV must be planned, or the prefix cache's. At least the last token is computed:
        its logits are wanted. Takes no reference.
        """
        parent = seq.parent
        if parent is not None and parent.row >= 0:
            return parent.pages[: self._pool.pages_for(seq.prompt_len - 1)], seq.prompt_len - 1
        if self._prefix is None or seq.needs_every_position:
            return [], 0
        most = (len(seq.tokens) - 1) // self._pool.page_size
        pages = self._prefix.match(seq.digests, seq.request.cache_salt, seq.tokens, most)
        return pages, len(pages) * self._pool.page_size

    def cost(self, seq: Sequence, shared: list[int], start: int) -> int:
        """Available pages that waiting `seq` needs for its tokens and the next: new ones, idle ones to revive, one to copy into."""
        revived = sum(1 for page in shared if self._pool.refs(page) == 0)
        copied = start < len(shared) * self._pool.page_size
        return self._pool.pages_for(min(len(seq.tokens) + 1, seq.limit - 1)) - len(shared) + revived + copied

    def claim(self, seq: Sequence) -> int:
        """Pages that the existing tokens of a running sequence will still take."""
        return max(0, self._pool.pages_for(min(seq.length, seq.limit - 1)) - len(seq.pages))

    def claims(self, running: list[Sequence]) -> int:
        """The claims of all of `running` together."""
        size, total = self._pool.page_size, 0
        for seq in running:
            missing = min(len(seq.tokens) + seq.in_flight, seq.limit - 1) - len(seq.pages) * size
            if missing > 0:
                total += -(-missing // size)
        return total

    def open(self, seq: Sequence, row: int, shared: list[int], start: int) -> None:
        """Start `seq` in `row` with what `shared` found."""
        if self._prefix is not None and (seq.parent is None or seq.parent.row < 0) and not seq.needs_every_position:
            self.query_tokens += len(seq.tokens)
            self.hit_tokens += start
            if not seq.started:
                seq.cached_tokens = min(start, seq.prompt_len)  # a forced beginning may be found too, and is no prompt
        for page in shared:
            self._pool.ref(page)
        seq.start(row, shared, start, num_registered=start // self._pool.page_size)

    def close(self, seq: Sequence) -> int:
        """Let go of all that `seq` holds; returns its row."""
        row, pages = seq.give_up()
        self._pool.free(pages)
        return row

    def writable(self, seq: Sequence, count: int) -> bool:
        """Whether the next `count` tokens, one or more, have pages that nobody shares.

        Only the page of the first of them can be shared: later ones hold nothing yet.
        """
        start, size = seq.num_planned, self._pool.page_size
        return start + count <= len(seq.pages) * size and self._pool.refs(seq.pages[start // size]) == 1

    def room(self, seq: Sequence) -> int:
        """How many more tokens `seq` could write with the pages that are available."""
        available = self._pool.num_available - self._must_copy(seq)
        if available < 0:
            return 0
        return (len(seq.pages) + available) * self._pool.page_size - seq.num_planned

    def grow(self, seq: Sequence, count: int) -> tuple[int, int] | None:
        """Give `seq` writable pages for its next `count` tokens, for which there must be room.

        If the first page was shared, `seq` gets its own: returns (source, destination) to copy. The caller lets go of the
        source once nothing more is allocated for this step, so that a source never becomes a destination.
        """
        copy = self._must_copy(seq)
        missing = max(0, self._pool.pages_for(seq.num_planned + count) - len(seq.pages))
        taken = self._pool.allocate(missing + copy)
        assert taken is not None, "pages were counted before"
        pair = None
        if copy:
            first = seq.num_planned // self._pool.page_size
            pair = seq.pages[first], taken.pop()
            seq.pages[first] = pair[1]
            seq.num_tabled = min(seq.num_tabled, first)
        seq.pages.extend(taken)
        return pair

    def register(self, seq: Sequence) -> None:
        """Offer the pages that have become full of known, planned tokens to the prefix cache."""
        size = self._pool.page_size
        full = min(seq.num_planned, len(seq.tokens)) // size
        if full <= seq.num_registered or self._prefix is None:
            return
        self._prefix.extend(seq.digests, seq.request.cache_salt, seq.tokens, full)
        for i in range(seq.num_registered, full):
            self._prefix.insert(seq.digests[i], seq.pages[i], seq.tokens[i * size : (i + 1) * size])
        seq.num_registered = full

    def register_planned(self) -> None:
        """`register` those of the newest plan, now that the device has it: digests of a long prompt take longer than its launch."""
        for seq in self.planned:
            self.register(seq)
        self.planned = []

    def forget(self) -> None:
        """Empty the prefix cache: what its pages hold is not certain any more."""
        if self._prefix is not None:
            self._prefix.clear()

    def check(self, running: list[Sequence]) -> None:
        """Assert that pages are conserved and that exactly `running` hold those in use."""
        holders: dict[int, int] = {}
        for seq in running:
            for page in seq.pages:
                holders[page] = holders.get(page, 0) + 1
        assert all(self._pool.refs(page) == count for page, count in holders.items()), "a page has too many or too few holders"
        assert len(holders) == self._pool.num_used, "pages are held by nobody"
        self._pool.check()
        if self._prefix is not None:
            self._prefix.check()

    def _must_copy(self, seq: Sequence) -> bool:
        first = seq.num_planned // self._pool.page_size
        return first < len(seq.pages) and self._pool.refs(seq.pages[first]) > 1
