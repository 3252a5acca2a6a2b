"""The prefix cache: what counts as the same prefix, what never does, and what is forgotten first."""

from __future__ import annotations

import hashlib
import struct

from redline.engine.pages import PagePool
from redline.engine.prefix import PrefixCache

SIZE = 4


def fill(pool: PagePool, cache: PrefixCache, tokens: list[int], salt: str = "") -> list[int]:
    """Pages, in use, with all full pages of `tokens` registered."""
    digests: list[bytes] = []
    cache.extend(digests, salt, tokens, len(tokens) // SIZE)
    pages = pool.allocate(len(digests)) or []
    for i, (digest, page) in enumerate(zip(digests, pages, strict=True)):
        cache.insert(digest, page, tokens[i * SIZE : (i + 1) * SIZE])
    return pages


def find(cache: PrefixCache, tokens: list[int], salt: str = "") -> list[int]:
    digests: list[bytes] = []
    found = cache.match(digests, salt, tokens, len(tokens) // SIZE)
    assert len(digests) == min(len(found) + 1, len(tokens) // SIZE), "more was digested than had to be looked up"
    return found


def test_digests_are_a_chain_from_the_salt() -> None:
    """The documented formula, written out with the standard library."""
    digests: list[bytes] = []
    PrefixCache(PagePool(1, 2)).extend(digests, "tenant", [1, 2, 3, 4, 5], 2)
    first = hashlib.sha256(hashlib.sha256(b"tenant").digest() + struct.pack("=2i", 1, 2)).digest()
    assert digests == [first, hashlib.sha256(first + struct.pack("=2i", 3, 4)).digest()]


def test_a_match_is_the_longest_common_run_of_full_pages() -> None:
    pool = PagePool(8, SIZE)
    cache = PrefixCache(pool)
    pages = fill(pool, cache, list(range(14)))
    assert len(pages) == 3
    assert find(cache, list(range(14))) == pages
    assert find(cache, list(range(11))) == pages[:2]
    assert find(cache, [*range(4), 99, *range(5, 14)]) == pages[:1], "a page counts only if everything before it matches"
    assert find(cache, [99, *range(1, 14)]) == []
    assert find(cache, [4, 5, 6, 7]) == [], "the same page elsewhere in a prompt is another page"


def test_salts_never_meet() -> None:
    pool = PagePool(8, SIZE)
    cache = PrefixCache(pool)
    pages = fill(pool, cache, list(range(8)), "one")
    assert find(cache, list(range(8)), "one") == pages
    assert find(cache, list(range(8)), "two") == find(cache, list(range(8))) == []
    assert find(cache, list(range(8)), "\ud800") == [], "any text is a salt, even half a surrogate pair"


def test_tokens_are_compared_on_a_hit() -> None:
    """A forged or colliding digest must not lead to somebody else's page."""
    pool = PagePool(2, SIZE)
    cache = PrefixCache(pool)
    [page] = pool.allocate(1) or []
    cache.insert(b"same digest", page, [1, 2, 3, 4])
    assert cache.match([b"same digest"], "", [1, 2, 3, 4], 1) == [page]
    assert cache.match([b"same digest"], "", [1, 2, 3, 5], 1) == []


def test_the_first_of_two_equal_pages_is_the_shared_one() -> None:
    pool = PagePool(4, SIZE)
    cache = PrefixCache(pool)
    first = fill(pool, cache, list(range(8)))
    second = fill(pool, cache, list(range(8)))
    assert find(cache, list(range(8))) == first
    pool.free(second)
    assert pool.num_free == 2 and pool.num_idle == 0, "the copy is not kept"
    cache.check()


def test_the_pool_reclaims_the_end_of_the_least_recent_prefix_first() -> None:
    pool = PagePool(4, SIZE)
    cache = PrefixCache(pool)
    old, new = fill(pool, cache, list(range(8))), fill(pool, cache, list(range(50, 58)))
    pool.free(old)
    pool.free(new)
    pool.allocate(1)
    assert find(cache, list(range(8))) == old[:1] and find(cache, list(range(50, 58))) == new
    pool.allocate(2)
    assert find(cache, list(range(8))) == [] and find(cache, list(range(50, 58))) == new[:1]
    assert len(cache) == 1
    cache.check()
    pool.check()
