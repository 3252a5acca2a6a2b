"""The page account: copy-on-write for a sequence that already runs, and what starting costs. Sharing in traffic is tested
in test_scheduler.py and test_properties.py."""

from __future__ import annotations

from redline.engine.ledger import Ledger
from redline.engine.pages import PagePool
from redline.engine.prefix import PrefixCache
from redline.engine.request import Sequence
from redline.types import Request, SamplingParams

SIZE = 4


def make_sequence(tokens: int) -> Sequence:
    request = Request(id="r", prompt=list(range(tokens)), sampling=SamplingParams())
    return Sequence(request, 0, (0, 0.0, 0), 100, frozenset(), None)


def started(ledger: Ledger, tokens: int, planned: int) -> Sequence:
    """A running sequence with the KV of its first `planned` tokens, all of it in its row's page table."""
    seq = make_sequence(tokens)
    ledger.open(seq, 0, [], 0)
    ledger.grow(seq, planned)
    seq.num_planned, seq.num_tabled = planned, len(seq.pages)
    return seq


def test_a_shared_page_is_copied_before_it_is_written_and_the_page_table_learns_it() -> None:
    pool = PagePool(6, SIZE)
    ledger = Ledger(pool, None)
    seq = started(ledger, 12, planned=6)
    shared = seq.pages[1]
    assert ledger.writable(seq, 2) and not ledger.writable(seq, 3)
    pool.ref(shared)
    assert not ledger.writable(seq, 2)
    assert ledger.room(seq) == (2 + 4 - 1) * SIZE - 6, "one page goes into the copy"
    assert ledger.grow(seq, 6) == (shared, seq.pages[1]) and seq.pages[1] != shared and len(seq.pages) == 3
    assert seq.num_tabled == 1, "the row's table is stale from the copied page on"
    assert pool.refs(shared) == 2, "the source is held until the caller lets go of it"


def test_without_a_page_to_copy_into_there_is_no_room() -> None:
    pool = PagePool(2, SIZE)
    ledger = Ledger(pool, None)
    seq = started(ledger, 8, planned=6)
    assert ledger.room(seq) == 2
    pool.ref(seq.pages[1])
    assert ledger.room(seq) == 0


def test_cost_counts_idle_hits_but_not_those_in_use() -> None:
    """A hit that somebody else holds is free; an idle one leaves the available pages."""
    pool = PagePool(8, SIZE)
    ledger = Ledger(pool, PrefixCache(pool))
    first = started(ledger, 9, planned=9)
    ledger.register(first)
    second = make_sequence(11)
    assert ledger.shared(second) == (first.pages[:2], 8)
    assert ledger.cost(second, *ledger.shared(second)) == 1
    ledger.close(first)
    assert ledger.cost(second, *ledger.shared(second)) == 3
