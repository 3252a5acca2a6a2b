"""Who computes which sequence: everything once, and nothing by a kernel that cannot."""

from __future__ import annotations

import random

import pytest

from redline.kernels.attention_plan import DECODE_QUERIES, WHOLE_TOKENS, Run, Split, Whole, padded, paged_runs, split, usual_rows


def _lengths(generator: random.Random) -> list[tuple[int, int]]:
    """Decoding rows, prompts, chunks behind cached keys and padding, in any order, with runs of equal prompts."""
    found: list[tuple[int, int]] = []
    for _ in range(generator.randrange(1, 12)):
        queries = generator.choice((0, 1, 1, 16, 17, 100, 300, 511, 512, 700, 1000, 4096))
        context = queries + generator.choice((0, 0, 0, 1, 64, 5000))
        found += [(queries, context)] * generator.choice((1, 1, 2, 3, 7))
    generator.shuffle(found)
    return sorted(found) if generator.random() < 0.5 else found


@pytest.mark.parametrize("seed", range(60))
@pytest.mark.parametrize("window", [0, 600])
def test_every_token_is_computed_once(seed: int, window: int) -> None:
    lengths = _lengths(random.Random(seed))
    plan = split(lengths, window)
    owner: dict[int, object] = {}
    starts = [sum(queries for queries, _ in lengths[:b]) for b in range(len(lengths) + 1)]
    for part in (*plan.wholes, *plan.runs):
        for token in range(part.start, part.stop):
            assert owner.setdefault(token, part) is part
    assert sorted(owner) == list(range(starts[-1]))
    for run in plan.runs:
        part = lengths[run.first : run.last]
        assert (run.start, run.stop) == (starts[run.first], starts[run.last])
        assert (run.max_query, run.max_context) == (max(q for q, _ in part), max(c for _, c in part))
        assert len({queries <= DECODE_QUERIES for queries, _ in part}) == 1
    for whole in plan.wholes:
        first = starts.index(whole.start)
        while lengths[first][0] == 0:
            first += 1
        for queries, context in lengths[first : first + whole.count]:
            assert queries == context == whole.length >= WHOLE_TOKENS and (window == 0 or queries <= window)
        assert whole.count == 1 or whole.rows == whole.length
        assert whole.length <= whole.rows <= starts[-1] + plan.tail - whole.start


def test_shapes_are_few_and_padding_is_small() -> None:
    """A vendor's kernel is planned anew for each shape. Attention's work goes with the square of the rows."""
    lengths = range(WHOLE_TOKENS, 32769)
    assert len({padded(length) for length in lengths}) < 48
    assert all(length <= padded(length) <= (1.25 if length <= 2048 else 1.125) * length for length in lengths)
    assert [padded(length) for length in (512, 513, 1000, 1025, 2049, 4096, 4097)] == [512, 640, 1024, 1280, 2304, 4096, 4608]
    for first in (2048, 4096, 8192):
        doubling = range(first + 1, 2 * first + 1)
        assert sum((padded(length) / length) ** 2 for length in doubling) < 1.1 * len(doubling)


def test_usual_lengths_are_all_that_come_up() -> None:
    assert usual_rows(WHOLE_TOKENS - 1) == [] and usual_rows(600) == [512, 640]
    assert usual_rows(100_000) == sorted({padded(length) for length in range(WHOLE_TOKENS, 8193)}) and len(usual_rows(8192)) == 25


def test_examples() -> None:
    prompts = split([(4096, 4096)] * 2, 0)
    assert prompts == Split((Whole(0, 2, 4096, 4096),), (), 0)
    mixed = split([(1, 90), (1, 7), (700, 700), (20, 20), (1000, 1000)], 0)
    assert mixed.wholes == (Whole(2, 1, 700, 768), Whole(722, 1, 1000, 1024)) and mixed.tail == 24
    assert mixed.runs == (Run(0, 2, 0, 2, 1, 90), Run(3, 4, 702, 722, 20, 20))
    assert [whole.count for whole in split([(512, 512)] * 7, 0).wholes] == [4, 2, 1]
    assert split([], 0) == Split((), (), 0)
    assert paged_runs([(4096, 4096), (1, 1)]) == (Run(0, 1, 0, 4096, 4096, 4096), Run(1, 2, 4096, 4097, 1, 1))
