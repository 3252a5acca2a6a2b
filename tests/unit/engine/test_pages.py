"""The page pool: conservation, all-or-nothing allocation, and the order in which kept pages are reclaimed."""

from __future__ import annotations

from random import Random

import pytest

from redline.engine.pages import PagePool


def counts(pool: PagePool) -> tuple[int, int, int]:
    return pool.num_free, pool.num_idle, pool.num_used


def test_allocation_is_all_or_nothing() -> None:
    pool = PagePool(4, 16)
    assert pool.allocate(3) is not None
    assert pool.allocate(2) is None and counts(pool) == (1, 0, 3)
    assert pool.allocate(0) == []
    last = pool.allocate(1)
    assert last is not None and pool.allocate(1) is None
    pool.free(last)
    assert pool.allocate(1) == last


def test_a_shared_page_is_freed_by_its_last_holder() -> None:
    pool = PagePool(2, 16)
    [page] = pool.allocate(1) or []
    pool.ref(page)
    assert pool.refs(page) == 2
    pool.unref(page)
    assert pool.num_used == 1
    pool.unref(page)
    assert counts(pool) == (2, 0, 0)
    with pytest.raises(AssertionError):
        pool.unref(page)


def test_kept_pages_are_reclaimed_last_and_the_end_of_a_prefix_first() -> None:
    """Free pages go before idle ones; of pages freed together, as one sequence's are, the last goes first."""
    pool, forgotten = PagePool(5, 16), list[int]()
    first, second = pool.allocate(2) or [], pool.allocate(2) or []
    for page in first + second:
        pool.keep(page, forgotten.append)
    pool.free(first)
    pool.free(second)
    assert counts(pool) == (1, 4, 0)
    pool.allocate(1)
    assert forgotten == []
    pool.allocate(4)
    assert forgotten == [first[1], first[0], second[1], second[0]]
    assert counts(pool) == (0, 0, 5)
    pool.check()


def test_an_idle_page_that_is_used_again_is_not_reclaimed() -> None:
    pool, forgotten = PagePool(2, 16), list[int]()
    kept = pool.allocate(2) or []
    for page in kept:
        pool.keep(page, forgotten.append)
    pool.free(kept)
    pool.ref(kept[0])
    assert counts(pool) == (0, 1, 1) and pool.allocate(2) is None
    assert pool.allocate(1) == [kept[1]] and forgotten == [kept[1]]
    pool.unref(kept[0])
    pool.unref(kept[1])
    assert counts(pool) == (1, 1, 0), "the forgotten page is free, the kept one idle"


@pytest.mark.parametrize(("tokens", "pages"), [(0, 0), (1, 1), (16, 1), (17, 2)])
def test_pages_for_rounds_up(tokens: int, pages: int) -> None:
    assert PagePool(1, 16).pages_for(tokens) == pages


def test_random_use_conserves_pages() -> None:
    """Against a plain count of holders."""
    rng, pool, holders, kept = Random(3), PagePool(17, 4), dict[int, int](), set[int]()
    for _ in range(3000):
        action = rng.randrange(4)
        if action == 0:
            wanted = rng.randint(0, 4)
            taken = pool.allocate(wanted)
            assert (taken is None) == (wanted > 17 - len(holders))
            for page in taken or []:
                assert page not in holders
                holders[page] = 1
        elif holders:
            page = rng.choice(list(holders))
            if action == 1:
                pool.ref(page)
                holders[page] += 1
            elif action == 2:
                pool.unref(page)
                holders[page] -= 1
                holders = {p: n for p, n in holders.items() if n}
            elif page not in kept:
                pool.keep(page, kept.remove)
                kept.add(page)
        pool.check()
        assert pool.num_used == len(holders) and pool.num_idle == len(kept - holders.keys())
        assert pool.num_shared == sum(holders.values()) - len(holders)
